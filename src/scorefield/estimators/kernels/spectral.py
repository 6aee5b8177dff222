"""The spectral Stein gradient estimator."""

from __future__ import annotations

from typing import Any

import numpy as np

from scorefield.checks import check_between, check_count
from scorefield.estimators.bandwidth import mild
from scorefield.estimators.kernels.bases import FlatBase
from scorefield.estimators.kernels.estimator import KernelFieldEstimator
from scorefield.estimators.kernels.fields import KernelField
from scorefield.estimators.kernels.filters import (
    Filter,
    Problem,
    cut_off,
    exact_cut_off,
    largest,
    project_scalar,
)
from scorefield.estimators.kernels.rows import Rows, whole
from scorefield.estimators.kernels.selection import Plan, read_strength

CUTS = tuple(10.0**k for k in np.arange(-4, -0.4, 0.25))


class SpectralScore(KernelFieldEstimator):
    r"""SSGE: the score in the first J eigenfunctions of the kernel under the law of the data.

    With $W^{1/2} K W^{1/2} u_j = \mu_j u_j$ and Nyström's eigenfunctions, orthonormal over the rows,

    $$ s(x) = \sum_{j \le J} \beta_j\, \psi_j(x), \qquad
       \psi_j(x) = \frac1{\mu_j} \sum_a \sqrt{w_a}\, u_{ja}\, k(x, x_a), \qquad
       \beta_j = -\sum_a w_a \nabla \psi_j(x_a). $$

    For equal weights $n \mu_j$ are the eigenvalues of K, and this is the source's estimator. The eigenvalues sum to 1.
    It is not a gradient: there is no log-density and nothing to sample from.

    Args:
        bandwidth: $\ell$ of $k = e^{-\|x - y\|^2/2\ell^2}$; half the root-mean-square distance of two rows when None;
            "held-out" tries 9 around it.
        regularization: keep eigenvalues $\mu_j \ge \lambda$, in (0, 1]; $0.05/\sqrt n$ when None; "held-out" tries
            1e-4 to 0.3.
        components: J, which then decides in the place of `regularization`; eigenvalues equal to the J-th are kept.
        solver: "auto" (exact up to n = 2000), "exact", or "nystrom": eigenfunctions in the span of the
            $k(\cdot, z)$ of landmarks z.
        landmarks: how many rows span them; 1200 when None.
        random_state: source of landmarks and folds.

    Attributes:
        bandwidth_: $\ell$.
        held_out_: the objective of every setting tried, a `HeldOut`.

    Source: Shi, Sun & Zhu 2018 (arXiv:1806.02925); as a spectral cut-off by Zhou, Shi & Zhu 2020 (arXiv:2005.10099).
    """

    def __init__(
        self,
        bandwidth: float | str | None = None,
        regularization: float | str | None = None,
        *,
        components: int | None = None,
        solver: str = "auto",
        landmarks: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.bandwidth = bandwidth
        self.regularization = regularization
        self.components = components
        self.solver = solver
        self.landmarks = landmarks
        self.random_state = random_state

    def _plan(self, rows: Rows) -> Plan:
        asked = read_strength("regularization", self.regularization, _check_cut)
        if self.components is not None:
            check_count("components", whole(self.components))
            if asked is not None:
                raise ValueError("components and regularization cannot both be given; leave one of them None")
        return Plan(
            "diagonal", FlatBase(), asked, mild(rows.x, rows.w), CUTS, self._filter, self._exact, 1, project_scalar
        )

    def _filter(self, strength: float) -> Filter:
        if self.components is not None:
            return largest(self.components)
        return cut_off(strength, strict=not isinstance(self.regularization, str))

    def _exact(self, problem: Problem, strength: float) -> KernelField:
        return exact_cut_off(problem, self._filter(strength))


def _check_cut(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must lie in (0, 1], got {value!r}")
    check_between(name, value, 0.0, 1.0)
