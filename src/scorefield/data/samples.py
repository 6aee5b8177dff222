"""From what a reader found to samples fit to learn from: axes, dtype, labels, finite rows, held-out rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scorefield.data.arrays import NO_PICKLE, Table, is_whole

PIECE = 2**20  # values handled at once, so that arrays larger than memory pass through


@dataclass(frozen=True, eq=False)
class Samples:
    """Checked samples: rows of `x` that are kept, and the dtype they are stored in.

    Args:
        x: shape (n, d) or (n, C, H, W), perhaps memory-mapped.
        dtype: uint8, float32 or float64.
        rows: the rows kept, sorted.
        y: class of each kept row, 0..K-1; None where there are no labels.
        classes: names of the classes, in the order of their numbers.
        columns: names of the columns of vectors; () for images.
    """

    x: np.ndarray
    dtype: np.dtype
    rows: np.ndarray
    y: np.ndarray | None
    classes: tuple[str, ...]
    columns: tuple[str, ...]

    def pieces(self, among: np.ndarray | slice = slice(None)) -> Iterator[np.ndarray]:
        """The kept rows (or those `among` them), converted, a piece at a time."""
        return _pieces(self.x, self.rows[among], self.dtype)


def _pieces(x: np.ndarray, rows: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    step = max(1, PIECE // max(1, x[:1].size))
    for start in range(0, len(rows), step):
        with np.errstate(over="ignore"):  # what float64 cannot hold becomes infinite, and is found below
            yield np.ascontiguousarray(x[rows[start : start + step]], dtype=dtype)


def check_samples(table: Table, *, on_nonfinite: str, least: int = 2) -> Samples:
    """Check what was read and settle axes, dtype, labels and which rows are kept.

    Raises:
        ValueError: a shape that is no set of samples, fewer than `least` rows, labels that do not fit, NaN or infinity.
        TypeError: values or labels of a kind that cannot be used.
    """
    x = _with_sample_axes(table.x)
    columns = (table.columns or tuple(f"x{j}" for j in range(x.shape[1]))) if x.ndim == 2 else ()
    dtype = _stored_dtype(x)
    if table.labels is not None:
        _check_labels(table.labels, len(x))
    rows = _finite_rows(x, dtype, columns, on_nonfinite)
    if len(rows) < least:
        raise ValueError(
            f"at least {least} rows are needed, got {len(rows)} of {len(x)} after dropping those with NaN or infinity; "
            "mend or add rows"
        )
    y, classes = (None, ()) if table.labels is None else _encoded(table.labels[rows])
    return Samples(x, dtype, rows, y, classes, columns)


def _with_sample_axes(x: np.ndarray) -> np.ndarray:
    """Axes (n, d) or (n, C, H, W); grey images gain their channel."""
    rule = "x must have shape (n, d) for vectors, (n, H, W) for grey images or (n, C, H, W) for images"
    if x.ndim not in (2, 3, 4):
        raise ValueError(f"{rule}, got {x.shape}; reshape it{' to (n, 1)' if x.ndim == 1 else ''}")
    if len(x) < 2:
        raise ValueError(f"at least 2 rows are needed, got {len(x)}; give more samples")
    if not x.size:
        raise ValueError(f"{rule}, got {x.shape}, which holds no values; give samples of at least one number")
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        raise ValueError(f"{rule}, got {x.shape} with the channels last; pass x.transpose(0, 3, 1, 2)")
    return x[:, None] if x.ndim == 3 else x


def _stored_dtype(x: np.ndarray) -> np.dtype:
    """Bytes stay bytes (images of integers in 0..255 too), floats stay floats, other integers become float64."""
    if x.dtype.kind == "b" or x.dtype == np.uint8:
        return np.dtype(np.uint8)
    if x.dtype.kind == "f":
        return np.dtype(np.float32 if x.dtype.itemsize <= 4 else np.float64)
    if x.dtype.kind in "iu":
        pieces = _pieces(x, np.arange(len(x)), x.dtype)
        small = x.ndim == 4 and all(piece.min() >= 0 and piece.max() <= 255 for piece in pieces)
        return np.dtype(np.uint8 if small else np.float64)
    way_out = NO_PICKLE if x.dtype.kind == "O" else "convert it with x.astype(float) or choose the numeric part"
    raise TypeError(f"x must hold real numbers, got dtype {x.dtype}; {way_out}")


def _check_labels(labels: np.ndarray, n: int) -> None:
    if labels.dtype.kind not in "iubUS":
        missing = int(np.isnan(labels).sum()) if labels.dtype.kind == "f" else 0
        note = f" ({missing} of them NaN)" if missing else ""
        raise TypeError(
            f"labels must be integers or strings, got {labels.dtype}{note}; convert them with y.astype(int)"
        )
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape (n,), got {labels.shape}; from one-hot rows take y.argmax(1)")
    if len(labels) != n:
        raise ValueError(f"labels must be one per row: {n} rows need {n} labels, got {len(labels)}")


def _encoded(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes 0..K-1 and their names, sorted: numerically if all are whole numbers."""
    values, inverse = np.unique(np.char.decode(labels) if labels.dtype.kind == "S" else labels, return_inverse=True)
    texts = [str(value) for value in values.tolist()]
    whole = all(map(is_whole, texts))
    order = sorted(range(len(texts)), key=lambda k: (int(texts[k]) if whole else 0, texts[k]))
    rank = np.empty(len(texts), dtype=np.int64)
    rank[order] = np.arange(len(texts))
    return rank[inverse], tuple(texts[k] for k in order)


