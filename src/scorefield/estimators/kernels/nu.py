r"""The $\nu$-method: a score by accelerated iterations that stop early."""

from __future__ import annotations

import math
from typing import Any

from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from scorefield.checks import check_choice, check_count, check_positive
from scorefield.estimators.bandwidth import mild
from scorefield.estimators.kernels.bases import FlatBase
from scorefield.estimators.kernels.estimator import KernelFieldEstimator
from scorefield.estimators.kernels.fields import KERNELS, KernelField
from scorefield.estimators.kernels.filters import Filter, Problem, iterate_nu, nu_method
from scorefield.estimators.kernels.rows import Rows, check_near, whole
from scorefield.estimators.kernels.selection import Plan, read_strength
from scorefield.estimators.validation import Array, check_rows_of

COUNTS = (3, 5, 8, 12, 18, 27, 40, 60, 90, 135, 200, 300, 450)


def _has_potential(estimator: NuMethodScore) -> bool:
    return estimator.kernel == "curl-free"


class NuMethodScore(KernelFieldEstimator):
    r"""The minimiser of the implicit objective approached by t accelerated steps from 0, whose number regularises it.

    $$ s_t = s_{t-1} + u_t (s_{t-1} - s_{t-2}) - \omega_t (L s_{t-1} + \zeta), $$

    with L and $\zeta$ of `filters`, and $u_t$, $\omega_t$ of `nu_steps`; t steps regularise like $\lambda = t^{-2}$ in
    Tikhonov's way, and need products with the kernel's matrix only.

    Args:
        bandwidth: $\ell$ of $k = e^{-\|x - y\|^2/2\ell^2}$; half the root-mean-square distance of two rows when None;
            "held-out" tries 9 around it.
        iterations: t >= 1; $(0.05/\sqrt n)^{-1/2}$ when None; "held-out" tries 3 to 450.
        nu: the qualification $\nu$ > 0 of the method.
        kernel: "curl-free", whose fields are gradients, so that `log_density` exists, or "diagonal".
        solver: "auto", "exact" (iterate on all rows, memory O(n)) or "nystrom"; exact up to nd = 2000 (curl-free) or
            n = 2000 (diagonal).
        landmarks: how many rows span the solution of "nystrom"; 1200 / (d + 1) when None.
        random_state: source of landmarks and folds.

    Attributes:
        bandwidth_: $\ell$.
        iterations_: t.
        held_out_: the objective of every setting tried, a `HeldOut`.

    Source: Zhou, Shi & Zhu 2020 (arXiv:2005.10099); Engl, Hanke & Neubauer 1996, section 6.3.
    """

    def __init__(
        self,
        bandwidth: float | str | None = None,
        iterations: int | str | None = None,
        *,
        nu: float = 1.0,
        kernel: str = "curl-free",
        solver: str = "auto",
        landmarks: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.bandwidth = bandwidth
        self.iterations = iterations
        self.nu = nu
        self.kernel = kernel
        self.solver = solver
        self.landmarks = landmarks
        self.random_state = random_state

    def _plan(self, rows: Rows) -> Plan:
        check_positive("nu", self.nu)
        check_choice("kernel", self.kernel, KERNELS)
        asked = read_strength("iterations", whole(self.iterations), check_count)
        usual, spanned = math.ceil(mild(rows.x, rows.w) ** -0.5), rows.x.shape[1] + 1
        return Plan(self.kernel, FlatBase(), asked, usual, COUNTS, self._filter, self._exact, spanned)

    def _filter(self, strength: float) -> Filter:
        return nu_method(round(strength), self.nu)

    def _exact(self, problem: Problem, strength: float) -> KernelField:
        return iterate_nu(problem, round(strength), self.nu)

    @property
    def iterations_(self) -> int:
        """How many steps were made."""
        return round(self.strength_)

    @available_if(_has_potential)
    def log_density(self, X: Any) -> Array:
        """The function whose gradient the score is, up to a constant, (n, d) -> (n,); of the curl-free kernel."""
        check_is_fitted(self)
        x = check_rows_of(self, X, fitting=False)
        check_near(x, self.field_.centre, self.bandwidth_)
        return self.field_.potential(x)
