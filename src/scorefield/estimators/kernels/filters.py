r"""Spectral filters $g(\sigma)$ that stand in for $1/\sigma$, and the systems they are applied to.

Every estimator here looks for the field s that minimises the empirical implicit objective

$$ J(s) = \sum_a w_a \left(\tfrac12 \|s(x_a)\|^2 + s(x_a)^\top b(x_a) + \nabla \cdot s(x_a)\right)
        = \tfrac12 \langle s, L s\rangle + \langle s, \zeta \rangle, $$

$L s = \sum_a w_a \mathcal K(\cdot, x_a) s(x_a)$, $\zeta = \sum_a w_a (\zeta_{x_a} + \mathcal K(\cdot, x_a) b(x_a))$,
where b is the score of a base density (0 without one). Its minimiser $-L^{-1}\zeta$ does not exist;
$s = -g(L)\,\zeta$ does. Weights sum to 1; coordinates are divided by the bandwidth, where $\|L\| \le 1$.

Source: Zhou, Shi & Zhu 2020 (arXiv:2005.10099), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.sparse.linalg import LinearOperator, cg

from scorefield.estimators.kernels.fields import KernelField, blocks, features, gram, square_distances
from scorefield.estimators.validation import Array

Filter = Callable[[Array], Array]


def tikhonov(regularization: float) -> Filter:
    r"""$g(\sigma) = 1/(\sigma + \lambda)$: the minimiser of $J(s) + \tfrac\lambda2 \|s\|^2$."""
    _check_above_rounding(regularization)
    return lambda sigma: 1 / (sigma + regularization)


def _check_above_rounding(regularization: float) -> None:
    """Refuse what is lost beside eigenvalues of at most 1."""
    if not regularization > 1e-12:
        raise ValueError(
            "regularization must be > 1e-12 in coordinates divided by the bandwidth, where rounding does not swallow "
            f"it, got {regularization:.3g} there; raise it, or the bandwidth"
        )


def cut_off(regularization: float, *, strict: bool = False) -> Filter:
    r"""$g(\sigma) = 1/\sigma$ where $\sigma \ge \lambda$, else 0, to a relative rounding of 1e-10.

    Where nothing is left the field is 0; `strict` refuses that.
    """

    def g(sigma: Array) -> Array:
        kept = sigma >= regularization * (1 - 1e-10)
        if strict and not kept.any():
            raise ValueError(
                f"no eigenvalue reaches regularization = {regularization:g}, the largest is {sigma.max():.3g}; lower "
                "it, or give a larger bandwidth"
            )
        return np.where(kept, 1 / np.maximum(sigma, 1e-300), 0.0)

    return g


def largest(count: int) -> Filter:
    """The cut-off that keeps the `count` largest eigenvalues, and their equals."""
    return lambda sigma: cut_off(np.sort(sigma)[-min(count, len(sigma))])(sigma)


def nu_method(iterations: int, nu: float) -> Filter:
    r"""The polynomial of the $\nu$-method after t iterations, as good as $\lambda = t^{-2}$."""

    def g(sigma: Array) -> Array:
        now = before = np.zeros_like(sigma)
        for t in range(1, iterations + 1):
            momentum, step = nu_steps(t, nu)
            now, before = now + momentum * (now - before) + step * (1 - sigma * now), now
        return now

    return g


def nu_steps(t: int, nu: float) -> tuple[float, float]:
    r"""Momentum $u_t$ and step $\omega_t$ of iteration t >= 1 (Engl, Hanke & Neubauer 1996, section 6.3)."""
    top = 2 * t + 2 * nu - 1
    step = 4 * top * (t + nu - 1) / ((t + 2 * nu - 1) * (2 * t + 4 * nu - 1))
    if t == 1:
        return 0.0, step
    return (t - 1) * (2 * t - 3) * top / ((t + 2 * nu - 1) * (2 * t + 4 * nu - 1) * (2 * t + 2 * nu - 3)), step


@dataclass(frozen=True, eq=False)
class Problem:
    """The rows of a fit, centred and divided by the bandwidth.

    Args:
        kernel: one of `fields.KERNELS`.
        bandwidth: what the coordinates were divided by.
        centre: what was subtracted before, (d,).
        z: rows, (n, d).
        w: weights > 0 that sum to 1, (n,).
        drift: the score of the base density at the rows, in these coordinates, (n, d).
    """

    kernel: str
    bandwidth: float
    centre: Array
    z: Array
    w: Array
    drift: Array

    def field(self, points: Array, vectors: Array, scalars: Array) -> KernelField:
        """A sum of kernels in the coordinates of this problem."""
        return KernelField(self.kernel, self.bandwidth, self.centre, points, vectors, scalars)

    def solution(self, scale: float, vectors: Array) -> KernelField:
        r"""The field $-\text{scale}\,\zeta + \sum_a \mathcal K(\cdot, x_a)\,c_a$."""
        return self.field(self.z, vectors - scale * self.w[:, None] * self.drift, -scale * self.w)

    def zeta(self) -> Array:
        r"""$\zeta$ at the rows, (n, d)."""
        return self.field(self.z, self.w[:, None] * self.drift, self.w).at(self.z)

    def product(self, vectors: Array) -> Array:
        r"""$\sum_b \mathcal K(x_a, x_b)\,c_b$ at every row a, without the matrix, (n, d)."""
        return self.field(self.z, vectors, np.zeros(len(self.z))).at(self.z)


def exact_tikhonov(problem: Problem, regularization: float) -> KernelField:
    r"""By a Cholesky factor of the representer's system (see `KernelExponentialFamily`)."""
    _check_above_rounding(regularization)
    root = np.sqrt(problem.w)[:, None]
    h, (n, d) = root * problem.zeta() / regularization, problem.z.shape
    matrix = gram(problem.kernel, problem.z)
    scale = root.ravel() if problem.kernel == "diagonal" else np.repeat(root.ravel(), d)
    matrix *= scale[:, None]
    matrix *= scale
    matrix[np.diag_indices_from(matrix)] += regularization
    right = h if problem.kernel == "diagonal" else h.ravel()
    gamma = cho_solve(cho_factor(matrix, lower=True, overwrite_a=True), right).reshape(n, d)
    return problem.solution(1 / regularization, root * gamma)


