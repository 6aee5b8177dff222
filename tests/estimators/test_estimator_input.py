"""What goes into the parametric estimators: scikit-learn's contract, bad input, extreme scales, generated input."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.exceptions import RankWarning
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from scorefield.estimators import ExponentialFamily, Gaussian, NotNormalisable, Powers, ScoreMatching, TruncatedGaussian

ALL = {
    "Gaussian": Gaussian(),
    "TruncatedGaussian": TruncatedGaussian(),
    "TruncatedGaussian, real": TruncatedGaussian("real"),
    "ExponentialFamily": ExponentialFamily(),
    "ExponentialFamily, quartic": ExponentialFamily("quartic"),
    "ScoreMatching": ScoreMatching(),
}
EACH = pytest.mark.parametrize("estimator", ALL.values(), ids=ALL)
POSITIVE = np.random.default_rng(0).gamma(3, 0.5, size=(60, 2))


@EACH
def test_scikit_learn_finds_no_fault(estimator):
    """`check_estimator`, with no expected failure; what it skips, it skips for arrays of other libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_fail=None)
    assert [r for r in results if r["status"] not in ("passed", "skipped")] == []
    assert [r["check_name"] for r in results if r["status"] == "skipped"] == ["check_array_api_input"]


def with_entry(value):
    x = POSITIVE.copy()
    x[7, 1] = value
    return x


@EACH
@pytest.mark.parametrize(
    ("X", "error", "match"),
    [
        (with_entry(np.nan), ValueError, "NaN"),
        (with_entry(np.inf), ValueError, "infinity"),
        (POSITIVE + 1j, ValueError, "Complex"),
        (POSITIVE[:1], ValueError, "1 sample"),
        (POSITIVE[:0], ValueError, "0 sample"),
        (POSITIVE[:, :0], ValueError, r"0 feature"),
        (POSITIVE[:, 0], ValueError, "1D array"),
        (POSITIVE[None], ValueError, "dim 3"),
        (scipy.sparse.csr_array(POSITIVE), TypeError, "[Ss]parse"),
        ([["a", 1.0], ["b", 2.0]], ValueError, "drop or encode its text"),
        (np.array([[{}, 1.0], [2.0, 3.0]], dtype=object), TypeError, "number"),
    ],
)
def test_tables_that_are_none_are_refused(estimator, X, error, match):
    """Each with its reason."""
    with pytest.raises(error, match=match):
        estimator.fit(X)


@EACH
@pytest.mark.parametrize(
    ("weight", "match"),
    [
        (np.zeros(60), "zero"),
        (-np.ones(60), "must be >= 0"),
        (np.ones(59), "shape"),
        (np.ones((60, 2)), "shape"),
        (np.full(60, np.nan), "NaN"),
        (np.eye(60)[0], "1 sample"),
    ],
)
def test_weights_that_are_none_are_refused(estimator, weight, match):
    """Negative, all zero, another shape, not finite, or all on one row."""
    with pytest.raises(ValueError, match=match):
        estimator.fit(POSITIVE, sample_weight=weight)


@EACH
def test_float16_is_upcast_and_said_and_objects_are_converted(estimator):
    """The same numbers in other dtypes give the same fit."""
    half = POSITIVE.astype(np.float16)
    theta = estimator.fit(half.astype(float)).theta_.copy()
    with pytest.warns(DataConversionWarning, match="float16"):
        np.testing.assert_array_equal(estimator.fit(half).theta_, theta)
    np.testing.assert_array_equal(estimator.fit(half.astype(object)).theta_, theta)
    np.testing.assert_allclose(estimator.fit(np.asfortranarray(half, dtype=np.float32)).theta_, theta, rtol=1e-12)


