"""How a kernel field is fitted: the choice of bandwidth and strength, then the system or its projection."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from scorefield.checks import check_positive
from scorefield.estimators.bandwidth import held_out_folds
from scorefield.estimators.kernels.bases import Base
from scorefield.estimators.kernels.fields import KernelField
from scorefield.estimators.kernels.filters import Filter, Problem, Projected, project
from scorefield.estimators.kernels.rows import Rows
from scorefield.estimators.validation import Array

HELD_OUT = "held-out"
FACTORS = tuple(2.0 ** (k / 2) for k in range(-4, 5))  # of the default bandwidth, tried by a held-out choice
_DENSE, _SPAN, _SEARCH = 2000, 1200, 600  # rows of a dense system; functions in a span, and in one while searching


@dataclass(frozen=True, eq=False)
class Plan:
    r"""What an estimator decides before its data are fitted.

    Args:
        kernel: one of `fields.KERNELS`.
        base: the density whose score is added.
        asked: the strength of the filter that the user gave: a number, None or "held-out".
        usual: the strength when None.
        tried: the strengths that a held-out choice tries.
        filter: of a strength.
        exact: solves a problem with a strength and without landmarks.
        project: the span of landmarks.
        spanned: how many functions one landmark adds to it.
        in_data_units: `asked` is to be multiplied by the squared bandwidth.
    """

    kernel: str
    base: Base
    asked: Any
    usual: float
    tried: Sequence[float]
    filter: Callable[[float], Filter]
    exact: Callable[[Problem, float], KernelField]
    spanned: int
    project: Callable[[Problem, Array], Projected] = project
    in_data_units: bool = False

    def strengths(self, bandwidth: float) -> Sequence[float]:
        """What to try with a bandwidth; a single one unless it is to be held out."""
        if isinstance(self.asked, str):
            return self.tried
        if self.asked is None:
            return [self.usual]
        return [self.asked * bandwidth**2 if self.in_data_units else self.asked]

    def problem(self, rows: Rows, bandwidth: float) -> Problem:
        """The rows in coordinates divided by the bandwidth."""
        z, drift = (rows.x - rows.mean) / bandwidth, bandwidth * self.base.score(rows.x)
        return Problem(self.kernel, bandwidth, rows.mean, z, rows.w, drift)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a choice by held-out rows has seen.

    Args:
        bandwidths: that were tried, (B,).
        strengths: regularisations, or numbers of iterations, that were tried with each, (B, S); a regularisation is
            that of coordinates divided by the bandwidth.
        objective: the mean implicit objective of held-out rows, lower is better, (B, S).
        standard_error: of that mean, (B, S).
    """

    bandwidths: Array
    strengths: Array
    objective: Array
    standard_error: Array

    @property
    def best(self) -> tuple[float, float]:
        """The bandwidth and the strength of the least objective plus one standard error.

        The objective of a wiggly fit has heavy tails, and the least of many noisy means is often one of them; its
        standard error gives it away.
        """
        bound = np.nan_to_num(self.objective + self.standard_error, nan=math.inf)
        i, j = np.unravel_index(int(np.argmin(bound)), bound.shape)
        return float(self.bandwidths[i]), float(self.strengths[i, j])


def read_bandwidth(bandwidth: Any, default: float, unit: float) -> list[float]:
    """The bandwidths to try: the one given, the default for None, or many around the default when "held-out"."""
    if isinstance(bandwidth, str):
        if bandwidth != HELD_OUT:
            raise ValueError(f'bandwidth must be a number > 0, None or "held-out", got {bandwidth!r}')
        return [default * factor for factor in FACTORS]
    width = default if bandwidth is None else bandwidth
    check_positive("bandwidth", width)
    if not 1e-6 * unit < width < 1e6 * unit:
        raise ValueError(
            f"bandwidth must lie within a factor 1e6 of the spread of the columns, {unit:.3g}, got {width:g}; leave it "
            'None, or use "held-out"'
        )
    return [float(width)]


def read_strength(name: str, value: Any, check: Callable[[str, Any], None]) -> Any:
    """A setting that is None, "held-out" or a number that passes `check`."""
    if isinstance(value, str) and value != HELD_OUT:
        raise ValueError(f'{name} must be a number, None or "held-out", got {value!r}')
    if value is not None and not isinstance(value, str):
        check(name, value)
    return value


def search(
    rows: Rows,
    widths: Sequence[float],
    strengths: Array,
    fit: Callable[[Rows, float], Callable[[float], Callable[[Array], Array]]],
    random: np.random.RandomState,
) -> HeldOut:
    """Fit on some rows, judge on the others, for every bandwidth and strength.

    Args:
        rows: all rows.
        widths: bandwidths, B of them.
        strengths: to try with each, (B, S).
        fit: rows and a bandwidth -> strength -> the objective as a function of rows.
        random: source of the folds.
    """
    if len(rows.x) < 10:
        raise ValueError(f'"held-out" needs at least 10 rows, got {len(rows.x)}; give numbers, None or more rows')
    seen, weights = [], []
    for inside, outside in held_out_folds(len(rows.x), int(random.randint(2**31 - 1))):
        part = Rows(rows.x[inside], rows.w[inside] / rows.w[inside].sum(), rows.mean, rows.unit)
        values = np.empty((*strengths.shape, len(outside)))
        for i, width in enumerate(widths):
            fitted = fit(part, width)
            for j, strength in enumerate(strengths[i]):
                values[i, j] = fitted(strength)(rows.x[outside])
        seen.append(values)
        weights.append(rows.w[outside])
    values, w = np.concatenate(seen, 2), np.concatenate(weights) / np.concatenate(weights).sum()
    mean = values @ w
    return HeldOut(np.array(widths), strengths, mean, np.sqrt(np.square(values - mean[:, :, None]) @ np.square(w)))


def search_fields(plan: Plan, rows: Rows, widths: Sequence[float], random: np.random.RandomState) -> HeldOut:
    """The search for a field, in the span of a few hundred functions."""

    def fit(part: Rows, width: float) -> Callable[[float], Callable[[Array], Array]]:
        problem = plan.problem(part, width)
        projected = plan.project(problem, landmarks(problem.z, _SEARCH // plan.spanned, random))
        return lambda strength: partial(objective, projected.solve(plan.filter(strength)), plan.base)

    return search(rows, widths, np.array([plan.strengths(h) for h in widths], dtype=np.float64), fit, random)


def solve(
    plan: Plan, problem: Problem, strength: float, solver: str, count: int | None, random: np.random.RandomState
) -> KernelField:
    """The field, by the whole system or in the span of landmarks."""
    n, d = problem.z.shape
    size = n if problem.kernel == "diagonal" else n * d
    if solver == "auto":
        solver = "exact" if size <= _DENSE else "nystrom"
    if solver != "nystrom":
        return plan.exact(problem, strength)
    count = max(1, _SPAN // plan.spanned) if count is None else count
    return plan.project(problem, landmarks(problem.z, count, random)).solve(plan.filter(strength))


def landmarks(z: Array, count: int, random: np.random.RandomState) -> Array:
    """Different rows drawn without regard to weight; all of them where they are few."""
    count = max(count, 1)
    return z if count >= len(z) else z[np.sort(random.choice(len(z), count, replace=False))]


def objective(field: KernelField, base: Base, x: Array) -> Array:
    r"""$\tfrac12 \|s\|^2 + \nabla \cdot s$ at the rows, (n,)."""
    return np.square(field.score(x) + base.score(x)).sum(1) / 2 + field.divergence(x) + base.laplacian(x)
