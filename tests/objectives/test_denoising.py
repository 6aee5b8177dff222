"""Denoising score matching against closed forms for the very noise drawn, and against the explicit objective."""

import math

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Generator, nn

from scorefield.calculus import PerSample, expand
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.fields import EnergyModel, ScoreModel
from scorefield.networks import MLP
from scorefield.noise import VE, VP, Cosine, Levels, SubVP
from scorefield.objectives import denoising, explicit, noise_conditional
from scorefield.objectives.denoising import uniform_times
from scorefield.settings import MLPSize

SHAPES = pytest.mark.parametrize("shape", [(50, 4), (50, 1, 2, 2)], ids=["vectors", "images"])
NOISES = [VE(0.05, 4.0), VP(), SubVP(), Cosine(), Levels(4.0, 0.05, 6)]
EACH = pytest.mark.parametrize("noise", NOISES, ids=str)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class Linear(nn.Module):
    """The score -P (x - m), scaled by 1 + t where a time is given and shifted by the label where there is one."""

    def __init__(self, d):
        super().__init__()
        self.p, self.m = nn.Parameter(normal(d, d, seed=1)), nn.Parameter(normal(d, seed=2))

    def forward(self, x, t=None, y=None):
        s = -((x.flatten(1) - self.m) @ self.p.T).reshape(x.shape)
        s = s if t is None else s * expand(1 + t, x)
        return s if y is None else s + expand(y, x)


def gradients(loss, module):
    return torch.autograd.grad(loss.mean(), list(module.parameters()))


@SHAPES
@pytest.mark.parametrize("sigma", [0.03, 2.0])
def test_denoising_equals_its_closed_form_for_the_noise_drawn(shape, sigma):
    r"""$\frac12\|{-P(x + \sigma z - m)} + z/\sigma\|^2$ and its gradients in P and m, z drawn again from the seed."""
    model, x, z = Linear(4), normal(*shape), normal(*shape, seed=3)
    p, u = model.p.detach(), (x + sigma * z).flatten(1) - model.m.detach()
    r = z.flatten(1) / sigma - u @ p.T
    loss = denoising(model, x, sigma=sigma, generator=Generator().manual_seed(3))
    close(loss, r.square().sum(1) / 2)
    by_p, by_m = gradients(loss, model)
    close(by_p, -r.T @ u / 50, 1e-11)
    close(by_m, p.T @ r.mean(0), 1e-11)


WEIGHTS = {
    "sigma2": lambda noise, t: noise.sigma(t) ** 2,
    "likelihood": lambda noise, t: noise.g2(t),
    "callable": lambda noise, t: 3 - t,
}


