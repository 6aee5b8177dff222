"""Compositions: rational answers, the truth in the population, zeros as limits, symmetry, refusals."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from fuzzing import QUIET
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import legendre, product, triangle
from mapped import Mapped
from scipy.special import gammaln
from scipy.stats import dirichlet
from sklearn.utils.estimator_checks import check_estimator

from scorefield.estimators import NotNormalisable
from scorefield.estimators.simplex import Tilted, TiltedPairwiseInteraction, Weight

WEIGHTS = ["min", "product", ("min", 0.1), ("product", 0.002)]
every_weight = pytest.mark.parametrize("weight", WEIGHTS, ids=str)
A = np.array([[-2.0, 1.5], [1.5, -1.0]])
B = np.array([0.5, -0.8])


def compositions(n=60, p=4, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(p, 1.5), n)


def density(u, beta):
    inner = u[:, :2]
    return np.prod(u**beta, axis=1) * np.exp(np.einsum("ni,ij,nj->n", inner, A, inner) + inner @ B)


def octant(count=50):
    """Nodes on the simplex of three components by angles, where half-integer powers are smooth."""
    angles, w = product(legendre(0, np.pi / 2, count), legendre(0, np.pi / 2, count))
    (s, c), (t, d) = ((np.sin(a), np.cos(a)) for a in angles.T)
    u = np.stack([s**2, (c * t) ** 2, (c * d) ** 2], 1)
    return u, w * (2 * s * c) * (2 * c**2 * t * d)


def truth(beta):
    i, j = np.triu_indices(2)
    return np.concatenate([A[i, j], B, beta])


def test_one_interaction_by_hand():
    """Two components, h = uv, beta = 0, b = 0: A = E 8 u^2 v (5u - 3) / E 16 u^4 v^2, v = 1 - u."""
    u = [Fraction(1, 2), Fraction(1, 4), Fraction(2, 3), Fraction(1)]
    up = sum(8 * a**2 * (1 - a) * (5 * a - 3) for a in u)
    down = sum(16 * a**4 * (1 - a) ** 2 for a in u)
    rows = np.array([[float(a), float(1 - a)] for a in u])
    fit = TiltedPairwiseInteraction(tilt=0, linear=False, weight="product").fit(rows)
    np.testing.assert_allclose(fit.theta_, [float(up / down), 0, 0, 0], rtol=1e-12)
    assert fit.standard_error_[0] > 0 and not fit.standard_error_[1:].any()


def test_rows_with_zeros_alone_say_that_the_tilt_is_minus_one():
    """Only the atoms speak: W = 4 and d = -4 for each vanishing component under the minimum."""
    rows = np.array([[0.0, 0.6, 0.4], [0.3, 0.0, 0.7], [0.5, 0.5, 0.0]])
    with pytest.warns(NotNormalisable, match="must be > -1"), pytest.warns(np.exceptions.RankWarning):
        fit = TiltedPairwiseInteraction(linear=False).fit(rows)
    np.testing.assert_allclose(fit.tilt_, -1, rtol=1e-12)
    with pytest.raises(RuntimeError, match="cannot be sampled"):
        fit.sample()


@pytest.mark.parametrize("beta", [(0.0, 0.0, 0.0), (0.5, 1.0, 2.0), (-0.5, 0.5, 0.0)], ids=str)
def test_the_population_under_the_smooth_weight(beta):
    """Quadrature nodes as X, the density as sample_weight: the truth."""
    u, w = octant()
    fit = TiltedPairwiseInteraction(weight="product").fit(u, sample_weight=w * density(u, np.array(beta)))
    np.testing.assert_allclose(fit.theta_, truth(beta), atol=1e-9)


def test_the_population_under_the_minimum():
    """Nodes split where the minimum has kinks, from the corners to the centre."""
    corners, centre = [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)], (1 / 3, 1 / 3)
    parts = [triangle(centre, corners[k], corners[(k + 1) % 3]) for k in range(3)]
    inner, w = np.concatenate([x for x, _ in parts]), np.concatenate([w for _, w in parts])
    u, beta = np.column_stack([inner, 1 - inner.sum(1)]), np.array([1.0, 2.0, 0.0])
    assert abs(w.sum() - 0.5) < 1e-12
    fit = TiltedPairwiseInteraction().fit(u, sample_weight=w * density(u, beta))
    np.testing.assert_allclose(fit.theta_, truth(beta), atol=1e-9)


@every_weight
@pytest.mark.filterwarnings("ignore::scorefield.estimators.NotNormalisable")
def test_the_objective_agrees_with_autodiff_and_is_stationary(weight):
    """On the sphere z = sqrt(u), from the log-density and the weight alone."""
    u = compositions(25)
    fit = TiltedPairwiseInteraction(weight=weight).fit(u)
    name, cap = (weight, np.inf) if isinstance(weight, str) else weight
    i, j = torch.triu_indices(3, 3).unbind()

    def rho(theta, z0):
        def unit(z):
            return z / z.norm()

        def log_density(z):
            v = unit(z) ** 2
            M = torch.zeros(3, 3, dtype=z.dtype).index_put((i, j), theta[:6]).index_put((j, i), theta[:6])
            return v[:3] @ M @ v[:3] + v[:3] @ theta[6:9] + v.log() @ theta[9:] + v.log().sum() / 2

        def h(z):
            v = unit(z) ** 2
            return (v.amin() if name == "min" else v.prod()).clamp(max=cap)

        s, bend = torch.func.grad(log_density)(z0), torch.func.hessian(log_density)(z0).diagonal().sum()
        return h(z0) * (s @ s / 2 + bend) + torch.func.grad(h)(z0) @ s

    z, theta = torch.from_numpy(np.sqrt(u)), torch.from_numpy(fit.theta_)
    each = torch.stack([rho(theta, row) for row in z])
    np.testing.assert_allclose(fit._rho(u), each, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose([fit.objective_ - fit._rho(u).mean(), fit.score(u) + each.mean()], 0, atol=1e-10)
    slope = sum(torch.func.grad(rho)(theta, row) for row in z) / len(z)
    assert slope.abs().max() < 1e-10


@every_weight
@pytest.mark.parametrize("seed", [0, 1])
def test_zeros_are_limits(weight, seed):
    """A fit to rows with zeros is that to rows with 1e-9 in their place, two zeros of a row being equal."""
    u = compositions(80, seed=seed)
    u[:5, 1], u[5:8, 2:] = 0, 0
    u /= u.sum(1, keepdims=True)
    near = np.where(u == 0, 1e-9, u)
    there = TiltedPairwiseInteraction(weight=weight).fit(u)
    here = TiltedPairwiseInteraction(weight=weight).fit(near / near.sum(1, keepdims=True))
    np.testing.assert_allclose(there.theta_, here.theta_, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(there.covariance_, here.covariance_, rtol=1e-4, atol=1e-6)
    assert np.isfinite(there.score(u))


def test_a_tied_minimum_is_the_mean_of_both_sides():
    """Where two components are the smallest, the kink of h counts half to each."""
    statistic, u, step = Tilted(Weight("min")), np.array([0.2, 0.2, 0.6]), np.array([1e-9, -1e-9, 0.0])
    tie, left, right = (statistic.derivatives(torch.from_numpy(v[None])).second for v in (u, u + step, u - step))
    np.testing.assert_allclose(tie, (left + right) / 2, atol=1e-7)
    assert (left - right).abs().max() > 0.1


@every_weight
def test_the_order_of_components_does_not_matter(weight):
    """Which one comes last changes the parameters; differences of the log-density stay."""
    u, order = compositions(), [3, 1, 0, 2]
    here, there = (TiltedPairwiseInteraction(weight=weight).fit(rows) for rows in (u, u[:, order]))
    a, b = here.log_density(u), there.log_density(u[:, order])
    np.testing.assert_allclose(a - a[0], b - b[0], atol=1e-8)
    np.testing.assert_allclose(here.objective_, there.objective_, rtol=1e-10)
    np.testing.assert_allclose(here.score_function(u)[:, order], there.score_function(u[:, order]), atol=1e-7)


def test_the_covariance_is_that_of_the_influence_of_single_rows():
    """Sum over rows of the squared derivative of the estimate in the row's weight, by central differences."""
    u, step, total = compositions(40, 3), 1e-4, 0.0
    model = TiltedPairwiseInteraction(tilt=[0.5, np.float64(0.2), 0], linear=True)
    covariance = model.fit(u).covariance_
    for k in range(len(u)):
        up, down = np.ones(len(u)), np.ones(len(u))
        up[k], down[k] = 1 + step, 1 - step
        slope = (model.fit(u, sample_weight=up).theta_ - model.fit(u, sample_weight=down).theta_) / (2 * step)
        total = total + np.outer(slope, slope)
    np.testing.assert_allclose(covariance, total, atol=1e-6 * np.abs(total).max())


