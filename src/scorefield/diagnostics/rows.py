"""Rows of numbers before anything is learned from them: gaps, constants, copies, atoms, outliers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESOLUTION = 1e-12  # a column that spreads less than this, relative to its size, is constant in effect
FARTHEST = 1e-3  # the share of rows that `tail_share` looks at


def evenly(n: int, most: int) -> NDArray[np.intp]:
    """Indices of at most `most` of n rows, evenly spaced from the first to the last."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.intp)


def rows_not_finite(x: NDArray) -> NDArray[np.bool_]:
    """Which rows hold NaN or infinity.

    Args:
        x: rows (n, *D).

    Returns:
        a mask (n,).
    """
    return np.asarray(~np.isfinite(x.reshape(len(x), -1)).all(1))


def constant_columns(x: NDArray) -> NDArray[np.intp]:
    """The columns that do not vary, to twelve digits of their size.

    Args:
        x: finite rows (n, d).

    Returns:
        their indices.
    """
    size = np.abs(x).max(0)
    return np.flatnonzero(np.ptp(x, 0) <= RESOLUTION * size)


def flat_directions(x: NDArray) -> NDArray[np.float64]:
    """The directions along which standardised columns do not vary: columns that follow from others.

    Args:
        x: finite rows (n, d), n > d; constant columns are left out of account.

    Returns:
        unit directions (k, d) whose variance is below 1e-6 of the mean variance.
    """
    x = x.astype(np.float64)
    spread = x.std(0)
    vary = spread > RESOLUTION * np.abs(x).max(0)
    standard = (x[:, vary] - x[:, vary].mean(0)) / spread[vary]
    values, vectors = np.linalg.eigh(standard.T @ standard / len(x))
    found = np.zeros((int((values < 1e-6).sum()), x.shape[1]))
    found[:, vary] = vectors[:, values < 1e-6].T
    return found


def repeated_rows(x: NDArray) -> NDArray[np.bool_]:
    """Which rows equal an earlier row in every number.

    Args:
        x: rows (n, *D).

    Returns:
        a mask (n,).
    """
    _, first = np.unique(_keys(x), return_index=True)
    mask = np.ones(len(x), dtype=bool)
    mask[first] = False
    return mask


def rows_among(a: NDArray, b: NDArray) -> NDArray[np.bool_]:
    """Which rows of `a` equal some row of `b` in every number.

    Args:
        a: rows (n, *D).
        b: rows (m, *D) of the same dtype.

    Returns:
        a mask (n,).
    """
    return np.isin(_keys(a), _keys(b))


class Atoms(NamedTuple):
    """What `atoms` found: how many rows share their value with another, and the grid the values lie on (0: none)."""

    tied: int
    spacing: float


def atoms(column: NDArray) -> Atoms:
    """How much of a column sits on values that occur more than once, and their spacing where they form a grid.

    A law with a density gives no ties, but for the rounding of the numbers themselves: a grid finer than what networks
    see, $2^{-23}$ of the range as float32, is none.

    Args:
        column: values (n,).

    Returns:
        the number of tied rows, and the largest spacing of which every gap between values is a multiple, to a
        thousandth.
    """
    values, counts = np.unique(column.astype(np.float64), return_counts=True)
    tied = int(counts[counts > 1].sum())
    gaps = np.diff(values)
    if not len(gaps) or not tied:
        return Atoms(tied, 0.0)
    spacing = float(gaps.min())
    multiples = gaps / spacing
    seen = spacing > np.finfo(np.float32).eps * np.ptp(values)
    return Atoms(tied, spacing if seen and np.abs(multiples - multiples.round()).max() < 1e-3 else 0.0)


def tail_share(column: NDArray) -> float:
    """The share of a column's variance that its farthest rows hold: one in a thousand of them, and at least one.

    About 0.01 for a normal law. Near 1, a few rows decide the scale that all others are seen in.

    Args:
        column: finite values (n,).

    Returns:
        the share, in [0, 1]; 0 for a constant column.
    """
    column = column.astype(np.float64)
    squares = np.sort(np.square(column - np.median(column)))
    whole = squares.sum()
    return float(squares[-max(1, round(FARTHEST * len(column))) :].sum() / whole) if whole > 0 else 0.0


def _keys(x: NDArray) -> NDArray:
    """One opaque value per row; -0.0 is 0.0."""
    flat = np.ascontiguousarray(x.reshape(len(x), -1) + x.dtype.type(0))
    return flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
