"""Exponential families: rational answers worked by hand, the truth in the population, and ways that must agree."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from laws import MEAN, PRECISION, disc, gaussian, l_shape, legendre, pieces, product, stacked, triangle
from scipy.stats import multivariate_normal

from scorefield.estimators import (
    ExponentialFamily,
    Gaussian,
    Powers,
    Quadratic,
    ScoreMatching,
    TruncatedGaussian,
    linear,
    region_of,
)

TINY = np.array([[1.0], [2.0], [4.0]])


def as_float(*values):
    return np.array([float(Fraction(v)) for v in values])


def test_exponential_by_hand():
    r"""h = x on 1, 2, 4: W = 7/3, d = -1. g = 1 - 3x/7 has mean square 2/7, so C = (2/7)(3/7)^2 / 3 = 6/343."""
    fit = ExponentialFamily("exponential", domain="half-line").fit(TINY)
    np.testing.assert_allclose(fit.theta_, as_float("-3/7"), rtol=1e-12)
    np.testing.assert_allclose(fit.covariance_, [as_float("6/343")], rtol=1e-12)
    np.testing.assert_allclose(fit.hessian_, [as_float("7/3")], rtol=1e-12)
    np.testing.assert_allclose(fit.objective_, float(Fraction(-3, 14)), rtol=1e-12)
    np.testing.assert_allclose(fit.information_criterion(), float(Fraction(-17, 98)), rtol=1e-12)
    np.testing.assert_allclose(fit.contributions(TINY)[:, 0], as_float("4/7", "1/7", "-5/7"), rtol=1e-12)
    with_ddof = ExponentialFamily("exponential", domain="half-line", ddof=1).fit(TINY)
    np.testing.assert_allclose(with_ddof.covariance_, [as_float("9/343")], rtol=1e-12)


def test_exponential_by_hand_with_the_square_weight_and_a_cap():
    """h = x^2: W = 7, d = -14/3. h = min(x, 3): W = 2, d = -2/3 (one point is beyond). Ridge 1, h = x: -3/10."""
    for weight, ridge, answer in (("x2", 0, "-2/3"), (("min", 3.0), 0, "-1/3"), (None, 1.0, "-3/10")):
        fit = ExponentialFamily("exponential", domain="half-line", weight=weight, ridge=ridge).fit(TINY)
        np.testing.assert_allclose(fit.theta_, as_float(answer), rtol=1e-12)


def test_gamma_by_hand():
    """W = [[7/12, 1], [1, 7/3]], d = (0, -1): shape - 1 = 36/13, -rate = -21/13."""
    fit = ExponentialFamily("gamma", domain="half-line").fit(TINY)
    np.testing.assert_allclose(fit.theta_, as_float("36/13", "-21/13"), rtol=1e-12)


def test_quartic_by_hand():
    """On -2 … 2: W of (x^2, x^4) is [[8, 272/5], [272/5, 416]], d = -(2, 24); the odd ones are 0."""
    fit = ExponentialFamily("quartic").fit(np.arange(-2.0, 3.0)[:, None])
    np.testing.assert_allclose(fit.theta_, as_float("0", "185/144", "0", "-65/288"), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", [Gaussian(), ExponentialFamily(), TruncatedGaussian(domain="real"), ScoreMatching()])
def test_gaussian_by_hand(family):
    """Four points: mean (1/2, 3/4), S = [[1/4, 1/8], [1/8, 11/16]] over n, P = [[22/5, -4/5], [-4/5, 8/5]]."""
    fit = family.fit([[0, 0], [1, 0], [0, 1], [1, 2]])
    precision, mean = as_float("22/5", "-4/5", "8/5"), as_float("1/2", "3/4")
    np.testing.assert_allclose(fit.theta_[2:], precision, rtol=1e-12)
    natural = isinstance(fit, (ExponentialFamily, ScoreMatching))
    np.testing.assert_allclose(fit.theta_[:2], as_float("8/5", "4/5") if natural else mean, rtol=1e-12)
    np.testing.assert_allclose(fit.objective_, -3.0, rtol=1e-12)


def test_gaussian_standard_error_by_hand():
    """0, 0, 3: S = 2, P = 1/2; the influences -(P z)^2 + P are 1/4, 1/4, -1/2: their mean square is 1/8, C = 1/24."""
    fit = Gaussian().fit([[0.0], [0.0], [3.0]])
    np.testing.assert_allclose(fit.covariance_[1, 1], 1 / 24, rtol=1e-12)
    np.testing.assert_allclose(fit.covariance_[0, 0], 2 / 3, rtol=1e-12)


GAMMA = (lambda r: (r[0][:, None], r[1] * r[0] ** 2 * np.exp(-1.5 * r[0])))(pieces([0, 2, 6, 20, 60]))
QUARTIC = (lambda r: (r[0][:, None], r[1] * np.exp(0.3 * r[0] + r[0] ** 2 - 0.1 * r[0] ** 3 - r[0] ** 4 / 2)))(
    legendre(-5, 5, 200)
)
STRETCHED = (lambda r: (r[0][:, None], r[1] * np.exp(-(r[0] ** 1.5))))(pieces([0, 1e-4, 1e-2, 1, 4, 16], 100))


@pytest.mark.parametrize(
    ("statistic", "domain", "weight", "rule", "truth"),
    [
        ("gamma", "half-line", None, GAMMA, [2, -1.5]),
        ("gamma", "half-line", "x2", GAMMA, [2, -1.5]),
        ("quartic", "real", None, QUARTIC, [0.3, 1, -0.1, -0.5]),
        (Powers((1.5,)), "half-line", None, STRETCHED, [-1]),
        (Powers((1.5,)), "half-line", "x2", STRETCHED, [-1]),
    ],
)
def test_the_population_returns_the_truth_for_families(statistic, domain, weight, rule, truth):
    """Nodes as X, density as sample_weight: the truth to 1e-9."""
    fit = ExponentialFamily(statistic, domain=domain, weight=weight).fit(rule[0], sample_weight=rule[1])
    np.testing.assert_allclose(fit.theta_, truth, atol=1e-9)


INCENTRE = (1.0, 1 / (1 + np.sqrt(2)))  # of the triangle, where the kinks of the distance meet
CORNERS = [(0, 0), (2, 0), (1, 1)]
SPLIT = [triangle(INCENTRE, CORNERS[k], CORNERS[k - 2]) for k in range(3)]
half_line = product(pieces([0, 2, 5, 10]), pieces([0, 2, 5, 10]))
square = product(legendre(-1, 0.8), legendre(-0.5, 0.7))
halved = product(pieces([-1, -0.1, 0.8]), pieces([-0.5, 0.1, 0.7]))
L_SHAPE = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]


def egg(x):
    """Positive within an ellipse."""
    return 1 - (x[:, 0] / 1.2) ** 2 - (x[:, 1] / 0.6) ** 2


def own_weight(x):
    """Vanishes at the sides of the box, depends on both coordinates."""
    u = (x[:, :1] + 1) * (0.8 - x[:, :1]) * (x[:, 1:] + 0.5) * (0.7 - x[:, 1:])
    return u * (2 + torch.sin(x))


REGIONS = {
    "half-line": ("half-line", None, half_line),
    "half-line, x2": ("half-line", "x2", half_line),
    "half-line, min": ("half-line", ("min", 2.0), half_line),
    "box": (("box", [-1, -0.5], [0.8, 0.7]), None, square),
    "box, x2": (("box", [-1, -0.5], [0.8, 0.7]), "x2", square),
    "box, own": (("box", [-1, -0.5], [0.8, 0.7]), own_weight, square),
    "box, min": (("box", [-1, -0.5], [0.8, 0.7]), ("min", 0.9), halved),
    "half-open box": (
        ("box", [-1, -np.inf], [np.inf, 0.7]),
        None,
        product(pieces([-1, 1, 3, 9]), pieces([-8, -3, 0.7])),
    ),
    "interval": (("interval", -1, 1), None, product(legendre(-1, 1), legendre(-1, 1))),
    "ball": (("ball", [0.2, 0.1], 1.5), None, disc([0.2, 0.1], 1.5)),
    "ball, distance": (("ball", [0.2, 0.1], 1.5), "distance", disc([0.2, 0.1], 1.5)),
    "triangle": (("polygon", CORNERS), None, triangle(*CORNERS)),
    "triangle, clockwise": (("polygon", CORNERS[::-1]), "x2", triangle(*CORNERS)),
    "triangle, distance": (("polygon", CORNERS), "distance", stacked(*SPLIT)),
    "L, distance": (("polygon", L_SHAPE), None, l_shape()),
    "L, distance squared": (("polygon", L_SHAPE), "x2", l_shape()),
    "callable": (egg, None, (lambda x, w: (x * [1.2, 0.6], w))(*disc([0, 0], 1))),
}


@pytest.mark.parametrize("domain, weight, rule", REGIONS.values(), ids=REGIONS)
def test_the_population_returns_the_truth_on_every_domain(domain, weight, rule):
    """A Gaussian cut off by each domain, each h (nodes split at its kinks): mean and precision to 1e-9."""
    x, w = rule
    fit = TruncatedGaussian(domain=domain, weight=weight).fit(x, sample_weight=w * gaussian(x))
    np.testing.assert_allclose(fit.mean_, MEAN, atol=1e-9)
    np.testing.assert_allclose(fit.precision_, PRECISION, atol=1e-9)
    natural = ExponentialFamily(domain=domain, weight=weight, inference=False).fit(x, sample_weight=w * gaussian(x))
    np.testing.assert_allclose(natural.theta_, [*(PRECISION @ MEAN), 1.5, 0.4, 2.0], atol=1e-9)


def test_the_population_of_a_gaussian():
    """Gauss-Legendre over eight standard deviations."""
    x, w = product(legendre(-9, 9, 120), legendre(-9, 9, 120))
    fit = Gaussian().fit(x, sample_weight=w * gaussian(x))
    np.testing.assert_allclose(fit.mean_, MEAN, atol=1e-9)
    np.testing.assert_allclose(fit.precision_, PRECISION, atol=1e-9)


@pytest.mark.parametrize("weight, answer", [("plain", (0.442, 0.071)), (None, (0.3, 0.25)), ("x2", (0.3, 0.25))])
def test_the_plain_objective_is_biased_on_an_interval_and_weights_remove_the_bias(weight, answer):
    """N(0.3, 0.25) truncated to [0, 1]: mean and variance by each objective."""
    u, w = legendre(0, 1, 60)
    density = w * np.exp(-((u - 0.3) ** 2) / 0.5)
    fit = TruncatedGaussian(("interval", 0, 1), weight).fit(u[:, None], sample_weight=density)
    close = 5e-4 if weight == "plain" else 1e-9
    np.testing.assert_allclose([fit.mean_[0], 1 / fit.precision_[0, 0]], answer, atol=close)


def skewed(n=400, d=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(3, 0.5, size=(n, d)) + 0.3 * rng.gamma(3, 0.5, size=(n, 1))


def quadratic(x):
    i, j = torch.triu_indices(x.shape[1], x.shape[1])
    return torch.cat([x, -x[:, i] * x[:, j] * torch.where(i == j, 0.5, 1.0)], dim=1)


@pytest.mark.parametrize("domain", ["real", "half-line", ("ball", 1.5, 9.0)])
def test_autodiff_given_derivatives_and_structure_agree(domain):
    """Estimate, covariance, Hessian, objective, per-row values: three routes to one system, to 1e-10."""
    x, known = skewed(), Quadratic()
    triple = (known, lambda x: known.derivatives(x).gradient, lambda x: known.derivatives(x).second)
    first = ExponentialFamily(domain=domain).fit(x)
    for statistic in (quadratic, triple):
        other = ExponentialFamily(statistic, domain=domain).fit(x)
        for name in ("theta_", "covariance_", "hessian_", "objective_", "condition_number_"):
            np.testing.assert_allclose(getattr(first, name), getattr(other, name), rtol=1e-8, atol=1e-10)
        for method in ("log_density", "score_function", "contributions", "score"):
            np.testing.assert_allclose(getattr(first, method)(x), getattr(other, method)(x), rtol=1e-9, atol=1e-9)


def test_laplacians_serve_the_plain_objective_and_are_refused_under_a_weight():
    """(B, K) is enough without h; with h the second derivatives are needed one by one."""
    x, known = skewed(), Quadratic()
    triple = (known, lambda x: known.derivatives(x).gradient, lambda x: known.derivatives(x).second.sum(2))
    np.testing.assert_allclose(ExponentialFamily(triple).fit(x).theta_, ExponentialFamily().fit(x).theta_, rtol=1e-9)
    with pytest.raises(ValueError, match="not Laplacians"):
        ExponentialFamily(triple, domain="half-line").fit(x)


def test_the_size_of_the_chunks_changes_nothing(monkeypatch):
    """One row at a time, or all at once."""
    x = skewed(60)
    whole = ExponentialFamily("gamma", domain="half-line").fit(x)
    monkeypatch.setattr(linear, "_NUMBERS", 1)
    single = ExponentialFamily("gamma", domain="half-line").fit(x)
    np.testing.assert_allclose(whole.theta_, single.theta_, rtol=1e-11)
    np.testing.assert_allclose(whole.covariance_, single.covariance_, rtol=1e-9)


def test_fixed_parameters_and_a_base_are_known_terms():
    """Fixing -rate at -2 solves W_11 theta_1 = d_1 + 2 W_12; a base -2 x says the same; the other column of C is 0."""
    x = TINY
    fixed = ExponentialFamily("gamma", domain="half-line", fixed={"-rate[x1]": -2}).fit(x)
    np.testing.assert_allclose(fixed.theta_, [2 / (7 / 12), -2], rtol=1e-12)
    assert fixed.standard_error_[1] == 0
    assert fixed.standard_error_[0] > 0
    based = ExponentialFamily(torch.log, base=lambda x: -2 * x[:, 0], domain="half-line").fit(x)
    np.testing.assert_allclose(based.theta_, fixed.theta_[:1], rtol=1e-12)
    np.testing.assert_allclose(based.covariance_, fixed.covariance_[:1, :1], rtol=1e-12)
    np.testing.assert_allclose(based.score_function(x), fixed.score_function(x), rtol=1e-12)
    np.testing.assert_allclose(based.log_density(x), fixed.log_density(x), rtol=1e-12)
    assert "fixed" in str(fixed.summary())
    by_index = ExponentialFamily("gamma", domain="half-line", fixed={1: -2}).fit(x)
    np.testing.assert_array_equal(by_index.theta_, fixed.theta_)


def test_held_out_score_is_minus_the_objective_and_falls_off_the_minimum():
    """On the data of the fit it is -objective_; no other parameter does better there."""
    x = skewed()
    fit = ExponentialFamily("gamma", domain="half-line").fit(x)
    np.testing.assert_allclose(fit.score(x), -fit.objective_, rtol=1e-12)
    for k in range(4):
        for step in (-0.01, 0.01):
            moved = {j: fit.theta_[j] + step * (j == k) for j in range(4)}
            other = ExponentialFamily("gamma", domain="half-line", fixed=moved).fit(x)
            assert other.score(x) < fit.score(x)
            gain = fit.hessian_[k, k] * step**2 / 2
            np.testing.assert_allclose(fit.score(x) - other.score(x), gain, rtol=1e-8)


def test_score_function_is_the_gradient_of_log_density():
    """Central differences, for every kind of estimator."""
    x = skewed(5)
    for estimator in (Gaussian(), TruncatedGaussian(), ExponentialFamily("gamma", domain="half-line"), ScoreMatching()):
        fit = estimator.fit(skewed(50))
        for j in range(2):
            step = 1e-5 * np.eye(2)[j]
            slope = (fit.log_density(x + step) - fit.log_density(x - step)) / 2e-5
            np.testing.assert_allclose(slope, fit.score_function(x)[:, j], rtol=1e-6, atol=1e-8)


def test_the_held_out_score_of_gaussians_is_that_of_the_family():
    """On new rows, three estimators of one law and one objective agree."""
    x, new = skewed(), skewed(seed=1)
    family = ExponentialFamily().fit(x).score(new)
    for estimator in (Gaussian(), TruncatedGaussian("real"), ScoreMatching()):
        np.testing.assert_allclose(estimator.fit(x).score(new), family, rtol=1e-9)


def test_the_density_of_a_gaussian_is_normalised():
    """`score_samples` against scipy's, in different units, for data with a mean and a correlation."""
    x = skewed() * [30, 0.1]
    fit = Gaussian().fit(x)
    law = multivariate_normal(x.mean(0), np.cov(x.T, ddof=0))
    np.testing.assert_allclose(fit.score_samples(x), law.logpdf(x), rtol=1e-9)


