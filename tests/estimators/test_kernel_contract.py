"""What scikit-learn and a person with bad data may expect of the kernel estimators."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.exceptions import RankWarning
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from scorefield.densities import Gaussian, Rings
from scorefield.estimators.kernels import (
    KernelExponentialFamily,
    KernelScore,
    NuMethodScore,
    SpectralScore,
    SteinScore,
)

FAMILIES = [KernelScore, KernelExponentialFamily, SteinScore, SpectralScore, NuMethodScore]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
X = np.random.default_rng(0).normal(size=(40, 2)) * [1.0, 2.0] + 1.0


@every_family
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_finds_nothing_wrong(family):
    """Every check of `check_estimator` passes; none is expected to fail."""
    found = check_estimator(family(), on_fail=None, on_skip=None)
    assert {r["check_name"] for r in found if r["status"] == "failed"} == set()
    assert len([r for r in found if r["status"] == "passed"]) > 40


@every_family
def test_frames_pipelines_grids_and_pickles(family):
    """Names are kept, searches find the better bandwidth, and a copy answers alike."""
    frame = pd.DataFrame(X, columns=["a", "b"])
    fit = family().fit(frame)
    assert list(fit.feature_names_in_) == ["a", "b"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fit)).score_function(frame), fit.score_function(frame))
    make_pipeline(StandardScaler(), clone(fit)).fit(frame).score(frame)
    ring = Rings([2.0], 0.3).sample((150,), generator=torch.Generator().manual_seed(0)).numpy()
    good = 0.25 if family is KernelScore else 1.2
    search = GridSearchCV(family(), {"bandwidth": [0.01, good, 30.0]}, cv=3).fit(ring)
    assert search.best_params_ == {"bandwidth": good}


def test_settings_may_be_numpys_integers():
    """As a grid made by `np.arange` holds them."""
    five = np.int64(5)
    for model in (NuMethodScore(iterations=five), SpectralScore(components=five), SteinScore(max_iterations=five)):
        model.set_params(landmarks=five, solver="nystrom", random_state=0).fit(X)


@every_family
def test_what_a_model_has_not_it_lacks(family):
    """Only the density estimate is normalised; only gradients of a function have a log-density; few can be sampled."""
    model = family()
    assert hasattr(model, "score_samples") == (family is KernelScore)
    assert hasattr(model, "log_density") == (family in (KernelExponentialFamily, NuMethodScore))
    assert hasattr(model, "sample") == (family in (KernelScore, KernelExponentialFamily))
    assert not hasattr(NuMethodScore(kernel="diagonal"), "log_density")


def test_a_flat_base_refuses_to_be_sampled():
    """It has a log-density up to a constant, which may be infinite."""
    fit = KernelExponentialFamily(base="flat").fit(X)
    assert np.isfinite(fit.log_density(X)).all()
    with pytest.raises(RuntimeError, match='base="flat" is no density'):
        fit.sample(3)


def test_a_singular_gaussian_base_is_said_or_refused():
    """More columns than rows: a RankWarning, a finite fit and no samples; or an error."""
    wide = np.random.default_rng(1).normal(size=(5, 9))
    with pytest.warns(RankWarning, match="rank 4, so that the Gaussian base is singular; give more rows"):
        fit = KernelExponentialFamily().fit(wide)
    assert np.isfinite(fit.score_function(wide)).all()
    with pytest.raises(RuntimeError, match="rank 4 of 9"):
        fit.sample(2)
    with pytest.raises(ValueError, match="give another base"):
        KernelExponentialFamily(on_singular="raise").fit(wide)
    KernelExponentialFamily(base=Gaussian(np.zeros(9), np.eye(9))).fit(wide)


@every_family
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.c_[X, np.ones(40)], r"column 2 of X is constant \(1\) and has no density; drop it"),
        (np.c_[X, X[:, 0]], "columns 0 and 2 of X are equal, and have no joint density; drop one"),
        (X * 1e300, "divide it by a number"),
        (X * 1e-300, "multiply X by a number"),
        (X[:1], "1 sample"),
        (X[:0], "0 sample"),
        (X + 1j, "Complex data not supported"),
        (np.where(X > 2, np.nan, X), "NaN"),
        (np.array([["a", "b"], ["c", "d"]], dtype=object), "drop or encode its text columns"),
    ],
    ids=["constant", "equal", "large", "small", "one", "empty", "complex", "nan", "text"],
)
def test_bad_rows_get_a_clear_error(family, rows, message):
    with pytest.raises(ValueError, match=message):
        family().fit(rows)


@every_family
def test_bad_settings_and_questions_get_a_clear_error(family):
    with pytest.raises(ValueError, match="bandwidth must be a finite number > 0, got -1"):
        family(bandwidth=-1).fit(X)
    with pytest.raises(ValueError, match="bandwidth must be a number > 0, None or \"held-out\", got 'wide'"):
        family(bandwidth="wide").fit(X)
    with pytest.raises(ValueError, match="within a factor 1e6 of the spread"):
        family(bandwidth=1e-9).fit(X)
    with pytest.raises(ValueError, match="needs at least 10 rows, got 6"):
        family(bandwidth="held-out").fit(X[:6])
    with pytest.raises(ValueError, match="sample_weight must be >= 0, got -1 at row 0"):
        family().fit(X, sample_weight=np.r_[-1.0, np.ones(39)])
    with pytest.raises(ValueError, match="nearly all the weight lies on equal rows"):
        family().fit(X, sample_weight=np.r_[1.0, np.full(39, 1e-30)])
    with pytest.raises(ValueError, match="within 1e50 bandwidths of the rows of the fit, got .*; drop"):
        family().fit(X).score(X * 1e60)
    with pytest.raises(ValueError, match="divide it by a number"):
        family().fit(X).score_function(X * 1e200)
    with pytest.warns(UserWarning, match="float16"):
        family().fit(X.astype(np.float16))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (KernelExponentialFamily(regularization=0.0), "regularization must be a finite number > 0, got 0.0"),
        (KernelExponentialFamily(1e-3, 1e-9), "must be > 1e-12 in coordinates divided by the bandwidth"),
        (SteinScore(regularization=1e-13, solver="nystrom"), "rounding does not swallow it, got 1e-13 there; raise it"),
        (SteinScore(regularization=1e-13, solver="conjugate-gradient"), "must be > 1e-12"),
        (KernelExponentialFamily(regularization="much"), 'regularization must be a number, None or "held-out"'),
        (KernelExponentialFamily(base="round"), 'base must be None, "flat" or a density'),
        (KernelExponentialFamily(solver="exakt"), "did you mean 'exact'"),
        (KernelExponentialFamily(tolerance=0.0), "tolerance must be a finite number > 0"),
        (KernelExponentialFamily(on_singular="pinvv"), "did you mean 'pinv'"),
        (SteinScore(landmarks=0), "landmarks must be >= 1"),
        (SpectralScore(2.0, 1.5), r"regularization must lie in \[0, 1\]"),
        (SpectralScore(2.0, 0.1, components=3), "leave one of them None"),
        (SpectralScore(0.1, 0.99), "no eigenvalue reaches regularization = 0.99, the largest is"),
        (SpectralScore(solver="conjugate-gradient"), "solver must be one of auto, exact, nystrom"),
        (NuMethodScore(iterations=0), "iterations must be >= 1"),
        (NuMethodScore(nu=0.0), "nu must be a finite number > 0"),
        (NuMethodScore(kernel="curl"), "did you mean 'curl-free'"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(estimator, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)


def numbers(least, most):
    return st.floats(least, most, allow_nan=False) | st.sampled_from([0.0, 1.0, -1.0])


@st.composite
def problems(draw):
    """Rows of few values, of wild values, and of any scale, with weights, settings and a sometimes silly bandwidth."""
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["few", "wild", "scaled", "far", "broken"]))
    if kind == "few":
        x = draw(arrays(np.float64, (n, d), elements=st.sampled_from([0.0, 1.0, 2.0])))
    elif kind == "broken":
        x = draw(arrays(np.float64, (n, d), elements=st.floats()))
    else:
        x = draw(arrays(np.float64, (n, d), elements=numbers(-10, 10)))
        scale = 10.0 ** draw(st.integers(-300, 300) if kind == "scaled" else st.integers(-3, 3))
        x = x * scale + (draw(st.sampled_from([1e3, 1e8, 1e15])) if kind == "far" else 0.0)
    weights = draw(st.none() | arrays(np.float64, n, elements=numbers(-0.1, 5) | st.sampled_from([1e-300, 1e300])))
    bandwidth = draw(st.sampled_from([None, None, 0.1, 1.0, 30.0, 1e-7, 1e9]))
    return x, weights, bandwidth, draw(st.sampled_from([None, None, 1e-9, 1e-3, 1.0])), draw(st.booleans())


def fits_or_says_why(family, problem):
    """A finite score at rows and beside them, or a ValueError that says what to do."""
    x, weights, bandwidth, strength, landmarks = problem
    model = family(bandwidth)
    if family is not KernelScore:
        model.set_params(**({"landmarks": 3, "solver": "nystrom", "random_state": 0} if landmarks else {}))
        iterations = {None: None, 1e-9: 500, 1e-3: 30, 1.0: 1}[strength]
        given_strength = {"iterations": iterations} if family is NuMethodScore else {"regularization": strength}
        model.set_params(**given_strength)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model.fit(x, sample_weight=weights)
            places = np.vstack([x, x[:1] + model.bandwidth_, x[:1] - 1e3 * model.bandwidth_])
            answers = model.score_function(places), model.score(places)
        except ValueError as error:
            assert re.search("; |sample|contains|[Cc]olumn", str(error)), error  # it names the way out, or what to drop
            return
    assert all(np.isfinite(answer).all() for answer in answers)


@every_family
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problem=problems())
def test_a_hundred_odd_inputs_are_fitted_or_refused(family, problem):
    fits_or_says_why(family, problem)


@pytest.mark.certify
@every_family
@settings(max_examples=2000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(problem=problems())
def test_two_thousand_odd_inputs_are_fitted_or_refused(family, problem):
    fits_or_says_why(family, problem)
