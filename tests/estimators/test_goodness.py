"""Kernel Stein tests: closed forms of the discrepancy, size and power of the tests, and thinning."""

from dataclasses import FrozenInstanceError
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom
from sklearn.base import BaseEstimator
from torch.func import grad, jacfwd

from scorefield.densities import Gaussian, GaussianMixture
from scorefield.estimators import ExponentialFamily
from scorefield.estimators import Gaussian as NormalLaw
from scorefield.estimators.goodness import kernel_stein_test, stein_discrepancy, stein_thinning

MIXTURE = GaussianMixture([0.7, 0.3], [[-1.0, 0.0], [2.0, 1.0]], [[[0.5, 0.2], [0.2, 0.6]], [[1.0, 0.0], [0.0, 0.3]]])


def standard(x):
    """The score of N(0, I)."""
    return -x


def hermite(mean, count):
    """Nodes and weights of N(mean, I)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / weights.sum()
    d = len(mean)
    x = np.array(list(product(nodes, repeat=d))) + mean
    return x, np.array([np.prod(w) for w in product(weights, repeat=d)])


@pytest.mark.parametrize(("mean", "count"), [([0.7], 40), ([0.7, -0.3], 30), ([0.2, 0.1, -0.6], 12)], ids=str)
@pytest.mark.parametrize("width", [2.5, 4.0])
def test_the_discrepancy_of_two_gaussians_has_its_closed_form(mean, count, width):
    r"""$\mathrm{KSD}^2 = \|m\|^2 (\ell^2/(\ell^2 + 2))^{d/2}$, by quadrature: the V statistic of weighted nodes."""
    x, w = hermite(np.array(mean), count)
    found = stein_discrepancy(standard, x, kernel="gaussian", bandwidth=width, sample_weight=w)
    expected = np.square(mean).sum() * (width**2 / (width**2 + 2)) ** (len(mean) / 2)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kernel", ["gaussian", "imq"])
def test_both_statistics_are_means_of_the_stein_kernel_by_its_definition(kernel):
    """Every derivative of k by automatic differentiation, on six rows of a mixture, weighted and not."""
    x, width, n = MIXTURE.sample((6,), generator=torch.Generator().manual_seed(0)), 1.4, 6
    s = MIXTURE.score(x)

    def k(a, b):
        q = (a - b).square().sum() / width**2
        return torch.exp(-q / 2) if kernel == "gaussian" else (1 + q) ** -0.5

    def u(i, j):
        a, b = x[i], x[j]
        mixed = jacfwd(grad(k, 1), 0)(a, b).trace()
        return (s[i] @ s[j] * k(a, b) + s[i] @ grad(k, 1)(a, b) + s[j] @ grad(k, 0)(a, b) + mixed).item()

    matrix = np.array([[u(i, j) for j in range(n)] for i in range(n)])
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-14)
    test = kernel_stein_test(MIXTURE, x.numpy(), kernel=kernel, bandwidth=width, random_state=0)
    assert test.v_statistic == pytest.approx(matrix.mean(), rel=1e-12)
    assert test.u_statistic == pytest.approx((matrix.sum() - matrix.trace()) / (n * (n - 1)), rel=1e-12)
    w = np.arange(1.0, n + 1) / 21
    whole = {"kernel": kernel, "bandwidth": width, "sample_weight": w}
    assert stein_discrepancy(MIXTURE, x.numpy(), **whole) == pytest.approx(w @ matrix @ w, rel=1e-12)
    rest = (w @ matrix @ w - w**2 @ matrix.diagonal()) / (1 - w @ w)
    assert stein_discrepancy(MIXTURE, x.numpy(), statistic="u", **whole) == pytest.approx(rest, rel=1e-12)


def test_the_replicates_are_the_quadratic_forms_of_their_definitions():
    """Two rows by hand: signs give plus and minus the off-diagonal; counts (2, 0) minus it, and (1, 1) nothing."""
    x = np.array([[0.5], [-1.0]])
    k = np.exp(-(1.5**2) / 2)
    off = k * (-0.5 + (-0.5) * 1.5 + 1.0 * (-1.5) + 1 - 1.5**2)  # s s k + s k_y + s k_x + k_xy, with s = -x
    settings = {"kernel": "gaussian", "bandwidth": 1.0, "replicates": 60, "random_state": 0}
    wild = kernel_stein_test(standard, x, **settings)
    assert wild.statistic == pytest.approx(off, rel=1e-12)
    np.testing.assert_allclose(np.unique(np.round(wild.replicates, 12)), np.sort([off, -off]), rtol=1e-10)
    counts = kernel_stein_test(standard, x, bootstrap="multinomial", **settings)
    np.testing.assert_allclose(np.unique(np.round(counts.replicates, 12)), np.sort([-off, 0.0]), rtol=1e-10, atol=1e-12)
    diagonal = 0.5**2 + 1 + 1.0**2 + 1
    both = kernel_stein_test(standard, x, statistic="v", **settings)
    assert both.statistic == pytest.approx((2 * off + diagonal) / 4, rel=1e-12)
    ends = np.sort([(diagonal + 2 * off) / 4, (diagonal - 2 * off) / 4])
    np.testing.assert_allclose(np.unique(np.round(both.replicates, 12)), ends, rtol=1e-10)
    assert wild.p_value == (1 + (wild.replicates >= wild.statistic).sum()) / 61


def rejections(count, n, law=None, seed=0, **how):
    """How many of `count` samples of a law, N(0, I) in the plane by default, are rejected at 5 %."""
    random, p = np.random.RandomState(seed), []
    for _ in range(count):
        x = random.standard_normal((n, 2)) if law is None else law(random, n)
        p.append(kernel_stein_test(standard, x, random_state=random, **how).p_value)
    return int((np.array(p) <= 0.05).sum())


SIZES = [("wild", "u", "imq"), ("wild", "v", "gaussian"), ("multinomial", "u", "gaussian"), ("multinomial", "u", "imq")]


@pytest.mark.parametrize(("bootstrap", "statistic", "kernel"), SIZES)
def test_under_the_null_one_in_twenty_is_rejected(bootstrap, statistic, kernel):
    """300 samples of 60 rows: the count lies within the 1e-4 tails of the binomial around 5 %."""
    found = rejections(300, 60, bootstrap=bootstrap, statistic=statistic, kernel=kernel, replicates=99)
    assert binom.ppf(1e-4, 300, 0.05) <= found <= binom.isf(1e-4, 300, 0.05)


@pytest.mark.certify
@pytest.mark.parametrize(("bootstrap", "statistic", "kernel"), SIZES)
def test_under_the_null_the_size_is_five_per_cent(bootstrap, statistic, kernel):
    """2,000 samples of 200 rows, 499 replicates each: 5 % +- 1.5 %, three standard errors of the count."""
    found = rejections(2000, 200, bootstrap=bootstrap, statistic=statistic, kernel=kernel, replicates=499)
    assert 0.035 <= found / 2000 <= 0.065


def test_shifts_and_heavy_tails_are_found():
    """Of 60 samples of 150 rows nearly all are rejected: a shift by 0.4, and Student's t with 3 degrees of freedom."""
    assert rejections(60, 150, lambda r, n: r.standard_normal((n, 2)) + [0.4, 0.0], replicates=99) >= 55
    assert rejections(60, 150, lambda r, n: r.standard_t(3, (n, 2)), replicates=99) >= 50


