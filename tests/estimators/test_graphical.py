"""Gaussian graphical models: rational answers, optimality conditions, graphs that are found, refusals."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from fuzzing import QUIET, finite_graph_or_refused
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from scorefield.estimators import Gaussian, NotNormalisable
from scorefield.estimators.graphical import GaussianGraphicalModel
from scorefield.estimators.graphs import diagonal_multiplier, tournament

CHAIN = np.eye(4, dtype=bool) | np.eye(4, k=1, dtype=bool) | np.eye(4, k=-1, dtype=bool)


def chain(n, d, seed=0, edge=0.4):
    """Rows of a Gaussian whose precision is a chain, and the precision."""
    K = np.eye(d) + edge * (np.eye(d, k=1) + np.eye(d, k=-1))
    z = np.random.default_rng(seed).standard_normal((n, d))
    return z @ np.linalg.inv(np.linalg.cholesky(K)), K


def covariance(x):
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)


def kkt(S, K, penalty):
    """The largest violation of the optimality conditions, from SK + KS alone."""
    slope = S @ K + K @ S - 2 * np.eye(len(K))
    off = ~np.eye(len(K), dtype=bool)
    on = off & (K != 0)
    gaps = [np.abs(np.diag(slope)).max(), np.abs((slope + 2 * penalty * np.sign(K))[on]).max(initial=0)]
    return max(*gaps, (np.abs(slope) - 2 * penalty)[off & (K == 0)].max(initial=0))


def rational(S, pattern):
    """The minimiser on a pattern by elimination in fractions: <B, KS + SK> = 2 tr B for every basis matrix B."""
    pairs = [(i, j) for i in range(len(S)) for j in range(i, len(S)) if pattern[i][j]]

    def basis(i, j):
        return [[Fraction((a, b) in ((i, j), (j, i))) for b in range(len(S))] for a in range(len(S))]

    def times(A, C):
        return [[sum(A[i][k] * C[k][j] for k in range(len(C))) for j in range(len(C))] for i in range(len(A))]

    def inner(A, C):
        return sum(a * c for r, s in zip(A, C, strict=True) for a, c in zip(r, s, strict=True))

    table = []
    for p in pairs:
        row = []
        for q in pairs:
            E = basis(*q)
            row.append(inner(basis(*p), times(E, S)) + inner(basis(*p), times(S, E)))
        table.append([*row, Fraction(2 * (p[0] == p[1]))])
    for k in range(len(table)):
        table[k] = [v / table[k][k] for v in table[k]]
        for m in range(len(table)):
            if m != k:
                table[m] = [a - table[m][k] * b for a, b in zip(table[m], table[k], strict=True)]
    K = np.zeros((len(S), len(S)))
    for (i, j), row in zip(pairs, table, strict=True):
        K[i, j] = K[j, i] = float(row[-1])
    return K


def test_a_chain_of_three_by_hand():
    """Five rows of integers, the normal equations solved in fractions."""
    rows = [[2, 1, 0], [0, 1, 1], [-1, 0, 2], [-1, -2, -1], [0, 0, -2]]
    S = [[Fraction(sum(r[i] * r[j] for r in rows), 5) for j in range(3)] for i in range(3)]
    pattern = [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    fit = GaussianGraphicalModel(pattern).fit(rows)
    np.testing.assert_allclose(fit.precision_, rational(S, pattern), rtol=1e-12, atol=1e-15)
    assert fit.precision_[0, 2] == 0 and fit.standard_error_[5] == 0
    np.testing.assert_allclose(fit.objective_, -np.trace(fit.precision_) / 2, rtol=1e-12)


def test_two_columns_under_the_penalty_by_hand():
    """Correlation r: off the diagonal (lambda - r) / (1 - r^2), on it (1 - r lambda) / (1 - r^2)."""
    x = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])  # r = 1/3
    K = GaussianGraphicalModel(penalty=0.25).fit(x).precision_
    np.testing.assert_allclose(K, np.array([[33, -3], [-3, 33]]) / 32, rtol=1e-12)
    path = GaussianGraphicalModel(penalty="ebic", count=5).fit(x).path_
    np.testing.assert_allclose(path.penalties[0], 1 / 3, rtol=1e-12)
    assert path.edges[0] == 0 and path.edges[1] == 1


def test_the_complete_graph_is_the_gaussian():
    x = chain(50, 4)[0] * [1, 10, 0.1, 3] + 5
    here, there = GaussianGraphicalModel(penalty=0).fit(x), Gaussian().fit(x)
    for name in ("theta_", "covariance_", "hessian_", "objective_"):
        np.testing.assert_allclose(getattr(here, name), getattr(there, name), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(here.score_samples(x), there.score_samples(x), rtol=1e-9)
    np.testing.assert_allclose(here.score_function(x), there.score_function(x), rtol=1e-7, atol=1e-12)


def test_a_graph_of_blocks_inverts_each_block():
    """tr KSK sees only the blocks of S."""
    x, blocks = chain(60, 4)[0], np.kron(np.eye(2), np.ones((2, 2)))
    fit, S = GaussianGraphicalModel(blocks).fit(x), covariance(x)
    np.testing.assert_allclose(fit.precision_[:2, :2], np.linalg.inv(S[:2, :2]), rtol=1e-10)
    np.testing.assert_allclose(fit.precision_[2:, 2:], np.linalg.inv(S[2:, 2:]), rtol=1e-10)
    assert not fit.precision_[:2, 2:].any()


@pytest.mark.parametrize(("n", "d"), [(200, 5), (60, 12), (15, 20)])
def test_every_fit_of_a_path_meets_the_optimality_conditions(n, d):
    """KKT from SK + KS; with more columns than rows the diagonal of S is multiplied."""
    x = chain(n, d, seed=1)[0]
    fit, S = GaussianGraphicalModel(penalty="ebic").fit(x), covariance(x)
    S[np.diag_indices(d)] *= diagonal_multiplier(n, d)
    assert (diagonal_multiplier(n, d) > 1) == (n <= d)
    gaps = [kkt(S, K, lam) for lam, K in zip(fit.path_.penalties, fit.path_.precisions, strict=True)]
    assert max(gaps) < 1e-9
    assert (fit.path_.precisions == fit.path_.precisions.transpose(0, 2, 1)).all()
    assert fit.path_.edges[0] == 0 and fit.path_.edges[-1] > d / 2
    largest = np.abs(S @ np.diag(1 / np.diag(S)) + np.diag(1 / np.diag(S)) @ S)[~np.eye(d, dtype=bool)].max() / 2
    np.testing.assert_allclose(fit.path_.penalties[0], largest, rtol=1e-12)


def test_the_penalised_fit_agrees_with_a_general_minimiser():
    """L-BFGS-B on K = diagonal + positive part - negative part."""
    S, penalty, (i, j) = covariance(chain(40, 4, seed=2)[0]), 0.15, np.triu_indices(4, 1)

    def full(v):
        K = np.diag(v[:4])
        K[i, j] = K[j, i] = v[4:10] - v[10:]
        return K

    def loss(v):
        K = full(v)
        return np.trace(K @ S @ K) / 2 - np.trace(K) + 2 * penalty * v[4:].sum()

    def slope(v):
        g = S @ full(v) + full(v) @ S - 2 * np.eye(4)
        return np.concatenate([np.diag(g) / 2, g[i, j] + 2 * penalty, 2 * penalty - g[i, j]])

    bounds, options = [(None, None)] * 4 + [(0, None)] * 12, {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
    found = minimize(loss, np.append(np.ones(4), np.zeros(12)), jac=slope, bounds=bounds, options=options)
    K = GaussianGraphicalModel(penalty=penalty).fit(chain(40, 4, seed=2)[0]).precision_
    np.testing.assert_allclose(K, full(found.x), atol=1e-6)


def test_the_penalised_fit_solves_the_dense_system_of_its_signs():
    """The Hessian in all free entries at once, which the fit never forms: equal to 1e-9; S twice, by Kronecker."""
    x, penalty = chain(60, 6, seed=3)[0], 0.05
    K, S = GaussianGraphicalModel(penalty=penalty).fit(x).precision_, covariance(x)
    both = np.kron(np.eye(6), S) + np.kron(S, np.eye(6))  # of vec K in S K + K S
    i, j = np.nonzero(np.triu(K))
    place = np.zeros((36, len(i)))
    place[6 * i + j, np.arange(len(i))] = place[6 * j + i, np.arange(len(i))] = 1
    right = (2 * np.eye(6) - 2 * penalty * np.sign(K) * ~np.eye(6, dtype=bool)).ravel()
    theta = np.linalg.solve(place.T @ both @ place, place.T @ right)
    assert 6 < len(i) < 21
    np.testing.assert_allclose(theta, K[i, j], rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "way_out"),
    [
        (GaussianGraphicalModel(penalty=0.1), "an l1 penalty .* fit with penalty=0 and pattern=model.pattern_"),
        (Gaussian(inference=False), "fit with inference=True"),
    ],
    ids=str,
)
def test_a_hundred_columns_take_little_memory(model, way_out):
    """The Hessian in the 5,150 parameters would take 212 MB, and the peak is below a tenth of that."""
    x, K = chain(1000, 100)
    tracemalloc.start()
    try:
        fit = model.fit(x)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert not hasattr(fit, "hessian_") and np.abs(fit.precision_ - K).max() < 0.5
    with pytest.raises(RuntimeError, match=f"no standard errors; {way_out}"):
        fit.summary()


@pytest.mark.parametrize("multiplier", [None, 1.3])
@pytest.mark.parametrize("pattern", [None, CHAIN], ids=["complete", "chain"])
def test_the_covariance_is_that_of_the_influence_of_single_rows(pattern, multiplier):
    """Sum over rows of the squared derivative of the estimate in the row's weight, by central differences."""
    x, step, total = chain(30, 4)[0] * 3, 1e-4, 0.0
    model = GaussianGraphicalModel(pattern, penalty=0, multiplier=multiplier)
    expected = model.fit(x).covariance_
    for k in range(len(x)):
        up, down = np.ones(len(x)), np.ones(len(x))
        up[k], down[k] = 1 + step, 1 - step
        slope = (model.fit(x, sample_weight=up).theta_ - model.fit(x, sample_weight=down).theta_) / (2 * step)
        total = total + np.outer(slope, slope)
    np.testing.assert_allclose(expected, total, atol=1e-6 * np.abs(total).max())