def test_float16_columns_of_a_data_frame_are_said_too():
    """pandas keeps one dtype per column."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": POSITIVE[:, 0].astype(np.float16), "b": POSITIVE[:, 1]})
    with pytest.warns(DataConversionWarning, match="float16"):
        Gaussian().fit(frame)


@EACH
def test_nothing_is_answered_before_fit(estimator):
    """Every method asks for a fit first."""
    blank = type(estimator)()
    asked = [lambda: blank.score(POSITIVE), lambda: blank.score_function(POSITIVE), blank.summary, blank.sample]
    for ask in asked:
        with pytest.raises(NotFittedError):
            ask()


def test_estimators_work_in_pipelines_and_searches():
    """Scaling before a fit; the ridge by the held-out objective; cross-validation prefers the right family."""
    x = np.random.default_rng(0).gamma(3, 0.5, size=(200, 1))
    assert np.isfinite(make_pipeline(StandardScaler(), Gaussian()).fit(x).score(x))
    search = GridSearchCV(ExponentialFamily("gamma", domain="half-line"), {"ridge": [0.0, 1e3]}).fit(x)
    assert search.best_params_ == {"ridge": 0.0}
    gamma, exponential = (
        cross_val_score(ExponentialFamily(name, domain="half-line"), x).mean() for name in ("gamma", "exponential")
    )
    assert gamma > exponential


@pytest.mark.parametrize("estimator", [Gaussian(), TruncatedGaussian("real"), ExponentialFamily()], ids=str)
@pytest.mark.parametrize("case", ["constant", "duplicate", "few"])
def test_singular_fits_use_the_pseudo_inverse_with_a_warning_that_names_the_columns(estimator, case):
    """Constant and duplicate columns, and fewer rows than columns; `on_singular="raise"` refuses."""
    x = np.random.default_rng(0).normal(size=(50, 3))
    if case == "few":
        x = x[:3]
    else:
        x[:, 2] = 0.1 if case == "constant" else x[:, 0]
    with pytest.warns(RankWarning, match="pseudo-inverse") as caught, warnings.catch_warnings():
        estimator.set_params(on_singular="pinv").fit(x)
    said = next(str(w.message) for w in caught if w.category is RankWarning)
    assert "x3" in said
    if case == "constant":
        assert "x1]" not in said
    assert ("x1" in said) == (case != "constant" or "x1, x3" in said)
    assert np.isfinite(estimator.theta_).all()
    assert estimator.condition_number_ == np.inf
    if not isinstance(estimator, ExponentialFamily):  # whose pseudo-inverse happens to be a density
        with pytest.raises(RuntimeError, match="cannot be sampled"):
            estimator.sample(3)
    with pytest.raises(ValueError, match="drop constant or duplicate"):
        estimator.set_params(on_singular="raise").fit(x)
    estimator.set_params(on_singular="pinv")


def test_a_gaussian_on_a_plane_lacks_its_density_and_the_pseudo_inverse_is_moore_penrose():
    """Of the correlation matrix: P S P = P; `score_samples` is missing, with the reason."""
    x = np.random.default_rng(0).normal(size=(50, 2)) @ np.array([[1.0, 1, 2], [0, 1, -1]])
    with pytest.warns(RankWarning):
        fit = Gaussian().fit(x)
    product = fit.precision_ @ fit.covariance_matrix_ @ fit.precision_
    np.testing.assert_allclose(product, fit.precision_, atol=1e-12)
    assert not hasattr(fit, "score_samples")
    with pytest.raises(AttributeError) as caught:
        fit.score_samples(x)
    assert "singular" in str(caught.value.__cause__)
    assert hasattr(Gaussian().fit(x[:, :2]), "score_samples")
    for estimator in (TruncatedGaussian(), ExponentialFamily(), ScoreMatching()):
        assert not hasattr(estimator, "score_samples")


def test_ill_conditioned_statistics_are_named():
    """Two columns that differ by 1e-6 of their spread: condition number above 1e10, and both are named."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    x[:, 2] = x[:, 0] + 1e-6 * rng.normal(size=200)
    with pytest.warns(RankWarning, match=r"ill-conditioned.*> 1e10.*x1, x3"):
        fit = Gaussian().fit(x)
    assert 1e10 < fit.condition_number_ < 1e15


def test_fits_that_are_no_density_say_so_with_the_eigenvalue_and_refuse_to_sample():
    """A tail too heavy for a Gaussian; x^4 with a coefficient > 0, or x^3 first; gamma laws of no shape or no rate."""
    rng = np.random.default_rng(0)
    x, heavy = rng.normal(size=(50, 1)), rng.standard_t(1.5, size=(3000, 1))
    gamma = {"domain": "half-line", "statistic": "gamma"}
    fits = {
        "eigenvalue -": (TruncatedGaussian(), np.exp(1.5 * rng.normal(size=(500, 1)))),
        "leading coefficient": (ExponentialFamily("quartic"), heavy),
        "is odd": (ExponentialFamily(Powers((1, 2, 3))), x),
        "does not fall along": (ExponentialFamily(lambda x: x**2, base=lambda x: x[:, 0] ** 4), x),
        "the rate": (ExponentialFamily(**gamma, fixed={"-rate[x1]": 0.5}), POSITIVE[:, :1]),
        "the shape": (ExponentialFamily(**gamma, fixed={"shape[x1] - 1": -2}), POSITIVE[:, :1]),
    }
    for match, (estimator, x) in fits.items():
        with pytest.warns(NotNormalisable, match=match):
            fit = estimator.fit(x)
        with pytest.raises(RuntimeError, match="no normalising constant"):
            fit.sample(3)
        assert np.isfinite(fit.theta_).all()