@SHAPES
@EACH
@pytest.mark.parametrize("weight", WEIGHTS)
def test_noise_conditional_equals_its_closed_form_for_the_noise_drawn(shape, noise, weight):
    r"""$\frac12 w(t)\|s(\alpha x + \sigma z, t) + z/\sigma\|^2$ and its gradients, for given times."""
    model, x, z = Linear(4), normal(*shape), normal(*shape, seed=3)
    t = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    alpha, sigma, w = noise.alpha(t)[:, None], noise.sigma(t)[:, None], WEIGHTS[weight](noise, t)
    p, scale = model.p.detach(), (1 + t)[:, None]
    u = alpha * x.flatten(1) + sigma * z.flatten(1) - model.m.detach()
    r = z.flatten(1) / sigma - scale * (u @ p.T)
    loss = noise_conditional(
        model,
        x,
        noise=noise,
        t=t,
        weight=(lambda t: 3 - t) if weight == "callable" else weight,
        generator=Generator().manual_seed(3),
    )
    torch.testing.assert_close(loss, w * r.square().sum(1) / 2, rtol=1e-12, atol=1e-12)
    weighted = w[:, None] * scale * r
    for found, expected in zip(gradients(loss, model), (-weighted.T @ u / 50, p.T @ weighted.mean(0)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_named_weights_are_sigma_squared_and_beta():
    r"""Under VP: $w = 1 - e^{-B(t)}$ for "sigma2" and $w = \beta(t)$ for "likelihood"; the default is sigma2."""
    noise, x = VP(0.2, 10.0), normal(5, 2)
    t = torch.linspace(0.1, 1, 5, dtype=torch.float64)
    b = 0.2 * t + 4.9 * t**2
    one, sigma2, likelihood, default = (
        noise_conditional(lambda x, t: -x, x, noise=noise, t=t, generator=Generator().manual_seed(0), **weight)
        for weight in ({"weight": torch.ones_like}, {"weight": "sigma2"}, {"weight": "likelihood"}, {})
    )
    close(sigma2 / one, 1 - (-b).exp())
    close(likelihood / one, 0.2 + 9.8 * t)
    close(default, sigma2)


@EACH
def test_times_are_drawn_first_and_the_noise_after_them(noise):
    """With no times given, the loss is that of the times the same seed draws: uniform, or one of the levels."""
    model, x, g = Linear(4), normal(50, 4), Generator().manual_seed(3)
    u = torch.rand(50, dtype=torch.float64, generator=g)
    uniform = noise.t_min + (1 - noise.t_min) * u
    t = noise.levels[(6 * u).long()] if isinstance(noise, Levels) else uniform
    expected = noise_conditional(model, x, noise=noise, t=t, generator=g)
    close(noise_conditional(model, x, noise=noise, generator=Generator().manual_seed(3)), expected)


def test_drawn_times_are_uniform_and_drawn_levels_equally_frequent():
    """Kolmogorov-Smirnov on 5,000 times and chi-squared on 5,000 levels; false alarms 1e-4 each."""
    x, noise = torch.zeros(5000, 1), Levels(4.0, 0.05, 6)
    t = uniform_times(VP(), x, Generator().manual_seed(0))
    assert t.dtype == torch.float64 and t.min() >= 1e-5 and t.max() <= 1
    assert kstest(t.numpy(), "uniform").pvalue > 1e-4
    levels, counts = uniform_times(noise, x, Generator().manual_seed(0)).unique(return_counts=True)
    assert torch.equal(levels, noise.levels.flip(0))
    assert chisquare(counts.numpy()).pvalue > 1e-4


TRUTH = GaussianMixture(
    [0.35, 0.65], [[2.0, 1.0], [-1.0, -0.5]], [[[0.6, 0.2], [0.2, 0.4]], [[1.0, -0.3], [-0.3, 0.5]]]
)
NEAR = GaussianMixture([0.5, 0.5], [[1.5, 1.0], [-1.0, 0.0]], [[[0.8, 0.0], [0.0, 0.5]], [[0.9, 0.0], [0.0, 0.7]]])
COARSE = Gaussian([0.3, -0.2], [[2.5, 0.4], [0.4, 1.5]])


def assert_same_gap(gap, gap_explicit):
    """Two models are the same distance apart under both objectives, within 4 s.e.; the test has the power to say so."""
    difference = gap - gap_explicit
    standard_error = difference.std() / math.sqrt(len(gap))
    assert abs(difference.mean()) < 4 * standard_error
    assert abs(gap_explicit.mean()) > 15 * standard_error, "the test must be able to see a lost factor 1/2"


def test_denoising_differs_from_explicit_on_the_blurred_law_by_a_constant():
    """DSM = ESM + C at sigma = 0.7: the gap between two models is the same under both, 4 s.e. (6e-5)."""
    n, sigma = 40_000, 0.7
    x = TRUTH.sample((n,), generator=Generator().manual_seed(0))
    z = normal(n, 2, seed=1)
    blurred = GaussianMixture(TRUTH.weights, TRUTH.means, TRUTH.covariances + sigma**2 * torch.eye(2))
    target = blurred.score(x + sigma * z)
    dsm = [denoising(law.score, x, sigma=sigma, generator=Generator().manual_seed(1)) for law in (NEAR, COARSE)]
    esm = [explicit(law.score, x + sigma * z, target) for law in (NEAR, COARSE)]
    assert_same_gap(dsm[0] - dsm[1], esm[0] - esm[1])


@pytest.mark.parametrize("noise", NOISES[:4], ids=str)
def test_noise_conditional_differs_from_explicit_on_the_blurred_law_by_a_constant(noise):
    """DSM = ESM + C where alpha shrinks the data too, at sigma/alpha = 0.6 with weight 1: 4 s.e. (6e-5)."""
    n, t = 40_000, noise.time_at(torch.tensor(0.6)).item()
    x = TRUTH.sample((n,), generator=Generator().manual_seed(0))
    times = torch.full((n,), t, dtype=torch.float64)
    x_t = noise.perturb(x, times, normal(n, 2, seed=1))
    target = TRUTH.blurred(noise, t).score(x_t)
    near, coarse = NEAR.blurred(noise, t), COARSE.blurred(noise, t)
    dsm = [
        noise_conditional(
            lambda x, t, law=law: law.score(x),
            x,
            noise=noise,
            t=times,
            weight=torch.ones_like,
            generator=Generator().manual_seed(1),
        )
        for law in (near, coarse)
    ]
    esm = [explicit(law.score, x_t, target) for law in (near, coarse)]
    assert_same_gap(dsm[0] - dsm[1], esm[0] - esm[1])


@EACH
def test_an_image_has_the_loss_of_its_flattened_self(noise):
    """The same noise, the same loss per sample: nothing depends on the axes of a sample."""
    model, flat = Linear(12), normal(6, 12)
    image, g = flat.reshape(6, 3, 2, 2), Generator()
    close(
        denoising(model, image, sigma=0.5, generator=g.manual_seed(4)),
        denoising(model, flat, sigma=0.5, generator=g.manual_seed(4)),
    )
    close(
        noise_conditional(model, image, noise=noise, generator=g.manual_seed(4)),
        noise_conditional(model, flat, noise=noise, generator=g.manual_seed(4)),
    )


def test_the_loss_of_a_product_law_is_the_sum_over_its_dimensions():
    """Nothing is divided by the dimension: five dimensions cost the sum of five losses."""

    class Columns:
        """Fixed noise: columns of one matrix."""

        def __init__(self, part):
            self.part = part

        def normal(self, x):
            return normal(7, 5, seed=9)[:, self.part]

    x, t, noise = normal(7, 5), torch.linspace(0.1, 1, 7, dtype=torch.float64), VP()

    def score(x, t=None):
        return -(x**3)

    def parts(loss):
        return sum(loss(x[:, j : j + 1], Columns(slice(j, j + 1))) for j in range(5))

    def one_level(x, draws):
        return denoising(score, x, sigma=0.4, generator=draws)

    def all_levels(x, draws):
        return noise_conditional(score, x, noise=noise, t=t, generator=draws)

    for loss in (one_level, all_levels):
        close(loss(x, Columns(slice(None))), parts(loss))


def test_labels_reach_the_score_with_their_samples():
    """With y the score is called as s(x, t, y): a score shifted by y has the loss of the shifted score."""
    model, x, y = Linear(4), normal(6, 4), torch.arange(6.0, dtype=torch.float64)
    with_y = noise_conditional(model, x, noise=VP(), y=y, generator=Generator().manual_seed(0))
    by_hand = noise_conditional(
        lambda x, t: model(x, t) + y[:, None], x, noise=VP(), generator=Generator().manual_seed(0)
    )
    close(with_y, by_hand)


@pytest.mark.parametrize("kind", ["network", "energy"])
def test_gradients_of_networks_and_energies_equal_finite_differences(kind):
    """Along a random direction in parameter space the loss has the slope that backpropagation says, to 1e-6."""

    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(normal(3, 6, seed=7)), nn.Parameter(normal(6, seed=8))

        def forward(self, x, t):
            return (1 + t) * ((x @ self.a).tanh() @ self.b)

    if kind == "energy":
        model = EnergyModel(Energy())
    else:
        model = ScoreModel(MLP(3, MLPSize(8, 2)).double(), VP())
        for i, p in enumerate(model.parameters()):
            p.data += 0.2 * normal(*p.shape, seed=20 + i)
    x, parameters = normal(5, 3), list(model.parameters())
    direction = [normal(*p.shape, seed=50 + i) for i, p in enumerate(parameters)]

    def loss():
        return noise_conditional(model, x, noise=VP(), generator=Generator().manual_seed(0)).mean()

    def loss_after(step):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += step * d
        return loss().detach()

    slope = sum((g * d).sum() for g, d in zip(gradients(loss(), model), direction, strict=True))
    h = 1e-5
    close(slope, (loss_after(h) - loss_after(-2 * h)) / (2 * h), 1e-6)


def test_a_sample_has_the_same_loss_in_any_batch():
    """Under PerSample times and noise belong to the sample, not to its place in the batch."""
    model, x = Linear(4), normal(6, 4)
    close(
        noise_conditional(model, x, noise=VP(), generator=PerSample(0, range(6)))[4:],
        noise_conditional(model, x[4:], noise=VP(), generator=PerSample(0, [4, 5])),
    )
    close(
        denoising(model, x, sigma=0.3, generator=PerSample(0, range(6)))[4:],
        denoising(model, x[4:], sigma=0.3, generator=PerSample(0, [4, 5])),
    )


@EACH
@pytest.mark.parametrize("weight", ["sigma2", "likelihood"])
def test_losses_of_float32_data_are_float32(noise, weight):
    """The dtype is that of the data, whatever dtype the times were drawn in."""
    loss = noise_conditional(lambda x, t: -x, torch.zeros(3, 2), noise=noise, weight=weight)
    assert loss.dtype == torch.float32 and loss.shape == (3,)
    assert denoising(lambda x: -x, torch.zeros(3, 2), sigma=0.1).dtype == torch.float32


def test_bad_arguments_are_refused():
    """Integers, a sigma of zero, unknown kernels and weights, times and scores of another shape."""
    x = normal(4, 3)
    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        denoising(lambda x: x, x.long(), sigma=1.0)
    with pytest.raises(ValueError, match="sigma must be a finite number > 0, got 0.0"):
        denoising(lambda x: x, x, sigma=0.0)
    with pytest.raises(ValueError, match="kernel must be one of gaussian; got 'gausian'; did you mean 'gaussian'"):
        denoising(lambda x: x, x, sigma=1.0, kernel="gausian")
    with pytest.raises(ValueError, match="a score must return the shape of x"):
        denoising(lambda x: x[:, :1], x, sigma=1.0)
    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        noise_conditional(lambda x, t: x, x.long(), noise=VP())
    with pytest.raises(ValueError, match=r"t must have shape \(4,\) \(one time per sample\), got \(\)"):
        noise_conditional(lambda x, t: x, x, noise=VP(), t=torch.tensor(0.5))
    with pytest.raises(ValueError, match="did you mean 'sigma2'"):
        noise_conditional(lambda x, t: x, x, noise=VP(), weight="sigma")
    with pytest.raises(ValueError, match=r"weight\(t\) must have shape \(4,\)"):
        noise_conditional(lambda x, t: x, x, noise=VP(), weight=lambda t: t[:, None])
    with pytest.raises(ValueError, match="a score must return the shape of x"):
        noise_conditional(lambda x, t: x[:, :1], x, noise=VP())
