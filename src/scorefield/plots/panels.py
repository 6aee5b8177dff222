"""Pictures of several panels that are read against each other: planes beside planes, paths over time, intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from scorefield.calculus import LogDensity, Score
from scorefield.checks import check_count
from scorefield.plots.planes import Box, arrows, grid, level_sets, values
from scorefield.plots.style import COLOURS, DPI, FAINT, INK, Array, array, dress

_HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", "#fbe3c8", "#f0a868", "#d55e00"])
_DENSITY = LinearSegmentedColormap.from_list("density", ["#ffffff", "#cfe2f1", "#7db0d8", "#2b7bb9"])


@dataclass(frozen=True)
class Plane:
    """One panel of `planes`: what is drawn over each other, from below; what is None is left out.

    Args:
        title: written above.
        density: the log-density whose level sets are drawn, (B, 2) -> (B,).
        colour: a number per point that is shown as a colour, (B, 2) -> (B,).
        points: points (k, 2).
        score: arrows, (B, 2) -> (B, 2); those of a row share the scale of its first.
    """

    title: str
    density: LogDensity | None = None
    colour: Callable[[Tensor], Tensor] | None = None
    points: Array | None = None
    score: Score | None = None


def planes(
    rows: Sequence[Sequence[Plane]],
    *,
    boxes: Sequence[Box],
    n: int = 17,
    colour_name: str = "",
    colour_range: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Panels in the plane, row by row, with arrows of one scale in each row and one scale of colours in all.

    Args:
        rows: the panels; as many in each row.
        boxes: x from, x to, y from, y to, one per row.
        n: arrows along the longer side.
        colour_name: what the colours stand for, written at their bar.
        colour_range: the numbers of the palest and the darkest colour; beyond them the colour stays.

    Raises:
        ValueError: rows of different lengths, or another number of boxes.
    """
    check_count("n", n, least=2)
    if len({len(row) for row in rows}) != 1 or not rows[0] or len(boxes) != len(rows):
        raise ValueError(
            f"rows must be of one length and have a box each, got {[len(r) for r in rows]} and {len(boxes)}"
        )
    side, across = 2.5, len(rows[0])
    high = [side * (box[3] - box[2]) / (box[1] - box[0]) for box in boxes]
    coloured = any(plane.colour is not None for row in rows for plane in row)
    size = (across * side + (0.75 if coloured else 0.0), sum(high) + 0.34 * len(rows))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    ratios = {"height_ratios": high}
    all_axes = figure.subplots(len(rows), across, squeeze=False, subplot_kw={"aspect": "equal"}, gridspec_kw=ratios)
    shown = None
    for row, box, axes_row in zip(rows, boxes, all_axes, strict=True):
        unit = None
        for plane, axes in zip(row, axes_row, strict=True):
            axes.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[])
            if plane.colour is not None:
                x, y, points = grid(box, 160)
                shades = values(plane.colour, points).reshape(len(y), len(x))
                low, top = colour_range
                edges = {"extent": box, "origin": "lower", "aspect": "equal", "interpolation": "bilinear"}
                shown = axes.imshow(shades, cmap=_HEAT, vmin=low, vmax=top, zorder=0, **edges)
            if plane.density is not None:
                level_sets(axes, plane.density, box)
            if plane.points is not None:
                places = array("points", plane.points)
                if places.ndim != 2 or places.shape[1] != 2:
                    raise ValueError(f"points must have shape (k, 2), got {places.shape}")
                axes.scatter(*places.T, s=5, color=COLOURS[1], linewidths=0, alpha=0.7, zorder=2)
            if plane.score is not None:
                unit = arrows(axes, plane.score, box, n, unit)
            dress(axes, plane.title)
    if shown is not None:
        bar = figure.colorbar(shown, ax=all_axes, shrink=0.7, aspect=28, pad=0.015, extend="max")
        bar.set_label(colour_name, color=INK, fontsize=8.5)
        bar.ax.tick_params(labelsize=7.5, color=FAINT, labelcolor=INK)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def time_paths(
    panels: Mapping[str, tuple[Array, Array]],
    *,
    density: Array,
    over: tuple[float, float, float, float],
    x_name: str = "time t",
    y_name: str = "x",
) -> Figure:
    """Paths of particles on the line over time, one panel per way, on the law of each time as a shade.

    Args:
        panels: title -> (times (T,), positions (T, B)); a dot marks where each path ends.
        density: the density at each time, (positions, times), evenly spaced over `over`; each time is shaded by its
            own maximum.
        over: time from, time to, position from, position to.
        x_name: name of the horizontal axis.
        y_name: name of the vertical axis.
    """
    shades = array("density", density)
    if shades.ndim != 2 or not panels:
        raise ValueError(f"density must be (positions, times) and panels not empty, got {shades.shape}, {len(panels)}")
    figure = Figure(figsize=(3.1 * len(panels), 2.9), dpi=DPI, layout="constrained")
    rows = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for k, (axes, (name, (times, positions))) in enumerate(zip(rows, panels.items(), strict=True)):
        at, path = array(f"panels[{name!r}] times", times), array(f"panels[{name!r}]", positions)
        if at.ndim != 1 or path.ndim != 2 or len(path) != len(at):
            raise ValueError(f"panels[{name!r}] must be times (T,) and positions (T, B), got {at.shape}, {path.shape}")
        axes.imshow(
            shades / shades.max(0), extent=over, origin="lower", aspect="auto", cmap=_DENSITY, vmax=1.4, zorder=0
        )
        strands = np.stack([np.broadcast_to(at[:, None], path.shape), path], 2).swapaxes(0, 1)  # (B, T, 2)
        axes.add_collection(LineCollection(list(strands), colors=INK, linewidths=0.55, alpha=0.75, zorder=2))
        axes.scatter(
            strands[:, -1, 0], strands[:, -1, 1], s=12, color=COLOURS[1], linewidths=0, zorder=3, clip_on=False
        )
        axes.set(xlim=over[:2], ylim=over[2:], xlabel=x_name, ylabel=y_name if k == 0 else "")
        dress(axes, name)
    return figure