def test_rows_outside_of_the_domain_are_refused_at_fit_and_at_score():
    """With the row; negative data on the half-line, points beyond a ball, a polygon, an interval."""
    cases = {
        "half-line": [[1.0, -0.1]],
        ("ball", (0.0, 0.0), 2.0): [[2.0, 1.0]],
        ("polygon", ((0, 0), (1, 0), (1, 1))): [[0.2, 0.5]],
        ("interval", 0, 3): [[0.5, 3.1]],
        ("box", (0, 0), (9, 1)): [[0.5, 1.1]],
    }
    inside = np.array([[0.5, 0.2], [0.7, 0.3], [0.9, 0.5], [0.8, 0.1], [0.6, 0.5], [0.9, 0.2]])
    for domain, row in cases.items():
        for estimator in (TruncatedGaussian(domain), ExponentialFamily(domain=domain), ScoreMatching(domain=domain)):
            with pytest.raises(ValueError, match=r"row 6 .* outside of the domain.*drop such rows"):
                estimator.fit(np.concatenate([inside, row]))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit = estimator.fit(inside)
            with pytest.raises(ValueError, match="outside of the domain"):
                fit.score(row)
            assert fit.log_density(row)[0] == -np.inf


def test_data_that_touch_a_boundary_are_refused_by_the_plain_objective_alone():
    """The way out is the weight."""
    x = np.concatenate([POSITIVE, [[0.0, 1.0]]])
    for estimator in (TruncatedGaussian(), ExponentialFamily(domain="half-line"), ScoreMatching(domain="half-line")):
        with pytest.raises(ValueError, match=r'touches the boundary.*weight="default"'):
            estimator.set_params(weight="plain").fit(x)
        assert np.isfinite(estimator.set_params(weight=None).fit(x).theta_).all()


@pytest.mark.parametrize(
    ("domain", "weight", "match"),
    [
        ("reel", None, "did you mean 'real'"),
        (("interval", 1, 0), None, "must lie below"),
        (("box", [0, 0, 0], 1), None, "low must be one number or 2"),
        (("box", 0), None, "domain must be"),
        (("ball", 0, -1.0), None, "radius"),
        (("polygon", [(0, 0), (1, 1)]), None, "3 or more vertices"),
        (("polygon", [(0, 0), (1, 1), (1, 0), (0, 1)]), None, "not cross"),
        (7, None, "domain must be"),
        ("real", "x2", "needs a domain with a boundary"),
        ("half-line", "squared", "weight must be one of"),
        ("half-line", ("min", -1.0), "c must be"),
        ("half-line", ("max", 1.0), 'must be \\("min", c\\)'),
        ("half-line", lambda x: x.sum(1), "one number per coordinate"),
        ("half-line", lambda x: -x, "weight must be >= 0"),
        (lambda x: x, None, "one number per row"),
    ],
)
def test_domains_and_weights_that_are_none_are_refused(domain, weight, match):
    """A wrong name, ends, radius, vertices, shape or sign."""
    with pytest.raises(ValueError, match=match):
        TruncatedGaussian(domain, weight).fit(POSITIVE)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"statistic": "gama"}, ValueError, "did you mean 'gamma'"),
        ({"statistic": 3}, TypeError, "statistic must be"),
        ({"statistic": (torch.sin, torch.cos)}, ValueError, "three callables"),
        ({"statistic": lambda x: x.sum(1)}, ValueError, "one row of K numbers"),
        ({"statistic": (torch.sin, torch.cos, torch.cos)}, ValueError, "must be \\(B, K, d\\)"),
        ({"statistic": lambda x: (x - 9).log()}, ValueError, "not finite at row 0"),
        ({"statistic": lambda x: (x - x[:1, :1]).abs().sqrt()}, ValueError, "not finite at row 0"),
        ({"base": 3}, TypeError, "base must be"),
        ({"fixed": {"P[x1, x3]": 0.0}}, ValueError, "must be one of"),
        ({"fixed": {9: 0.0}}, ValueError, "index 9"),
        ({"fixed": {0: np.nan}}, ValueError, "finite"),
        ({"ridge": -1.0}, ValueError, "ridge must be"),
        ({"on_singular": "ignore"}, ValueError, "on_singular must be one of pinv, raise"),
    ],
)
def test_families_that_are_none_are_refused(arguments, error, match):
    """Statistics of a wrong kind, shape or value, and settings."""
    with pytest.raises(error, match=match):
        ExponentialFamily(**arguments).fit(POSITIVE)


