"""Particles that move: one panel per way of sampling, frame by frame, as a GIF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from scorefield.calculus import LogDensity
from scorefield.checks import check_positive
from scorefield.plots.planes import Box, level_sets
from scorefield.plots.style import COLOURS, INK, Array, array, dress

PIXELS = 110  # per inch
PAUSE = 1.6  # seconds that the last frame stands


def moving_particles(
    paths: Mapping[str, Array],
    file: str | Path,
    *,
    box: Box,
    density: LogDensity | None = None,
    captions: Sequence[str] | None = None,
    per_second: float = 15.0,
) -> Path:
    """Write particles in the plane as a GIF that loops, with a rest at the end of each round.

    Args:
        paths: title of a panel -> positions (T, B, 2); T is the same in all, T >= 2.
        file: the .gif to write.
        box: x from, x to, y from, y to, of every panel.
        density: the log-density whose level sets lie under the particles, (B, 2) -> (B,).
        captions: what to write below each frame, T texts.
        per_second: frames per second, > 0.

    Returns:
        the file.

    Raises:
        ValueError: no panel, positions of another shape, a wrong number of captions, or a file not named .gif.
    """
    check_positive("per_second", per_second)
    file, moves = Path(file), {name: array(f"paths[{name!r}]", path) for name, path in paths.items()}
    if file.suffix != ".gif":
        raise ValueError(f"a moving picture is written as .gif, got {file}; name it {file.with_suffix('.gif')}")
    lengths = {len(path) for path in moves.values()}
    if len(lengths) != 1 or min(lengths) < 2 or any(p.ndim != 3 or p.shape[2] != 2 for p in moves.values()):
        shapes = {name: path.shape for name, path in moves.items()}
        raise ValueError(f"paths must have shape (T, B, 2) with one T >= 2, got {shapes}")
    count = lengths.pop()
    if captions is not None and len(captions) != count:
        raise ValueError(f"captions must be one per frame, {count}, got {len(captions)}")
    high = 3.0 * (box[3] - box[2]) / (box[1] - box[0])
    figure = Figure(figsize=(3.0 * len(moves), high + 0.55), dpi=PIXELS, layout="constrained")
    rows = figure.subplots(1, len(moves), squeeze=False, subplot_kw={"aspect": "equal"})[0]
    dots = []
    for axes, (name, path) in zip(rows, moves.items(), strict=True):
        axes.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[])
        if density is not None:
            level_sets(axes, density, box)
        dress(axes, name)
        dots.append(axes.scatter(*path[0].T, s=6, color=COLOURS[1], linewidths=0, alpha=0.8, zorder=3))
    texts = [" "] * count if captions is None else list(captions)
    text = figure.supxlabel(texts[-1], fontsize=9, color=INK)
    _drawn(figure)
    figure.set_layout_engine("none")  # frames must not shift with their captions
    frames = []
    for k in range(count):
        for dot, path in zip(dots, moves.values(), strict=True):
            dot.set_offsets(path[k])
        text.set_text(texts[k])
        frames.append(_drawn(figure))
    frames = _reduced(frames)
    durations = [round(1000 / per_second)] * (count - 1) + [round(1000 * PAUSE)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    return file


def _drawn(figure: Figure) -> Image.Image:
    """The figure as it stands, in pixels."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi="figure", facecolor="white")
    return Image.fromarray(np.asarray(Image.open(buffer).convert("RGB")))


def _reduced(frames: list[Image.Image]) -> list[Image.Image]:
    """The frames in the 128 colours of the last, one palette for all so that none flickers; white stays white."""
    palette = frames[-1].quantize(128, method=Image.Quantize.MAXCOVERAGE)
    colours = np.array(palette.getpalette(), dtype=np.uint8).reshape(-1, 3)
    white = int(colours.sum(1, dtype=int).argmax())
    colours[white] = 255
    palette.putpalette(colours.ravel().tolist())
    reduced = []
    for frame in frames:
        places = np.array(frame.quantize(palette=palette, dither=Image.Dither.NONE))
        places[(np.asarray(frame) == 255).all(2)] = white  # the lookup is coarse
        reduced.append(Image.fromarray(places, mode="P"))
        reduced[-1].putpalette(colours.ravel().tolist())
    return reduced