def test_the_right_graph_gives_the_right_precision():
    """n = 20,000: z scores of the chain's entries below 4.5, and smaller errors than without the graph."""
    x, K = chain(20_000, 4, seed=3)
    fit, whole, (i, j) = (
        GaussianGraphicalModel(CHAIN).fit(x),
        GaussianGraphicalModel(penalty=0).fit(x),
        np.triu_indices(4),
    )
    free = fit.standard_error_ > 0
    assert free.sum() == 4 + 7
    assert (np.abs((fit.theta_ - np.append(np.zeros(4), K[i, j]))[free] / fit.standard_error_[free]) < 4.5).all()
    assert fit.wald_test(np.eye(14)[5], K[0, 1]).p_value > 1e-5
    assert fit.information_criterion() < whole.information_criterion()


@pytest.mark.parametrize("unit", [1e-60, 1e-3, 1e120])
@pytest.mark.parametrize("penalty", ["ebic", "cv"])
def test_a_common_unit_changes_nothing(unit, penalty):
    """The same penalty and graph, K divided by the unit squared."""
    x = chain(100, 5, seed=4)[0]
    here, there = (GaussianGraphicalModel(penalty=penalty).fit(rows) for rows in (x, x * unit))
    assert abs(here.penalty_ / there.penalty_ - 1) < 1e-10
    np.testing.assert_array_equal(here.pattern_, there.pattern_)
    np.testing.assert_allclose(there.precision_ * unit**2, here.precision_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(there.path_.precisions * unit**2, here.path_.precisions, rtol=1e-7, atol=1e-10)


def test_the_order_of_columns_changes_nothing():
    x, order = chain(100, 6, seed=5)[0], np.random.default_rng(0).permutation(6)
    here, there = GaussianGraphicalModel().fit(x), GaussianGraphicalModel().fit(x[:, order])
    np.testing.assert_allclose(there.precision_, here.precision_[np.ix_(order, order)], atol=1e-9)


def test_whole_weights_are_repetitions_for_a_given_penalty():
    x, w = chain(40, 4, seed=6)[0], np.random.default_rng(1).integers(0, 4, 40)
    a = GaussianGraphicalModel(penalty=0.1).fit(x, sample_weight=w)
    b = GaussianGraphicalModel(penalty=0.1).fit(np.repeat(x, w, axis=0))
    np.testing.assert_allclose(a.precision_, b.precision_, atol=1e-10)


def test_both_criteria_are_what_they_say():
    """eBIC by its formula with the graph refitted, cross-validation by fitting the folds one by one."""
    x = chain(90, 5, seed=7)[0] * 7
    bic, cv = (GaussianGraphicalModel(penalty=p, count=6).fit(x) for p in ("ebic", "cv"))
    S = covariance(x)
    empty = -np.sum(1 / np.diag(S)) / 2
    for k, K in enumerate(bic.path_.precisions):
        edges = np.count_nonzero(np.triu(K, 1))
        refit = GaussianGraphicalModel(K != 0).fit(x).objective_ / (empty * 4 / -5)
        expected = 2 * 90 * refit + edges * (np.log(90) + 2 * np.log(5))
        np.testing.assert_allclose(bic.path_.criterion[k], expected, rtol=1e-8)
    ties = np.isclose(bic.path_.criterion, bic.path_.criterion.min(), rtol=1e-9)
    assert bic.penalty_ == bic.path_.penalties[ties].min()  # one graph, one value: the least shrunk
    part = np.arange(90) % 5
    held = [
        np.mean([-GaussianGraphicalModel(penalty=lam).fit(x[part != f]).score(x[part == f]) for f in range(5)])
        for lam in cv.path_.penalties
    ]
    ratio = cv.path_.criterion / held
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-8)
    assert cv.penalty_ == cv.path_.penalties[np.argmin(held)]


