"""Images in grids and on their way through time, each pixel drawn by whole pixels, or smoothed on request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.nn.functional import interpolate

from scorefield.checks import check_count
from scorefield.plots.style import DPI, FAINT, INK, Array, array

_LETTER = 0.0083  # about the width of a letter, in inches per point of its size
_CELL, _GAP, _MARGIN = 88, 5, 0.12  # an image's side and the white between two, in pixels; around the figure, in inches


def image_grid(
    images: Array,
    *,
    columns: int | None = None,
    row_names: Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
    smooth: bool = False,
    title: str | None = None,
) -> Figure:
    """A grid of images with crisp pixels and thin white gaps.

    Args:
        images: (rows, columns, channels, H, W), or (N, channels, H, W) that fill the rows of `columns` in turn;
            one channel (grey, low values dark) or three (red, green, blue).
        columns: images per row, for four axes only; about as many as rows when None.
        row_names: one name per row, written at its left.
        value_range: the values shown darkest and brightest, others are clipped; those of the data when None.
        smooth: bicubic interpolation between the pixels, for tiny images that an eye reads better so; say it beside
            the picture.
        title: written above.

    Returns:
        the figure; its one image is the whole grid, H and W magnified by a whole factor.
    """
    _check_range(value_range)
    given = array("images", images)
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
    mosaic = _mosaic(tiles, [value_range or (given.min(), given.max())], empty, smooth=smooth)
    return _stack([_Panel(title, mosaic, names, [])])


def paths(
    panels: Mapping[str, Array],
    *,
    column_names: Mapping[str, Sequence[str]] | None = None,
    value_range: tuple[float, float] | None = None,
    smooth: bool = False,
) -> Figure:
    """Images on their way through time: a row per sample, a column per time, one panel under the other.

    Args:
        panels: title -> images (times, samples, channels, H, W), such as the noising of a few digits through the
            levels and the reverse path back.
        column_names: title -> one name per time, written above the columns of that panel.
        value_range: the values shown darkest and brightest; when None each time has its own, the 0.5 and 99.5 %
            quantiles of its images, so that large noise does not hide small images.
        smooth: bicubic interpolation between the pixels.

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
        images = array(f"panels[{name!r}]", given)
        _check_tiles(images, "(times, samples, channels, H, W)")
        titles = list((column_names or {}).get(name, []))
        if titles and len(titles) != len(images):
            raise ValueError(f"column_names must be one per time, got {len(titles)} names for {len(images)} times")
        own = np.quantile(images.reshape(len(images), -1), [0.005, 0.995], axis=1).T
        mosaic = _mosaic(np.swapaxes(images, 0, 1), own if value_range is None else [value_range], smooth=smooth)
        drawn.append(_Panel(name, mosaic, [], titles))
    return _stack(drawn)


def restoration(
    observed: Array, draws: Array, *, known: Array | None = None, truth: Array | None = None, smooth: bool = False
) -> Figure:
    """What was seen, draws of what it may have been, their mean, and where they differ.

    Args:
        observed: (C, H, W), or (1, H, W) of grey; or a smaller image, enlarged to the draws' size by whole pixels.
        draws: (n, C, H, W); at most eight are shown.
        known: True where a pixel was seen, (C, H, W): the others are drawn mid-grey.
        truth: what was damaged, (C, H, W), where it is known; drawn first.
        smooth: bicubic interpolation between the pixels.

    Returns:
        the figure: a row of images in the range of the draws (but for their outermost 0.2 %), and the standard
        deviation (its mean over the channels) in its own, bright where they differ.
    """
    seen, drawn = array("observed", observed), array("draws", draws)
    if drawn.ndim != 4 or seen.ndim != 3 or any(a % b for a, b in zip(drawn.shape[2:], seen.shape[1:], strict=True)):
        raise ValueError(f"draws must be (n, C, H, W) and observed (C, H/k, W/k), got {drawn.shape} and {seen.shape}")
    low, high = np.quantile(drawn, [0.002, 0.998])  # neither noise on the input nor one odd pixel must dim the draws
    high = max(high, low + 1e-12)
    tall, wide = drawn.shape[2] // seen.shape[1], drawn.shape[3] // seen.shape[2]
    seen = np.broadcast_to(seen.repeat(tall, 1).repeat(wide, 2), drawn.shape[1:])
    if known is not None:
        seen = np.where(array("known", known) > 0.5, seen, (low + high) / 2)
    some = drawn[:8]
    spread = np.broadcast_to(drawn.std(0).mean(0), drawn.shape[1:])
    columns = [seen, *some, drawn.mean(0), low + (high - low) * spread / max(spread.max(), 1e-300)]
    names = ["input", *(f"draw {k + 1}" for k in range(len(some))), "mean", "spread"]
    if truth is not None:
        whole = array("truth", truth)
        if whole.shape != drawn.shape[1:]:
            raise ValueError(f"truth must have the shape of a draw, {drawn.shape[1:]}, got {whole.shape}")
        columns, names = [whole, *columns], ["truth", *names]
    panels = {"": np.stack(columns)[:, None]}
    return paths(panels, column_names={"": names}, value_range=(low, high), smooth=smooth)


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
            write(-0.08 / wide, 1 - (i + 0.5) / len(panel.rows) - 0.04 / high, name, 9, INK, "right")
        for j, name in enumerate(panel.columns):
            fits = 0.95 * wide / len(panel.columns) / (_LETTER * max(map(len, panel.columns)))
            write((j + 0.5) / len(panel.columns), 1 + 0.05 / high, name, min(7.5, fits), FAINT, "center")
        if panel.title:
            write(0, 1 + (panel.head - 0.16) / high, panel.title, 10, INK, "left")
    return figure


def _mosaic(tiles: np.ndarray, spans: Array, empty: int = 0, *, smooth: bool = False) -> np.ndarray:
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
        tile = torch.from_numpy(shown[k // columns, k % columns])[None]
        large = interpolate(tile, scale_factor=zoom, mode="bicubic" if smooth else "nearest")[0].clamp(0, 1)
        picture[y : y + h * zoom, x : x + w * zoom] = large.permute(1, 2, 0).numpy()
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
