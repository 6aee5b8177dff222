"""Laws on the sphere: rational answers, the truth in the population, symmetry, exact samples, intervals that cover."""

import pickle

import numpy as np
import pytest
import torch
from fuzzing import QUIET
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import legendre
from mapped import Mapped
from scipy.special import ive, roots_jacobi
from scipy.stats import special_ortho_group, vonmises_fisher
from sklearn.utils.estimator_checks import check_estimator

from scorefield.estimators import Inference
from scorefield.estimators.bingham import Bingham
from scorefield.estimators.von_mises_fisher import VonMisesFisher, log_bessel

METHODS = ["full", "hybrid"]
MODELS = [VonMisesFisher("full"), VonMisesFisher("hybrid"), Bingham()]
every_model = pytest.mark.parametrize("model", MODELS, ids=["full", "hybrid", "bingham"])


def directions(mu, kappa, count, rng):
    """Von Mises-Fisher rows, by scipy."""
    return vonmises_fisher(np.asarray(mu) / np.linalg.norm(mu), kappa).rvs(count, random_state=rng)


def sphere(p, count=40):
    """Nodes on the unit sphere of R^p by polar angles: rows and weights."""
    angle = 2 * np.pi * (np.arange(2 * count) + 0.5) / (2 * count)
    x, w = np.stack([np.cos(angle), np.sin(angle)], 1), np.full(2 * count, np.pi / count)
    for k in range(3, p + 1):
        a, wa = legendre(0, np.pi, count)
        x = np.concatenate(
            [np.broadcast_to(np.cos(a)[:, None, None], (count, len(x), 1)), np.sin(a)[:, None, None] * x], 2
        )
        x, w = x.reshape(-1, k), np.outer(wa * np.sin(a) ** (k - 2), w).ravel()
    return x, w


def random_rotation(p, seed):
    return special_ortho_group.rvs(p, random_state=seed)


def by_autodiff(log_density, x):
    """The objective of each row from a log-density: z -> f(z / |z|) has the derivatives of the sphere at |z| = 1."""

    def along(z):
        return log_density(z / z.norm())

    z = torch.from_numpy(x)
    s = torch.func.vmap(torch.func.grad(along))(z)
    bend = torch.func.vmap(torch.func.hessian(along))(z).diagonal(dim1=1, dim2=2).sum(1)
    return (s**2).sum(1) / 2 + bend, s


@pytest.mark.parametrize("method", METHODS)
def test_von_mises_fisher_by_hand(method):
    """(1, 0) and (3/5, 4/5): I - mean zz' = (8, -6; -6, 17)/25, mean (4/5, 2/5), so that kappa mu = (4, 2)."""
    fit = VonMisesFisher(method).fit([[1.0, 0.0], [0.6, 0.8]])
    np.testing.assert_allclose(fit.kappa_ * fit.mu_, [4, 2], rtol=1e-12)
    np.testing.assert_allclose(fit.theta_, [np.sqrt(20), 2 / np.sqrt(5), 1 / np.sqrt(5)], rtol=1e-12)
    np.testing.assert_allclose(fit.objective_, -(4 * 0.8 + 2 * 0.4) / 2, rtol=1e-12)


def test_its_covariance_by_hand():
    """g = -+(1, -2), influence +-(5/4, -5/2) on kappa mu: none on kappa, +-(5/4, -5/2)/sqrt(20) on mu."""
    fit = VonMisesFisher().fit([[1.0, 0.0], [0.6, 0.8]])
    expected = np.zeros((3, 3))
    expected[1:, 1:] = np.array([[25, -50], [-50, 100]]) / 640
    np.testing.assert_allclose(fit.covariance_, expected, atol=1e-13)