@pytest.mark.parametrize("power", [-300, -150, -100, 100, 150, 300])
@EACH
def test_extreme_scales_end_in_the_answer_or_in_the_remedy(estimator, power):
    """1e+-300: never a nan, an infinity or a zero from underflow; no standard errors of what did not converge."""
    x = POSITIVE * 10.0**power
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            fit = estimator.fit(x)
        except ValueError as error:
            assert "rescale" in str(error) or "not finite" in str(error)
            return
    assert np.isfinite(fit.theta_).all()
    assert (fit.theta_ != 0).all()
    if any(issubclass(w.category, ConvergenceWarning) for w in said):
        assert not hasattr(fit, "standard_error_")
    else:
        assert (fit.standard_error_ > 0).all()


def test_units_do_not_matter_to_gaussians():
    """Columns in units 1e-70 and 1e+60, and far from the origin: the same fit, in those units."""
    scale, shift = np.array([1e-70, 1e60]), np.array([3e-70, -8e60])
    for estimator in (Gaussian(), TruncatedGaussian("real")):
        plain = estimator.fit(POSITIVE)
        mean, precision, z = plain.mean_, plain.precision_, plain.theta_ / plain.standard_error_
        fit = estimator.fit(POSITIVE * scale + shift)
        np.testing.assert_allclose(fit.mean_, mean * scale + shift, rtol=1e-10)
        np.testing.assert_allclose(fit.precision_, precision / scale / scale[:, None], rtol=1e-9)
        np.testing.assert_allclose((fit.theta_ / fit.standard_error_)[2:], z[2:], rtol=1e-9)
    natural = ExponentialFamily().fit(POSITIVE * scale)  # the system's entries differ by 1e260
    np.testing.assert_allclose(natural.theta_[2:], Gaussian().fit(POSITIVE * scale).theta_[2:], rtol=1e-10)
    far = TruncatedGaussian(("box", 1e6, 1e6 + 9)).fit(POSITIVE + 1e6)
    near = TruncatedGaussian(("box", 0, 9)).fit(POSITIVE)
    np.testing.assert_allclose(far.precision_, near.precision_, rtol=1e-7)


FAMILIES = {
    "Gaussian": Gaussian,
    "TruncatedGaussian": TruncatedGaussian,
    "ExponentialFamily": ExponentialFamily,
    "gamma": lambda: ExponentialFamily("gamma", domain="half-line"),
    "ScoreMatching": lambda: ScoreMatching(solver="newton", max_iter=3),
}
ODD = st.sampled_from([0.0, 1.0, 1.0, -1.0, 0.5, 1e-300, -1e-300, 1e300, 1e-8, 1e8, 5e-324, np.inf, np.nan])


@st.composite
def tables(draw):
    """Tables of ordinary and odd numbers, some with constant or repeated columns, some with weights."""
    n, d = draw(st.integers(1, 8)), draw(st.integers(1, 3))
    rows = st.lists(st.one_of(st.floats(-10, 10), ODD), min_size=d, max_size=d)
    x = np.array(draw(st.lists(rows, min_size=n, max_size=n)))
    if draw(st.booleans()):
        x = np.abs(x)
    if draw(st.integers(0, 4)) == 0:
        x[:, -1] = x[:, 0]
    weight = st.one_of(st.floats(0, 3), st.sampled_from([0.0, 1e-300, 1e300, -1.0, np.nan]))
    return x, draw(st.one_of(st.none(), st.lists(weight, min_size=n, max_size=n)))


def ends_well(family, table):
    """A finite fit, or a ValueError that says what to do."""
    x, w = table
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = FAMILIES[family]().fit(x, sample_weight=w)
        except ValueError as error:
            remedies = (
                "rescale",
                "drop",
                "give",
                "NaN",
                "infinity",
                "too large",
                "sample",
                "set them",
                "start elsewhere",
            )
            assert any(word in str(error) for word in remedies), str(error)
            return
    assert np.isfinite(fit.theta_).all()
    if hasattr(fit, "covariance_"):
        assert np.isfinite(fit.covariance_).all()
        assert str(fit.summary())


HOW = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, **HOW)
@given(table=tables())
def test_generated_input_ends_in_a_finite_fit_or_a_remedy(family, table):
    """Sixty of each."""
    ends_well(family, table)


@pytest.mark.certify
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2000, **HOW)
@given(table=tables())
def test_much_generated_input_ends_in_a_finite_fit_or_a_remedy(family, table):
    """Two thousand of each."""
    ends_well(family, table)
