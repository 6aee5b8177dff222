"""Kernels, filters and systems: every derivative beside automatic differentiation, every solver beside the others."""

import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev

from scorefield.estimators.kernels import KernelExponentialFamily, NuMethodScore, SpectralScore, SteinScore
from scorefield.estimators.kernels.fields import KERNELS, KernelField, features, gram
from scorefield.estimators.kernels.filters import Problem, nu_method, nu_steps

RNG = np.random.default_rng(0)
POINTS, PLACES = RNG.normal(size=(4, 2)), RNG.normal(size=(3, 2))
VECTORS, SCALARS = RNG.normal(size=(4, 2)), RNG.normal(size=4)
CENTRE, WIDTH = np.array([0.3, -0.2]), 1.7


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def k(x, y):
    return torch.exp(-(x - y).square().sum() / 2)


def matrix_kernel(kernel, x, y):
    """K(x, y), (d, d), by definition."""
    return k(x, y) * torch.eye(len(x)).double() if kernel == "diagonal" else jacfwd(grad(k, 1), 0)(x, y).T


def zeta(kernel, x, y):
    """The divergence in y of the rows of K(x, y), (d,), by definition."""
    return torch.einsum("ijj->i", jacrev(lambda at: matrix_kernel(kernel, x, at))(y))


def by_definition(kernel):
    """The field in the data's coordinates, as a function of one point."""
    y, c, a = (torch.from_numpy(v) for v in (POINTS, VECTORS, SCALARS))

    def field(x):
        z = (x - torch.from_numpy(CENTRE)) / WIDTH
        parts = [matrix_kernel(kernel, z, p) @ v + b * zeta(kernel, z, p) for p, v, b in zip(y, c, a, strict=True)]
        return torch.stack(parts).sum(0) / WIDTH

    return field


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_field_and_its_divergence_are_what_their_definitions_say(kernel):
    """Against derivatives of the Gaussian itself, up to the fourth."""
    field, truth = KernelField(kernel, WIDTH, CENTRE, POINTS, VECTORS, SCALARS), by_definition(kernel)
    places = torch.from_numpy(PLACES)
    close(field.score(PLACES), torch.stack([truth(x) for x in places]))
    close(field.divergence(PLACES), [jacfwd(truth)(x).trace() for x in places])


