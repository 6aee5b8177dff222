"""What all pictures share: their numbers as arrays, the colours, the dress of their axes, and `save`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

Array = Tensor | np.ndarray | Sequence

DPI = 200
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
INK, FAINT = "#22252b", "#868c96"


def array(name: str, value: Array) -> np.ndarray:
    """Numbers as a float64 array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers in one rectangular array, got {type(value).__name__}") from None


def dress(axes: Axes, title: str | None) -> None:
    """The one style: thin left and bottom spines, small faint ticks, the title at the left."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=FAINT, linewidth=0.6)
    axes.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=8, width=0.6, length=3)
    axes.tick_params(which="minor", length=1.5)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=9)
    if title:
        axes.set_title(title, loc="left", color=INK, fontsize=10, pad=8)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure in the format of its name's ending (.png, .pdf, .svg) and return the path."""
    figure.savefig(path, dpi="figure", facecolor="white")
    return Path(path)