def test_more_rows_give_more_power():
    """A shift by 0.15: rejections grow from few at 50 rows to most at 600."""
    few, many = (rejections(60, n, lambda r, k: r.standard_normal((k, 2)) + 0.15, replicates=99) for n in (50, 600))
    assert few < 40 < 55 <= many


def chain(random, n, rho=0.9):
    """A stationary autoregression with the law N(0, I)."""
    x = np.empty((n, 2))
    x[0] = random.standard_normal(2)
    for i in range(1, n):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * random.standard_normal(2)
    return x


def test_a_chain_needs_signs_that_seldom_change():
    """Independent signs reject a correct chain half of the time; signs as slow as the chain, one in ten at most."""
    assert rejections(100, 250, chain, replicates=99) > 40
    assert rejections(100, 250, chain, replicates=99, statistic="v", flip=0.04) <= binom.isf(1e-4, 100, 0.1)


class Normal(BaseEstimator):
    """A Gaussian with independent coordinates, fitted by its moments."""

    def fit(self, X, y=None):
        """By mean and variance."""
        self.mean_, self.variance_ = X.mean(0), X.var(0)
        return self

    def score_function(self, X):
        """Linear."""
        return (self.mean_ - X) / self.variance_

    def sample(self, n_samples=1, random_state=None):
        """Exact."""
        return self.mean_ + np.sqrt(self.variance_) * random_state.standard_normal((n_samples, len(self.mean_)))