def _finite_rows(x: np.ndarray, dtype: np.dtype, columns: tuple[str, ...], on_nonfinite: str) -> np.ndarray:
    """The rows without NaN or infinity; where there are others, they are refused or dropped, as asked."""
    every = np.arange(len(x))
    if dtype.kind != "f":
        return every
    bad, per_column = [], np.zeros(x.shape[1], dtype=np.int64)
    for piece in _pieces(x, every, dtype):
        broken = ~np.isfinite(piece)
        bad.append(broken.reshape(len(piece), -1).any(1))
        if columns:
            per_column += broken.sum(0)
    broken = np.concatenate(bad)
    if broken.any() and on_nonfinite == "error":
        hit = (
            [f"{name!r}: {count}" for name, count in zip(columns, per_column, strict=True) if count] if columns else []
        )
        shown = ", ".join(hit[:8]) + (f" and {len(hit) - 8} more" if len(hit) > 8 else "")
        where = f" (rows by column: {shown})" if hit else ""
        raise ValueError(
            f"x must be finite, got NaN or infinity in {broken.sum()} of {len(x)} rows{where}, the first is row "
            f"{broken.argmax()} counting from 0; mend them or pass on_nonfinite='drop'"
        )
    return every[~broken]


def split(n: int, y: np.ndarray | None, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training rows and held-out rows, sorted; the latter drawn from every class in proportion to its size.

    A function of its arguments alone, so that it need not be stored.
    """
    label = np.zeros(n, dtype=np.int64) if y is None else y
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))  # apart from the batches' [seed, epoch]
    held = np.zeros(n, dtype=bool)
    for k, size in enumerate(_quota(np.bincount(label), held_out)):
        held[rng.permutation(np.flatnonzero(label == k))[:size]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def held_out_count(n: int, y: np.ndarray | None, fraction: float) -> int:
    """How many rows are held out: the fraction, but at least one, and one of each class left where that is possible."""
    if fraction == 0:
        return 0
    room = _room(np.array([n]) if y is None else np.bincount(y))
    return min(max(1, round(fraction * n)), int(room.sum()), n - 1)


def _room(sizes: np.ndarray) -> np.ndarray:
    """How many of each class may be held out: all but one, unless every class has one row only."""
    return sizes - 1 if (sizes > 1).any() else sizes


def _quota(sizes: np.ndarray, total: int) -> np.ndarray:
    """`total` shared out over the classes in proportion to their sizes, by the largest remainder."""
    exact, room = sizes * (total / sizes.sum()), _room(sizes)
    quota = np.minimum(np.floor(exact).astype(np.int64), room)
    while quota.sum() < total:
        quota[np.argmax(np.where(quota < room, exact - quota, -np.inf))] += 1
    return quota