def conjugate_gradient_tikhonov(
    problem: Problem, regularization: float, *, tolerance: float, max_iterations: int
) -> KernelField:
    """The same system by conjugate gradients, in memory O(n)."""
    _check_above_rounding(regularization)
    root, (n, d) = np.sqrt(problem.w)[:, None], problem.z.shape

    def product(gamma: Array) -> Array:
        gamma = gamma.reshape(n, d)
        return (root * problem.product(root * gamma) + regularization * gamma).ravel()

    right = (root * problem.zeta() / regularization).ravel()
    kind: Any = LinearOperator  # its stub knows the abstract form alone
    operator = kind((n * d, n * d), matvec=product, dtype=np.float64)
    gamma, left = cg(operator, right, rtol=tolerance, atol=0.0, maxiter=max_iterations)
    if left:
        raise ValueError(
            f"conjugate gradients did not reach tolerance {tolerance:g} in {max_iterations} iterations; raise "
            'max_iterations, tolerance or regularization, or use solver="exact" or "nystrom"'
        )
    return problem.solution(1 / regularization, root * gamma.reshape(n, d))


def iterate_nu(problem: Problem, iterations: int, nu: float) -> KernelField:
    r"""$s_t = s_{t-1} + u_t (s_{t-1} - s_{t-2}) - \omega_t (L s_{t-1} + \zeta)$ from $s_0 = 0$, in memory O(n)."""
    w, zeta = problem.w[:, None], problem.zeta()
    scale = scale_before = 0.0
    c = c_before = np.zeros_like(problem.z)
    for t in range(1, iterations + 1):
        momentum, step = nu_steps(t, nu)
        at_rows = problem.product(c) - scale * zeta
        c, c_before = c + momentum * (c - c_before) - step * w * at_rows, c
        scale, scale_before = scale + momentum * (scale - scale_before) + step, scale
    return problem.solution(scale, c)


