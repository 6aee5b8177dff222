"""Explicit, implicit and sliced score matching against closed forms: values, parameter gradients, identities."""

import itertools
import math

import pytest
import torch
from torch import Generator, nn

from scorefield.calculus import PerSample
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.fields import EnergyModel, ScoreModel, at
from scorefield.networks import MLP
from scorefield.noise import VP
from scorefield.objectives import explicit, implicit, sliced
from scorefield.settings import MLPSize


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class Linear(nn.Module):
    """The score -P (x - m) on flattened samples; P need not be symmetric."""

    def __init__(self, d, seed=1):
        super().__init__()
        self.p, self.m = nn.Parameter(normal(d, d, seed=seed)), nn.Parameter(normal(d, seed=seed + 1))

    def forward(self, x):
        return -((x.flatten(1) - self.m) @ self.p.T).reshape(x.shape)


class Deep(nn.Module):
    """An energy that is no polynomial: a small smooth network, one number per sample."""

    def __init__(self, d):
        super().__init__()
        self.a, self.b = nn.Parameter(normal(d, 6, seed=7)), nn.Parameter(normal(6, seed=8))

    def forward(self, x):
        return (x.flatten(1) @ self.a).tanh() @ self.b + x.flatten(1).square().sum(1) / 2


def gradients(loss, module):
    """The gradient of the mean loss in every parameter."""
    return torch.autograd.grad(loss.mean(), list(module.parameters()))


def rows(a, b):
    """The mean outer product of two sets of rows."""
    return a.T @ b / len(a)


SHAPES = pytest.mark.parametrize("shape", [(50, 4), (50, 1, 2, 2)], ids=["vectors", "images"])


@SHAPES
def test_explicit_equals_its_closed_form_in_value_and_gradients(shape):
    r"""With $r = P(x-m) - Q(x-\mu)$: $\ell = \frac12\|r\|^2$, $\partial_P = E[r(x-m)^T]$, $\partial_m = -P^T E[r]$."""
    model, x = Linear(4), normal(*shape)
    q, mu, flat = normal(4, 4, seed=5), normal(4, seed=6), x.flatten(1)
    p, u = model.p.detach(), flat - model.m.detach()
    r = u @ p.T - (flat - mu) @ q.T
    loss = explicit(model, x, -((flat - mu) @ q.T).reshape(shape))
    close(loss, r.square().sum(1) / 2)
    by_p, by_m = gradients(loss, model)
    close(by_p, rows(r, u))
    close(by_m, -p.T @ r.mean(0))


@SHAPES
def test_implicit_equals_its_closed_form_in_value_and_gradients(shape):
    r"""$\frac12\|Pu\|^2 - \mathrm{tr} P$ with $u = x - m$, $\partial_P = E[Puu^T] - I$, $\partial_m = -P^TP\,E[u]$."""
    model, x = Linear(4), normal(*shape)
    p, u = model.p.detach(), x.flatten(1) - model.m.detach()
    loss = implicit(model, x)
    close(loss, (u @ p.T).square().sum(1) / 2 - p.trace())
    by_p, by_m = gradients(loss, model)
    close(by_p, rows(u @ p.T, u) - torch.eye(4, dtype=torch.float64))
    close(by_m, -p.T @ p @ u.mean(0))


def probe(shape, g):
    """The Rademacher probe that the library draws next from a generator in the same state."""
    return torch.where(torch.randn(shape, dtype=torch.float64, generator=g) < 0, -1.0, 1.0).double().flatten(1)


