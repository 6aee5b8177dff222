"""Objectives at many noise levels: closed forms, weights, and times whose law leaves the mean as it is."""

import math

import pytest
import torch
from closed_forms import (
    COARSE,
    FAMILIES,
    NEAR,
    SHAPES,
    TRUTH,
    Deep,
    Linear,
    Pair,
    along,
    assert_loss,
    assert_same_gap,
    close,
    deep_network,
    half_square,
    learned,
    normal,
)
from scipy.stats import chisquare, kstest
from torch import Generator, nn

from scorefield.calculus import PerSample, expand
from scorefield.fields import EnergyModel, ScoreModel
from scorefield.noise import VE, VP, Cosine, Levels, SubVP
from scorefield.objectives import (
    denoising,
    draw_times,
    explicit,
    level_weight,
    min_snr,
    noise_conditional,
    noise_conditional_sliced,
    uniform_times,
)

NOISES = [VE(0.05, 4.0), VP(), SubVP(), Cosine(), Levels(4.0, 0.05, 6)]
EACH = pytest.mark.parametrize("noise", NOISES, ids=str)
FAMILY = pytest.mark.parametrize("family", FAMILIES)
SHAPED = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
T = torch.linspace(0.02, 1, 50, dtype=torch.float64)


def seeded(seed=3):
    return Generator().manual_seed(seed)


class Timed(nn.Module):
    """A score times 1 + t, shifted by the label where there is one."""

    def __init__(self, score):
        super().__init__()
        self.score = score

    def forward(self, x, t, y=None):
        s = expand(1 + t, x) * self.score(x)
        return s if y is None else s + expand(y, x)


WEIGHTS = {
    "sigma2": lambda noise, t: noise.sigma(t) ** 2,
    "likelihood": lambda noise, t: noise.g2(t),
    "edm": lambda noise, t: noise.sigma(t) ** 2 + noise.sigma(t) ** 4 / (noise.alpha(t) * 1.7) ** 2,
    "min-snr": lambda noise, t: (
        noise.sigma(t) ** 2
        * torch.minimum((noise.alpha(t) / noise.sigma(t)) ** 2, torch.tensor(5.0))
        / (noise.alpha(t) / noise.sigma(t)) ** 2
    ),
    "callable": lambda noise, t: 3 - t,
}
WEIGHT = pytest.mark.parametrize("weight", WEIGHTS)


def given_weight(weight):
    """The arguments that ask for a weight."""
    if weight == "callable":
        return {"weight": lambda t: 3 - t}
    return {"weight": weight, "data_scale": 1.7} if weight == "edm" else {"weight": weight}


@FAMILY
@SHAPED
@EACH
@WEIGHT
def test_noise_conditional_equals_its_closed_form_for_the_noise_drawn(family, shape, noise, weight):
    r"""$\frac12 w(t)\|s(\alpha x + \sigma z, t) + z/\sigma\|^2$ and its gradients, for given times."""
    model, x, z = FAMILIES[family](), normal(*shape), normal(*shape, seed=3).flatten(1)
    alpha, sigma, w = noise.alpha(T)[:, None], noise.sigma(T)[:, None], WEIGHTS[weight](noise, T)
    s, _, ds, _ = model.exact(alpha * x.flatten(1) + sigma * z)
    scale = (1 + T)[:, None]
    value, slope = half_square(scale * s + z / sigma, scale[..., None] * ds)
    loss = noise_conditional(Timed(model), x, noise=noise, t=T, **given_weight(weight), generator=seeded())
    assert_loss(loss, w * value, w[:, None] * slope, model)


@FAMILY
@SHAPED
@EACH
@WEIGHT
def test_noise_conditional_sliced_equals_its_closed_form_for_the_noise_and_probe_drawn(family, shape, noise, weight):
    r"""$w(t)(v^T\nabla s\,v + \frac12\|s\|^2)$ at $x_t$, and its gradients: noise first, then the probe."""
    model, x, g = FAMILIES[family](), normal(*shape), seeded()
    z = torch.randn(shape, dtype=torch.float64, generator=g).flatten(1)
    v = torch.randn(shape, dtype=torch.float64, generator=g).flatten(1)
    w, scale = WEIGHTS[weight](noise, T), 1 + T
    s, jacobian, ds, d_jacobian = model.exact(noise.alpha(T)[:, None] * x.flatten(1) + noise.sigma(T)[:, None] * z)
    square, d_square = half_square(scale[:, None] * s, scale[:, None, None] * ds)
    trace, d_trace = along(v, jacobian, d_jacobian)
    value, slope = square + scale * trace, d_square + scale[:, None] * d_trace
    loss = noise_conditional_sliced(
        Timed(model), x, noise=noise, t=T, **given_weight(weight), law="gaussian", generator=seeded()
    )
    assert_loss(loss, w * value, w[:, None] * slope, model)