def test_bingham_on_the_circle_is_von_mises_with_doubled_angles():
    """By hand for the doubled angles 0 and arccos(3/5), since z'Az = a cos 2v + b sin 2v; to rounding for others."""
    fit = Bingham().fit([[1.0, 0.0], [2 / np.sqrt(5), 1 / np.sqrt(5)]])
    np.testing.assert_allclose(fit.matrix_, [[4, 2], [2, -4]], rtol=1e-12)
    np.testing.assert_allclose(fit.eigenvalues_, [np.sqrt(20), -np.sqrt(20)], rtol=1e-12)
    angle = np.random.default_rng(0).vonmises(0.3, 1.5, 200) / 2
    axes = Bingham().fit(np.stack([np.cos(angle), np.sin(angle)], 1))
    doubled = VonMisesFisher().fit(np.stack([np.cos(2 * angle), np.sin(2 * angle)], 1))
    np.testing.assert_allclose(axes.matrix_[0], doubled.kappa_ * doubled.mu_, rtol=1e-12)
    np.testing.assert_allclose(axes.objective_, 4 * doubled.objective_, rtol=1e-12)


@pytest.mark.parametrize("p", [2, 3, 4, 7, 20])
@pytest.mark.parametrize("kappa", [0.1, 2.0, 15.0])
def test_the_population_identity_of_von_mises_fisher(p, kappa):
    """(p - 1) E t / (1 - E t^2) = kappa, by Gauss-Jacobi nodes for t = mu.z."""
    t, w = roots_jacobi(80, (p - 3) / 2, (p - 3) / 2)
    w = w * np.exp(kappa * (t - 1))
    first, second = w @ t / w.sum(), w @ t**2 / w.sum()
    assert abs((p - 1) * first / (1 - second) - kappa) < 1e-9 * max(1, kappa)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [2, 3, 4])
def test_the_population_of_von_mises_fisher(p, method):
    """Nodes of the sphere as X, the density as sample_weight: the truth."""
    x, w = sphere(p)
    natural = np.array([1.0, -0.5, 0.7, 0.3])[:p]
    fit = VonMisesFisher(method).fit(x, sample_weight=w * np.exp(x @ natural))
    np.testing.assert_allclose(fit.kappa_ * fit.mu_, natural, atol=1e-9)
    np.testing.assert_allclose(w @ np.exp(fit.score_samples(x)), 1, rtol=1e-9)


@pytest.mark.parametrize("p", [2, 3, 4])
def test_the_population_of_bingham(p):
    """The same; A comes back with trace 0 whatever multiple of I is added."""
    x, w = sphere(p, 30)
    A = np.random.default_rng(p).normal(size=(p, p))
    A = A + A.T
    fit = Bingham().fit(x, sample_weight=w * np.exp(np.einsum("ni,ij,nj->n", x, A + 3 * np.eye(p), x)))
    np.testing.assert_allclose(fit.matrix_, A - np.trace(A) / p * np.eye(p), atol=1e-9)
    assert abs(fit.theta_[np.cumsum([0, *range(p, 1, -1)])].sum()) < 1e-12


@every_model
def test_the_objective_agrees_with_autodiff_and_is_stationary(model):
    """From the log-density alone: rho, the score, and a gradient in the parameters that is 0 where they are optimal."""
    x = directions([1, 2, -1, 0.5], 3.0, 60, 1)
    fit = model.fit(x)
    if isinstance(fit, Bingham):
        start = torch.from_numpy(fit.matrix_)
        law = lambda A: lambda z: z @ A @ z  # noqa: E731
    else:
        start = torch.from_numpy(fit.kappa_ * fit.mu_)
        law = lambda f: lambda z: z @ f  # noqa: E731
    rho, s = by_autodiff(law(start), x)
    np.testing.assert_allclose(fit.score_function(x), s, atol=1e-12)
    np.testing.assert_allclose(fit._rho(x), rho, atol=1e-11)
    np.testing.assert_allclose([fit.objective_, -fit.score(x)], rho.mean().item(), rtol=1e-12)
    slope = torch.func.grad(lambda f: by_autodiff(law(f), x)[0].mean())(start)
    if getattr(fit, "method", "full") == "hybrid":  # stationary along mu alone, where mu is the mean direction
        slope = slope @ torch.from_numpy(fit.mu_)
    if isinstance(fit, Bingham):  # the trace is no parameter
        slope = slope - slope.diagonal().mean() * torch.eye(4)
    assert slope.abs().max() < 1e-11
    np.testing.assert_allclose((fit.score_function(x) * x).sum(1), 0, atol=1e-12)