def test_the_chain_is_found():
    """By eBIC at n = 4000, exactly; by cross-validation at least."""
    x, K = chain(4000, 10, seed=8)
    np.testing.assert_array_equal(GaussianGraphicalModel(penalty="ebic").fit(x).pattern_, K != 0)
    assert (GaussianGraphicalModel(penalty="cv").fit(x).pattern_ >= (K != 0)).all()


def test_a_pattern_bounds_the_search():
    """With both, the path stays within the pattern, and meets the conditions there."""
    x = chain(50, 4, seed=9)[0]
    fit = GaussianGraphicalModel(CHAIN, penalty=0.05).fit(x)
    assert not fit.precision_[~CHAIN].any() and (fit.pattern_ == CHAIN).all()
    slope = covariance(x) @ fit.precision_
    slope = (slope + slope.T - 2 * np.eye(4) + 0.1 * np.sign(fit.precision_) * ~np.eye(4, dtype=bool))[CHAIN]
    assert np.abs(slope).max() < 1e-10


def test_pairs_of_a_tournament_meet_once_and_never_share_a_column():
    for d in (1, 2, 5, 8):
        rounds = tournament(d)
        met = sorted((int(a), int(b)) for i, j in rounds for a, b in zip(i, j, strict=True))
        assert met == [(a, b) for a in range(d) for b in range(a, d)]
        assert all(len({*i, *j}) == 2 * len(i) for i, j in rounds[1:])