def test_the_named_weights_are_what_the_papers_print():
    r"""Under VP: $1 - e^{-B}$, $\beta$; min-SNR is $\min(SNR, 5)$ on the data; EDM is Karras' $\lambda$ under VE."""
    noise, t = VP(0.2, 10.0), torch.linspace(0.1, 1, 5, dtype=torch.float64)
    b = 0.2 * t + 4.9 * t**2
    close(level_weight(noise, "sigma2", t), 1 - (-b).exp())
    close(level_weight(noise, "likelihood", t), 0.2 + 9.8 * t)
    snr = 1 / (b.exp() - 1)
    on_the_data = level_weight(noise, "min-snr", t) * noise.alpha(t) ** 2 / noise.sigma(t) ** 4
    close(on_the_data, snr.clamp(max=5))
    close(min_snr(noise, 2.0)(t) * noise.alpha(t) ** 2 / noise.sigma(t) ** 4, snr.clamp(max=2))
    ve = VE(0.02, 5.0)
    sigma, data = ve.sigma(t), 0.5
    on_the_denoiser = level_weight(ve, "edm", t, data) / sigma**4  # D = x + sigma^2 s
    close(on_the_denoiser, (sigma**2 + data**2) / (sigma * data) ** 2)
    x = normal(5, 2)
    one, default = (
        noise_conditional(lambda x, t: -x, x, noise=noise, t=t, generator=seeded(), **weight)
        for weight in ({"weight": torch.ones_like}, {})
    )
    close(default / one, noise.sigma(t) ** 2)


@pytest.mark.parametrize("noise", [VE(0.05, 4.0), VP()], ids=str)
@pytest.mark.parametrize("way", [{}, {"antithetic": True}, {"control_variate": True}])
def test_one_level_has_the_loss_of_denoising_at_that_level(noise, way):
    r"""At one time, $w(t)$ times `denoising` of the data times $\alpha$ with the same noise, in every way."""
    model, x, t = Linear(), normal(50, 4), torch.full((50,), 0.4, dtype=torch.float64)
    alpha, sigma = noise.alpha(t[0]), noise.sigma(t[0]).item()
    loss = noise_conditional(lambda x, t: model(x), x, noise=noise, t=t, **way, generator=seeded())
    close(loss, sigma**2 * denoising(model, alpha * x, sigma=sigma, **way, generator=seeded()))


@EACH
def test_times_are_drawn_first_and_the_noise_after_them(noise):
    """With no times given, the loss is that of the times the same seed draws: uniform, or one of the levels."""
    model, x, g = Timed(Linear()), normal(50, 4), seeded()
    u = torch.rand(50, dtype=torch.float64, generator=g)
    uniform = noise.t_min + (1 - noise.t_min) * u
    t = noise.levels[(6 * u).long()] if isinstance(noise, Levels) else uniform
    for objective in (noise_conditional, noise_conditional_sliced):
        expected = objective(model, x, noise=noise, t=t, generator=seeded_after(u))
        close(objective(model, x, noise=noise, generator=seeded()), expected, 1e-12)


def seeded_after(u):
    """A generator that has drawn as many uniform numbers."""
    g = seeded()
    torch.rand(len(u), dtype=torch.float64, generator=g)
    return g


def test_drawn_times_are_uniform_and_drawn_levels_equally_frequent():
    """Kolmogorov-Smirnov on 5,000 times and chi-squared on 5,000 levels; false alarms 1e-4 each."""
    x, noise = torch.zeros(5000, 1), Levels(4.0, 0.05, 6)
    t = uniform_times(VP(), x, Generator().manual_seed(0))
    assert t.dtype == torch.float64 and t.min() >= 1e-5 and t.max() <= 1
    assert kstest(t.numpy(), "uniform").pvalue > 1e-4
    levels, counts = uniform_times(noise, x, Generator().manual_seed(0)).unique(return_counts=True)
    assert torch.equal(levels, noise.levels.flip(0))
    assert chisquare(counts.numpy()).pvalue > 1e-4


