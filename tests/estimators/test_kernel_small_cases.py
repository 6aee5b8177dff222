"""Two points by hand, the system against direct minimisation, population limits and equivariance."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch.func import grad, hessian, jacfwd

from scorefield.densities import Gaussian, GaussianMixture, Rings
from scorefield.estimators.bandwidth import effective_rows, half_distance, normal_reference
from scorefield.estimators.kernels import (
    HeldOut,
    KernelExponentialFamily,
    KernelScore,
    NuMethodScore,
    SpectralScore,
    SteinScore,
)

PAIR, PLACE = np.array([[-0.5], [0.5]]), np.array([[0.5]])
E = np.exp(-0.5)  # the kernel of width 1 between the two
FAMILIES = [KernelScore, KernelExponentialFamily, SteinScore, SpectralScore, NuMethodScore]


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def at(estimator, rows=PAIR, place=PLACE):
    return estimator.fit(rows).score_function(place).item()


def test_two_points_by_hand():
    r"""At $\pm\tfrac12$ with width 1 every field is odd, so that each system is one equation.

    Curl-free: $G = (1 - r^2) e^{-r^2/2}$ is 1 and 0, $h = e^{-1/2}$. Diagonal: K is 1 and $e^{-1/2}$, $h = e^{-1/2}/2$.
    """
    for strength in (0.1, 2.0):
        close(at(KernelExponentialFamily(1.0, strength, base="flat")), -E / (0.5 + strength))
        close(at(SteinScore(1.0, strength)), -E / 2 / ((1 - E) / 2 + strength))
    close(at(SpectralScore(1.0, components=2)), -E / (1 - E))
    close(at(SpectralScore(1.0, components=1)), 0.0)
    close(at(SpectralScore(1.0, (1 - E) / 2)), -E / (1 - E))
    close(at(SpectralScore(1.0, (1 - E) / 2 + 1e-6)), 0.0)  # the even eigenfunction alone
    first = -1.2 * E
    close(at(NuMethodScore(1.0, 1)), first)
    close(at(NuMethodScore(1.0, 2)), first + 5 / 63 * first - 40 / 21 * (first / 2 + E))
    for x in (0.2, 3.0):
        close(at(KernelScore(0.7), place=[[x]]), (0.5 * np.tanh(x / (2 * 0.49)) - x) / 0.49)


def test_the_width_and_the_regularisation_are_in_the_units_of_the_data():
    r"""Points at $\pm 5$, $\ell = 10$: $\lambda_{KEF}$ scales as $1/\ell^2$, Stein's not at all."""
    place = 10 * PLACE
    close(at(KernelExponentialFamily(10.0, 0.003, base="flat"), 10 * PAIR, place), -E / (0.5 + 0.3) / 10)
    close(at(SteinScore(10.0, 0.3), 10 * PAIR, place), -E / 2 / ((1 - E) / 2 + 0.3) / 10)


def test_the_kernel_density_at_two_points_by_hand():
    """The normalised mixture of two Gaussians, and its implicit objective by its closed form in one dimension."""
    h, x = 0.7, 0.3
    estimator = KernelScore(h).fit(PAIR)
    terms = [np.exp(-((x - m) ** 2) / (2 * h**2)) / (h * np.sqrt(2 * np.pi)) / 2 for m in (-0.5, 0.5)]
    close(estimator.score_samples([[x]]), np.log(sum(terms)))
    r = terms[1] / sum(terms)
    s, slope = (r - 0.5 - x) / h**2, -1 / h**2 + r * (1 - r) / h**4
    close(estimator.score([[x]]), -(s**2 / 2 + slope))


