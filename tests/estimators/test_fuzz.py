"""Generated input for what its own file does not fuzz: every answer is finite, or an error names the way out."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scorefield.estimators import (
    IndependentComponents,
    KernelScore,
    PseudoLikelihood,
    RatioMatching,
    kernel_stein_test,
    stein_discrepancy,
    stein_thinning,
    tweedie,
)
from scorefield.neural import ScoreDensity
from scorefield.training import Diverged

WAY_OUT = (
    "must",
    "need",
    "give",
    "drop",
    "rescale",
    "divide",
    "multiply",
    "leave",
    "required",
    "NaN",
    "infinity",
    "look",
)
KINDS = ("free", "free", "few", "constant", "copied", "dependent", "rows", "far", "scales", "tiny", "huge", "broken")


@st.composite
def tables(draw, least=1, most=12):
    """Rows (n, d) with constant, copied and dependent columns, equal rows, far apart scales, numbers that are none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(least, most)), draw(st.integers(1, 4))
    x, kind = rng.laplace(size=(n, d)), draw(st.sampled_from(KINDS))
    if kind == "few":
        x = rng.integers(3, size=(n, d)).astype(float)
    elif kind == "constant":
        x[:, -1] = 0.1
    elif kind == "copied":
        x[:, -1] = x[:, 0]
    elif kind == "dependent":
        x[:, -1] = x.sum(1)
    elif kind == "rows":
        x[:] = x[0]
    elif kind == "far":
        x += 10.0 ** rng.integers(2, 18)
    elif kind == "scales":
        x *= 10.0 ** rng.integers(-12, 12, size=d)
    elif kind in ("tiny", "huge"):
        x *= 10.0 ** ((1 if kind == "huge" else -1) * rng.integers(50, 309))
    elif kind == "broken":
        odd = [np.nan, np.inf, -np.inf, 1e308, 5e-324, -0.0]
        x[rng.integers(n), rng.integers(d)] = draw(st.sampled_from(odd))
    return x


@st.composite
def weights(draw, n):
    """None, ordinary, on one row, zero, far apart, negative, none at all."""
    rng, kind = np.random.default_rng(draw(st.integers(0, 99))), draw(st.sampled_from([None] * 4 + list(range(6))))
    if kind is None:
        return None
    w = rng.uniform(size=n)
    odd = [w, w * 1e300, w * 0, (np.arange(n) == 0) * 1.0, w - 0.5, 10.0 ** rng.integers(-300, 300, size=n)]
    return odd[kind]


def says_the_way_out(error: ValueError) -> bool:
    return any(word in str(error) for word in WAY_OUT)


def all_finite(*values: Any) -> bool:
    return all(np.isfinite(value).all() for value in values)