@EACH
def test_stratified_times_lie_one_in_each_stratum_and_each_is_uniform(noise):
    """Sorted, the k-th of B times lies in the k-th of B equal parts; the first sample's is uniform over seeds."""
    x, n = torch.zeros(64, 1), 64
    t, factor = draw_times(noise, x, "stratified", generator=seeded())
    assert torch.equal(factor, torch.ones(n, dtype=torch.float64))
    if isinstance(noise, Levels):
        counts = draw_times(noise, torch.zeros(60, 1), "stratified", generator=seeded())[0].unique(return_counts=True)[
            1
        ]
        assert torch.equal(counts, torch.full((6,), 10))
        return
    u = ((t - noise.t_min) / (1 - noise.t_min)).sort().values * n
    assert torch.equal(u.floor(), torch.arange(n, dtype=torch.float64))
    assert not torch.equal(t.sort().values, t)
    first = [draw_times(noise, x[:8], "stratified", generator=seeded(i))[0][0].item() for i in range(2000)]
    assert kstest(first, "uniform").pvalue > 1e-4


WEIGHED = pytest.mark.parametrize(
    ("weight", "scale"), [("sigma2", None), ("sigma2", 0.5), ("likelihood", None), ("edm", 0.5), ("callable", None)]
)


@EACH
@WEIGHED
def test_importance_keeps_every_mean(noise, weight, scale):
    """The factor is one over the density drawn from: means of t, t^2 and of the factor by 2e5 even quantiles, 1e-4."""

    class Even:
        """The quantiles of a uniform law in place of draws from it."""

        def uniform(self, x):
            return (torch.arange(len(x), dtype=torch.float64) + 0.5) / len(x)

    n = 200_000
    given = {**given_weight(weight), "data_scale": scale}
    t, factor = draw_times(noise, torch.zeros(n, 1), "importance", **given, generator=Even())
    assert factor.max() <= 20 + 1e-9 and t.min() >= noise.t_min and t.max() <= 1
    moments = [1.0, (1 + noise.t_min) / 2, (1 + noise.t_min + noise.t_min**2) / 3]
    if isinstance(noise, Levels):
        moments = [(noise.levels**k).mean().item() for k in range(3)]
    for k, expected in enumerate(moments):
        assert abs((factor * t**k).mean() - expected) < 1e-4


@WEIGHED
def test_importance_draws_in_proportion_to_the_typical_loss(weight, scale):
    r"""1/factor is $0.95\,r + 0.05$, r proportional to $w/\sigma^2$ or to $w/\lambda_{EDM}$: within the cells' 4 %."""
    for noise in NOISES:
        given = {**given_weight(weight), "data_scale": scale}
        t, factor = draw_times(noise, torch.zeros(2000, 1), "importance", **given, generator=seeded())
        size = (lambda t: noise.sigma(t) ** 2) if scale is None else lambda t: noise.residual_weight(t, scale)  # noqa: B023

        def typical(t):
            return level_weight(noise, given["weight"], t, scale) / size(t)  # noqa: B023

        whole = typical(noise.levels).mean() if isinstance(noise, Levels) else _mean_over_time(typical, noise)
        expected = 0.95 * typical(t) / whole + 0.05
        assert ((factor * expected) - 1).abs().max() < 0.04


def _mean_over_time(function, noise):
    """The mean over [t_min, t_max] with nodes dense at its ends."""
    u = torch.linspace(-21, 21, 40_001, dtype=torch.float64).sigmoid()
    t = noise.t_min + (1 - noise.t_min) * u
    return torch.trapezoid(function(t), u)


@pytest.mark.parametrize("times", ["stratified", "importance"])
@pytest.mark.parametrize("objective", [noise_conditional, noise_conditional_sliced])
def test_losses_and_gradients_have_the_mean_of_uniform_times(objective, times):
    """Under VP's likelihood weight, at one x: the means of loss and gradients over 100,000 draws agree within 4 s.e."""
    model, x, n = Pair(2), normal(1, 2), 100_000

    def samples(seed, times):
        m = model.m.detach().expand(n, 2).clone().requires_grad_()

        def score(x, t):
            return -x + torch.tanh((x * m).sum(1))[:, None] * m

        given = {"noise": VP(), "weight": "likelihood", "times": times}
        loss = objective(score, x.expand(n, 2), **given, generator=seeded(seed))
        return torch.cat([loss.detach()[:, None], torch.autograd.grad(loss.sum(), m)[0]], 1)

    plain, other = samples(0, "uniform"), samples(1, times)
    standard_error = (plain.var(0) + other.var(0)).sqrt() / math.sqrt(n)
    assert ((plain.mean(0) - other.mean(0)).abs() < 4 * standard_error).all()
    if times == "importance" and objective is noise_conditional:
        assert other[:, 0].var() < plain[:, 0].var() / 20