@every_model
def test_rotations_rotate_the_fit(model):
    """mu turns with the rows, kappa stays, A is conjugated; standard errors of kappa stay."""
    x, Q = directions([1, 2, -1, 0.5], 3.0, 100, 2), random_rotation(4, 0)
    here = pickle.loads(pickle.dumps(model.fit(x)))
    there = model.fit(x @ Q)
    if isinstance(here, Bingham):
        np.testing.assert_allclose(there.matrix_, Q.T @ here.matrix_ @ Q, atol=1e-11)
        np.testing.assert_allclose(there.eigenvalues_, here.eigenvalues_, atol=1e-11)
    else:
        np.testing.assert_allclose(there.mu_, here.mu_ @ Q, atol=1e-12)
        np.testing.assert_allclose(there.theta_[0], here.theta_[0], rtol=1e-12)
        np.testing.assert_allclose(there.covariance_[1:, 1:], Q.T @ here.covariance_[1:, 1:] @ Q, atol=1e-12)
        np.testing.assert_allclose(there.standard_error_[0], here.standard_error_[0], rtol=1e-11)
    np.testing.assert_allclose(there.information_criterion(), here.information_criterion(), rtol=1e-10)


def test_bingham_knows_no_sign():
    """Rows and their opposites are the same data."""
    x = directions([1, 2, -1], 2.0, 50, 3)
    np.testing.assert_allclose(Bingham().fit(x * np.sign(x[:, :1])).theta_, Bingham().fit(x).theta_, rtol=1e-10)


@every_model
def test_the_covariance_is_that_of_the_influence_of_single_rows(model):
    """Sum over rows of the squared derivative of the estimate in the row's weight, by central differences."""
    x, step = directions([1, 2, -1], 3.0, 25, 4), 1e-4
    fit, total = model.fit(x), 0.0
    covariance = fit.covariance_
    for k in range(len(x)):
        up, down = np.ones(len(x)), np.ones(len(x))
        up[k], down[k] = 1 + step, 1 - step
        slope = (model.fit(x, sample_weight=up).theta_ - model.fit(x, sample_weight=down).theta_) / (2 * step)
        total = total + np.outer(slope, slope)
    np.testing.assert_allclose(covariance, total, atol=1e-6 * np.abs(total).max())


@pytest.mark.parametrize("order", [0.0, 0.5, 2.0, 14.0, 300.0])
@pytest.mark.parametrize("kappa", [1e-12, 1e-3, 1.0, 40.0, 1e4])
def test_the_bessel_function_by_mpmath(order, kappa):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        expected = float(mpmath.log(mpmath.besseli(order, kappa)) - order * mpmath.log(kappa))
    assert abs(log_bessel(order, kappa) - expected) < 1e-13 * max(1, abs(expected))


@pytest.mark.parametrize("p", [2, 3, 6])
def test_score_samples_is_scipys_density(p):
    x = directions(np.arange(1, p + 1), 4.0, 50, 5)
    fit = VonMisesFisher().fit(x)
    np.testing.assert_allclose(fit.score_samples(x), vonmises_fisher(fit.mu_, fit.kappa_).logpdf(x), rtol=1e-10)
    assert not hasattr(Bingham().fit(x), "score_samples")


@pytest.mark.parametrize("p", [2, 3, 8])
@pytest.mark.parametrize("kappa", [0.05, 3.0, 1e9])
def test_samples_of_von_mises_fisher_have_its_mean_and_spread(p, kappa):
    """E(mu.z) is a ratio of Bessel functions, and |z across|^2 averages 1 - E t^2; 4.5 standard errors each."""
    fit = VonMisesFisher().fit(directions(np.arange(1, p + 1), 3.0, 50, 6))
    fit.kappa_, count = kappa, 20_000
    z = fit.sample(count, random_state=0)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-14)
    off = 1 - z @ fit.mu_ if kappa < 1e6 else ((z - fit.mu_) ** 2).sum(1) / 2
    ratio = ive(p / 2, kappa) / ive(p / 2 - 1, kappa)
    expected = 1 - ratio if kappa < 1e6 else (p - 1) / (2 * kappa)
    assert abs(off.mean() - expected) < 4.5 * off.std() / np.sqrt(count)
    side = z - np.outer(z @ fit.mu_, fit.mu_)
    assert np.abs(side.mean(0)).max() < 4.5 * side.std() / np.sqrt(count)
    np.testing.assert_array_equal(z, fit.sample(count, random_state=0))


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_samples_of_bingham_have_its_second_moments(scale):
    """E zz' by quadrature on the sphere; 4.5 standard errors each."""
    x, w = sphere(3, 80)
    A = scale * np.array([[1.0, 0.5, 0.0], [0.5, -0.2, 0.3], [0.0, 0.3, -0.8]])
    w = w * np.exp(np.einsum("ni,ij,nj->n", x, A, x) - np.linalg.eigvalsh(A)[-1])
    fit, count = Bingham().fit(x, sample_weight=w), 20_000
    z = fit.sample(count, random_state=1)
    pairs = z[:, :, None] * z[:, None]
    expected = np.einsum("n,ni,nj->ij", w, x, x) / w.sum()
    assert (np.abs(pairs.mean(0) - expected) < 4.5 * pairs.std(0) / np.sqrt(count)).all()
    assert np.abs(z.mean(0)).max() < 4.5 * z.std() / np.sqrt(count)


