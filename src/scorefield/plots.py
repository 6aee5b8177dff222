"""Pictures of samples, paths, fields and curves: every function returns a matplotlib `Figure`, `save` writes it.

The figures are made without pyplot and styled one by one: nothing global is touched and no window is opened. Arrays may
be torch tensors, NumPy arrays or lists. The colours are Okabe and Ito's, told apart by colour-blind readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from scorefield.calculus import LogDensity, Score
from scorefield.checks import check_count

Array = Tensor | np.ndarray | Sequence
Box = tuple[float, float, float, float]

DPI = 200
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_INK, _FAINT, _PALE, _EDGE = "#22252b", "#868c96", "#e6e8ec", "#7fa9cb"
_LEVELS = LinearSegmentedColormap.from_list("levels", ["#5b9bcb", "#eef4fa"])
_TIME = LinearSegmentedColormap.from_list("time", ["#c9d6e2", "#0072b2"])
_MASSES = (0.2, 0.4, 0.6, 0.8, 0.95, 0.99)
_LETTER = 0.0083  # about the width of a letter, in inches per point of its size
_CELL, _GAP, _MARGIN = 88, 5, 0.12  # an image's side and the white between two, in pixels; around the figure, in inches


def image_grid(
    images: Array,
    *,
    columns: int | None = None,
    row_names: Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """A grid of images with crisp pixels and thin white gaps.

    Args:
        images: (rows, columns, channels, H, W), or (N, channels, H, W) that fill the rows of `columns` in turn;
            one channel (grey, low values dark) or three (red, green, blue).
        columns: images per row, for four axes only; about as many as rows when None.
        row_names: one name per row, written at its left.
        value_range: the values shown darkest and brightest, others are clipped; those of the data when None.
        title: written above.

    Returns:
        the figure; its one image is the whole grid, H and W magnified by a whole factor.

    """
    _check_range(value_range)
    given = _array("images", images)
    if given.ndim == 4 and len(given):
        across = math.ceil(math.sqrt(len(given))) if columns is None else columns
        check_count("columns", across)
        empty = -len(given) % across
        tiles = np.concatenate([given, np.zeros((empty, *given.shape[1:]))]).reshape(-1, across, *given.shape[1:])
    elif columns is None:
        tiles, empty = given, 0
    else:
        raise ValueError(f"columns are for images (N, channels, H, W), got {given.shape}; leave columns out")
    _check_tiles(tiles, "(rows, columns, channels, H, W) or (N, channels, H, W)")
    names = list(row_names or [])
    if names and len(names) != len(tiles):
        raise ValueError(f"row_names must be one per row, got {len(names)} names for {len(tiles)} rows")
    mosaic = _mosaic(tiles, [value_range or (given.min(), given.max())], empty)
    return _stack([_Panel(title, mosaic, names, [])])


def paths(
    panels: Mapping[str, Array],
    *,
    column_names: Mapping[str, Sequence[str]] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Figure:
    """Images on their way through time: a row per sample, a column per time, one panel under the other.

    Args:
        panels: title -> images (times, samples, channels, H, W), such as the noising of a few digits through the
            levels and the reverse path back.
        column_names: title -> one name per time, written above the columns of that panel.
        value_range: the values shown darkest and brightest; when None each time has its own, the 0.5 and 99.5 %
            quantiles of its images, so that large noise does not hide small images.

    Returns:
        the figure; one axes per panel.

    """
    _check_range(value_range)
    if not panels:
        raise ValueError("panels must hold at least one title -> images, got none")
    unknown = sorted(set(column_names or {}) - set(panels))
    if unknown:
        raise ValueError(f"column_names must be of a panel, got {', '.join(unknown)}; there are {', '.join(panels)}")
    drawn = []
    for name, given in panels.items():
        images = _array(f"panels[{name!r}]", given)
        _check_tiles(images, "(times, samples, channels, H, W)")
        titles = list((column_names or {}).get(name, []))
        if titles and len(titles) != len(images):
            raise ValueError(f"column_names must be one per time, got {len(titles)} names for {len(images)} times")
        own = np.quantile(images.reshape(len(images), -1), [0.005, 0.995], axis=1).T
        mosaic = _mosaic(np.swapaxes(images, 0, 1), own if value_range is None else [value_range])
        drawn.append(_Panel(name, mosaic, [], titles))
    return _stack(drawn)


def score_field(
    score: Score,
    *,
    box: Box,
    density: LogDensity | None = None,
    samples: Array | None = None,
    n: int = 24,
    title: str | None = None,
) -> Figure:
    r"""A score in the plane as arrows, over the level sets of a density.

    The arrows have the direction of s and the length $|s|/(|s| + m)$ with m the median of $|s|$ on the grid: what is
    strong stays strong, but the far field does not drown the rest. The level sets are the smallest regions that hold
    20, 40, 60, 80, 95 and 99 % of the mass within the box.

    Args:
        score: (B, 2) -> (B, 2).
        box: x from, x to, y from, y to.
        density: the log-density whose level sets are drawn, (B, 2) -> (B,), up to a constant.
        samples: points (k, 2) to draw.
        n: arrows along the longer side.
        title: written above.

    """
    check_count("n", n, least=2)
    figure, axes = _plane(box, title)
    if density is not None:
        _level_sets(axes, density, box)
    if samples is not None:
        points = _array("samples", samples)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"samples must have shape (k, 2), got {points.shape}")
        axes.scatter(*points.T, s=5, color=COLOURS[1], alpha=0.6, linewidths=0, zorder=2)
    x, _, grid = _grid(box, n)
    s = _of(score, grid)
    if s.shape != grid.shape:
        raise ValueError(f"a score in the plane must return {grid.shape}, got {s.shape}")
    size = np.hypot(*s.T)
    arrows = s / (size + max(float(np.nanmedian(size)), 1e-300))[:, None]
    axes.quiver(
        *grid.T, *arrows.T, angles="xy", scale_units="xy", scale=1.05 / (x[1] - x[0]), pivot="middle", color=_INK,
        width=0.0024, headwidth=3.6, headlength=4.2, headaxislength=3.8, zorder=3,
    )  # fmt: skip
    return figure


def scatter_paths(
    path: Array, *, box: Box | None = None, density: LogDensity | None = None, title: str | None = None
) -> Figure:
    """Particles moving in the plane: each path from pale (start) to dark, its end a dot.

    Args:
        path: positions (T, B, 2), T >= 2.
        box: x from, x to, y from, y to; that of the paths when None.
        density: the log-density whose level sets are drawn, (B, 2) -> (B,).
        title: written above.

    """
    positions = _array("path", path)
    if positions.ndim != 3 or positions.shape[2] != 2 or len(positions) < 2:
        raise ValueError(f"path must have shape (T, B, 2) with T >= 2, got {positions.shape}")
    if box is None:
        low, high = positions.min((0, 1)), positions.max((0, 1))
        pad = 0.06 * float(max(*(high - low), 1e-12))
        box = (low[0] - pad, high[0] + pad, low[1] - pad, high[1] + pad)
    figure, axes = _plane(box, title)
    if density is not None:
        _level_sets(axes, density, box)
    segments = np.stack([positions[:-1], positions[1:]], 2)  # (T - 1, B, 2 ends, 2)
    steps, particles = segments.shape[:2]
    when = np.repeat(np.linspace(0, 1, steps), particles)
    lines = LineCollection(list(segments.reshape(-1, 2, 2)), cmap=_TIME, array=when, linewidths=0.7, alpha=0.8)
    axes.add_collection(lines)
    axes.scatter(*positions[-1].T, s=9, color=COLOURS[1], edgecolors="white", linewidths=0.4, zorder=4)
    return figure


def curves(
    x: Array,
    series: Mapping[str, Array],
    *,
    bands: Mapping[str, tuple[Array, Array]] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    x_name: str = "",
    y_name: str = "",
    title: str | None = None,
) -> Figure:
    """Lines over one axis, with bands where an error is known.

    Args:
        x: positions, shape (n,).
        series: name -> values (n,); names are written in a legend when there are several.
        bands: name -> (lower, upper), each (n,).
        log_x: a logarithmic horizontal axis.
        log_y: a logarithmic vertical axis.
        x_name: what x is, with its unit.
        y_name: what the values are.
        title: written above.

    """
    at = _array("x", x)
    if at.ndim != 1 or not series:
        raise ValueError(f"x must have shape (n,) and series a curve, got {at.shape} and {len(series)} series")
    unknown = sorted(set(bands or {}) - set(series))
    if unknown:
        raise ValueError(f"bands must be of a series, got {', '.join(unknown)}; there are {', '.join(series)}")
    figure = Figure(figsize=(5.6, 3.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for i, (name, given) in enumerate(series.items()):
        colour, values = COLOURS[i % len(COLOURS)], _curve(f"series[{name!r}]", given, at)
        few = {"marker": "o", "markersize": 3.2, "markeredgewidth": 0} if len(at) <= 30 else {}
        axes.plot(at, values, color=colour, linewidth=1.5 if len(at) <= 300 else 0.8, label=name, zorder=3, **few)
        if bands and name in bands:
            low, high = (_curve(f"bands[{name!r}]", edge, at) for edge in bands[name])
            axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set_xscale("log" if log_x else "linear")
    axes.set_yscale("log" if log_y else "linear")
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.grid(axis="y", color=_PALE, linewidth=0.7)
    axes.margins(x=0.02)
    _dress(axes, title)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=_INK, handlelength=1.4)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure in the format of its name's ending (.png, .pdf, .svg) and return the path."""
    figure.savefig(path, dpi="figure", facecolor="white")
    return Path(path)