def exact_cut_off(problem: Problem, g: Filter) -> KernelField:
    r"""By the eigenvectors of $W^{1/2} K W^{1/2}$; for filters of the diagonal kernel that are 0 near 0."""
    root = np.sqrt(problem.w)[:, None]
    sigma, axes = eigh(root * gram("diagonal", problem.z) * root.T, driver="evd")
    filtered = g(sigma)
    inverse = np.divide(filtered, sigma, out=np.zeros_like(sigma), where=filtered > 0)
    h = axes.T @ (root * problem.zeta())
    return problem.solution(0.0, -root * (axes @ (inverse[:, None] * h)))


@dataclass(frozen=True, eq=False)
class Projected:
    r"""The problem in the span of all $\mathcal K(\cdot, z_m) e_j$ and $\zeta_{z_m}$ of some landmarks z, diagonalised.

    With every row a landmark the span holds the solution, and every filter gives what it gives in the whole space.

    Args:
        problem: what was projected.
        landmarks: (M, d).
        sigma: eigenvalues of L in the span, (r,).
        axes: its orthonormal eigenvectors in terms of the spanning functions, (P, r).
        zeta: the coordinates of $\zeta$ along them, (r,) or (r, d).
    """

    problem: Problem
    landmarks: Array
    sigma: Array
    axes: Array
    zeta: Array

    def solve(self, g: Filter) -> KernelField:
        r"""$-g(L)\,\zeta$ in the span."""
        filtered = g(self.sigma)
        theta = -self.axes @ (filtered.reshape(-1, *[1] * (self.zeta.ndim - 1)) * self.zeta)
        m, d = self.landmarks.shape
        if theta.ndim == 2:
            return self.problem.field(self.landmarks, theta, np.zeros(m))
        return self.problem.field(self.landmarks, theta[: m * d].reshape(m, d), theta[m * d :])


def project(problem: Problem, landmarks: Array) -> Projected:
    r"""L in a span, $T^\top A\,T$ with $A = \sum_a w_a \Phi_a^\top \Phi_a$, $T^\top G\,T = I$; one pass over rows."""
    d = problem.z.shape[1]
    inside, own = features(problem.kernel, landmarks, landmarks)
    m = len(landmarks)
    matrix = np.empty((m * (d + 1), m * (d + 1)))
    matrix[: m * d] = inside.reshape(m * d, -1)
    matrix[m * d :] = own
    a, zeta = np.zeros_like(matrix), np.zeros(len(matrix))
    for rows in blocks(len(problem.z), m * (d + 1) * d):
        values, divergence = features(problem.kernel, problem.z[rows], landmarks)
        w = problem.w[rows]
        zeta += w @ divergence + np.einsum("a,aip,ai->p", w, values, problem.drift[rows], optimize=True)
        values *= np.sqrt(w)[:, None, None]
        flat = values.reshape(-1, len(matrix))
        a += flat.T @ flat
    return _diagonalise(problem, landmarks, matrix, a, zeta)


def project_scalar(problem: Problem, landmarks: Array) -> Projected:
    r"""The same for the diagonal kernel in the span of the $k(\cdot, z_m)$ alone, one for all coordinates."""
    a, zeta = np.zeros((len(landmarks),) * 2), np.zeros_like(landmarks)
    for rows in blocks(len(problem.z), len(landmarks)):
        apart = problem.field(problem.z[rows], np.zeros_like(problem.z[rows]), problem.w[rows])
        zeta += apart.at(landmarks)
        k = np.exp(-square_distances(problem.z[rows], landmarks) / 2) * np.sqrt(problem.w[rows])[:, None]
        a += k.T @ k
    return _diagonalise(problem, landmarks, gram("diagonal", landmarks), a, zeta)


def _diagonalise(problem: Problem, landmarks: Array, matrix: Array, a: Array, zeta: Array) -> Projected:
    """Directions that the spanning functions share to rounding are left out."""
    size, directions = eigh(matrix, driver="evd")
    kept = size > len(size) * np.finfo(np.float64).eps * size[-1]
    white = directions[:, kept] / np.sqrt(size[kept])
    sigma, turn = eigh(white.T @ a @ white, driver="evd")
    axes = white @ turn
    return Projected(problem, landmarks, np.maximum(sigma, 0.0), axes, axes.T @ zeta)
