"""Denoising score matching at one level: closed forms for the noise drawn, DSM = ESM + C, and less variance."""

import math

import numpy as np
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
    Quartic,
    along,
    assert_loss,
    assert_same_gap,
    close,
    half_square,
    learned,
    normal,
)
from scipy import stats
from torch import Generator, nn

from scorefield.calculus import PerSample, randn_like
from scorefield.densities import GaussianMixture
from scorefield.fields import EnergyModel
from scorefield.objectives import Gaussian, Laplace, Student, denoising, explicit, noise_kernel

EACH = pytest.mark.parametrize("family", FAMILIES)
SHAPED = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
KERNELS = {"gaussian": Gaussian(), "laplace": Laplace(), "student": Student(5)}
WAYS = {
    "plain": {},
    "antithetic": {"antithetic": True},
    "control variate": {"control_variate": True},
    "both": {"antithetic": True, "control_variate": True},
}


@EACH
@SHAPED
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sigma", [0.03, 2.0])
def test_denoising_equals_its_closed_form_for_the_noise_drawn(family, shape, kernel, sigma):
    r"""$\frac12\|s(x + \sigma z) - \nabla\log q(z)/\sigma\|^2$ and its gradients, z drawn again from the seed."""
    model, x = FAMILIES[family](), normal(*shape)
    z = KERNELS[kernel].sample(x, Generator().manual_seed(3)).flatten(1)
    target = {
        "gaussian": -z,
        "laplace": -math.sqrt(2) * z.sign(),
        "student": -6 * z / (5 + z**2),
    }[kernel] / sigma
    s, _, ds, _ = model.exact(x.flatten(1) + sigma * z)
    loss = denoising(model, x, sigma=sigma, kernel=kernel, generator=Generator().manual_seed(3))
    assert_loss(loss, *half_square(s - target, ds), model)


@EACH
@SHAPED
@pytest.mark.parametrize("way", list(WAYS)[1:])
@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "own"])
def test_the_ways_to_less_variance_equal_their_closed_forms(family, shape, way, kernel):
    r"""z and -z averaged; $k^Ts(x)$ added and $\frac12\|k\|^2$ replaced by $D\,I/2\sigma^2$, where I is known."""
    model, x, sigma = FAMILIES[family](), normal(*shape), 0.3
    z = normal(*shape, seed=3).flatten(1)
    law = Laplace() if kernel == "laplace" else Gaussian()
    z = law.sample(z, Generator().manual_seed(3))
    k, information = law.score(z) / sigma, {"gaussian": 1, "laplace": 2, "own": None}[kernel]
    if kernel == "own":
        kernel = noise_kernel(randn_like, lambda z: -z, shape[1:], draws=20_000)
    sides = (1, -1) if "antithetic" in WAYS[way] else (1,)
    value, slope = 0, 0
    for side in sides:
        s, _, ds, _ = model.exact(x.flatten(1) + side * sigma * z)
        a, da = half_square(s - side * k, ds)
        value, slope = value + a / len(sides), slope + da / len(sides)
    if way == "control variate":
        s, _, ds, _ = model.exact(x)
        value, slope = value + (k * s).sum(1), slope + torch.einsum("ni,nik->nk", k, ds)
    if "control_variate" in WAYS[way] and information is not None:
        value = value - k.square().sum(1) / 2 + 4 * information / (2 * sigma**2)
    loss = denoising(model, x, sigma=sigma, kernel=kernel, **WAYS[way], generator=Generator().manual_seed(3))
    assert_loss(loss, value, slope, model)