@pytest.mark.parametrize("noise", NOISES[:4], ids=str)
@pytest.mark.parametrize("objective", ["denoising", "sliced"])
def test_at_each_level_the_objectives_differ_from_explicit_on_the_blurred_law_by_a_constant(noise, objective):
    """Where alpha shrinks the data too, at sigma/alpha = 0.6 with weight 1: 4 s.e. (6e-5)."""
    n, t = 40_000, noise.time_at(torch.tensor(0.6)).item()
    x = TRUTH.sample((n,), generator=Generator().manual_seed(0))
    times = torch.full((n,), t, dtype=torch.float64)
    x_t = noise.perturb(x, times, normal(n, 2, seed=1))
    target = TRUTH.blurred(noise, t).score(x_t)
    found, true = [], []
    for law in (NEAR.blurred(noise, t), COARSE.blurred(noise, t)):
        given = {"noise": noise, "t": times, "weight": torch.ones_like, "generator": seeded(1)}
        function = noise_conditional if objective == "denoising" else noise_conditional_sliced
        found.append(function(lambda x, t, law=law: law.score(x), x, **given))
        true.append(explicit(law.score, x_t, target))
    assert_same_gap(found[0] - found[1], true[0] - true[1])


@EACH
@pytest.mark.parametrize("objective", [noise_conditional, noise_conditional_sliced])
def test_an_image_has_the_loss_of_its_flattened_self(noise, objective):
    """The same noise, the same loss per sample: nothing depends on the axes of a sample."""
    model, flat = Timed(Linear(12)), normal(6, 12)
    image = objective(model, flat.reshape(6, 3, 2, 2), noise=noise, generator=seeded())
    close(image, objective(model, flat, noise=noise, generator=seeded()), 1e-12)


@pytest.mark.parametrize("objective", [noise_conditional, noise_conditional_sliced])
def test_the_loss_of_a_product_law_is_the_sum_over_its_dimensions(objective):
    """Nothing is divided by the dimension: five dimensions cost the sum of five losses."""

    class Columns:
        """Fixed noise: columns of one matrix."""

        def __init__(self, part):
            self.part = part

        def normal(self, x):
            return normal(7, 5, seed=9)[:, self.part]

    def loss(x, part):
        return objective(lambda x, t: -(x**3), x, noise=VP(), t=t, generator=Columns(part))

    x, t = normal(7, 5), torch.linspace(0.1, 1, 7, dtype=torch.float64)
    parts = sum(loss(x[:, j : j + 1], slice(j, j + 1)) for j in range(5))
    close(loss(x, slice(None)), parts, 1e-12)


@pytest.mark.parametrize("objective", [noise_conditional, noise_conditional_sliced])
def test_labels_reach_the_score_with_their_samples(objective):
    """With y the score is called as s(x, t, y): a score shifted by y has the loss of the shifted score."""
    model, x, y = Timed(Linear()), normal(6, 4), torch.arange(6.0, dtype=torch.float64)
    with_y = objective(model, x, noise=VP(), y=y, generator=seeded())
    close(with_y, objective(lambda x, t: model(x, t) + y[:, None], x, noise=VP(), generator=seeded()))


@pytest.mark.parametrize("kind", ["network", "energy"])
@pytest.mark.parametrize("objective", [noise_conditional, noise_conditional_sliced])
def test_gradients_of_networks_and_energies_equal_finite_differences(kind, objective):
    """Along a random direction in parameter space the loss has the slope that backpropagation says, to 1e-6."""

    class Energy(Deep):
        def forward(self, x, t):
            return (1 + t) * super().forward(x)

    model = EnergyModel(Energy(3)) if kind == "energy" else ScoreModel(deep_network(3), VP())
    x, parameters = normal(5, 3), list(model.parameters())
    direction = [normal(*p.shape, seed=50 + i) for i, p in enumerate(parameters)]

    def loss():
        return objective(model, x, noise=VP(), generator=seeded(0)).mean()

    def loss_after(step):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += step * d
        return loss().detach()

    slope = sum((g * d).sum() for g, d in zip(learned(loss(), model), direction, strict=True))
    h = 1e-5
    close(slope, (loss_after(h) - loss_after(-2 * h)) / (2 * h), 1e-6)