def test_a_fitted_law_needs_the_parametric_bootstrap():
    """The wild bootstrap of fitted moments rejects too rarely; refitting restores the size, and sees a wrong family."""
    random, wild, refit, wrong = np.random.RandomState(0), 0, 0, 0
    for _ in range(300):
        x = random.standard_normal((40, 1))
        wild += kernel_stein_test(Normal().fit(x), x, random_state=random, replicates=99).p_value <= 0.05
    for _ in range(150):
        x = random.standard_normal((40, 1))
        law, how = Normal().fit(x), {"random_state": random, "replicates": 39}
        refit += kernel_stein_test(law, x, bootstrap="parametric", **how).p_value <= 0.05
    for _ in range(30):
        x = random.exponential(size=(80, 1))
        law = Normal().fit(x)
        wrong += kernel_stein_test(law, x, bootstrap="parametric", random_state=random, replicates=39).p_value <= 0.05
    assert wild <= binom.ppf(1e-3, 300, 0.05)
    assert binom.ppf(1e-4, 150, 0.05) < refit <= binom.isf(1e-4, 150, 0.05)
    assert wrong >= 28


def test_thinning_is_greedy():
    """Every choice is the best next one, tried out; the first has the smallest diagonal."""
    x = MIXTURE.sample((30,), generator=torch.Generator().manual_seed(1)).numpy()
    chosen = stein_thinning(MIXTURE, x, 6, bandwidth=1.5)

    def cost(indices):  # m^2 times the V statistic of the multiset
        counts = np.bincount(indices, minlength=len(x)).astype(float)
        return stein_discrepancy(MIXTURE, x, bandwidth=1.5, sample_weight=counts) * len(indices) ** 2

    for t in range(6):
        tried = [cost(np.r_[chosen[:t], i].astype(int)) for i in range(len(x))]
        assert tried[chosen[t]] == pytest.approx(min(tried), rel=1e-9)


def test_thinning_takes_away_a_burn_in_and_a_bias():
    """20 of 400 rows of a chain that starts far away and stays too wide are closer to the law than all of them."""
    random = np.random.RandomState(2)
    x = np.vstack([np.linspace(12, 1, 40)[:, None] * [1, 1], 1.3 * random.standard_normal((360, 2)) + 0.2])
    chosen = stein_thinning(standard, x, 20, bandwidth=1.0)
    assert chosen.min() >= 38
    thinned, even, whole = (stein_discrepancy(standard, rows, bandwidth=1.0) for rows in (x[chosen], x[::20], x))
    assert thinned < whole < even
    assert np.abs(x[chosen].mean(0)).max() < 0.2


def test_scores_densities_and_estimators_are_one_to_the_test():
    """The same law given in four ways has the same statistic and p-value; the result is frozen and prints."""
    x = np.random.default_rng(0).normal(size=(30, 2))
    law, fitted = Gaussian([0.0, 0.0], np.eye(2)), Normal()
    fitted.mean_, fitted.variance_ = np.zeros(2), np.ones(2)
    found = [kernel_stein_test(s, x, random_state=1) for s in (standard, law, law.score, fitted)]
    assert len({(t.statistic, t.p_value) for t in found}) == 1
    assert "KSD² = " in str(found[0])
    with pytest.raises(FrozenInstanceError):
        found[0].p_value = 0.0