def test_a_curl_free_field_is_the_gradient_of_its_potential():
    """The potential is the sum of derivatives of k that defines f."""
    field = KernelField("curl-free", WIDTH, CENTRE, POINTS, VECTORS, SCALARS)
    y, c, a = (torch.from_numpy(v) for v in (POINTS, VECTORS, SCALARS))

    def potential(x):
        z = (x - torch.from_numpy(CENTRE)) / WIDTH
        terms = [v @ grad(k, 1)(z, p) + b * hessian(k, 1)(z, p).trace() for p, v, b in zip(y, c, a, strict=True)]
        return torch.stack(terms).sum()

    places = torch.from_numpy(PLACES)
    close(field.potential(PLACES), [potential(x) for x in places])
    close(field.score(PLACES), torch.stack([grad(potential)(x) for x in places]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_features_and_gram_matrices_are_the_fields_of_unit_coefficients(kernel):
    """Column by column, values and divergences."""
    values, divergence = features(kernel, PLACES, POINTS)
    m, d = POINTS.shape
    for p in range(m * (d + 1)):
        unit = np.eye(m * (d + 1))[p]
        field = KernelField(kernel, 1.0, np.zeros(d), POINTS, unit[: m * d].reshape(m, d), unit[m * d :])
        close(values[:, :, p], field.score(PLACES))
        close(divergence[:, p], field.divergence(PLACES))
    own = features(kernel, POINTS, POINTS)[0][:, :, : m * d].reshape(m * d, m * d)
    full = gram(kernel, POINTS)
    close(own, full if kernel == "curl-free" else np.kron(full, np.eye(d)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_stein_identity_holds_in_the_population(kernel):
    r"""$\zeta = -L s$ for the score s of the law: Gauss-Hermite nodes and weights of a correlated Gaussian, to 1e-9."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    w = np.outer(weights, weights).ravel() / weights.sum() ** 2
    root = np.array([[1.0, 0.0], [0.4, 0.8]])
    x, s = grid @ root.T, -grid @ np.linalg.inv(root)
    problem = Problem(kernel, 1.3, np.zeros(2), x / 1.3, w, np.zeros_like(x))
    inner = slice(700, 900)  # the identity holds at every place; some will do
    error = problem.zeta() + problem.product(w[:, None] * 1.3 * s)
    assert np.abs(error[inner]).max() < 1e-9
    assert np.abs(problem.zeta()[inner]).max() > 0.1


def test_the_nu_method_is_a_polynomial_of_the_rate_its_name_says():
    r"""Residuals $1 - \sigma g_t(\sigma)$: 1 at 0, at most 1, and at fixed sigma they fall like $t^{-2\nu}$."""
    sigma = np.linspace(0, 1, 400)
    for nu in (0.5, 1.0, 2.0):
        sizes = {}
        for t in (100, 400):
            residual = 1 - sigma * nu_method(t, nu)(sigma)
            assert residual[0] == 1
            assert np.abs(residual).max() <= 1 + 1e-12
            sizes[t] = np.abs(residual[(sigma > 0.3) & (sigma < 0.7)]).max()
        slope = np.log(sizes[400] / sizes[100]) / np.log(4)
        assert abs(slope + 2 * nu) < 0.1, nu
    assert nu_steps(1, 1.0) == (0.0, pytest.approx(1.2))
    assert nu_steps(2, 1.0) == (pytest.approx(5 / 63), pytest.approx(40 / 21))


ROWS = RNG.normal(size=(50, 2)) @ np.array([[1.0, 0.5], [0.0, 0.7]]) + 3
WEIGHTS = RNG.uniform(0.2, 2, size=50)


@pytest.mark.parametrize(
    "estimator",
    [
        KernelExponentialFamily(),
        KernelExponentialFamily(base="flat"),
        SteinScore(),
        SpectralScore(regularization=0.01),
        SpectralScore(components=6),
        NuMethodScore(),
        NuMethodScore(kernel="diagonal", nu=2.0),
    ],
    ids=str,
)
def test_landmarks_everywhere_give_the_exact_solution(estimator):
    """The representer's system, or the iteration on all rows, against filtered eigenvalues in the span of all rows."""
    estimator.set_params(solver="exact").fit(ROWS, sample_weight=WEIGHTS)
    places, size = ROWS[:9] + 0.3, np.abs(estimator.score_function(ROWS)).max()
    exact, judged = estimator.score_function(places), estimator.score(places)
    estimator.set_params(solver="nystrom", landmarks=50).fit(ROWS, sample_weight=WEIGHTS)
    close(estimator.score_function(places) / size, exact / size, 1e-7)
    assert estimator.score(places) == pytest.approx(judged, rel=1e-5)


@pytest.mark.parametrize("estimator", [KernelExponentialFamily(), SteinScore()], ids=str)
def test_conjugate_gradients_give_the_cholesky_solution(estimator):
    """To their tolerance; and a limit on their number that is too small is an error, not an answer."""
    exact = estimator.set_params(solver="exact").fit(ROWS, sample_weight=WEIGHTS).score_function(ROWS)
    estimator.set_params(solver="conjugate-gradient", tolerance=1e-13).fit(ROWS, sample_weight=WEIGHTS)
    close(estimator.score_function(ROWS), exact, 1e-8)
    with pytest.raises(ValueError, match="did not reach tolerance .* in 2 iterations; raise"):
        estimator.set_params(max_iterations=2).fit(ROWS)


def test_few_landmarks_come_close_at_many_rows():
    """60 landmarks of 1,000 rows: within a few per cent of the exact score, in root mean square."""
    rows = RNG.normal(size=(900, 2))
    exact = KernelExponentialFamily(bandwidth=1.0, regularization=0.01, solver="exact").fit(rows).score_function(rows)
    few = KernelExponentialFamily(
        bandwidth=1.0, regularization=0.01, solver="nystrom", landmarks=60, random_state=0
    ).fit(rows)
    apart = few.score_function(rows) - exact
    assert np.sqrt(np.mean(apart**2) / np.mean(exact**2)) < 0.05
