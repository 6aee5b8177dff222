"""Boltzmann machines: population minimisers by enumeration, derivatives, standard errors, Gibbs, input."""

import itertools
import math
import warnings

import numpy as np
import pytest
from numpy.exceptions import RankWarning
from scipy.optimize import approx_fprime
from sklearn.utils.estimator_checks import check_estimator

from scorefield.estimators.discrete import (
    PseudoLikelihood,
    RatioMatching,
    assembled_gradient,
    assembled_hessian,
    estimating,
    unpacked,
)

BOTH = [RatioMatching, PseudoLikelihood]


def states(d: int) -> np.ndarray:
    return np.array(list(itertools.product([-1.0, 1.0], repeat=d)))


def machine(d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All states, their probabilities, W and b; the energy written out term by term."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=d * (d + 1) // 2) * 0.7
    weights, bias = unpacked(theta, d)
    x = states(d)
    energy = [0.5 * sum(weights[i, j] * s[i] * s[j] for i in range(d) for j in range(d)) + bias @ s for s in x]
    p = np.exp(energy)
    return x, p / p.sum(), weights, bias


def drawn(d: int, n: int, seed: int) -> np.ndarray:
    x, p, *_ = machine(d)
    return x[np.random.default_rng(seed).choice(len(x), size=n, p=p)]


@pytest.mark.parametrize("estimator", BOTH)
@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_the_population_minimiser_is_the_truth(estimator, d):
    """All states as X and their probabilities as weights."""
    x, p, weights, bias = machine(d)
    fit = estimator().fit(x, sample_weight=p)
    assert np.abs(fit.weights_ - weights).max() < 1e-9
    assert np.abs(fit.bias_ - bias).max() < 1e-9


def test_two_rows_by_hand():
    """One column, 3 of 4 rows up: both estimators give odds 3, b = log(3)/2; rho by its definition."""
    x = np.array([[1.0], [1.0], [1.0], [-1.0]])
    for estimator in BOTH:
        assert abs(estimator().fit(x).bias_[0] - math.log(3) / 2) < 1e-9
    ratio = RatioMatching().fit(x)
    # p(x)/p(flipped) is 3 for the three and 1/3 for the one: (1/4)^2 and (3/4)^2
    assert abs(ratio.objective_ - (3 * 0.25**2 + 0.75**2) / 4) < 1e-9
    assert abs(PseudoLikelihood().fit(x).objective_ + (3 * math.log(0.75) + math.log(0.25)) / 4) < 1e-9


def test_ratio_matching_measures_the_distance_of_ratios():
    """Hyvarinen's equation 17 against his equation 16, by enumeration: their difference does not depend on theta."""
    x, p, *_ = machine(3)
    flipped = [np.array([np.flatnonzero((x == s * (1 - 2 * np.eye(3)[i])).all(1))[0] for s in x]) for i in range(3)]
    gaps = []
    for seed in (1, 2):
        fit = RatioMatching().fit(x, sample_weight=p)
        fit.theta_ = np.random.default_rng(seed).normal(size=6)
        fit.weights_, fit.bias_ = unpacked(fit.theta_, 3)
        q = np.exp(fit.log_density(x))
        distance = 0.0
        for other in flipped:
            for up, down in ((np.arange(8), other), (other, np.arange(8))):
                distance += 0.5 * p @ (1 / (1 + p[up] / p[down]) - 1 / (1 + q[up] / q[down])) ** 2
        gaps.append(distance + fit.score(x, sample_weight=p))
    assert abs(gaps[0] - gaps[1]) < 1e-12


@pytest.mark.parametrize("estimator", BOTH)
def test_derivatives_are_those_of_the_objective(estimator):
    """Gradient, estimating functions and Hessian against differences of `score`."""
    x, p, *_ = machine(3)
    fit, theta = estimator().fit(x, sample_weight=p), np.random.default_rng(3).normal(size=6)

    def mean(at):
        return p @ fit._derivatives(x, at)[0].sum(1)

    def slope(at):
        return assembled_gradient(x, p, fit._derivatives(x, at)[1])

    assert np.abs(slope(theta) - approx_fprime(theta, mean, 1e-7)).max() < 1e-6
    assert np.abs(p @ estimating(x, fit._derivatives(x, theta)[1]) - slope(theta)).max() < 1e-14
    hessian = assembled_hessian(x, p, fit._derivatives(x, theta)[2])
    assert np.abs(hessian - approx_fprime(theta, slope, 1e-7)).max() < 1e-6
    assert np.abs(hessian - hessian.T).max() < 1e-14


def test_ratio_matching_is_not_convex():
    """At odds of 4 for the flipped row its one-dimensional objective bends downwards; pseudo-likelihood's never."""
    m = np.array([[-math.log(4)]])
    assert RatioMatching()._loss(m)[2][0, 0] < 0
    assert PseudoLikelihood()._loss(m)[2][0, 0] > 0
    assert RatioMatching()._loss(np.array([[-math.log(1.9)]]))[2][0, 0] > 0


@pytest.mark.parametrize("estimator", BOTH)
def test_intervals_cover(estimator):
    """95 % intervals, 3 columns, 200 data sets of 1,000 rows: coverage within 4 standard errors of 200 intervals,
    since the six parameters of one are not independent."""
    _, _, weights, bias = machine(3)
    truth = np.concatenate([weights[np.triu_indices(3, 1)], bias])
    hits = []
    for seed in range(200):
        interval = estimator().fit(drawn(3, 1000, seed)).confidence_interval()
        hits.append((interval[:, 0] <= truth) & (truth <= interval[:, 1]))
    assert abs(np.mean(hits) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 200)


def test_the_sandwich_is_the_inverse_information_for_one_column():
    """3 of 4 rows up, tanh b = 1/2: n var b = 1/(1 - 1/4), by likelihood; ratio matching agrees in one dimension."""
    for estimator in BOTH:
        fit = estimator().fit([[1.0], [1.0], [1.0], [-1.0]])
        assert abs(fit.covariance_[0, 0] - 1 / 3) < 1e-9


def test_zero_and_one_are_told_and_kept():
    """{0, 1} rows give the parameters of 2u - 1, and samples come back as 0 and 1."""
    x = drawn(3, 500, 0)
    signs, bits = RatioMatching().fit(x), RatioMatching().fit((x + 1) / 2)
    assert bits.coding_ == (0, 1)
    assert signs.coding_ == (-1, 1)
    assert np.array_equal(signs.theta_, bits.theta_)
    assert set(np.unique(bits.sample(50, 0))) == {0.0, 1.0}
    assert np.allclose(bits.log_density((x + 1) / 2), signs.log_density(x))
    with pytest.raises(ValueError, match=r"here 0 and 1\), got -1 in row"):
        bits.score(x)


def test_gibbs_samples_have_the_law_of_the_machine():
    """Frequencies of all 8 states in 20,000 chains: chi-squared with 7 degrees, false alarm 1e-4 (31.8)."""
    x, p, *_ = machine(3)
    fit = PseudoLikelihood(sweeps=60).fit(x, sample_weight=p)
    found = fit.sample(20_000, random_state=1)
    counts = np.array([(found == s).all(1).sum() for s in x])
    assert (((counts - 20_000 * p) ** 2) / (20_000 * p)).sum() < 31.8


def test_score_function_is_half_the_conditional_log_odds():
    x, p, *_ = machine(3)
    fit = RatioMatching().fit(x, sample_weight=p)
    up, down = x.copy(), x.copy()
    up[:, 1], down[:, 1] = 1, -1
    assert np.allclose(fit.score_function(x)[:, 1], (fit.log_density(up) - fit.log_density(down)) / 2)


def test_many_columns_go_by_lbfgs():
    """20 columns, 210 parameters: independent coins; weights within 6 standard errors of 0, the means kept."""
    rng = np.random.default_rng(0)
    x = np.where(rng.uniform(size=(600, 20)) < 0.6, 1.0, -1.0)
    fit = RatioMatching(inference=False).fit(x)
    assert np.abs(np.tanh(fit.bias_ + (fit.weights_ * 0.2).sum(1)) - x.mean(0)).max() < 0.03
    assert np.abs(fit.weights_).max() < 6 / math.sqrt(600)
    assert np.array_equal(fit.weights_, fit.weights_.T)
    assert not np.diag(fit.weights_).any()


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="threshold numbers"):
        RatioMatching().fit([[0.5, 1.0], [1.0, -1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match="got 2 in row 1, column 0"):
        RatioMatching().fit([[0, 1], [2, 1], [0, 0]])
    with pytest.raises(ValueError, match="ridge must be"):
        RatioMatching(ridge=-1.0).fit(states(2))


def test_a_pattern_that_never_occurs_is_named():
    """Two equal columns: their weight has no finite estimate without a ridge."""
    x = drawn(3, 200, 0)
    x[:, 1] = x[:, 0]
    with pytest.warns(RankWarning, match=r"drive .*W\[x1, x2\].* to infinity"):
        warned = RatioMatching().fit(x)
    assert np.isfinite(warned.covariance_).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = RatioMatching(ridge=0.01).fit(x)
    assert np.abs(fit.theta_).max() < 3


class OnSigns(RatioMatching):
    """Any numbers, thresholded at zero, so that scikit-learn's checks reach the estimator."""

    def _signs(self, x):
        self.coding_ = (-1, 1)
        return np.where(x > 0, 1.0, -1.0)


class PseudoOnSigns(PseudoLikelihood):
    _signs = OnSigns._signs


@pytest.mark.parametrize("estimator", [OnSigns, PseudoOnSigns])
def test_scikit_learns_checks_pass(estimator):
    """No expected failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(estimator(ridge=0.01, sweeps=5), on_fail=None)
    failed = [(r["check_name"], r["exception"]) for r in found if r["status"] not in ("passed", "skipped")]
    assert not failed, failed
