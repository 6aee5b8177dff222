"""Graphical models on the orthant: rational answers, the truth in the population, optimality, agreement, refusals."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from fuzzing import QUIET, finite_graph_or_refused
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import legendre, product
from sklearn.utils.estimator_checks import check_estimator

from scorefield.estimators import ExponentialFamily, NotNormalisable, TruncatedGaussian
from scorefield.estimators.nonnegative import NonNegativeGraphicalModel

K2, ETA = np.array([[1.5, -0.6], [-0.6, 1.0]]), np.array([0.5, 1.0])
POWERS = [(1.0, 1.0), (0.5, 0.5), (0.5, 0.0), (1.5, 1.0), (2.0, 2.5)]
every_power = pytest.mark.parametrize("powers", POWERS, ids=str)
CHAIN = np.eye(4, dtype=bool) | np.eye(4, k=1, dtype=bool) | np.eye(4, k=-1, dtype=bool)


def rows(n=200, d=4, seed=0, edge=0.4):
    """Of a Gaussian with a chain for its precision, kept where they are positive."""
    K = 1.5 * np.eye(d) + edge * (np.eye(d, k=1) + np.eye(d, k=-1))
    rng, kept = np.random.default_rng(seed), np.empty((0, d))
    root = np.linalg.inv(np.linalg.cholesky(K))
    while len(kept) < n:
        z = rng.standard_normal((50 * n, d)) @ root + 0.3
        kept = np.concatenate([kept, z[(z > 0).all(1)]])
    return kept[:n]


def log_density(x, powers, eta, K):
    a, b = powers
    tilt = torch.log(x) if b == 0 else x**b / b
    return tilt @ eta - x**a @ K @ x**a / (2 * a)


def by_autodiff(x, powers, eta, K, h=lambda x: x):
    """The weighted objective of one row, from the log-density alone."""
    s = torch.func.grad(log_density)(x, powers, eta, K)
    bend = torch.func.hessian(log_density)(x, powers, eta, K).diagonal()
    slope = torch.func.jacrev(h)(x).diagonal()
    return (h(x) * (s**2 / 2 + bend) + slope * s).sum()


def population(powers, count=80):
    """Nodes x = y^2 on the orthant, where half powers are smooth, with the law of K2 and ETA."""
    (y, w), (a, b) = product(legendre(0, 3.8, count), legendre(0, 4.0, count)), powers
    x = y**2
    tilt = np.log(x) if b == 0 else x**b / b
    log_p = tilt @ ETA - np.einsum("ni,ij,nj->n", x**a, K2, x**a) / (2 * a)
    return x, w * 4 * y.prod(1) * np.exp(log_p)


def test_one_column_by_hand():
    """x = 1, 2, 4 and h = x: with phi = (-x, 1), W = mean x phi phi', d = -mean (-2x, 1) = (2 mean x, -1)."""
    x = [Fraction(1), Fraction(2), Fraction(4)]
    m1, m2, m3 = (sum(v**k for v in x) / 3 for k in (1, 2, 3))
    det = m3 * m1 - m2**2
    eta, K = (m2 * 2 * m1 - m3) / det, (m1 * 2 * m1 - m2) / det
    fit = NonNegativeGraphicalModel(penalty=0).fit([[1.0], [2.0], [4.0]])
    np.testing.assert_allclose(fit.theta_, [float(eta), float(K)], rtol=1e-12)
    np.testing.assert_allclose(fit.objective_, float(eta - 2 * m1 * K) / 2, rtol=1e-12)


@every_power
def test_the_population_gives_the_truth(powers):
    """Quadrature nodes as X, the density as sample_weight; the heavier tails of powers below 1 need a wider box."""
    if powers[0] < 1:
        (y, w), b = product(legendre(0, 11, 120), legendre(0, 13, 120)), powers[1]
        x = y**2
        tilt = np.log(x) if b == 0 else x**b / b
        w = w * 4 * y.prod(1) * np.exp(tilt @ ETA - np.einsum("ni,ij,nj->n", y, K2, y))
    else:
        x, w = population(powers)
    fit = NonNegativeGraphicalModel(penalty=0, powers=powers).fit(x, sample_weight=w)
    np.testing.assert_allclose(fit.eta_, ETA, atol=1e-9)
    np.testing.assert_allclose(fit.precision_, K2, atol=1e-9)