def test_an_estimate_that_is_not_positive_definite_is_kept_and_said():
    """Four rows on a chain: scores remain, samples and densities do not."""
    x = np.array([[1.0, -2.0, 1.0], [-1.0, -2.0, 0.0], [-1.0, -1.0, -3.0], [2.0, -2.0, 1.0]])
    with pytest.warns(NotNormalisable, match=r"eigenvalue -11\.01, which must be > 0"):
        fit = GaussianGraphicalModel(CHAIN[:3, :3]).fit(x)
    assert np.linalg.eigvalsh(fit.precision_)[0] < 0
    assert not hasattr(fit, "score_samples") and np.isfinite(fit.score_function(x)).all()
    with pytest.raises(RuntimeError, match="cannot be sampled"):
        fit.sample()


def test_samples_have_the_laws_covariance():
    """Within 4.5 standard errors of 20,000 draws."""
    fit = GaussianGraphicalModel(CHAIN).fit(chain(200, 4)[0] + [1, 2, 3, 4])
    x = fit.sample(20_000, random_state=0) - fit.mean_
    pairs = x[:, :, None] * x[:, None]
    gap = np.abs(pairs.mean(0) - np.linalg.inv(fit.precision_))
    assert (gap < 4.5 * pairs.std(0) / np.sqrt(20_000)).all()


