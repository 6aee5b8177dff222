"""What the estimators of kernel fields share: `fit`, and the questions to a fit."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state

from scorefield.checks import check_choice, check_count
from scorefield.estimators.bandwidth import half_distance
from scorefield.estimators.base import ScoreEstimator
from scorefield.estimators.kernels.rows import Rows, check_near, read_rows, whole
from scorefield.estimators.kernels.selection import Plan, objective, read_bandwidth, search_fields, solve
from scorefield.estimators.validation import Array


class KernelFieldEstimator(ScoreEstimator):
    """A sum of kernels found by a spectral filter. Not for use by itself: a subclass makes the plan."""

    bandwidth: Any
    solver: str
    landmarks: int | None
    random_state: Any
    _solvers: tuple[str, ...] = ("auto", "exact", "nystrom")

    @abstractmethod
    def _plan(self, rows: Rows) -> Plan:
        """What to fit to the rows, and how."""

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the field to the rows of X.

        Args:
            X: (n, d), finite, n >= 2; columns that differ from each other and are not constant.
            y: ignored.
            sample_weight: (n,), >= 0; integer weights count like repeated rows.

        Returns:
            self.

        Raises:
            ValueError: data or settings out of their range; the message names the way out.
        """
        check_choice("solver", self.solver, self._solvers)
        if self.landmarks is not None:
            check_count("landmarks", whole(self.landmarks))
        rows = read_rows(self, X, sample_weight)
        random, plan = check_random_state(self.random_state), self._plan(rows)
        widths = read_bandwidth(self.bandwidth, half_distance(rows.x, rows.w), rows.unit)
        bandwidth, strength = widths[0], plan.strengths(widths[0])[0]
        if len(widths) > 1 or len(plan.strengths(bandwidth)) > 1:
            self.held_out_ = search_fields(plan, rows, widths, random)
            bandwidth, strength = self.held_out_.best
        field = solve(plan, plan.problem(rows, bandwidth), strength, self.solver, whole(self.landmarks), random)
        if not (np.isfinite(field.vectors).all() and np.isfinite(field.scalars).all()):
            raise ValueError(f"the fit with bandwidth {bandwidth:.3g} is not finite; regularise it more")
        self.bandwidth_, self.strength_, self.base_, self.field_ = bandwidth, strength, plan.base, field
        return self

    def _rho(self, x: Array) -> Array:
        check_near(x, self.field_.centre, self.bandwidth_)
        return objective(self.field_, self.base_, x)

    def _score(self, x: Array) -> Array:
        check_near(x, self.field_.centre, self.bandwidth_)
        return self.field_.score(x) + self.base_.score(x)