def test_the_truncated_gaussian_and_the_exponential_family_agree():
    """Three ways to one fit, with a graph too."""
    x = rows()
    fit = NonNegativeGraphicalModel(penalty=0).fit(x)
    family = ExponentialFamily("quadratic", domain="half-line").fit(x)
    gaussian = TruncatedGaussian().fit(x)
    for name in ("theta_", "covariance_", "hessian_", "objective_"):
        np.testing.assert_allclose(getattr(fit, name), getattr(family, name), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(fit.precision_, gaussian.precision_, rtol=1e-9)
    np.testing.assert_allclose(fit.score_function(x), gaussian.score_function(x), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(fit.score(x), gaussian.score(x), rtol=1e-9)
    zeros = {f"P[x{i + 1}, x{j + 1}]": 0.0 for i, j in zip(*np.nonzero(np.triu(~CHAIN)), strict=True)}
    graph = NonNegativeGraphicalModel(CHAIN, weight=("min", 0.8)).fit(x)
    held = ExponentialFamily("quadratic", domain="half-line", weight=("min", 0.8), fixed=zeros).fit(x)
    np.testing.assert_allclose(graph.theta_, held.theta_, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(graph.covariance_, held.covariance_, rtol=1e-9, atol=1e-11)


@every_power
@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.filterwarnings("ignore::scorefield.estimators.NotNormalisable")
def test_autodiff_confirms_the_objective_and_the_optimality_conditions(powers, share):
    """Gradients in eta and K from the log-density alone: 0, or within the penalty, a share of the largest."""
    x = rows(40)
    penalty = share * NonNegativeGraphicalModel(penalty="ebic", powers=powers, count=1).fit(x).path_.penalties[0]
    fit = NonNegativeGraphicalModel(penalty=penalty, powers=powers).fit(x)
    at, eta, K = torch.from_numpy(x), torch.from_numpy(fit.eta_), torch.from_numpy(fit.precision_)
    each = torch.stack([by_autodiff(row, powers, eta, K) for row in at])
    np.testing.assert_allclose(fit._rho(x), each, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose([fit.objective_, -fit.score(x)], each.mean().item(), rtol=1e-9)
    np.testing.assert_allclose(fit.score_function(x)[3], torch.func.grad(log_density)(at[3], powers, eta, K), rtol=1e-9)
    value = np.subtract(*(log_density(at[k], powers, eta, K).item() for k in (5, 0)))
    np.testing.assert_allclose(np.subtract(*fit.log_density(x)[[5, 0]]), value, rtol=1e-9)
    loss = lambda e, k: sum(by_autodiff(row, powers, e, (k + k.T) / 2) for row in at) / len(at)  # noqa: E731
    slopes = torch.func.grad(loss, argnums=(0, 1))(eta, K)
    flat, off = slopes[1].numpy(), ~np.eye(4, dtype=bool)
    on = (fit.precision_ != 0) & off
    size = np.abs(NonNegativeGraphicalModel(penalty=0, powers=powers).fit(x).hessian_).max()
    assert slopes[0].abs().max() < 1e-9 * size and np.abs(np.diag(flat)).max() < 1e-9 * size
    assert np.abs((flat + penalty * np.sign(fit.precision_))[on]).max(initial=0) < 1e-9 * size
    assert (np.abs(flat[off & ~on]) <= penalty * (1 + 1e-9)).all()
    assert on.any() and (share == 0) == on[off].all()


@pytest.mark.parametrize("multiplier", [None, 1.3])
@pytest.mark.parametrize("pattern", [None, CHAIN], ids=["complete", "chain"])
def test_the_covariance_is_that_of_the_influence_of_single_rows(pattern, multiplier):
    """Sum over rows of the squared derivative of the estimate in the row's weight, by central differences."""
    x, step, total = rows(30), 1e-4, 0.0
    model = NonNegativeGraphicalModel(pattern, penalty=0, multiplier=multiplier, powers=(1.0, 0.5))
    expected = model.fit(x).covariance_
    for k in range(len(x)):
        up, down = np.ones(len(x)), np.ones(len(x))
        up[k], down[k] = 1 + step, 1 - step
        slope = (model.fit(x, sample_weight=up).theta_ - model.fit(x, sample_weight=down).theta_) / (2 * step)
        total = total + np.outer(slope, slope)
    np.testing.assert_allclose(expected, total, atol=1e-6 * np.abs(total).max())


@pytest.mark.parametrize("unit", [1e-6, 1e5])
def test_a_common_unit_changes_neither_the_graph_nor_the_law(unit):
    """Under the default weight the objective and lambda scale together."""
    x = rows(300)
    here, there = (NonNegativeGraphicalModel(penalty="ebic").fit(v) for v in (x, x * unit))
    np.testing.assert_array_equal(here.pattern_, there.pattern_)
    np.testing.assert_allclose(there.precision_ * unit**2, here.precision_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(there.eta_ * unit, here.eta_, rtol=1e-7)


def test_under_the_square_weight_no_unit_matters():
    """h = x^2 makes the unpenalised objective free of units, column by column."""
    x, unit = rows(), np.array([1e-3, 1.0, 40.0, 1e4])
    here, there = (NonNegativeGraphicalModel(penalty=0, weight="x2").fit(v) for v in (x, x * unit))
    np.testing.assert_allclose(there.precision_ * np.outer(unit, unit), here.precision_, rtol=1e-8)


def test_the_order_of_columns_changes_nothing():
    x, order = rows(100), [2, 0, 3, 1]
    here, there = (NonNegativeGraphicalModel(penalty="cv").fit(v) for v in (x, x[:, order]))
    np.testing.assert_allclose(there.precision_, here.precision_[np.ix_(order, order)], atol=1e-8)


def test_the_chain_is_found():
    """By eBIC at n = 4000, exactly; by cross-validation at least."""
    x = rows(4000, 4, seed=3)
    np.testing.assert_array_equal(NonNegativeGraphicalModel().fit(x).pattern_, CHAIN)
    fit = NonNegativeGraphicalModel(penalty="cv").fit(x)
    assert (fit.pattern_ >= CHAIN).all()
    assert fit.path_.edges[0] == 0 and (fit.path_.precisions == fit.path_.precisions.transpose(0, 2, 1)).all()


def test_an_edge_that_is_not_there_gains_a_chi_square():
    """Two independent half-normal columns: eBIC's gain, before the price of the edge, has mean 1 within 4.5 s.e."""
    rng, gains = np.random.default_rng(0), []
    for _ in range(200):
        path = NonNegativeGraphicalModel(penalty="ebic", count=2, gamma=0).fit(np.abs(rng.normal(size=(500, 2)))).path_
        assert list(path.edges) == [0, 1]
        gains.append(path.criterion[0] - path.criterion[1] + np.log(500))
    assert abs(np.mean(gains) - 1) < 4.5 * np.sqrt(2 / 200)


def test_more_columns_than_rows():
    """The multiplier makes the forms positive definite, so that the path ends well."""
    fit = NonNegativeGraphicalModel(penalty="ebic").fit(np.abs(np.random.default_rng(0).normal(size=(12, 15))))
    assert np.isfinite(fit.path_.precisions).all() and fit.path_.edges[-1] > 0


def test_the_right_graph_gives_the_right_precision():
    """n = 20,000 and a chain: z scores below 4.5."""
    x, (i, j) = rows(20_000, seed=4), np.triu_indices(4)
    fit = NonNegativeGraphicalModel(CHAIN).fit(x)
    K = 1.5 * np.eye(4) + 0.4 * (np.eye(4, k=1) + np.eye(4, k=-1))
    free = fit.standard_error_ > 0
    gap = fit.theta_ - np.append(K @ np.full(4, 0.3), K[i, j])
    assert free.sum() == 11 and (np.abs(gap[free] / fit.standard_error_[free]) < 4.5).all()
    assert fit.summary().rows[4].name == "K[x1, x1]"


@pytest.mark.parametrize("powers", [(1.0, 1.0), (0.5, 0.5)], ids=str)
def test_samples_have_the_laws_moments(powers):
    """Means by quadrature, within 5 standard errors of 2,000 draws taken as a quarter as many."""
    x, w = population(powers)
    fit = NonNegativeGraphicalModel(penalty=0, powers=powers).fit(x, sample_weight=w)
    fit.eta_, fit.precision_ = ETA, 4 * K2  # tight enough for the box
    w = w * np.exp(-3 * np.einsum("ni,ij,nj->n", x ** powers[0], K2, x ** powers[0]) / (2 * powers[0]))
    drawn = fit.sample(2000, random_state=0)
    assert (drawn >= 0).all()
    assert (np.abs(drawn.mean(0) - w @ x / w.sum()) < 5 * drawn.std(0) / np.sqrt(500)).all()


def test_what_is_normalisable():
    """On the orthant positive entries do no harm; negative ones that win do, and for b = 0 an eta at -1."""
    fit = NonNegativeGraphicalModel(penalty=0).fit(rows())
    fit.precision_ = np.array([[1.0, 3.0], [3.0, 1.0]])
    assert fit._why_improper() is None
    fit.precision_ = np.array([[1.0, -3.0], [-3.0, 1.0]])
    assert "eigenvalue -2" in (fit._why_improper() or "")
    x = np.array([[1.0, 1.0], [2.0, 2.1], [3.0, 3.1], [8.0, 8.2], [9.0, 9.0]])
    with pytest.warns(NotNormalisable):
        bad = NonNegativeGraphicalModel(penalty=0).fit(x)
    with pytest.raises(RuntimeError, match="cannot be sampled"):
        bad.sample()
    fit.powers, fit.eta_, fit.precision_ = (0.5, 0.0), np.array([0.0, -1.5]), np.eye(2)
    assert "eta is -1.5" in (fit._why_improper() or "")


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"powers": (0.0, 1.0)}, "power a must be"),
        ({"powers": (1.0, -1.0)}, "power b must be"),
        ({"powers": (1.0, 2.0)}, "power b must be < 2a = 2"),
        ({"powers": 1.0}, r"two numbers \(a, b\)"),
        ({"weight": "x3"}, "did you mean 'x2'"),
        ({"pattern": np.eye(3)}, r"pattern must have shape \(4, 4\)"),
        ({"penalty": "CV"}, "did you mean 'cv'"),
    ],
)
def test_bad_settings_are_refused(given_, words):
    with pytest.raises(ValueError, match=words):
        NonNegativeGraphicalModel(**given_).fit(rows(30))


def test_bad_rows_are_refused():
    x = rows(30)
    fit = NonNegativeGraphicalModel(penalty=0).fit(x)
    assert fit.log_density([[1.0, -1.0, 1.0, 1.0]])[0] == -np.inf
    bad = x.copy()
    bad[2, 1] = -0.1
    for ask in (fit.fit, fit.score):
        with pytest.raises(ValueError, match="Negative values in data"):
            ask(bad)
    bad[2, 1] = 0.0
    NonNegativeGraphicalModel(penalty=0).fit(bad)
    with pytest.raises(ValueError, match="rows touch 0 with powers < 1"):
        NonNegativeGraphicalModel(penalty=0, powers=(0.5, 0.5)).fit(bad)
    with pytest.raises(ValueError, match="touches the boundary"):
        NonNegativeGraphicalModel(penalty=0, weight="plain").fit(bad)
    bad[:, 1] = 0.0
    with pytest.raises(ValueError, match="column 1 of X is 0"):
        NonNegativeGraphicalModel().fit(bad)
    with pytest.raises(ValueError, match="not finite at row 0"):
        NonNegativeGraphicalModel(penalty=0, powers=(0.5, 0.5)).fit(x).score_function([[0.0, 1.0, 1.0, 1.0]])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("penalty", [None, 0.0])
def test_scikit_learn_finds_nothing_wrong(penalty):
    """Every check of `check_estimator` passes; none is expected to fail."""
    found = check_estimator(NonNegativeGraphicalModel(penalty=penalty, count=5), on_fail=None, on_skip=None)
    assert {r["check_name"]: r["exception"] for r in found if r["status"] == "failed"} == {}
    assert len([r for r in found if r["status"] == "passed"]) > 40


@st.composite
def tables(draw):
    """Positive rows with zeros, constant or copied columns, far apart scales, few rows, wild weights."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d, n = rng.integers(2, 5), rng.integers(3, 20)
    if draw(st.integers(0, 14)) == 14:
        d, n = rng.integers(1, 3, size=2)
    x = np.abs(rng.normal(size=(n, d))) * 10.0 ** draw(
        st.sampled_from([0, 0, 0, 0, 0, -3, 8, -60, 60, 150, -150, -300, 300])
    )
    kind = draw(st.sampled_from(["free", "constant", "copied", "zeros", "zero", "scales", "rows", "negative"]))
    if kind == "constant":
        x[:, -1] = x[0, -1]
    elif kind == "copied":
        x[:, -1] = x[:, 0]
    elif kind == "zeros":
        x = np.where(rng.uniform(size=x.shape) < 0.4, 0, x)
    elif kind == "zero":
        x[:, 0] = 0
    elif kind == "scales":
        x *= 10.0 ** rng.integers(-8, 8, size=d)
    elif kind == "rows":
        x[:] = x[0]
    elif kind == "negative":
        x[0, 0] = -x[0, 0]
    weight = draw(st.sampled_from([None, None, None, "random", "random", "one", "zero", "huge"]))
    w = None if weight is None else rng.uniform(size=n)
    if weight == "one":
        w = (np.arange(n) == 0) * 1.0
    elif weight in ("zero", "huge"):
        w = w * {"zero": 0, "huge": 1e300}[weight]
    search = draw(
        st.sampled_from([{"penalty": 0}, {"penalty": 0.1}, {"count": 4}, {"penalty": "cv", "folds": 2, "count": 3}])
    )
    form = draw(st.sampled_from([{}, {"powers": (0.5, 0.5)}, {"powers": (0.5, 0.0)}, {"weight": "x2"}]))
    return x, w, search | form


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, **QUIET)
@given(tables())
def test_any_rows_end_in_a_finite_fit_or_a_refusal(table):
    finite_graph_or_refused(NonNegativeGraphicalModel, table)


@pytest.mark.certify
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=2000, **QUIET)
@given(tables())
def test_two_thousand_tables_end_in_a_finite_fit_or_a_refusal(table):
    finite_graph_or_refused(NonNegativeGraphicalModel, table)
