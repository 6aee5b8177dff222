"""One inference object for every parametric estimator: what rows add to the equations, and the questions all answer."""

import numpy as np
import pytest
from scipy.special import expit

from scorefield.estimators import (
    Bingham,
    ExponentialFamily,
    Gaussian,
    GaussianGraphicalModel,
    NonNegativeGraphicalModel,
    PseudoLikelihood,
    RatioMatching,
    ScoreMatching,
    TiltedPairwiseInteraction,
    TruncatedGaussian,
    VonMisesFisher,
)

N, CHAIN = 40, np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]])


def positive(seed=0):
    """Correlated columns > 0, in units of their standard deviation."""
    rng = np.random.default_rng(seed)
    x = rng.gamma(3, 0.5, size=(N, 3)) + 0.3 * rng.gamma(3, 0.5, size=(N, 1))
    return x / x.std(0)


def directions(seed=0):
    z = np.random.default_rng(seed).normal(size=(N, 3)) + [1, 0.5, 0]
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def signs(seed=0):
    return np.sign(np.random.default_rng(seed).normal(size=(N, 3)) + 0.2)


def compositions(seed=0):
    return np.random.default_rng(seed).dirichlet([3, 4, 5], N)


def shares(seed=1):
    w = np.random.default_rng(seed).uniform(0.2, 2, size=N)
    return w / w.sum()


FITS = {
    "exponential family": (ExponentialFamily("gamma", domain="half-line"), positive),
    "exponential family, fixed": (ExponentialFamily("gamma", domain="half-line", fixed={0: 1.5}), positive),
    "exponential family, ridge": (ExponentialFamily(domain="half-line", ridge=0.3), positive),
    "Gaussian": (Gaussian(), positive),
    "truncated Gaussian": (TruncatedGaussian(), positive),
    "graphical": (GaussianGraphicalModel(CHAIN), positive),
    "graphical, complete": (GaussianGraphicalModel(penalty=0), positive),
    "graphical, multiplier": (GaussianGraphicalModel(CHAIN, multiplier=1.3), positive),
    "graphical, complete, multiplier": (GaussianGraphicalModel(penalty=0, multiplier=1.3), positive),
    "non-negative": (NonNegativeGraphicalModel(CHAIN, powers=(1.0, 0.5)), positive),
    "non-negative, multiplier": (NonNegativeGraphicalModel(CHAIN, multiplier=1.3), positive),
    "von Mises-Fisher": (VonMisesFisher(), directions),
    "von Mises-Fisher, hybrid": (VonMisesFisher("hybrid"), directions),
    "Bingham": (Bingham(), directions),
    "simplex": (TiltedPairwiseInteraction(tilt=[2, 3, 4]), compositions),
    "ratio matching": (RatioMatching(ridge=0.1), lambda: (signs() + 1) / 2),
    "pseudo-likelihood": (PseudoLikelihood(), signs),
    "energy": (ScoreMatching(), positive),
    "energy, sliced": (ScoreMatching(objective="sliced"), positive),
}
EACH = pytest.mark.parametrize(("estimator", "data"), FITS.values(), ids=FITS)


@EACH
@pytest.mark.filterwarnings("ignore::scorefield.estimators.NotNormalisable")
def test_contributions_have_mean_zero_and_are_the_meat_of_the_sandwich(estimator, data):
    r"""$\sum w g = -\lambda\theta$ and $H^{-1} (\sum w^2 (g - \bar g)(g - \bar g)^\top) H^{-1}$ is `covariance_`."""
    x, w = data(), shares()
    fit = estimator.fit(x, sample_weight=w)
    g, free = fit.contributions(x)[:, fit.standard_error_ > 0], fit.standard_error_ > 0
    assert g.shape == (N, free.sum())
    np.testing.assert_allclose(w @ g, -getattr(fit, "ridge", 0.0) * fit.theta_[free], atol=1e-9 * np.abs(g).max())
    apart = (g - w @ g) * w[:, None]
    inverse = np.linalg.pinv(fit.hessian_[np.ix_(free, free)], rcond=1e-12, hermitian=True)
    covariance = fit.covariance_[np.ix_(free, free)]
    np.testing.assert_allclose(inverse @ apart.T @ apart @ inverse, covariance, atol=1e-9 * np.abs(covariance).max())
    parts = np.concatenate([fit.contributions(x[:7]), fit.contributions(x[7:])])[:, free]
    if fit.get_params().get("objective") != "sliced":  # whose probes belong to the place of a row
        np.testing.assert_allclose(parts, g, rtol=1e-10, atol=1e-12 * np.abs(g).max())