@st.composite
def machines(draw):
    """Signs or bits with patterns that never occur, or other numbers; weights; settings."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(1, 15)), draw(st.integers(1, 4))
    x = np.where(rng.uniform(size=(n, d)) < draw(st.sampled_from([0.5, 0.5, 0.1])), 1.0, -1.0)
    kind = draw(st.sampled_from(["free", "free", "constant", "copied", "opposite", "rows", "wrong"]))
    if kind == "constant":
        x[:, 0] = 1
    elif kind in ("copied", "opposite"):
        x[:, -1] = x[:, 0] * (1 if kind == "copied" else -1)
    elif kind == "rows":
        x[:] = x[0]
    elif kind == "wrong":
        x[0, 0] = draw(st.sampled_from([0.5, 0.0, 2.0, 1e300, np.nan, np.inf, 1 + 1e-12]))
    if draw(st.booleans()):
        x = (x + 1) / 2
    w = draw(weights(n))
    how = draw(st.sampled_from([{}, {}, {"ridge": 0.01}, {"ridge": 1e300}, {"max_iter": 2}, {"on_singular": "raise"}]))
    return x, w, draw(st.sampled_from([RatioMatching, PseudoLikelihood]))(**how)


def discrete(case):
    """Parameters, standard errors, score and samples."""
    x, w, model = case
    fit = model.set_params(sweeps=3).fit(x, sample_weight=w)
    assert all_finite(fit.theta_, fit.covariance_, fit.objective_, fit.score(x), fit.score_function(x))
    assert set(np.unique(fit.sample(4, random_state=0))) <= set(fit.coding_)


@st.composite
def mixtures(draw):
    """Any rows, with ranks and numbers of components that the data may not have."""
    x = draw(tables())
    how = {
        "n_components": draw(st.sampled_from([None, None, 1, 2, 6])),
        "rank": draw(st.sampled_from([None, None, None, 1, 4])),
        "tol": draw(st.sampled_from([1e-5, 1e-300, 1e300])),
    }
    return x, draw(weights(len(x))), IndependentComponents(max_iter=10, **how)


def independent(case):
    """Filters, components and score; samples where the fit has a density."""
    x, w, model = case
    fit = model.fit(x, sample_weight=w)
    assert all_finite(fit.filters_, fit.alphas_, fit.mixing_, fit.objective_, fit.transform(x))
    assert all_finite(fit.score(x), fit.score_function(x), fit.log_density(x))


@st.composite
def observations(draw):
    """Observations, noise, a marginal and a centre of any kind."""
    z = draw(tables(most=14))
    z = z[:, 0] if draw(st.booleans()) else z
    how = {
        "marginal": draw(st.sampled_from(["gaussian"] * 6 + ["kernel", "kernel-exponential-family", KernelScore()])),
        "centre": draw(st.sampled_from(["mean", "mean", 0.0, 1e300, np.nan, [0.0, 1.0]])),
        "positive_part": draw(st.booleans()),
        "random_state": 0,
    }
    return z, draw(st.sampled_from([1.0, 1.0, 0.1, 1e-200, 1e200, 0.0, -1.0, np.nan, np.inf])), how


def shrunk(case):
    """As many posterior means as observations."""
    z, sigma, how = case
    means = tweedie(z, sigma, **how)
    assert means.shape == z.shape and all_finite(means)


SCORES = {
    "normal": lambda x: -x,
    "quartic": lambda x: -(x**3),
    "flat": lambda x: 0 * x,
    "large": lambda x: 1e200 * x,
    "pole": lambda x: -1 / x,
    "broken": lambda x: x / 0,
}


@st.composite
def judged(draw):
    """Rows, a score, and the settings of a test."""
    how = {
        "kernel": draw(st.sampled_from(["imq", "gaussian"])),
        "bandwidth": draw(st.sampled_from([None, None, None, 1.0, 1e-8, 1e8, 1e-300, 1e300, 0.0, np.nan])),
    }
    test = {
        "statistic": draw(st.sampled_from(["u", "v"])),
        "bootstrap": draw(st.sampled_from(["wild", "multinomial"])),
        "flip": draw(st.sampled_from([0.5, 0.5, 0.01, 1.0])),
    }
    return draw(tables()), SCORES[draw(st.sampled_from(["normal"] * 3 + list(SCORES)))], how, test


def goodness(case):
    """A statistic with a p-value, a discrepancy, and rows chosen."""
    x, score, how, test = case
    found = kernel_stein_test(score, x, replicates=19, random_state=0, **how, **test)
    assert all_finite(found.u_statistic, found.v_statistic, found.replicates) and 0 < found.p_value <= 1
    assert found.v_statistic >= -1e-9 * np.abs(found.replicates).max()
    assert np.isfinite(stein_discrepancy(score, x, **how))
    chosen = stein_thinning(score, x, 3, **how)
    assert chosen.shape == (3,) and ((0 <= chosen) & (chosen < len(x))).all()


@st.composite
def learned(draw):
    """Any rows and weights for a network of four units that makes two steps."""
    x = draw(tables(least=3))
    how = draw(st.sampled_from([{}, {}, {"decorrelate": 1.0}, {"learning_rate": 1e10}, {"held_out": 0.9}]))
    tiny: dict[str, Any] = {"steps": 2, "decorrelate": 0.0, "width": 4, "depth": 1, "batch_size": 4}
    return x, draw(weights(len(x))), ScoreDensity(**(tiny | how))


def neural(case):
    """Rows, scores and log-densities; a rate that is too high ends in the engine's own error."""
    x, w, model = case
    try:
        fit = model.fit(x, sample_weight=w)
    except Diverged as error:
        assert "lower the learning rate" in str(error)
        assert model.learning_rate > 1
        return
    assert all_finite(fit.sample(2, random_state=0))
    for ask in (fit.score_function, fit.score_samples, fit.score):
        try:
            assert all_finite(ask(x))
        except ValueError as error:
            assert says_the_way_out(error), error


CASES = {
    "discrete": (machines(), discrete, 60),
    "independent components": (mixtures(), independent, 40),
    "empirical Bayes": (observations(), shrunk, 60),
    "goodness of fit": (judged(), goodness, 60),
    "ScoreDensity": (learned(), neural, 6),
}


def ends_well(check, case):
    """What the check asks for, or a ValueError that says what to do."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            check(case)
        except ValueError as error:
            assert says_the_way_out(error), error


def fuzz(name, count):
    """Run so many generated cases of a family."""
    cases, check, _ = CASES[name]
    how: Any = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
    settings(max_examples=count, **how)(given(cases)(lambda case: ends_well(check, case)))()


@pytest.mark.parametrize("name", CASES)
def test_generated_input_ends_in_a_finite_answer_or_the_way_out(name):
    fuzz(name, CASES[name][2])


@pytest.mark.certify
@pytest.mark.parametrize("name", CASES)
def test_two_thousand_generated_inputs_end_in_a_finite_answer_or_the_way_out(name):
    fuzz(name, 2000)
