r"""The Bingham law on the sphere: axes rather than directions, and a normalising constant that is never needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from scorefield.checks import check_choice, check_non_negative
from scorefield.estimators import linear
from scorefield.estimators.base import Energy, Sampled, ScoreEstimator
from scorefield.estimators.domains import region_of
from scorefield.estimators.inference import ON_SINGULAR, Inference, record
from scorefield.estimators.statistics import Derivatives
from scorefield.estimators.validation import Array, check_fit_data, names_of
from scorefield.estimators.von_mises_fisher import on_sphere


class Bingham(Inference, Energy, Sampled, ScoreEstimator):
    r"""The Bingham law $p(z) \propto e^{z^\top A z}$ on the unit sphere, in closed form; z and -z are the same to it.

    $f = z^\top A z$ is homogeneous of degree 2, so that with $\operatorname{tr} A = 0$

    $$ \rho(z) = 2\left(\|Az\|^2 - (z^\top A z)^2\right) - 2p\, z^\top A z, $$

    quadratic in A: a linear system in $p(p + 1)/2 - 1$ unknowns.

    **What is identified.** $z^\top z = 1$, so that A and A + cI are the same law. Here the trace of A is 0; where the
    smallest eigenvalue is to be 0, subtract it: `A - eigenvalues_[-1] * np.eye(p)`. The sign is Mardia and Jupp's: the
    mass is where eigenvalues are large. Kent, Ganeiber & Mardia write $e^{-z^\top A z}$.

    Rows must be unit vectors to 1e-8; within that they are divided by their length.

    Args:
        ddof: the covariance of the estimate is multiplied by n / (n - ddof).
        on_singular: rows that lie in a plane, or too few: `"pinv"` answers with the pseudo-inverse and a `RankWarning`,
            `"raise"` refuses.
        inference: False skips the standard errors.

    Attributes:
        matrix_: A, symmetric, of trace 0, (p, p).
        eigenvalues_: of A, from the largest, (p,).
        axes_: the eigenvectors, one per column in the same order, (p, p); the first is where the density is highest.
        theta_: A's upper triangle row by row; with `covariance_` and the others of `Inference`. Its diagonal sums to 0,
            so that the covariance has a rank less by one.

    Source: Mardia, Kent & Laha 2016 (arXiv:1604.08470); samples by Kent, Ganeiber & Mardia 2013 (arXiv:1310.8110).
    """

    def __init__(self, ddof: float = 0.0, on_singular: str = "pinv", inference: bool = True) -> None:
        self.ddof = ddof
        self.on_singular = on_singular
        self.inference = inference

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Bingham:
        """Estimate A.

        Args:
            X: unit vectors, (n, p), p >= 2.
            y: ignored.
            sample_weight: of the rows, >= 0.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights or settings; rows that are no unit vectors.

        Warns:
            RankWarning: the linear system is singular or nearly so.
        """
        check_non_negative("ddof", self.ddof)
        check_choice("on_singular", self.on_singular, ON_SINGULAR)
        x, w = check_fit_data(self, X, sample_weight)
        z = on_sphere(x)
        p, columns = z.shape[1], names_of(self, z.shape[1])
        i, j = np.triu_indices(p)
        names = [f"A[{columns[a]}, {columns[b]}]" for a, b in zip(i, j, strict=True)]
        how: Any = {"ddof": self.ddof, "on_singular": self.on_singular, "inference": self.inference}
        found = linear.solve(z, w, Quadrics(), region_of("real", None, p), names[:-1], **how)
        to = _from_free(p)
        theta = to @ found.theta
        self.matrix_ = np.zeros((p, p))
        self.matrix_[i, j] = self.matrix_[j, i] = theta
        values, vectors = np.linalg.eigh(self.matrix_)
        self.eigenvalues_, self.axes_ = values[::-1].copy(), vectors[:, ::-1].copy()
        back = np.linalg.pinv(to)
        record(
            self,
            theta=theta,
            hessian=back.T @ found.hessian @ back,
            covariance=None if found.covariance is None else to @ found.covariance @ to.T,
            objective=found.objective,
            condition=found.condition,
            n_samples=len(z),
            names=names,
        )
        self._improper = None
        return self

    def _contributions(self, x: Array) -> Array:
        """Along the matrices of trace 0."""
        p = x.shape[1]
        free = linear.contributions(on_sphere(x), self.theta_[:-1], Quadrics(), region_of("real", None, p))
        return free @ np.linalg.pinv(_from_free(p))

    def _rho(self, x: Array) -> Array:
        z = on_sphere(x)
        return np.square(self._score(z)).sum(1) / 2 - 2 * z.shape[1] * self._log_density(z)

    def _score(self, x: Array) -> Array:
        """Tangential to the sphere."""
        z = on_sphere(x)
        pulled = z @ self.matrix_
        return 2 * (pulled - z * (pulled * z).sum(1)[:, None])

    def _log_density(self, x: Array) -> Array:
        z = on_sphere(x)
        return ((z @ self.matrix_) * z).sum(1)

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        """Exact, by rejection from the angular central Gaussian that touches the law from above."""
        p, falls = len(self.matrix_), self.eigenvalues_[0] - self.eigenvalues_  # e^(-sum falls z^2), smallest 0
        b: Any = brentq(lambda b: np.sum(1 / (b + 2 * falls)) - 1, 1.0, p + 1.0)
        shape = 1 + 2 * falls / b
        kept = np.empty((0, p))
        while len(kept) < count:
            y = rng.standard_normal((2 * (count - len(kept)) + 8, p)) / np.sqrt(shape)
            y /= np.linalg.norm(y, axis=1, keepdims=True)
            square = y**2
            bound = (p - b) / 2 + p / 2 * np.log(b / p)
            chance = bound - square @ falls + p / 2 * np.log(square @ shape)
            kept = np.concatenate([kept, y[np.log(rng.uniform(size=len(y))) <= chance]])
        rows = kept[:count] @ self.axes_.T
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _from_free(p: int) -> Array:
    """From the free entries of A, all but the last, to its upper triangle: the last makes the trace 0."""
    i, j = np.triu_indices(p)
    return np.vstack([np.eye(len(i) - 1), -(i == j)[:-1].astype(float)])


@dataclass(frozen=True)
class Quadrics:
    r"""Quadratic forms on the sphere without their constant: $z_i^2 - z_p^2$ and $2 z_i z_j$, by an upper triangle.

    `derivatives` gives what the linear engine needs on a surface: tangential gradients
    $(I - zz^\top)\nabla t$ and the Laplace–Beltrami operator, $-2p\,t$ for quadratic forms of trace 0.
    """

    def __call__(self, z: Tensor) -> Tensor:
        """The statistics, (B, p (p + 1) / 2 - 1)."""
        i, j, mixed = self._pairs(z)
        return torch.where(mixed, 2 * z[:, i] * z[:, j], z[:, i] ** 2 - z[:, -1:] ** 2)

    def derivatives(self, z: Tensor) -> Derivatives:
        """Along the surface."""
        i, j, mixed = self._pairs(z)
        pairs, p = torch.arange(len(i)), z.shape[1]
        t = self(z)
        gradient = z.new_zeros(len(z), len(i), p)
        gradient[:, pairs, i] += 2 * torch.where(mixed, z[:, j], z[:, i])
        gradient[:, pairs[mixed], j[mixed]] += 2 * z[:, i[mixed]]
        gradient[:, pairs[~mixed], -1] -= 2 * z[:, -1:]
        return Derivatives(gradient - 2 * t[:, :, None] * z[:, None], -2 * p * t)

    @staticmethod
    def _pairs(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        i, j = torch.triu_indices(z.shape[1], z.shape[1])[:, :-1].unbind()
        return i, j, i != j