@pytest.mark.filterwarnings("error::UserWarning")
def test_data_frames_reach_the_estimator_that_was_fitted_to_one():
    """No warning, the statistics of the bare arrays; columns in another order or by another name are refused."""
    rows = np.random.default_rng(0).gamma([2.0, 5.0], 0.5, size=(60, 2))
    frame = pd.DataFrame(rows, columns=["a", "b"])
    named, bare = (ExponentialFamily("gamma", domain="half-line").fit(x) for x in (frame, rows))
    expected = kernel_stein_test(bare, rows, random_state=0).statistic
    for law, x in ((named, frame), (bare, frame), (standard, frame)):
        found = kernel_stein_test(law, x, random_state=0).statistic
        assert (found == expected) == (law is not standard)
    assert stein_discrepancy(named, frame) == stein_discrepancy(bare, rows)
    assert stein_thinning(named, frame, 5).tolist() == stein_thinning(bare, rows, 5).tolist()
    with pytest.raises(ValueError, match="feature names"):
        kernel_stein_test(named, frame[["b", "a"]])
    drawn = [
        kernel_stein_test(NormalLaw().fit(x), x, bootstrap="parametric", replicates=19, random_state=0).replicates
        for x in (frame, rows)
    ]
    assert np.array_equal(*drawn)


def test_blocks_do_not_change_the_statistics(monkeypatch):
    """Large matrices are made some rows at a time."""
    x = np.random.default_rng(3).normal(size=(50, 2))
    whole = kernel_stein_test(standard, x, random_state=0, replicates=19)
    monkeypatch.setattr("scorefield.estimators.kernels.fields._ENTRIES", 350)
    parts = kernel_stein_test(standard, x, random_state=0, replicates=19)
    np.testing.assert_allclose(parts.replicates, whole.replicates, rtol=1e-10, atol=1e-14)
    assert parts.u_statistic == pytest.approx(whole.u_statistic, rel=1e-12)


X = np.random.default_rng(4).normal(size=(20, 2))


def huge(x):
    return 1e80 * x


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernel_stein_test(standard, X, kernel="imqq"), ValueError, "did you mean 'imq'"),
        (lambda: kernel_stein_test(standard, X, statistic="w"), ValueError, "statistic must be one of u, v"),
        (lambda: kernel_stein_test(standard, X, bootstrap="wilt"), ValueError, "did you mean 'wild'"),
        (lambda: kernel_stein_test(standard, X, replicates=5), ValueError, "replicates must be >= 19"),
        (lambda: kernel_stein_test(standard, X, flip=0.7), ValueError, r"flip must lie in \(0, 0.5\]"),
        (lambda: kernel_stein_test(standard, X, bandwidth=0.0), ValueError, "bandwidth must be a finite number > 0"),
        (
            lambda: kernel_stein_test(standard, X, bandwidth=1e300),
            ValueError,
            r"bandwidth must lie in \[1e-100, 1e\+100\]",
        ),
        (lambda: kernel_stein_test(lambda x: 1e200 * x, X), ValueError, "the score must lie in"),
        (lambda: kernel_stein_test(huge, X, bandwidth=1e90), ValueError, "the discrepancy overflows in float64"),
        (lambda: stein_discrepancy(huge, X, bandwidth=1e90), ValueError, "the discrepancy overflows in float64"),
        (lambda: stein_thinning(huge, X, 2, bandwidth=1e90), ValueError, "the discrepancy overflows in float64"),
        (lambda: kernel_stein_test(standard, X[:1]), ValueError, "1 sample.* required by kernel_stein_test"),
        (lambda: kernel_stein_test(standard, X * np.nan), ValueError, "kernel_stein_test does not accept missing"),
        (lambda: stein_discrepancy(standard, X * np.nan), ValueError, "stein_discrepancy does not accept missing"),
        (lambda: stein_thinning(standard, X * np.nan, 3), ValueError, "stein_thinning does not accept missing"),
        (lambda: kernel_stein_test(standard, X * 0), ValueError, "all rows of X are equal"),
        (lambda: kernel_stein_test(3, X), TypeError, "score must be a function"),
        (lambda: kernel_stein_test(lambda x: x[:, :1], X), ValueError, r"must return the shape of X, \(20, 2\)"),
        (lambda: kernel_stein_test(lambda x: x / 0, X), ValueError, "at row 0 of X"),
        (
            lambda: kernel_stein_test(standard, X, bootstrap="parametric"),
            TypeError,
            "lacks fit, sample, score_function",
        ),
        (lambda: stein_discrepancy(standard, X, statistic="u", sample_weight=np.eye(20)[0]), ValueError, "two rows"),
        (lambda: stein_thinning(standard, X, 0), ValueError, "n_points must be >= 1"),
    ],
)
def test_bad_input_gets_a_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call()
