"""The Stein gradient estimator, as a function."""

from __future__ import annotations

from typing import Any

import numpy as np

from scorefield.checks import check_count, check_positive
from scorefield.estimators.bandwidth import mild
from scorefield.estimators.kernels.bases import FlatBase
from scorefield.estimators.kernels.estimator import KernelFieldEstimator
from scorefield.estimators.kernels.fields import KernelField
from scorefield.estimators.kernels.filters import (
    Problem,
    conjugate_gradient_tikhonov,
    exact_tikhonov,
    tikhonov,
)
from scorefield.estimators.kernels.rows import Rows, whole
from scorefield.estimators.kernels.selection import Plan, read_strength

LAMBDAS = tuple(10.0**k for k in np.arange(-6, 0.5, 0.5))


class SteinScore(KernelFieldEstimator):
    r"""Stein's identity $\mathbb E[k(x, \cdot)\,s(x) + \nabla_x k(x, \cdot)] = 0$ solved for the score, by ridge.

    At the rows it is the estimator of Li & Turner, with $\eta = n\lambda$ and equal weights

    $$ \hat S = -(K + \eta I)^{-1} \langle \nabla, K \rangle, \qquad
       \langle \nabla, K \rangle_a = \sum_b \nabla_{x_b} k(x_b, x_a), $$

    and elsewhere the field that has these values at the rows and minimises $\sum_a w_a (\tfrac12 \|s\|^2 + \nabla
    \cdot s)(x_a) + \tfrac\lambda2 \|s\|^2$ over fields whose coordinates lie in the Hilbert space of k:

    $$ s(x) = -\tfrac1\lambda \sum_b w_b \nabla_{x_b} k(x_b, x) + \sum_b k(x, x_b)\,c_b, \qquad
       (W K + \lambda I)\,c = \tfrac1\lambda W h, $$

    h the first sum at the rows. The source instead adds the new point to the sample, which moves all other values. It
    is not a gradient: there is no log-density and nothing to sample from.

    Args:
        bandwidth: $\ell$ of $k = e^{-\|x - y\|^2/2\ell^2}$; half the root-mean-square distance of two rows when None;
            "held-out" tries 9 around it.
        regularization: $\lambda$, without units; $0.05/\sqrt n$ when None; "held-out" tries 1e-6 to 1.
        solver: "auto" (exact up to n = 2000), "exact", "conjugate-gradient" or "nystrom".
        landmarks: how many rows span the solution of "nystrom"; 1200 / (d + 1) when None.
        tolerance: relative residual at which conjugate gradients stop.
        max_iterations: after which they give up.
        random_state: source of landmarks and folds.

    Attributes:
        bandwidth_: $\ell$.
        regularization_: $\lambda$.
        held_out_: the objective of every setting tried, a `HeldOut`.

    Source: Li & Turner 2018 (arXiv:1705.07107); the field by Zhou, Shi & Zhu 2020 (arXiv:2005.10099), Tikhonov's
    filter with the diagonal kernel.
    """

    _solvers = ("auto", "exact", "conjugate-gradient", "nystrom")

    def __init__(
        self,
        bandwidth: float | str | None = None,
        regularization: float | str | None = None,
        *,
        solver: str = "auto",
        landmarks: int | None = None,
        tolerance: float = 1e-8,
        max_iterations: int = 2000,
        random_state: Any = None,
    ) -> None:
        self.bandwidth = bandwidth
        self.regularization = regularization
        self.solver = solver
        self.landmarks = landmarks
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.random_state = random_state

    def _plan(self, rows: Rows) -> Plan:
        check_positive("tolerance", self.tolerance)
        check_count("max_iterations", whole(self.max_iterations))
        asked = read_strength("regularization", self.regularization, check_positive)
        return Plan(
            "diagonal", FlatBase(), asked, mild(rows.x, rows.w), LAMBDAS, tikhonov, self._exact, rows.x.shape[1] + 1
        )

    def _exact(self, problem: Problem, strength: float) -> KernelField:
        if self.solver != "conjugate-gradient":
            return exact_tikhonov(problem, strength)
        settings: dict[str, Any] = {"tolerance": self.tolerance, "max_iterations": self.max_iterations}
        return conjugate_gradient_tikhonov(problem, strength, **settings)

    @property
    def regularization_(self) -> float:
        r"""$\lambda$ of the fit."""
        return self.strength_