def covered(method, count, n=1000):
    """How often 95 % intervals hold kappa and the coordinates of mu, over `count` data sets."""
    mu, kappa, rng = np.array([2.0, -1.0, 2.0]) / 3, 4.0, np.random.RandomState(7)
    truth, hits = np.append(kappa, mu), np.zeros(4)
    model = VonMisesFisher(method)
    z = directions(mu, kappa, count * n, rng).reshape(count, n, 3)
    for rows in z:
        low, high = model.fit(rows).confidence_interval().T
        hits += (low <= truth) & (truth <= high)
    return hits / count


@pytest.mark.parametrize("method", METHODS)
def test_intervals_cover_in_three_hundred_data_sets(method):
    """95 % within 4 standard errors of a proportion, 5.1 %: a false alarm in 4,000."""
    assert (np.abs(covered(method, 300) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 300)).all()


@pytest.mark.certify
@pytest.mark.parametrize("method", METHODS)
def test_intervals_cover_in_two_thousand_data_sets(method):
    assert (np.abs(covered(method, 2000) - 0.95) < 0.02).all()


@pytest.mark.parametrize("method", METHODS)
def test_errors_fall_with_the_root_of_the_sample(method):
    """Slope of log error in log n over n = 100 to 6400: -1/2."""
    rng, sizes = np.random.RandomState(8), np.array([100, 400, 1600, 6400])
    model, errors = VonMisesFisher(method), []
    for n in sizes:
        rows = directions([1, 0, 0], 2.0, 100 * n, rng).reshape(100, n, 3)
        errors.append(np.sqrt(np.mean([(model.fit(r).kappa_ - 2.0) ** 2 for r in rows])))
    assert abs(np.polyfit(np.log(sizes), np.log(errors), 1)[0] + 0.5) < 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kappa", [1e4, 1e10])
def test_high_concentrations_lose_no_digits(method, kappa):
    """Angles +-a on the circle: t = cos a, kappa = cos a / sin^2 a, mu the middle."""
    a = 1 / np.sqrt(kappa)
    fit = VonMisesFisher(method).fit([[np.cos(a), np.sin(a)], [np.cos(a), -np.sin(a)]])
    np.testing.assert_allclose(fit.kappa_, np.cos(a) / np.sin(a) ** 2, rtol=1e-9)
    np.testing.assert_allclose(fit.mu_, [1, 0], atol=1e-15)


def test_a_hundred_columns():
    """At kappa = 500: estimate within 5 standard errors, finite density."""
    x = directions(np.ones(100), 500.0, 2000, 9)
    fit = VonMisesFisher().fit(x)
    assert abs(fit.kappa_ - 500) < 5 * fit.standard_error_[0]
    assert np.isfinite(fit.score_samples(x)).all()


@every_model
def test_rows_off_the_sphere_are_refused_and_rounding_is_not(model):
    """To 1e-8, in fit and after."""
    x = directions([1, 2, -1], 3.0, 30, 10)
    fit = model.fit(x)
    theta = fit.theta_.copy()
    np.testing.assert_allclose(model.fit(x * (1 + 5e-9)).theta_, theta, rtol=1e-12)
    bent = x.copy()
    bent[3] *= 1 + 2e-8
    for ask in (model.fit, fit.score, fit.score_function, fit.log_density):
        with pytest.raises(ValueError, match=r"row 3 of X has length 1\.00000002.*divide each row by its length"):
            ask(bent)
    with pytest.raises(ValueError, match="1 feature"):
        model.fit(np.ones((5, 1)))