class OnALine(nn.Module):
    """Four functions of one number, each times a parameter."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([-0.7, 0.4, 1.1, -0.3], dtype=torch.float64))

    def forward(self, x):
        features = torch.cat([x.tanh(), torch.cos(x), x / (1 + x**2), torch.exp(-(x**2))], 1)
        return (features @ self.theta)[:, None]


class Nodes:
    """A kernel that hands out given points in place of noise."""

    def __init__(self, kernel, z):
        self.score, self.information, self.symmetric, self._z = kernel.score, kernel.information, kernel.symmetric, z

    def sample(self, x, generator=None):
        return self._z


def panels(edges, nodes=40, longest=0.5):
    """Gauss-Legendre points and weights on the line, in panels that end at the edges; (n, 1) and (n,)."""
    u, w = np.polynomial.legendre.leggauss(nodes)
    ends = np.unique(np.concatenate([np.linspace(a, b, max(2, math.ceil((b - a) / longest) + 1)) for a, b in edges]))
    middle, half = (ends[1:] + ends[:-1]) / 2, np.diff(ends) / 2
    x = (middle[:, None] + half[:, None] * u).reshape(-1, 1)
    return torch.from_numpy(x), torch.from_numpy((half[:, None] * w).reshape(-1))


LOGISTIC = noise_kernel(lambda x, g: torch.logit(torch.special.ndtr(randn_like(x, g))), lambda z: -torch.tanh(z / 2), 1)
ON_A_LINE = {
    "gaussian": (Gaussian(), stats.norm(), lambda z: -(z**2) / 2, 12),
    "laplace": (Laplace(), stats.laplace(scale=1 / math.sqrt(2)), lambda z: -math.sqrt(2) * z.abs(), 30),
    "student": (Student(5), stats.t(5), lambda z: -3 * torch.log1p(z**2 / 5), 600),
    "logistic, by noise_kernel": (LOGISTIC, stats.logistic(), lambda z: -z - 2 * torch.log1p((-z).exp()), 40),
}
POINTS, SIGMA = (-1.2, 0.3, 2.0), 0.8


@pytest.mark.parametrize("name", ON_A_LINE)
@pytest.mark.parametrize("way", WAYS)
def test_denoising_has_the_gradient_of_the_explicit_objective_on_the_blurred_law(name, way):
    """DSM = ESM + C for every kernel, integrated: three points blurred, gradients equal to 1e-8 by quadrature.

    The values differ by the constant C(q, sigma), which does not depend on theta: 1e-8 at a second theta.
    """
    kernel, law, log_q, reach = ON_A_LINE[name]
    model, n = OnALine(), len(POINTS)
    z, dz = panels([(-reach, 0), (0, reach)], longest=reach / 60)
    weight = dz * torch.from_numpy(law.pdf(z.numpy()))[:, 0]
    ends = [POINTS[0] - reach * SIGMA, *POINTS, POINTS[-1] + reach * SIGMA]
    y, dy = panels(list(zip(ends, ends[1:], strict=False)), longest=reach / 60)
    scaled = (y - torch.tensor(POINTS, dtype=torch.float64)) / SIGMA  # (points of y, data)
    q = torch.from_numpy(law.pdf(scaled.numpy())) / SIGMA
    at = scaled.clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_q(at).sum(), at)
    blurred = q.mean(1)
    target = ((q * slope / SIGMA).mean(1) / blurred)[:, None]

    def both():
        centres = [torch.full_like(z, point) for point in POINTS]
        given = {"sigma": SIGMA, "kernel": Nodes(kernel, z), **WAYS[way]}
        dsm = sum((weight * denoising(model, x, **given)).sum() for x in centres) / n
        return dsm, (dy * blurred * explicit(model, y, target)).sum()

    dsm, esm = both()
    close(learned(dsm, model)[0], learned(esm, model)[0], 1e-8)
    constant = dsm - esm
    model.theta.data = torch.tensor([0.9, -0.2, 0.1, 0.8], dtype=torch.float64)
    dsm, esm = both()
    close(dsm - esm, constant, 1e-8)


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


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("way", list(WAYS)[1:])
def test_the_mean_loss_and_gradient_are_those_of_the_plain_form(way, kernel):
    """Means over 100,000 draws of each, of value and of every parameter's gradient, within 4 s.e."""
    model, n, sigma = Pair(), 100_000, 0.5
    point = normal(1, 4, seed=11)

    def samples(seed, **given):
        m = model.m.detach().expand(n, 4).clone().requires_grad_()

        def score(x):
            return -x + torch.tanh((x * m).sum(1))[:, None] * m

        x = point.expand(n, 4)
        loss = denoising(score, x, sigma=sigma, kernel=kernel, **given, generator=Generator().manual_seed(seed))
        return torch.cat([loss.detach()[:, None], torch.autograd.grad(loss.sum(), m)[0]], 1)

    plain, other = samples(0), samples(1, **WAYS[way])
    standard_error = (plain.var(0) + other.var(0)).sqrt() / math.sqrt(n)
    assert ((plain.mean(0) - other.mean(0)).abs() < 4 * standard_error).all()