def intervals(
    names: Sequence[str],
    value: Array,
    low: Array,
    high: Array,
    *,
    truth: float | None = None,
    x_name: str = "",
    title: str | None = None,
) -> Figure:
    """One number per row with its interval, and a line at the truth.

    Args:
        names: of the rows, from top to bottom.
        value: the numbers, (n,).
        low: lower ends of the intervals, (n,).
        high: upper ends, (n,).
        truth: where the line stands; None for none.
        x_name: what the numbers are.
        title: written above.
    """
    at, left, right = (array(name, v) for name, v in (("value", value), ("low", low), ("high", high)))
    if not names or any(v.shape != (len(names),) for v in (at, left, right)):
        raise ValueError(
            f"value, low and high must have shape ({len(names)},), got {at.shape, left.shape, right.shape}"
        )
    figure = Figure(figsize=(6.2, 0.34 * len(names) + 0.9), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(names))
    if truth is not None:
        axes.axvline(truth, color=COLOURS[2], linewidth=1.2, zorder=1)
        axes.annotate(
            f"true {truth:g}", (truth, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
            textcoords="offset points", fontsize=8, color=COLOURS[2], va="bottom",
        )  # fmt: skip
    axes.hlines(rows, left, right, color=COLOURS[0], linewidth=2.0, zorder=2)
    axes.scatter(at, rows, s=22, color=COLOURS[1], linewidths=0, zorder=3)
    axes.set_yticks(rows, labels=list(names))
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=x_name)
    axes.grid(axis="x", color="#e6e8ec", linewidth=0.7)
    axes.set_axisbelow(True)
    dress(axes, title)
    axes.tick_params(axis="y", length=0)
    return figure