@EACH
@pytest.mark.filterwarnings("ignore::scorefield.estimators.NotNormalisable")
def test_every_parametric_fit_answers_the_same_questions(estimator, data):
    """summary, confidence_interval, wald_test, information_criterion and contributions, in the order of the names."""
    fit = estimator.fit(data())
    count, free = len(fit.theta_), int((fit.standard_error_ > 0).argmax())
    assert [row.name for row in fit.summary().rows] == fit.parameter_names_
    assert fit.confidence_interval(0.9).shape == (count, 2)
    assert fit.contributions(data()[:5]).shape == (5, count)
    z = fit.theta_[free] / fit.standard_error_[free]
    assert fit.wald_test(np.eye(count)[free]).statistic == pytest.approx(z**2)
    penalty = np.sum(fit.hessian_ * fit.covariance_)
    assert fit.information_criterion() == pytest.approx(fit.objective_ + penalty)
    with pytest.raises(ValueError, match="features"):
        fit.contributions(data()[:, :2])


def unpacked(triangle, p):
    matrix, (i, j) = np.zeros((p, p)), np.triu_indices(p)
    matrix[i, j] = matrix[j, i] = triangle
    return matrix


def gaussian(x, theta):
    matrix = unpacked(theta[3:], 3)
    return (((x - theta[:3]) @ matrix) ** 2).sum(1) / 2 - np.trace(matrix)


def truncated(x, theta):
    """h = x: a half of x s², x s' and s."""
    matrix = unpacked(theta[3:], 3)
    s = -(x - theta[:3]) @ matrix
    return (x * s**2 / 2 - x * np.diag(matrix) + s).sum(1)


def square_root(x, theta):
    """a = 1, b = 1/2, h = x: s = eta / sqrt(x) - K x."""
    matrix = unpacked(theta[3:], 3)
    s = theta[:3] / np.sqrt(x) - x @ matrix
    return (x * s**2 / 2 + x * (-theta[:3] / 2 / x**1.5 - np.diag(matrix)) + s).sum(1)


def ratios(x, theta):
    weights = np.zeros((3, 3))
    weights[np.triu_indices(3, 1)] = theta[:3]
    return (expit(-2 * x * (x @ (weights + weights.T) + theta[3:])) ** 2).sum(1)


def von_mises_fisher(z, theta):
    along = z @ theta[1:] / np.linalg.norm(theta[1:])
    return theta[0] ** 2 * (1 - along**2) / 2 - 2 * theta[0] * along


def bingham(z, theta):
    matrix = unpacked(theta, 3) - np.trace(unpacked(theta, 3)) / 3 * np.eye(3)
    form = ((z @ matrix) * z).sum(1)
    return 2 * (((z @ matrix) ** 2).sum(1) - form**2) - 6 * form


@pytest.mark.parametrize(
    ("estimator", "data", "rho"),
    [
        (Gaussian(), positive, gaussian),
        (GaussianGraphicalModel(CHAIN), positive, gaussian),
        (TruncatedGaussian(), positive, truncated),
        (NonNegativeGraphicalModel(CHAIN, powers=(1.0, 0.5)), positive, square_root),
        (RatioMatching(), signs, ratios),
        (VonMisesFisher(), directions, von_mises_fisher),
        (Bingham(), directions, bingham),
    ],
)
@pytest.mark.filterwarnings("ignore::scorefield.estimators.NotNormalisable")
def test_contributions_are_the_slope_of_each_row(estimator, data, rho):
    """Central differences of the objective written anew here, in every parameter (on surfaces: along them): 1e-7."""
    x, h = data(), 1e-5
    fit = estimator.fit(data(2))  # other rows than those asked about
    steps = h * np.eye(len(fit.theta_))
    slopes = [(rho(x, fit.theta_ + step) - rho(x, fit.theta_ - step)) / (2 * h) for step in steps]
    g = fit.contributions(x)
    np.testing.assert_allclose(g, np.stack(slopes, axis=1), atol=1e-7 * np.abs(g).max())


def test_the_mean_contribution_of_a_shrunk_fit_is_the_pull_of_its_penalty():
    r"""KKT: -2 lambda sign K on the edges that are there, at most 2 lambda elsewhere, and 0 on the diagonal."""
    fit = GaussianGraphicalModel(penalty=0.15, pattern=np.ones((3, 3))).fit(positive())
    mean, (i, j) = fit.contributions(positive()).mean(0), np.triu_indices(3)
    np.testing.assert_allclose(mean[:3], 0, atol=1e-10)
    entries, mean = fit.precision_[i, j], mean[3:]
    expected = np.where(i == j, 0.0, -0.3 * np.sign(entries))
    there = entries != 0
    assert 3 < there.sum()
    np.testing.assert_allclose(mean[there], expected[there], atol=1e-8)
    assert (np.abs(mean[~there]) <= 0.3).all()