@SHAPES
@pytest.mark.parametrize("probes", [1, 3])
@pytest.mark.parametrize("variance_reduced", [True, False])
def test_sliced_equals_its_formula_for_the_very_probes_drawn(shape, probes, variance_reduced):
    r"""$-v^TPv + \frac12\|Pu\|^2$, or $+ \frac12(v^TPu)^2$, averaged over the probes; values and gradients."""
    model, x = Linear(4), normal(*shape)
    p, u = model.p.detach(), x.flatten(1) - model.m.detach()
    g, s = Generator().manual_seed(3), u @ p.T
    value, by_p, by_m = 0, 0, 0
    for _ in range(probes):
        v = probe(shape, g)
        along = (v * s).sum(1, keepdim=True)
        value = value - ((v @ p) * v).sum(1) + (s.square().sum(1) if variance_reduced else along[:, 0] ** 2) / 2
        r = s if variance_reduced else along * v
        by_p, by_m = by_p - rows(v, v) + rows(r, u), by_m - p.T @ r.mean(0)
    loss = sliced(model, x, probes=probes, variance_reduced=variance_reduced, generator=Generator().manual_seed(3))
    close(loss, value / probes)
    for computed, expected in zip(gradients(loss, model), (by_p / probes, by_m / probes), strict=True):
        close(computed, expected)


@SHAPES
def test_implicit_by_hutchinson_is_variance_reduced_sliced_with_the_same_probes(shape):
    """Both are half the squared norm plus a probed trace: equal value and gradients from one seed."""
    model, x = Linear(4), normal(*shape)
    a = implicit(model, x, method="hutchinson", probes=2, generator=Generator().manual_seed(3))
    b = sliced(model, x, probes=2, generator=Generator().manual_seed(3))
    close(a, b)
    for one, other in zip(gradients(a, model), gradients(b, model), strict=True):
        close(one, other)


@pytest.mark.parametrize("variance_reduced", [True, False])
def test_sliced_over_every_probe_is_implicit_exactly(variance_reduced):
    """The mean over all 2^d sign vectors is the implicit objective: SSM = ISM, value and gradients, to rounding."""

    class AllSigns:
        def normal(self, x):
            return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=x.dtype).reshape(x.shape)

    for model in (Linear(4), EnergyModel(Deep(4)), ScoreModel(deep_network(4), VP())):
        score = at(model, torch.tensor(0.3, dtype=torch.float64)) if isinstance(model, ScoreModel) else model
        for point in normal(3, 4):
            x = point.repeat(16, 1)
            loss = sliced(score, x, variance_reduced=variance_reduced, generator=AllSigns()).mean()
            exact = implicit(score, x).mean()
            close(loss, exact)
            for a, b in zip(learned(loss, model), learned(exact, model), strict=True):
                close(a, b)


def deep_network(shape):
    """An MLP in float64 whose parameters are all away from their initial values."""
    net, g = MLP(shape, MLPSize(8, 2)).double(), Generator().manual_seed(0)
    for p in net.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return net


def learned(loss, model):
    """Gradients in the parameters; zero for one that the loss does not see (a constant of the energy)."""
    return torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, materialize_grads=True)


@pytest.mark.parametrize("variance_reduced", [True, False])
def test_sliced_equals_implicit_in_the_mean_over_drawn_probes(variance_reduced):
    """SSM = ISM at each of 3 points over 5,000 seeded probes, 4 s.e. each (false alarms 2e-4)."""
    model, n = Linear(4), 5000
    for i, point in enumerate(normal(3, 4)):
        loss = sliced(
            model, point.expand(n, 4), variance_reduced=variance_reduced, generator=Generator().manual_seed(i)
        )
        assert abs(loss.mean() - implicit(model, point[None])[0]) < 4 * loss.std() / math.sqrt(n)


def test_the_implicit_objective_is_least_at_the_inverse_covariance_and_the_mean():
    r"""$P = S^{-1}$ (not S) and m the mean: the gradient vanishes, the value is $-\frac12 \mathrm{tr} S^{-1}$."""
    x, model = normal(200, 3) @ normal(3, 3, seed=2) + 1, Linear(3)
    centred = x - x.mean(0)
    precision = rows(centred, centred).inverse()
    model.p.data, model.m.data = precision, x.mean(0)
    loss = implicit(model, x)
    close(loss.mean(), -precision.trace() / 2)
    for gradient in gradients(loss, model):
        close(gradient, torch.zeros_like(gradient))