def test_frames_pipelines_and_grids():
    frame = pd.DataFrame(chain(60, 3)[0], columns=["a", "b", "c"])
    fit = GaussianGraphicalModel(penalty=0).fit(frame)
    assert fit.parameter_names_[3:5] == ["P[a, a]", "P[a, b]"] and "P[a, b]" in str(fit.summary())
    search = GridSearchCV(
        make_pipeline(StandardScaler(), GaussianGraphicalModel()), {"gaussiangraphicalmodel__penalty": [0.02, 10.0]}
    )
    assert search.fit(frame).best_params_ == {"gaussiangraphicalmodel__penalty": 0.02}
    with pytest.raises(RuntimeError, match="no standard errors"):
        GaussianGraphicalModel(penalty=0.1, count=np.int64(5)).fit(frame).summary()


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"pattern": np.eye(3)}, r"pattern must have shape \(4, 4\)"),
        ({"pattern": np.triu(np.ones((4, 4)))}, "pattern must be symmetric"),
        ({"penalty": "bic"}, "did you mean 'ebic'"),
        ({"penalty": -1.0}, "penalty must be a finite number >= 0"),
        ({"multiplier": 0.5}, "multiplier must lie in"),
        ({"folds": 1}, "folds must be >= 2"),
        ({"penalty": "cv", "folds": 21}, "folds need 42 rows"),
        ({"ratio": 2.0}, "ratio must lie in"),
    ],
)
def test_bad_settings_are_refused(given_, words):
    with pytest.raises(ValueError, match=words):
        GaussianGraphicalModel(**given_).fit(chain(40, 4)[0])


def test_a_complete_graph_is_the_gaussian(monkeypatch):
    """Estimate, errors, Hessian and condition number of `Gaussian`, in other units too, and no linear system in K."""
    monkeypatch.setattr("scorefield.estimators.graphs.Columns.system", None)
    x = chain(50, 4)[0] * 7.0
    w = np.random.default_rng(0).uniform(0.2, 2, 50)
    fit, exact = (e.fit(x, sample_weight=w) for e in (GaussianGraphicalModel(penalty=0), Gaussian()))
    for name in ("theta_", "covariance_", "hessian_", "objective_", "condition_number_"):
        np.testing.assert_allclose(getattr(fit, name), getattr(exact, name), rtol=1e-10, atol=1e-13)
    wide = chain(300, 100)[0]  # 5,050 entries
    bare = GaussianGraphicalModel(penalty=0, inference=False).fit(wide)
    np.testing.assert_allclose(bare.precision_ @ covariance(wide), np.eye(100), atol=1e-10)