def test_a_sample_has_the_same_loss_in_any_batch():
    """Under PerSample times, noise and probes belong to the sample, not to its place in the batch."""
    model, x = Timed(Linear()), normal(6, 4)
    for objective in (noise_conditional, noise_conditional_sliced):
        for times in ("uniform", "importance"):
            given = {"noise": VP(), "weight": "likelihood", "times": times}
            whole = objective(model, x, **given, generator=PerSample(0, range(6)))
            close(whole[4:], objective(model, x[4:], **given, generator=PerSample(0, [4, 5])), 1e-12)


@EACH
@pytest.mark.parametrize("weight", ["sigma2", "likelihood", "edm", "min-snr"])
def test_losses_of_float32_data_are_float32(noise, weight):
    """The dtype is that of the data, whatever dtype the times were drawn in."""
    for objective in (noise_conditional, noise_conditional_sliced):
        for times in ("uniform", "stratified", "importance"):
            given = {"noise": noise, "times": times, **given_weight(weight)}
            loss = objective(lambda x, t: -x, torch.zeros(3, 2), **given)
            assert loss.dtype == torch.float32 and loss.shape == (3,)


def test_relu_is_refused_where_its_derivative_is_trained():
    """In energies by both, in score networks by sliced; a score network may denoise with it."""

    class Units(nn.Sequential):
        def __init__(self, out):
            super().__init__(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, out))
            self.double()

        def forward(self, x, t):
            return super().forward(x)

    x, given = normal(4, 3), {"noise": VP(), "generator": seeded()}
    for objective, model in (
        (noise_conditional, EnergyModel(Units(1))),
        (noise_conditional_sliced, EnergyModel(Units(1))),
        (noise_conditional_sliced, Units(3)),
    ):
        with pytest.raises(ValueError, match="ReLU is not smooth enough"):
            objective(model, x, **given)
    assert noise_conditional(Units(3), x, **given).shape == (4,)


@pytest.mark.parametrize("objective", [noise_conditional, noise_conditional_sliced])
def test_bad_arguments_are_refused(objective):
    """Integers, times, weights and scores of another shape, unknown names, and data_scale where it is missing."""
    x, noise = normal(4, 3), VP()

    def loss(score=lambda x, t: x, x=x, **given):
        return objective(score, x, noise=noise, **given)

    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        loss(x=x.long())
    with pytest.raises(ValueError, match=r"t must have shape \(4,\) \(one time per sample\), got \(\)"):
        loss(t=torch.tensor(0.5))
    with pytest.raises(ValueError, match="times says how t is drawn, got 'stratified' together with t; give one"):
        loss(t=torch.full((4,), 0.5), times="stratified")
    with pytest.raises(ValueError, match="times must be one of uniform, stratified, importance; got 'strata'"):
        loss(times="strata")
    with pytest.raises(ValueError, match="weight must be one of .*; did you mean 'sigma2'"):
        loss(weight="sigma")
    with pytest.raises(ValueError, match="weight 'edm' needs data_scale"):
        loss(weight="edm")
    with pytest.raises(ValueError, match="data_scale must be a finite number > 0, got 0"):
        loss(weight="edm", data_scale=0)
    with pytest.raises(ValueError, match=r"weight\(t\) must have shape \(4,\)"):
        loss(weight=lambda t: t[:, None])
    with pytest.raises(ValueError, match="importance needs a weight that is finite, >= 0 and not 0 at all levels"):
        loss(weight=lambda t: -t, times="importance")
    with pytest.raises(ValueError, match="a score must return the shape of x"):
        loss(lambda x, t: x[:, :1])
    with pytest.raises(TypeError, match="a score must return the dtype of x"):
        loss(lambda x, t: x.float())
    with pytest.raises(ValueError, match="gamma must be a finite number > 0, got -1"):
        min_snr(noise, -1)
    if objective is noise_conditional_sliced:
        with pytest.raises(RuntimeError, match="must not detach"):
            loss(lambda x, t: x.detach())
        with pytest.raises(ValueError, match="probes must be >= 1, got 0"):
            loss(probes=0)