@dataclass(frozen=True)
class _Panel:
    """One grid of images, and the words around it."""

    title: str | None
    mosaic: np.ndarray
    rows: list[str]
    columns: list[str]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the grid in inches."""
        return self.mosaic.shape[1] / DPI, self.mosaic.shape[0] / DPI

    @property
    def head(self) -> float:
        """Height of the words above it, in inches."""
        return 0.26 * bool(self.title) + 0.17 * bool(self.columns)


def _stack(panels: Sequence[_Panel]) -> Figure:
    """Grids of images one under the other, each pixel drawn by one pixel."""
    left = _MARGIN + max(_LETTER * 9 * max(map(len, p.rows)) + 0.08 if p.rows else 0 for p in panels)
    width = left + max(max(p.size[0], _LETTER * 10 * len(p.title or "")) for p in panels) + _MARGIN
    height = sum(p.size[1] + p.head + _MARGIN for p in panels) + _MARGIN
    figure, top = Figure(figsize=(width, height), dpi=DPI), height
    for panel in panels:
        wide, high = panel.size
        top -= _MARGIN + panel.head + high
        axes = figure.add_axes((left / width, top / height, wide / width, high / height))
        axes.imshow(panel.mosaic, interpolation="nearest", aspect="auto")
        axes.set_axis_off()

        def write(x: float, y: float, words: str, size: float, colour: str, across: str, axes: Axes = axes) -> None:
            axes.text(x, y, words, transform=axes.transAxes, fontsize=size, color=colour, ha=across)

        for i, name in enumerate(panel.rows):
            write(-0.08 / wide, 1 - (i + 0.5) / len(panel.rows) - 0.04 / high, name, 9, _INK, "right")
        for j, name in enumerate(panel.columns):
            fits = 0.95 * wide / len(panel.columns) / (_LETTER * max(map(len, panel.columns)))
            write((j + 0.5) / len(panel.columns), 1 + 0.05 / high, name, min(7.5, fits), _FAINT, "center")
        if panel.title:
            write(0, 1 + (panel.head - 0.16) / high, panel.title, 10, _INK, "left")
    return figure


def _mosaic(tiles: np.ndarray, spans: Array, empty: int = 0) -> np.ndarray:
    """Images (R, C, channels, H, W) as one picture (height, width, 3) in [0, 1], white between them.

    `spans` are the darkest and brightest values, for all or for each column; the last `empty` images stay white.
    """
    rows, columns, _, h, w = tiles.shape
    low, high = np.asarray(spans, dtype=np.float64).T[:, None, :, None, None, None]
    shown = np.clip((tiles - low) / np.where(high > low, high - low, 1), 0, 1)
    zoom = max(1, round(_CELL / max(h, w)))
    down, right = h * zoom + _GAP, w * zoom + _GAP
    picture = np.ones((rows * down - _GAP, columns * right - _GAP, 3))
    for k in range(rows * columns - empty):
        y, x = k // columns * down, k % columns * right
        tile = shown[k // columns, k % columns].transpose(1, 2, 0)
        picture[y : y + h * zoom, x : x + w * zoom] = tile.repeat(zoom, 0).repeat(zoom, 1)
    return picture


def _check_range(value_range: tuple[float, float] | None) -> None:
    if value_range is not None and not value_range[0] < value_range[1]:
        raise ValueError(f"value_range must be (low, high) with low < high, got {value_range}")


def _check_tiles(images: np.ndarray, axes: str) -> None:
    if images.ndim != 5 or not images.size:
        raise ValueError(f"images must be {axes} and not empty, got {images.shape}")
    if images.shape[2] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {images.shape[2]} in {images.shape}")
    if not np.isfinite(images).all():
        raise ValueError(f"images must be finite, got {int((~np.isfinite(images)).sum())} values that are not")


def _plane(box: Box, title: str | None) -> tuple[Figure, Axes]:
    """Empty axes on the box, both coordinates to one scale."""
    wide, high = box[1] - box[0], box[3] - box[2]
    if not (wide > 0 and high > 0):
        raise ValueError(f"box must be (x from, x to, y from, y to) with from < to, got {box}")
    side = 4.6 / max(wide, high)
    figure = Figure(figsize=(wide * side + 0.4, high * side + (0.65 if title else 0.35)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(aspect="equal", xlim=box[:2], ylim=box[2:])
    _dress(axes, title)
    return figure, axes


def _level_sets(axes: Axes, density: LogDensity, box: Box, n: int = 239) -> None:
    """The smallest regions that hold the masses of `_MASSES` within the box."""
    half = max(box[1] - box[0], box[3] - box[2]) / (2 * n)  # of a cell, so that the colours reach the edges
    x, y, grid = _grid((box[0] - half, box[1] + half, box[2] - half, box[3] + half), n + 1)
    log_p = _of(density, grid)
    if log_p.shape != (len(grid),):
        raise ValueError(f"density must return one number per point, {(len(grid),)}, got {log_p.shape}")
    if not np.isfinite(log_p).any():
        raise ValueError(f"density must be finite somewhere in the box {box}")
    peak = log_p[np.isfinite(log_p)].max()
    p = np.exp(np.nan_to_num(log_p, nan=-np.inf, posinf=peak, neginf=-np.inf) - peak)
    held, order = np.empty_like(p), np.argsort(-p)
    held[order] = np.cumsum(p[order]) / p.sum()  # the mass of all that is denser
    held = held.reshape(len(y), len(x))
    axes.contourf(x, y, held, (0, *_MASSES), cmap=_LEVELS, zorder=0)
    axes.contour(x, y, held, _MASSES, colors=_EDGE, linewidths=0.4, zorder=1)


def _grid(box: Box, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square grid over the box, n points along its longer side: x (k,), y (l,) and all the points (l k, 2)."""
    spacing = max(box[1] - box[0], box[3] - box[2]) / n
    wide, high = (max(2, round((end - start) / spacing)) for start, end in (box[:2], box[2:]))
    x = box[0] + (box[1] - box[0]) * (np.arange(wide) + 0.5) / wide
    y = box[2] + (box[3] - box[2]) * (np.arange(high) + 0.5) / high
    return x, y, np.stack(np.meshgrid(x, y), 2).reshape(-1, 2)


def _of(function: Score | LogDensity, points: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return function(torch.from_numpy(points)).detach().cpu().double().numpy()


def _array(name: str, value: Array) -> np.ndarray:
    """Numbers as a float64 array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers in one rectangular array, got {type(value).__name__}") from None


def _curve(name: str, value: Array, x: np.ndarray) -> np.ndarray:
    y = _array(name, value)
    if y.shape != x.shape:
        raise ValueError(f"{name} must have shape {x.shape} (one value per x), got {y.shape}")
    return y


def _dress(axes: Axes, title: str | None) -> None:
    """The one style: thin left and bottom spines, small faint ticks, the title at the left."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=_FAINT, linewidth=0.6)
    axes.tick_params(which="both", color=_FAINT, labelcolor=_INK, labelsize=8, width=0.6, length=3)
    axes.tick_params(which="minor", length=1.5)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, fontsize=9)
    if title:
        axes.set_title(title, loc="left", color=_INK, fontsize=10, pad=8)
