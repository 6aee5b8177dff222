r"""Scaling: networks see $(x - m) / c$, or $R\,\operatorname{diag}(c)^{-1}(x - m)$; users see the data's own units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RESOLUTION = 1e-12  # a column that spreads less than this, relative to its mean, is constant in effect


@dataclass(frozen=True, eq=False)
class Scaling:
    r"""The affine map $x \mapsto u = R\,\operatorname{diag}(c)^{-1}(x - m)$ from the data's units to what networks see.

    Args:
        mean: $m$, float64: one number for images, shape (), or one per column of vectors, shape (d,).
        scale: $c > 0$, like `mean`.
        root: $R$, invertible, (d, d), for vectors whose columns are mixed; None for the identity.
    """

    mean: np.ndarray
    scale: np.ndarray
    root: np.ndarray | None = None

    def apply(self, raw: np.ndarray) -> Tensor:
        """From data units, (B, *D), to what networks see, float32; computed in float64 except for bytes."""
        inside = np.float32 if raw.dtype == np.uint8 and self.root is None else np.float64
        x = np.subtract(raw, self.mean, dtype=inside)
        x = np.divide(x, self.scale, out=x, casting="same_kind")
        x = x if self.root is None else x @ self.root.T
        return torch.from_numpy(x.astype(np.float32, copy=False))

    def undo(self, x: Tensor, dtype: np.dtype | str) -> np.ndarray:
        """Back to data units, computed in float64; returned as float64 where the data's `dtype` is, else as float32.

        Args:
            x: what networks see, (..., *D).
            dtype: of the data.
        """
        raw = self.mean + self.differences(x.detach().cpu().double()).numpy()
        return raw.astype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)

    def differences(self, x: Tensor) -> Tensor:
        r"""The linear part of `undo`, $\operatorname{diag}(c) R^{-1} u$, (..., *D); differentiable, in x's dtype."""
        if self.root is not None:
            x = x @ torch.from_numpy(np.linalg.inv(self.root)).to(x).T
        return x * torch.as_tensor(self.scale).to(x)

    def log_volume(self, shape: tuple[int, ...]) -> float:
        r"""$\log |\det \partial u/\partial x|$ of such a sample: what a log-density of u gains in data units."""
        volume = -float(np.broadcast_to(np.log(self.scale), shape).sum())
        return volume if self.root is None else volume + float(np.linalg.slogdet(self.root)[1])

    def to_json(self) -> dict[str, object]:
        """Plain numbers and lists, which JSON holds without rounding."""
        plain = {"mean": self.mean.tolist(), "scale": self.scale.tolist()}
        return plain if self.root is None else {**plain, "root": self.root.tolist()}

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> Scaling:
        """The inverse of `to_json`; a missing root is none."""
        return cls(*(np.asarray(fields[key], dtype=np.float64) for key in ("mean", "scale", "root") if key in fields))


def learn_scaling(pieces: Callable[[], Iterable[np.ndarray]], columns: tuple[str, ...]) -> Scaling:
    r"""Mean and standard deviation (over n, not n - 1), of each column or, without columns, of all pixels.

    Three passes in float64: $m_0 = \overline{x}$, then $m = m_0 + \overline{x - m_0}$ and
    $c^2 = r^2\, \overline{((x - m)/r)^2}$ with $r = \max|x - m|$: nothing cancels, overflows or vanishes, whatever the
    size of the data beside their spread.

    Args:
        pieces: gives the training rows again at every call, a piece at a time.
        columns: names of the columns of vectors; () for images.

    Raises:
        ValueError: a column, or all pixels, of one value; values too large to average.
    """
    axis = 0 if columns else None

    def centred(mean: np.ndarray) -> Iterator[np.ndarray]:
        return (np.asarray(piece, dtype=np.float64) - mean for piece in pieces())

    with np.errstate(over="ignore", invalid="ignore"):
        rough = _average(centred(np.zeros(())), axis)
        mean = rough + _average(centred(rough), axis)
        reach = np.max([np.abs(x).max(axis) for x in centred(mean)], axis=0)
        unit = np.where(reach > 0, reach, 1.0)
        scale = unit * np.sqrt(_average(((x / unit) ** 2 for x in centred(mean)), axis))
    _check_spread(mean, reach, scale, columns)
    return Scaling(mean, scale)


def _average(pieces: Iterable[np.ndarray], axis: int | None) -> np.ndarray:
    total, count = np.zeros(()), 0
    for piece in pieces:
        total, count = total + piece.sum(axis), count + (piece.size if axis is None else len(piece))
    return np.asarray(total / count)


def _check_spread(mean: np.ndarray, reach: np.ndarray, scale: np.ndarray, columns: tuple[str, ...]) -> None:
    what = [f"column {name!r}" for name in columns] or ["the value of all pixels"]
    infinite = np.atleast_1d(~np.isfinite(mean + reach + scale))
    if infinite.any():
        raise ValueError(f"{what[infinite.argmax()]} is too large to average in float64; divide it by a constant")
    constant = np.atleast_1d(reach <= RESOLUTION * np.abs(mean))
    if constant.any():
        value, others = np.atleast_1d(mean)[constant.argmax()], int(constant.sum()) - 1
        more = f" and so are {others} more" if others else ""
        way_out = "drop the column" if columns else "give images that differ"
        raise ValueError(
            f"{what[constant.argmax()]} is constant (value {value:g} in every training row){more}; {way_out}"
        )