def test_a_dirichlet_sample_is_found_within_its_errors():
    """A = 0 and beta = alpha - 1, z scores below 4.5."""
    u = np.random.default_rng(3).dirichlet([0.7, 2.0, 1.2, 1.0], 4000)
    fit = TiltedPairwiseInteraction(linear=False).fit(u)
    z = (fit.theta_ - np.append(np.zeros(9), [-0.3, 1.0, 0.2, 0.0]))[fit.standard_error_ > 0]
    assert (np.abs(z / fit.standard_error_[fit.standard_error_ > 0]) < 4.5).all()


def test_scores_and_densities():
    """The score is the gradient within the plane; a Dirichlet's log-density by its formula, up to a constant."""
    u, alpha = compositions(), np.array([2.0, 1.0, 3.0, 1.5])
    fit = TiltedPairwiseInteraction(tilt=alpha - 1).fit(u)
    step, e = 1e-6, np.array([1.0, -1.0, 0.0, 0.0])
    slope = (fit.log_density(u + step * e) - fit.log_density(u - step * e)) / (2 * step)
    np.testing.assert_allclose(fit.score_function(u) @ e, slope, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fit.score_function(u).sum(1), 0, atol=1e-10)
    fit.interaction_[:], fit.linear_[:] = 0, 0
    constant = gammaln(alpha.sum()) - gammaln(alpha).sum()
    np.testing.assert_allclose(fit.log_density(u) + constant, dirichlet(alpha).logpdf(u.T), rtol=1e-10)
    with pytest.raises(ValueError, match="infinite at row 0"):
        fit.score_function([[0.0, 0.5, 0.5, 0.0]])
    assert fit.log_density([[0.0, 0.5, 0.5, 0.0]])[0] == -np.inf
    assert not hasattr(fit, "score_samples")