TRUTH = GaussianMixture(
    [0.35, 0.65], [[2.0, 1.0], [-1.0, -0.5]], [[[0.6, 0.2], [0.2, 0.4]], [[1.0, -0.3], [-0.3, 0.5]]]
)
CLOSE = GaussianMixture([0.5, 0.5], [[1.5, 1.0], [-1.0, 0.0]], [[[0.8, 0.0], [0.0, 0.5]], [[0.9, 0.0], [0.0, 0.7]]])
COARSE = Gaussian([0.3, -0.2], [[2.5, 0.4], [0.4, 1.5]])


@pytest.mark.parametrize(("method", "n"), [("implicit", 6000), ("sliced", 20_000), ("plain sliced", 20_000)])
def test_objectives_without_the_truth_differ_from_explicit_by_a_constant(method, n):
    """ESM = ISM + C and SSM = ISM: the gap between two models is the same under both, within 4 s.e. (6e-5)."""
    x = TRUTH.sample((n,), generator=Generator().manual_seed(0))

    def blind(score):
        if method == "implicit":
            return implicit(score, x)
        return sliced(score, x, variance_reduced=method == "sliced", generator=Generator().manual_seed(1))

    gap_explicit = explicit(CLOSE.score, x, TRUTH.score(x)) - explicit(COARSE.score, x, TRUTH.score(x))
    gap = blind(CLOSE.score) - blind(COARSE.score)
    difference = gap - gap_explicit
    standard_error = difference.std() / math.sqrt(n)
    assert abs(difference.mean()) < 4 * standard_error
    assert abs(gap_explicit.mean()) > 15 * standard_error, "the test must be able to see a lost factor 1/2"


def test_the_explicit_objective_of_the_truth_is_zero_and_that_of_another_gaussian_half_the_fisher_divergence():
    r"""For N(0, 1) against s(x) = -x/4: $\frac12 E[(\frac34 x)^2] = 9/32$ per dimension; 4 s.e. (6e-5)."""
    x = normal(20_000, 3)
    close(explicit(lambda x: -x, x, -x), torch.zeros(20_000, dtype=torch.float64))
    loss = explicit(lambda x: -x / 4, x, -x)
    assert abs(loss.mean() - 3 * 9 / 32) < 4 * loss.std() / math.sqrt(20_000)


def on_images(score, shape):
    return lambda x: score(x.flatten(1)).reshape(-1, *shape)


@pytest.mark.parametrize("objective", ["explicit", "implicit", "hutchinson", "sliced", "plain sliced"])
def test_an_image_has_the_loss_of_its_flattened_self(objective):
    """A (C, H, W) sample is a vector with other axes: the same loss per sample, shape (B,)."""
    flat, d, shape = normal(6, 12), 12, (3, 2, 2)
    score, target = EnergyModel(Deep(d)), normal(6, 12, seed=4)

    def loss(score, x, target):
        g = Generator().manual_seed(2)
        if objective == "explicit":
            return explicit(score, x, target)
        if objective in ("implicit", "hutchinson"):
            return implicit(score, x, method="exact" if objective == "implicit" else objective, generator=g)
        return sliced(score, x, variance_reduced=objective == "sliced", generator=g)

    image = loss(on_images(score, shape), flat.reshape(6, *shape), target.reshape(6, *shape))
    assert image.shape == (6,)
    close(image, loss(score, flat, target), 1e-12)