def spread(model, x, **given):
    """The variance of the batch's gradient over 50 draws of the noise, summed over the parameters."""
    draws = [
        learned(denoising(model, x, **given, generator=Generator().manual_seed(i)).mean(), model) for i in range(50)
    ]
    return torch.stack([torch.cat([g.flatten() for g in draw]) for draw in draws]).var(0).sum()


@EACH
@pytest.mark.parametrize("way", list(WAYS)[1:])
def test_at_small_sigma_the_gradient_varies_at_most_a_fifth_as_much(family, way):
    """At sigma = 0.01, and for every kernel; the factor is in fact in the hundreds and grows like sigma^-2."""
    model, x = FAMILIES[family](), normal(32, 4)
    for kernel in KERNELS:
        plain = spread(model, x, sigma=0.01, kernel=kernel)
        assert spread(model, x, sigma=0.01, kernel=kernel, **WAYS[way]) < plain / 5


@EACH
@pytest.mark.parametrize("way", ["control variate", "both"])
def test_as_sigma_vanishes_the_control_variate_leaves_the_sliced_objective(family, way):
    r"""$\ell - D/2\sigma^2 \to \frac12\|s\|^2 + z^T\nabla s\,z$ with z for the probe: at sigma = 1e-4, to 2e-2."""
    model, x, sigma = FAMILIES[family](), normal(50, 4), 1e-4
    z = normal(50, 4, seed=3)
    s, jacobian, ds, d_jacobian = model.exact(x)
    square, trace = half_square(s, ds), along(z, jacobian, d_jacobian)
    loss = denoising(model, x, sigma=sigma, **WAYS[way], generator=Generator().manual_seed(3)) - 2 / sigma**2
    assert_loss(loss, square[0] + trace[0], square[1] + trace[1], model, 2e-2)


def test_calls_of_the_score_are_one_two_two_and_two():
    """Both techniques together cost what antithetic noise costs: the clean score cancels."""
    model, calls = Linear(), []

    def score(x):
        calls.append(1)
        return model(x)

    for way, expected in zip(WAYS, (1, 2, 2, 2), strict=True):
        calls.clear()
        denoising(score, normal(5, 4), sigma=0.1, **WAYS[way])
        assert len(calls) == expected


@pytest.mark.parametrize("way", WAYS)
def test_an_image_has_the_loss_of_its_flattened_self(way):
    """The same noise, the same loss per sample: nothing depends on the axes of a sample."""
    model, flat, g = Linear(12), normal(6, 12), Generator()
    image = flat.reshape(6, 3, 2, 2)
    for kernel in KERNELS:
        given = {"sigma": 0.5, "kernel": kernel, **WAYS[way]}
        a = denoising(model, image, **given, generator=g.manual_seed(4))
        close(a, denoising(model, flat, **given, generator=g.manual_seed(4)), 1e-12)


class Columns:
    """Fixed noise: columns of one matrix."""

    def __init__(self, part):
        self.part = part

    def normal(self, x):
        return normal(7, 5, seed=9)[:, self.part]