def test_samples_have_the_laws_moments():
    """First and second moments by quadrature, within 5 standard errors of 2,000 draws taken as a quarter as many."""
    (u, w), beta = octant(), np.array([-0.5, 0.5, 1.0])
    w = w * density(u, beta)
    fit = TiltedPairwiseInteraction(weight="product").fit(u, sample_weight=w)
    x = fit.sample(2000, random_state=0)
    np.testing.assert_allclose(x.sum(1), 1, rtol=1e-12)
    for power in (1, 2):
        values, expected = x**power, w @ u**power / w.sum()
        assert (np.abs(values.mean(0) - expected) < 5 * values.std(0) / np.sqrt(500)).all()


def test_rows_off_the_simplex_and_bad_settings_are_refused():
    u = compositions()
    fit = TiltedPairwiseInteraction().fit(pd.DataFrame(u, columns=list("abcd")))
    assert fit.parameter_names_[:2] == ["A[a, a]", "A[a, b]"] and fit.parameter_names_[-1] == "beta[d]"
    theta = fit.theta_.copy()
    np.testing.assert_allclose(fit.fit(u * (1 + 5e-9)).theta_, theta, rtol=1e-9)
    for bad in (u * (1 + 3e-8), u - [1e-3, 0, 0, -1e-3] * (u[:, :1] * 1100)):
        with pytest.raises(ValueError, match=r"row \d+ of X has the sum .* divide each row by its sum"):
            fit.fit(bad)
        with pytest.raises(ValueError, match="of X has the sum"):
            fit.score(bad)
    for settings_, words in (
        ({"tilt": -1.0}, "tilt must be one number > -1"),
        ({"tilt": [1.0, 2.0]}, "or 4"),
        ({"weight": "mim"}, "did you mean 'min'"),
        ({"weight": ("min", -1.0)}, "cap of a weight must be"),
        ({"on_singular": "no"}, "on_singular must be"),
    ):
        with pytest.raises(ValueError, match=words):
            TiltedPairwiseInteraction(**settings_).fit(u)
    with pytest.raises(ValueError, match="1 feature"):
        TiltedPairwiseInteraction().fit(np.ones((4, 1)))