def test_the_loss_of_a_product_law_is_the_sum_over_its_factors():
    """Nothing is divided by the dimension: for s(x) = (a(x1), b(x2)) losses of the parts add up."""
    a, b = EnergyModel(Deep(2)), EnergyModel(Deep(3))
    x, target = normal(7, 5), normal(7, 5, seed=1)
    left, right = x[:, :2], x[:, 2:]

    def both(x):
        return torch.cat([a(x[:, :2]), b(x[:, 2:])], 1)

    close(explicit(both, x, target), explicit(a, left, target[:, :2]) + explicit(b, right, target[:, 2:]))
    close(implicit(both, x), implicit(a, left) + implicit(b, right))

    class Columns:
        """Fixed signs: the columns of a vector of probes."""

        def __init__(self, part):
            self.part = part

        def normal(self, x):
            return normal(7, 5, seed=9)[:, self.part]

    whole = sliced(both, x, generator=Columns(slice(None)))
    close(whole, sliced(a, left, generator=Columns(slice(2))) + sliced(b, right, generator=Columns(slice(2, None))))


@pytest.mark.parametrize("kind", ["network", "energy", "image network"])
def test_exact_implicit_of_networks_and_energies_agrees_with_backward_passes(kind):
    """Value and parameter gradients of forward mode equal one backward pass per coordinate, to 1e-9."""
    shape = (2, 2, 1) if kind == "image network" else (4,)
    model = EnergyModel(Deep(4)) if kind == "energy" else ScoreModel(deep_network(shape), VP())
    score = model if kind == "energy" else at(model, torch.tensor(0.3, dtype=torch.float64))
    x = normal(3, *shape).requires_grad_()
    s = score(x).flatten(1)
    trace = 0
    for j in range(4):
        (row,) = torch.autograd.grad(s[:, j].sum(), x, create_graph=True)
        trace = trace + row.flatten(1)[:, j]
    by_hand = s.square().sum(1) / 2 + trace
    loss = implicit(score, x.detach())
    close(loss, by_hand)
    found = learned(loss.mean(), model)
    for a, b in zip(found, learned(by_hand.mean(), model), strict=True):
        close(a, b)
    assert sum(gradient.abs().sum() for gradient in found) > 0


@pytest.mark.parametrize("variance_reduced", [True, False])
def test_sliced_draws_one_stream_per_sample(variance_reduced):
    """Under PerSample the loss of a sample does not depend on the batch it is in."""
    model, x = Linear(4), normal(6, 4)
    whole = sliced(model, x, probes=2, variance_reduced=variance_reduced, generator=PerSample(0, range(6)))
    part = sliced(model, x[4:], probes=2, variance_reduced=variance_reduced, generator=PerSample(0, [4, 5]))
    close(whole[4:], part, 1e-12)


def test_objectives_of_float32_data_are_float32_and_work_where_gradients_are_off():
    """The dtype is that of the input; under no_grad the values are the same."""
    x = normal(4, 3)
    for objective in (lambda x: explicit(lambda x: -x, x, x), lambda x: implicit(lambda x: -x, x)):
        assert objective(x.float()).dtype == torch.float32
        with torch.no_grad():
            close(objective(x), objective(x))
    with torch.no_grad():
        close(sliced(lambda x: -x, x), x.square().sum(1) / 2 - 3)


def test_bad_arguments_are_refused():
    """Integers, another shape of target or score, no probe, an unknown method and a detached score."""
    x = normal(4, 3)
    for objective in (implicit, sliced):
        with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
            objective(lambda x: x, x.long())
        with pytest.raises(ValueError, match="a score must return the shape of x"):
            objective(lambda x: x[:, :1], x)
        with pytest.raises(ValueError, match="probes must be >= 1, got 0"):
            objective(lambda x: x, x, probes=0)
    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        explicit(lambda x: x, x.long(), x)
    with pytest.raises(ValueError, match=r"target must have shape \(4, 3\) \(the shape of x\), got \(4,\)"):
        explicit(lambda x: x, x, x[:, 0])
    with pytest.raises(ValueError, match="a score must return the shape of x"):
        explicit(lambda x: x[:, :1], x, x)
    with pytest.raises(ValueError, match="method must be one of exact, hutchinson"):
        implicit(lambda x: x, x, method="guess")
    with pytest.raises(RuntimeError, match="must not detach"):
        sliced(lambda x: x.detach(), x)