def test_what_has_no_answer_says_so():
    with pytest.raises(ValueError, match="no mean direction; fit a Bingham"):
        VonMisesFisher().fit([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    with pytest.raises(ValueError, match="kappa is infinite"):
        VonMisesFisher().fit([[0.6, 0.8], [0.6, 0.8], [-0.6, -0.8]])
    with pytest.raises(ValueError, match="did you mean 'hybrid'"):
        VonMisesFisher("hybird").fit([[0.6, 0.8], [0.8, 0.6]])
    plane = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.8, -0.6, 0.0]])
    with pytest.warns(np.exceptions.RankWarning, match="do not determine"):
        assert np.isfinite(Bingham().fit(plane[:2]).theta_).all()
    with pytest.raises(ValueError, match="do not determine"):
        Bingham(on_singular="raise").fit(plane[:2])
    assert not hasattr(Bingham(inference=False).fit(directions([1, 1, 1], 1.0, 9, 0)), "covariance_")


class OnSphere(Mapped):
    @staticmethod
    def to(x):
        return (x + 0.25) / np.linalg.norm(x + 0.25, axis=1, keepdims=True)


class MappedVonMisesFisher(OnSphere, VonMisesFisher):
    pass


class MappedBingham(OnSphere, Bingham):
    pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [MappedVonMisesFisher, MappedBingham])
def test_scikit_learn_finds_nothing_wrong(family):
    """Every check of `check_estimator` on data mapped to the sphere; none is expected to fail."""
    found = check_estimator(family(), on_fail=None, on_skip=None)
    assert {r["check_name"]: r["exception"] for r in found if r["status"] == "failed"} == {}
    assert len([r for r in found if r["status"] == "passed"]) > 40


@st.composite
def tables(draw):
    """Rows on the sphere, nearly, or not at all: duplicates, opposites, planes, tiny differences, wild weights."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p, n = rng.integers(2, 6), rng.integers(3, 20)
    if draw(st.integers(0, 14)) == 14:
        p, n = rng.integers(1, 3, size=2)
    x = rng.normal(size=(n, p))
    kind = draw(st.sampled_from(["free", "plane", "same", "opposite", "axes", "close"]))
    if kind == "plane":
        x[:, p // 2 + 1 :] = 0
    elif kind == "same":
        x[:] = x[0]
    elif kind == "opposite":
        x = x[:1] * rng.choice([-1.0, 1.0], size=(n, 1))
    elif kind == "axes":
        x = np.eye(p)[rng.integers(p, size=n)] * rng.choice([-1.0, 1.0], size=(n, 1))
    elif kind == "close":
        x = x[:1] + 10.0 ** draw(st.integers(-17, -1)) * x
    with np.errstate(all="ignore"):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        x = x * draw(st.sampled_from([1] * 12 + [1 + 1e-9, 1 - 1e-9, 1.1, 1e300, 1e-300, np.inf, np.nan]))
    weight = draw(st.sampled_from([None, None, None, "random", "random", "one", "zero", "negative", "huge"]))
    w = None if weight is None else rng.uniform(size=n)
    if weight == "one":
        w = (np.arange(n) == 0) * 1.0
    elif weight in ("zero", "negative", "huge"):
        w = w * {"zero": 0, "negative": -1, "huge": 1e300}[weight]
    return x, w


WAY_OUT = ("must", "need", "give", "divide", "drop", "minimum of", "infinity", "NaN", "fit a")


def finite_or_refused(table):
    x, w = table
    for model in (VonMisesFisher(), VonMisesFisher("hybrid"), Bingham()):
        try:
            fit: Inference = model.fit(x, sample_weight=w)
        except ValueError as error:
            assert any(word in str(error) for word in WAY_OUT), error
            continue
        for value in (fit.theta_, fit.covariance_, fit.hessian_, fit.objective_, fit.score_function(x)):
            assert np.isfinite(value).all()
        assert np.isfinite(fit.sample(3, random_state=0)).all()


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