@pytest.mark.parametrize("way", WAYS)
def test_the_loss_of_a_product_law_is_the_sum_over_its_dimensions(way):
    """Nothing is divided by the dimension: five dimensions cost the sum of five losses."""

    def loss(x, part):
        return denoising(lambda x: -(x**3), x, sigma=0.4, kernel="laplace", **WAYS[way], generator=Columns(part))

    x = normal(7, 5)
    parts = sum(loss(x[:, j : j + 1], slice(j, j + 1)) for j in range(5))
    close(loss(x, slice(None)), parts, 1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_energies_equal_finite_differences(way):
    """Along a random direction in parameter space the loss has the slope that backpropagation says, to 1e-6."""
    model, x = EnergyModel(Deep(3)), normal(5, 3)
    direction = [normal(*p.shape, seed=50 + i) for i, p in enumerate(model.parameters())]

    def loss():
        return denoising(model, x, sigma=0.3, **WAYS[way], generator=Generator().manual_seed(0)).mean()

    def loss_after(step):
        with torch.no_grad():
            for p, d in zip(model.parameters(), direction, strict=True):
                p += step * d
        return loss().detach()

    slope = sum((g * d).sum() for g, d in zip(learned(loss(), model), direction, strict=True))
    h = 1e-5
    close(slope, (loss_after(h) - loss_after(-2 * h)) / (2 * h), 1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_sample_has_the_same_loss_in_any_batch(kernel):
    """Under PerSample the noise belongs to the sample, not to its place in the batch."""
    model, x = Linear(), normal(6, 4)
    whole = denoising(model, x, sigma=0.3, kernel=kernel, generator=PerSample(0, range(6)))
    close(whole[4:], denoising(model, x[4:], sigma=0.3, kernel=kernel, generator=PerSample(0, [4, 5])), 1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_losses_of_float32_data_are_float32(way):
    """The dtype is that of the data, and the values are those of float64 to its precision."""
    for kernel in KERNELS:
        loss = denoising(lambda x: -x, torch.zeros(3, 2), sigma=0.1, kernel=kernel, **WAYS[way])
        assert loss.dtype == torch.float32 and loss.shape == (3,)


def test_relu_is_refused_in_energies_and_allowed_in_scores():
    """An energy's score differentiates its units, and the gradient would miss their kinks."""
    x, score = normal(4, 3), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    assert denoising(score, x, sigma=1.0).shape == (4,)
    energy = EnergyModel(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)).double())
    with pytest.raises(ValueError, match="ReLU"):
        denoising(energy, x, sigma=1.0)


def test_bad_arguments_are_refused():
    """Integers, a sigma of zero, unknown kernels, kernels that are not even, and scores of another shape or dtype."""
    x = normal(4, 3)
    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        denoising(lambda x: x, x.long(), sigma=1.0)
    for sigma in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="sigma must be a finite number > 0"):
            denoising(lambda x: x, x, sigma=sigma)
    with pytest.raises(
        ValueError, match="kernel must be one of gaussian, laplace, student; got 'gausian'; did you mean"
    ):
        denoising(lambda x: x, x, sigma=1.0, kernel="gausian")
    with pytest.raises(ValueError, match="a score must return the shape of x"):
        denoising(lambda x: x[:, :1], x, sigma=1.0)
    with pytest.raises(TypeError, match="a score must return the dtype of x"):
        denoising(lambda x: x.float(), x, sigma=1.0)
    with pytest.raises(ValueError, match=r"must have shape \(4,\) \(one number per sample\), got \(4, 2\)"):
        denoising(EnergyModel(nn.Linear(3, 2).double()), x, sigma=1.0)
    pair = noise_kernel(
        lambda x, g: randn_like(x, g) + 2 * (randn_like(x, g) < 0.5244),
        lambda z: -z + 2 * torch.sigmoid(2 * z - 2 + math.log(0.7 / 0.3)),
        3,
    )
    with pytest.raises(ValueError, match="antithetic noise needs a symmetric kernel"):
        denoising(Quartic(3), x, sigma=1.0, kernel=pair, antithetic=True)
    assert denoising(Quartic(3), x, sigma=1.0, kernel=pair, control_variate=True).shape == (4,)