@pytest.mark.filterwarnings("ignore::scorefield.estimators.NotNormalisable")
def test_degenerate_columns():
    """A constant column has no penalised fit; a given graph answers with the pseudo-inverse, or refuses."""
    x = chain(30, 3)[0]
    x[:, 1] = 2.0
    with pytest.raises(ValueError, match="column 1 of X is constant"):
        GaussianGraphicalModel().fit(x)
    with pytest.warns(np.exceptions.RankWarning, match="do not determine x2;"):
        GaussianGraphicalModel(penalty=0).fit(x)
    with pytest.raises(ValueError, match="do not determine"):
        GaussianGraphicalModel(penalty=0, on_singular="raise").fit(x)
    with pytest.raises(ValueError, match="give a larger penalty or a multiplier > 1"):
        GaussianGraphicalModel(penalty=1e-6, multiplier=1.0).fit(chain(5, 8)[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("penalty", [None, 0.0])
def test_scikit_learn_finds_nothing_wrong(penalty):
    """Every check of `check_estimator` passes; none is expected to fail."""
    found = check_estimator(GaussianGraphicalModel(penalty=penalty, count=5), on_fail=None, on_skip=None)
    assert {r["check_name"]: r["exception"] for r in found if r["status"] == "failed"} == {}
    assert len([r for r in found if r["status"] == "passed"]) > 40


@st.composite
def tables(draw):
    """Rows with constant, copied or dependent columns, far apart scales, few rows, wild weights."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d, n = rng.integers(2, 6), rng.integers(3, 20)
    if draw(st.integers(0, 14)) == 14:
        d, n = rng.integers(1, 3, size=2)
    x = rng.normal(size=(n, d)) * 10.0 ** draw(st.sampled_from([0, 0, 0, 0, 0, -3, 8, -60, 60, 150, -150, -300, 300]))
    kind = draw(st.sampled_from(["free", "constant", "copied", "dependent", "far", "scales", "rows"]))
    if kind == "constant":
        x[:, -1] = x[0, -1]
    elif kind == "copied":
        x[:, -1] = x[:, 0]
    elif kind == "dependent":
        x[:, -1] = x.mean(1)
    elif kind == "far":
        x += 1e8 * np.abs(x).max()
    elif kind == "scales":
        x *= 10.0 ** rng.integers(-8, 8, size=d)
    elif kind == "rows":
        x[:] = x[0]
    if draw(st.integers(0, 9)) == 0:
        x[rng.integers(n), rng.integers(d)] = draw(st.sampled_from([np.nan, np.inf, 1e308]))
    weight = draw(st.sampled_from([None, None, None, "random", "random", "one", "zero", "huge"]))
    w = None if weight is None else rng.uniform(size=n)
    if weight == "one":
        w = (np.arange(n) == 0) * 1.0
    elif weight in ("zero", "huge"):
        w = w * {"zero": 0, "huge": 1e300}[weight]
    pattern = draw(st.sampled_from([None, "diagonal"]))
    how = draw(
        st.sampled_from([{"penalty": 0}, {"penalty": 0.1}, {"count": 4}, {"penalty": "cv", "folds": 2, "count": 3}])
    )
    return x, w, how | ({} if pattern is None else {"pattern": np.eye(d)})


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, **QUIET)
@given(tables())
def test_any_rows_end_in_a_finite_fit_or_a_refusal(table):
    finite_graph_or_refused(GaussianGraphicalModel, table)


@pytest.mark.certify
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=2000, **QUIET)
@given(tables())
def test_two_thousand_tables_end_in_a_finite_fit_or_a_refusal(table):
    finite_graph_or_refused(GaussianGraphicalModel, table)