def direct(x, w, width, strength, mean, precision):
    r"""The minimiser of J over all combinations of the derivatives of k at the rows, found from J's own derivatives.

    All derivatives of k are automatic; the span holds $\partial_i k(x_a, \cdot)$ and $\Delta k(x_a, \cdot)$, hence the
    minimiser over the whole space.
    """
    rows = torch.from_numpy(x)

    def k(u, v):
        return torch.exp(-(u - v).square().sum() / (2 * width**2))

    def spanning(u):  # values at u of the functions D_v k(., v) at all rows v, (P,)
        parts = [torch.cat([grad(k, 1)(u, v), hessian(k, 1)(u, v).trace()[None]]) for v in rows]
        return torch.cat(parts)

    slopes = [jacfwd(spanning)(v) for v in rows]  # (P, d) each
    laplacians = [jacfwd(jacfwd(spanning))(v).diagonal(dim1=1, dim2=2).sum(1) for v in rows]
    matrix = torch.cat([torch.cat([s, b[:, None]], 1) for s, b in zip(slopes, laplacians, strict=True)], 1)
    close(matrix, matrix.T)

    def objective(theta):
        total = strength / 2 * theta @ matrix @ theta
        for weight, row, slope, laplacian in zip(w, rows, slopes, laplacians, strict=True):
            s = theta @ slope - precision @ (row - mean)
            total = total + weight * (s @ s / 2 + theta @ laplacian - precision.trace())
        return total

    zero = torch.zeros(len(matrix), dtype=torch.float64)
    theta = torch.linalg.lstsq(hessian(objective)(zero), -grad(objective)(zero), driver="gelsd").solution
    assert grad(objective)(theta).abs().max() < 1e-9  # it is a minimum: every derivative is zero
    return lambda u: theta @ jacfwd(spanning)(u) - precision @ (u - mean)


def test_the_representer_solves_the_problem_over_the_whole_space():
    """Three weighted rows in the plane, against direct minimisation of J by automatic derivatives, one by one."""
    rng = np.random.default_rng(3)
    x, w, width, strength = rng.normal(size=(3, 2)), np.array([0.5, 0.3, 0.2]), 1.4, 0.05
    mean, precision = torch.tensor([0.2, 0.1]).double(), torch.tensor([[1.5, 0.4], [0.4, 0.8]]).double()
    score = direct(x, w, width, strength, mean, precision)
    base = Gaussian(mean, precision.inverse())
    family = KernelExponentialFamily(width, strength, base).fit(x, sample_weight=w)
    places = rng.normal(size=(5, 2))
    close(family.score_function(places), torch.stack([score(torch.from_numpy(u)) for u in places]), 1e-8)


def test_the_linear_system_is_the_one_that_is_printed():
    r"""$(W G + \lambda I)\beta = W h/\lambda$ with equal weights is theorem 5's $(G + n\lambda I)\beta = h/\lambda$."""
    rng = np.random.default_rng(4)
    x, width, strength = rng.normal(size=(5, 2)), 1.2, 0.1
    n, d = x.shape
    apart = x[:, None] - x  # x_a - x_b
    kernel = np.exp(-np.square(apart).sum(2) / (2 * width**2))
    q = np.square(apart).sum(2) / width**2
    g = kernel[:, :, None, None] * (np.eye(d) / width**2 - np.einsum("abi,abj->abij", apart, apart) / width**4)
    g = np.moveaxis(g, 2, 1).reshape(n * d, n * d)
    h = ((kernel * (d + 2 - q))[:, :, None] * apart).mean(1).ravel() / width**4
    beta = np.linalg.solve(g + n * strength * np.eye(n * d), h / strength)
    s = -h / strength + g @ beta
    close(KernelExponentialFamily(width, strength, base="flat").fit(x).score_function(x).ravel(), s, 1e-9)