@pytest.mark.parametrize(
    ("domain", "weight", "h", "slope"),
    [
        ("half-line", None, [2, 3], [1, 1]),
        ("half-line", "x2", [4, 9], [4, 6]),
        ("half-line", ("min", 2.5), [2, 2.5], [1, 0]),
        ("half-line", "distance", [2, 2], [1, 0]),
        (("box", 0, [3, 8]), None, [2, 15], [-1, 2]),
        (("box", 0, [3, 8]), "x2", [4, 225], [-4, 60]),
        (("box", 0, [3, 8]), "distance", [1, 1], [-1, 0]),
        (("box", 0, [3, 8]), ("min", 1.5), [1, 1.5], [-1, 0]),
        (("ball", 0, 5.0), None, [12, 12], [-4, -6]),
        (("ball", 0, 5.0), "x2", [144, 144], [-96, -144]),
        (("ball", [2, 0], 5.0), "distance", [2, 2], [0, -1]),
        (("polygon", [(0, 0), (4, 0), (4, 4), (0, 4)]), None, [12, 12], [0, -8]),
        (("polygon", [(0, 0), (4, 0), (4, 4), (0, 4)]), "x2", [144, 144], [0, -192]),
        (("polygon", [(0, 0), (4, 0), (4, 4), (0, 4)]), "distance", [1, 1], [0, -1]),
        (("polygon", [(0, 0), (4, 0), (4, 4), (0, 4)]), ("min", 0.5), [0.5, 0.5], [0, 0]),
        (lambda x: 5 - x[:, 0], None, [3, 3], [-1, 0]),
        ("half-line", lambda x: x * x.flip(1), [6, 6], [3, 2]),
    ],
)
def test_weights_and_their_derivatives_by_hand(domain, weight, h, slope):
    """At (2, 3): h and the derivative of each h_j along its own coordinate."""
    region = region_of(domain, weight, 2)
    found = region.weigh(torch.tensor([[2.0, 3.0]], dtype=torch.float64))
    np.testing.assert_allclose(found[0][0], h, rtol=1e-12)
    np.testing.assert_allclose(found[1][0], slope, rtol=1e-12)
