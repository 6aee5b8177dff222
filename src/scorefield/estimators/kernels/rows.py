"""What every kernel estimator asks of its rows, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from scorefield.estimators.bandwidth import moments
from scorefield.estimators.validation import Array, check_fit_data

LARGEST, SMALLEST = 1e100, 1e-100  # of numbers whose squares and products neither overflow nor vanish


@dataclass(frozen=True, eq=False)
class Rows:
    """Data at the door: rows of weight > 0, their weights summing to 1, their mean and root mean variance."""

    x: Array
    w: Array
    mean: Array
    unit: float


def read_rows(estimator: BaseEstimator, X: Any, sample_weight: Any = None) -> Rows:
    """Check what `fit` was given, and drop rows of weight 0.

    Raises:
        ValueError: what `validation.check_fit_data` refuses, constant or equal columns, and values whose squares
            overflow or vanish.
    """
    x, w = check_fit_data(estimator, X, sample_weight)
    check_scale(x)
    _check_columns(x)
    mean, unit = moments(x, w)
    if not unit > SMALLEST:
        raise ValueError(f"the columns of X must spread by more than 1e-100, got {unit:.3g}; multiply X by a number")
    widest = float(np.ptp(x, axis=0).max())
    if not unit > 1e-8 * widest:
        raise ValueError(
            f"nearly all the weight lies on equal rows: the weighted spread is {unit:.3g}, the range {widest:.3g}; "
            "drop the rows of tiny weight"
        )
    return Rows(x, w, mean, unit)


def check_scale(x: Array) -> None:
    """Refuse numbers whose squares and products would overflow."""
    if np.abs(x).max() > LARGEST:
        raise ValueError(f"X must lie in [-1e100, 1e100], got {x.flat[np.abs(x).argmax()]:.3g}; divide it by a number")


def check_near(x: Array, centre: Array, bandwidth: float) -> None:
    """Refuse places so far from the rows of a fit that squared distances in bandwidths overflow."""
    check_scale(x)
    far = float(np.abs(x - centre).max()) / bandwidth
    if not far < 1e50:
        raise ValueError(f"X must lie within 1e50 bandwidths of the rows of the fit, got {far:.3g}; drop such rows")


def whole(value: Any) -> Any:
    """An integer of numpy, as a grid of settings holds them, as Python's; anything else as it is."""
    return int(value) if isinstance(value, np.integer) else value


def _check_columns(x: Array) -> None:
    spread, size = np.ptp(x, axis=0), np.abs(x).max(0)
    still = np.flatnonzero(spread <= 8 * np.finfo(np.float64).eps * size)
    if len(still):
        raise ValueError(
            f"column {still[0]} of X is constant ({x[0, still[0]]:.6g}) and has no density; drop it"
            + (f", as {len(still) - 1} others" if len(still) > 1 else "")
        )
    seen: dict[bytes, int] = {}
    for j, column in enumerate(x.T + 0.0):
        first = seen.setdefault(column.tobytes(), j)
        if first != j:
            raise ValueError(f"columns {first} and {j} of X are equal, and have no joint density; drop one of them")