def hermite(count=24):
    """Nodes and weights of N(0, I) in the plane."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2), np.outer(weights, weights).ravel()


ROOT = np.array([[1.0, 0.0], [0.4, 0.8]])
INSIDE = np.random.default_rng(5).normal(size=(20, 2)) @ ROOT.T


def test_the_population_of_a_gaussian_leaves_its_base_alone():
    """Quadrature nodes as rows, the density as weights: f = 0 to 1e-8, whatever the width and the regularisation."""
    grid, w = hermite()
    for settings in ((1.0, 0.1), (2.0, 0.001)):
        family = KernelExponentialFamily(*settings, solver="conjugate-gradient").fit(grid @ ROOT.T, sample_weight=w)
        close(family.score_function(INSIDE), -INSIDE @ np.linalg.inv(ROOT @ ROOT.T), 1e-7)


def test_the_population_of_a_gaussian_is_blurred_by_a_kernel_density():
    """The density estimate is exactly the law convolved with the kernel."""
    grid, w = hermite(60)
    estimator = KernelScore(0.9).fit(grid @ ROOT.T, sample_weight=w)
    blurred = Gaussian([0.0, 0.0], ROOT @ ROOT.T + 0.81 * np.eye(2))
    close(estimator.score_function(INSIDE), blurred.score(torch.from_numpy(INSIDE)), 1e-9)
    close(estimator.score_samples(INSIDE), blurred.log_density(torch.from_numpy(INSIDE)), 1e-9)


@pytest.mark.parametrize("family", [SteinScore, SpectralScore, NuMethodScore], ids=lambda f: f.__name__)
def test_in_the_population_less_regularisation_brings_the_truth(family):
    """On quadrature nodes of a Gaussian the error falls at least fourfold with each hundredth of lambda, to 1 %."""
    grid, w = hermite(16)
    truth, errors = -INSIDE @ np.linalg.inv(ROOT @ ROOT.T), []
    for strength in (1e-2, 1e-4, 1e-6):
        given = round(strength**-0.5) if family is NuMethodScore else strength
        estimator = family(2.0, given).fit(grid @ ROOT.T, sample_weight=w)
        errors.append(np.square(estimator.score_function(INSIDE) - truth).mean() / np.square(truth).mean())
    assert errors[2] < errors[1] / 4 < errors[0] / 16
    assert errors[2] < 1e-2


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_moved_turned_and_stretched_data_have_a_moved_turned_and_stretched_score(family):
    r"""$s_{cXQ + m}(cxQ + m) = s_X(x) Q / c$ under default bandwidths and regularisations."""
    rng = np.random.default_rng(6)
    x, places = rng.normal(size=(40, 3)) * [1.0, 2.0, 0.5], rng.normal(size=(6, 3))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    plain = family().fit(x).score_function(places)
    for scale in (1e-3, 7.0, 1e50):
        move = scale * np.array([1.0, -2.0, 0.5])
        moved = family().fit(scale * x @ turn + move)
        close(scale * moved.score_function(scale * places @ turn + move) @ turn.T, plain, 1e-7)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_integer_weights_are_repeated_rows_and_their_unit_does_not_count(family):
    """The default bandwidth too; rows of weight 0 are not there."""
    rng = np.random.default_rng(7)
    x, w = rng.normal(size=(30, 2)), rng.integers(0, 4, size=30)
    expected = family().fit(np.repeat(x, w, axis=0)).score_function(x)
    close(family().fit(x, sample_weight=w).score_function(x), expected, 1e-8)
    close(family().fit(x, sample_weight=1e-3 * w).score_function(x), expected, 1e-8)


def test_closed_rules_of_the_bandwidth():
    """By hand on three rows with weights 1/2, 1/4, 1/4, of which two are equal."""
    x, w = np.array([[0.0], [2.0], [2.0]]), np.array([0.5, 0.25, 0.25])
    assert effective_rows(x, w) == pytest.approx(2)
    assert normal_reference(x, w) == pytest.approx((4 / 5 / 2) ** (1 / 7))
    assert half_distance(np.array([[0.0, 0.0], [2.0, 4.0]]), np.array([0.5, 0.5])) == pytest.approx(np.sqrt(5 / 2))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_more_rows_bring_the_score_of_a_ring(family):
    """The Fisher error of 900 rows is at most 0.7 times that of 200; defaults, two draws each."""
    law, errors = Rings([2.0], 0.3), {}
    g = torch.Generator().manual_seed(0)
    judged = law.sample((1500,), generator=g)
    truth = law.score(judged).numpy()
    for n in (200, 900):
        fits = [family(random_state=0).fit(law.sample((n,), generator=g).numpy()) for _ in range(2)]
        errors[n] = np.mean([np.square(f.score_function(judged.numpy()) - truth).sum(1).mean() for f in fits])
    rule = 0.95 if family is KernelScore else 0.7  # the normal reference is slow where there is a hole
    assert errors[900] < rule * errors[200]
    if family is not KernelScore:
        assert errors[900] < 0.1 * np.square(truth).sum(1).mean()


def test_a_held_out_choice_sees_what_a_normal_reference_does_not():
    """On a ring the held-out bandwidth of the density estimate is narrower and its error less than half."""
    law, g = Rings([2.0], 0.3), torch.Generator().manual_seed(1)
    rows, judged = law.sample((600,), generator=g).numpy(), law.sample((2000,), generator=g)
    truth = law.score(judged).numpy()
    error = [
        np.square(KernelScore(h, random_state=0).fit(rows).score_function(judged.numpy()) - truth).sum(1).mean()
        for h in (None, "held-out")
    ]
    assert error[1] < error[0] / 2


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_the_score_of_rows_is_minus_the_implicit_objective(family):
    r"""$\tfrac12 \|s\|^2 + \nabla \cdot s$ by central differences of `score_function`, weighted, to 1e-6."""
    rng = np.random.default_rng(12)
    fit, x, w, step = family().fit(rng.normal(size=(30, 2))), rng.normal(size=(8, 2)), np.arange(1.0, 9) / 36, 1e-5
    divergence = 0.0
    for i in range(2):
        move = step * np.eye(2)[i]
        divergence = divergence + (fit.score_function(x + move) - fit.score_function(x - move))[:, i] / (2 * step)
    value = np.square(fit.score_function(x)).sum(1) / 2 + divergence
    assert fit.score(x, sample_weight=3 * w) == pytest.approx(-w @ value, rel=1e-6)
    assert fit.score(x) == pytest.approx(-value.mean(), rel=1e-6)


def test_a_held_out_choice_is_the_least_mean_plus_one_standard_error():
    """The least mean alone may be a noisy one; and only what was asked for is searched."""
    mean, error = np.array([[-1.0, -0.8], [-0.9, 0.0]]), np.array([[0.5, 0.5], [0.2, 0.0]])
    assert HeldOut(np.array([1.0, 2.0]), np.array([[3.0, 4.0], [5.0, 6.0]]), mean, error).best == (2.0, 5.0)
    rows = np.random.default_rng(8).normal(size=(60, 2))
    for family, name in ((KernelExponentialFamily, "regularization"), (NuMethodScore, "iterations")):
        both = family("held-out", **{name: "held-out"}, random_state=0).fit(rows).held_out_
        bound = both.objective + both.standard_error
        i, j = np.unravel_index(bound.argmin(), bound.shape)
        assert both.best == (both.bandwidths[i], both.strengths[i, j])
        one = family(1.5, **{name: "held-out"}, random_state=0).fit(rows)
        assert one.bandwidth_ == 1.5
        assert one.held_out_.objective.shape == (1, 13)
    fixed = KernelExponentialFamily("held-out", 0.01, random_state=0).fit(rows)
    assert fixed.regularization_ == pytest.approx(0.01, rel=1e-12)


def test_samples_of_a_density_estimate_are_the_blurred_rows():
    """Mean and covariance of 20,000 draws within 4.5 standard errors: a false alarm in 1e-4 or so."""
    rows = np.random.default_rng(9).normal(size=(30, 2)) * [1.0, 3.0]
    w = np.linspace(0.1, 1, 30)
    fit = KernelScore(0.5).fit(rows, sample_weight=w)
    x, n = fit.sample(20_000, random_state=0), 20_000
    mean = w @ rows / w.sum()
    variance = w @ np.square(rows - mean) / w.sum() + 0.25
    assert (np.abs(x.mean(0) - mean) < 4.5 * np.sqrt(variance / n)).all()
    spread = np.std(np.square(x - mean), axis=0)
    assert (np.abs(np.square(x - mean).mean(0) - variance) < 4.5 * spread / np.sqrt(n)).all()
    np.testing.assert_array_equal(x[:5], fit.sample(20_000, random_state=0)[:5])


def test_samples_of_a_kernel_exponential_family_have_its_density():
    """In one dimension the normaliser is a sum on a grid; Kolmogorov-Smirnov on independent chains, at 1e-4."""
    law = GaussianMixture([0.6, 0.4], [[-1.0], [1.5]], [[[0.5]], [[0.4]]])
    rows = law.sample((80,), generator=torch.Generator().manual_seed(2)).numpy()
    fit = KernelExponentialFamily().fit(rows)
    grid = np.linspace(-8, 8, 8001)
    density = np.exp(fit.log_density(grid[:, None]) - fit.log_density(grid[:, None]).max())
    law_below = np.cumsum(density) / density.sum()
    x = fit.sample(500, random_state=0)
    assert x.shape == (500, 1)
    assert kstest(x[:, 0], lambda at: np.interp(at, grid, law_below)).pvalue > 1e-4
    slope = (fit.log_density(rows[:5] + 1e-5) - fit.log_density(rows[:5] - 1e-5)) / 2e-5
    close(slope, fit.score_function(rows[:5])[:, 0], 1e-7)


def test_far_away_a_family_is_its_base():
    """Where the kernel has died the score is the Gaussian's."""
    rows = np.random.default_rng(10).normal(size=(50, 2))
    fit, far = KernelExponentialFamily().fit(rows), np.array([[60.0, -80.0]])
    covariance = np.cov(rows.T, bias=True)
    close(fit.score_function(far), -(far - rows.mean(0)) @ np.linalg.inv(covariance), 1e-10)
