"""Scores, densities and particles in the plane, and curves over one axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from scorefield.calculus import LogDensity, Score
from scorefield.checks import check_count
from scorefield.plots.style import COLOURS, DPI, FAINT, INK, Array, array, dress

Box = tuple[float, float, float, float]

_PALE, _EDGE = "#e6e8ec", "#7fa9cb"
_LEVELS = LinearSegmentedColormap.from_list("levels", ["#5b9bcb", "#eef4fa"])
_TIME = LinearSegmentedColormap.from_list("time", ["#c9d6e2", "#0072b2"])
_MASSES = (0.2, 0.4, 0.6, 0.8, 0.95, 0.99)


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
        level_sets(axes, density, box)
    if samples is not None:
        points = array("samples", samples)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"samples must have shape (k, 2), got {points.shape}")
        axes.scatter(*points.T, s=5, color=COLOURS[1], alpha=0.6, linewidths=0, zorder=2)
    arrows(axes, score, box, n)
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
    positions = array("path", path)
    if positions.ndim != 3 or positions.shape[2] != 2 or len(positions) < 2:
        raise ValueError(f"path must have shape (T, B, 2) with T >= 2, got {positions.shape}")
    if box is None:
        low, high = positions.min((0, 1)), positions.max((0, 1))
        pad = 0.06 * float(max(*(high - low), 1e-12))
        box = (low[0] - pad, high[0] + pad, low[1] - pad, high[1] + pad)
    figure, axes = _plane(box, title)
    if density is not None:
        level_sets(axes, density, box)
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
    marks: Mapping[str, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    x_name: str = "",
    y_name: str = "",
    title: str | None = None,
) -> Figure:
    """Lines over one axis, with bands where an error is known.

    Args:
        x: positions, shape (n,).
        series: name -> values (n,); names are written in a legend when there are several,
            beside the axes when there are more than four.
        bands: name -> (lower, upper), each (n,).
        marks: name -> a value that is drawn as a dashed line across, with its name at the right end.
        log_x: a logarithmic horizontal axis.
        log_y: a logarithmic vertical axis.
        x_name: what x is, with its unit.
        y_name: what the values are.
        title: written above.
    """
    at = array("x", x)
    if at.ndim != 1 or not series:
        raise ValueError(f"x must have shape (n,) and series a curve, got {at.shape} and {len(series)} series")
    unknown = sorted(set(bands or {}) - set(series))
    if unknown:
        raise ValueError(f"bands must be of a series, got {', '.join(unknown)}; there are {', '.join(series)}")
    figure = Figure(figsize=(5.6, 3.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for i, (name, given) in enumerate(series.items()):
        colour, y = COLOURS[i % len(COLOURS)], _curve(f"series[{name!r}]", given, at)
        few = {"marker": "o", "markersize": 3.2, "markeredgewidth": 0} if len(at) <= 30 else {}
        axes.plot(
            at,
            y,
            color=colour,
            linewidth=1.5 if len(at) <= 300 else 0.8,
            label=name,
            zorder=3,
            linestyle="-" if i < len(COLOURS) else "--",
            **few,
        )
        if bands and name in bands:
            low, high = (_curve(f"bands[{name!r}]", edge, at) for edge in bands[name])
            axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    for name, value in (marks or {}).items():
        axes.axhline(value, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
        beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        axes.annotate(name, (1, value), xytext=(4, 0), fontsize=7.5, color=INK, **beside)
    axes.set_xscale("log" if log_x else "linear")
    axes.set_yscale("log" if log_y else "linear")
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.grid(axis="y", color=_PALE, linewidth=0.7)
    axes.margins(x=0.02)
    dress(axes, title)
    if len(series) > 1:
        beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)} if len(series) > 4 else {}
        axes.legend(
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            handlelength=2.4 if len(series) > len(COLOURS) else 1.4,
            **beside,
        )
    return figure


def _plane(box: Box, title: str | None) -> tuple[Figure, Axes]:
    """Empty axes on the box, both coordinates to one scale."""
    wide, high = box[1] - box[0], box[3] - box[2]
    if not (wide > 0 and high > 0):
        raise ValueError(f"box must be (x from, x to, y from, y to) with from < to, got {box}")
    side = 4.6 / max(wide, high)
    figure = Figure(figsize=(wide * side + 0.4, high * side + (0.65 if title else 0.35)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(aspect="equal", xlim=box[:2], ylim=box[2:])
    dress(axes, title)
    return figure, axes


def arrows(axes: Axes, score: Score, box: Box, n: int, unit: float | None = None) -> float:
    """Arrows of a score on a grid over the box, of length |s|/(|s| + unit).

    Args:
        axes: where they go.
        score: (B, 2) -> (B, 2).
        box: x from, x to, y from, y to.
        n: arrows along the longer side.
        unit: the size that is drawn at half of the full length; None for the median of |s| on the grid.

    Returns:
        the unit, so that other panels can be drawn to the same scale.
    """
    x, _, points = grid(box, n)
    s = values(score, points)
    if s.shape != points.shape:
        raise ValueError(f"a score in the plane must return {points.shape}, got {s.shape}")
    size = np.hypot(*s.T)
    unit = max(float(np.nanmedian(size)), 1e-300) if unit is None else unit
    axes.quiver(
        *points.T, *(s / (size + unit)[:, None]).T, angles="xy", scale_units="xy", scale=1.05 / (x[1] - x[0]),
        pivot="middle", color=INK, width=0.0576 / n, headwidth=3.6, headlength=4.2, headaxislength=3.8, zorder=3,
    )  # fmt: skip
    return unit


def level_sets(axes: Axes, density: LogDensity, box: Box, n: int = 239) -> None:
    """The smallest regions that hold the masses of `_MASSES` within the box."""
    half = max(box[1] - box[0], box[3] - box[2]) / (2 * n)  # of a cell, so that the colours reach the edges
    x, y, points = grid((box[0] - half, box[1] + half, box[2] - half, box[3] + half), n + 1)
    log_p = values(density, points)
    if log_p.shape != (len(points),):
        raise ValueError(f"density must return one number per point, {(len(points),)}, got {log_p.shape}")
    if not np.isfinite(log_p).any():
        raise ValueError(f"density must be finite somewhere in the box {box}")
    peak = log_p[np.isfinite(log_p)].max()
    p = np.exp(np.nan_to_num(log_p, nan=-np.inf, posinf=peak, neginf=-np.inf) - peak)
    held, order = np.empty_like(p), np.argsort(-p)
    held[order] = np.cumsum(p[order]) / p.sum()  # the mass of all that is denser
    held = held.reshape(len(y), len(x))
    axes.contourf(x, y, held, (0, *_MASSES), cmap=_LEVELS, zorder=0)
    axes.contour(x, y, held, _MASSES, colors=_EDGE, linewidths=0.4, zorder=1)


def grid(box: Box, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square grid over the box, n points along its longer side: x (k,), y (l,) and all the points (l k, 2)."""
    spacing = max(box[1] - box[0], box[3] - box[2]) / n
    wide, high = (max(2, round((end - start) / spacing)) for start, end in (box[:2], box[2:]))
    x = box[0] + (box[1] - box[0]) * (np.arange(wide) + 0.5) / wide
    y = box[2] + (box[3] - box[2]) * (np.arange(high) + 0.5) / high
    return x, y, np.stack(np.meshgrid(x, y), 2).reshape(-1, 2)


def values(function: Score | LogDensity, points: np.ndarray) -> np.ndarray:
    """What a function of points answers, as an array."""
    with torch.no_grad():
        return function(torch.from_numpy(points)).detach().cpu().double().numpy()


def _curve(name: str, value: Array, x: np.ndarray) -> np.ndarray:
    y = array(name, value)
    if y.shape != x.shape:
        raise ValueError(f"{name} must have shape {x.shape} (one value per x), got {y.shape}")
    return y