class MappedInteraction(Mapped, TiltedPairwiseInteraction):
    @staticmethod
    def to(x):
        e = np.exp(np.clip(x, -30, 30) - np.clip(x, -30, 30).max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_finds_nothing_wrong():
    """Every check of `check_estimator` on data mapped to the simplex; none is expected to fail."""
    found = check_estimator(MappedInteraction(inference=False), on_fail=None, on_skip=None)
    assert {r["check_name"]: r["exception"] for r in found if r["status"] == "failed"} == {}
    assert len([r for r in found if r["status"] == "passed"]) > 40


@st.composite
def tables(draw):
    """Compositions with zeros, copies, tiny entries; some off the simplex; wild weights."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p, n = rng.integers(2, 5), rng.integers(3, 20)
    if draw(st.integers(0, 14)) == 14:
        p, n = rng.integers(1, 3, size=2)
    u = rng.dirichlet(np.full(p, 10.0 ** draw(st.integers(-3, 3))), n)
    kind = draw(st.sampled_from(["free", "zeros", "corners", "same", "column", "tiny"]))
    if kind == "zeros":
        u = np.where(rng.uniform(size=u.shape) < 0.5, 0, u)
    elif kind == "corners":
        u = np.eye(p)[rng.integers(p, size=n)]
    elif kind == "same":
        u[:] = u[0]
    elif kind == "column":
        u[:, 0] = 0
    elif kind == "tiny":
        u[:, 0] = 1e-300
    with np.errstate(all="ignore"):
        u = u / u.sum(1, keepdims=True) * draw(st.sampled_from([1] * 12 + [1 + 1e-9, 1 - 1e-9, 1.1, -1, 1e300, np.nan]))
    weight = draw(st.sampled_from([None, None, None, "random", "random", "one", "zero", "huge"]))
    w = None if weight is None else rng.uniform(size=n)
    if weight == "one":
        w = (np.arange(n) == 0) * 1.0
    elif weight in ("zero", "huge"):
        w = w * {"zero": 0, "huge": 1e300}[weight]
    how = draw(st.sampled_from([{}, {"tilt": 0.5}, {"linear": False}, {"weight": "product"}, {"weight": ("min", 0.1)}]))
    return u, w, how


WAY_OUT = ("must", "need", "give", "divide", "drop", "rescale", "minimum of", "infinity", "NaN")


def finite_or_refused(table):
    u, w, how = table
    try:
        fit = TiltedPairwiseInteraction(**how).fit(u, sample_weight=w)
    except ValueError as error:
        assert any(word in str(error) for word in WAY_OUT), error
        return
    for value in (fit.theta_, fit.covariance_, fit.hessian_, fit.objective_, fit.score(u)):
        assert np.isfinite(value).all()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, **QUIET)
@given(tables())
def test_any_rows_end_in_a_finite_fit_or_a_refusal(table):
    finite_or_refused(table)


@pytest.mark.certify
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=2000, **QUIET)
@given(tables())
def test_two_thousand_tables_end_in_a_finite_fit_or_a_refusal(table):
    finite_or_refused(table)
