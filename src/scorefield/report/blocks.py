"""What a page is made of: pictures, tables, players, and their data as text that HTML can hold."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

DENSITY = 130  # dots per inch of pictures in the page


@dataclass(frozen=True)
class Picture:
    """A picture with its alternative text.

    Attributes:
        source: a data URI.
        alt: what it shows, in words.
        caption: written below.
        tiles: whether it is made of small images, whose pixels stay crisp.
    """

    source: str
    alt: str
    caption: str = ""
    tiles: bool = False
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Table:
    """A table: a heading per column, cells as text; numbers stand at the right.

    Attributes:
        columns: headings.
        rows: cells.
        numeric: which columns hold numbers.
        caption: what it tells.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    caption: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Player:
    """Frames behind a slider: pictures, or points of a plane drawn on a canvas.

    Attributes:
        names: of the frames, such as their noise level.
        alt: what moves, in words.
        pictures: data URIs, one per frame; empty for points.
        points: whole numbers in [0, 1000], a list x1, y1, x2, y2, … per frame, as JSON.
        labels: of the two axes of the points.
        limits: their ends, (x from, x to, y from, y to).
    """

    names: Sequence[str]
    alt: str
    pictures: Sequence[str] = ()
    points: str = "[]"
    labels: tuple[str, str] = ("", "")
    limits: tuple[str, str, str, str] = ("", "", "", "")
    kind: ClassVar[str] = "player"

    @property
    def names_json(self) -> str:
        """The names, as JSON that a script element can hold."""
        return safe_json(list(self.names))

    @property
    def pictures_json(self) -> str:
        """The pictures, likewise."""
        return safe_json(list(self.pictures))


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "words"


@dataclass(frozen=True)
class Panel:
    """What a section shows, in order.

    Attributes:
        blocks: pictures, tables, players, words.
        healthy: for the doctor's section, whether nothing was found; None elsewhere.
    """

    blocks: Sequence[Picture | Table | Player | Words] = field(default_factory=tuple)
    healthy: bool | None = None


def picture(figure: Figure, alt: str, caption: str = "") -> Picture:
    """A figure as a PNG inside the page, its colours reduced to a palette."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=DENSITY, facecolor="white")
    return Picture(png(Image.open(memory).convert("RGB"), reduce=True), alt, caption)


def png(image: Image.Image, *, reduce: bool = False) -> str:
    """A data URI of an image."""
    memory = io.BytesIO()
    image = image.quantize(128, dither=Image.Dither.NONE) if reduce else image
    image.save(memory, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(memory.getvalue()).decode()


def tiles(images: np.ndarray, columns: int, low: float, high: float, side: int = 56) -> str:
    """Images (n, C, H, W) beside each other with white gaps, each magnified by a whole factor to about `side`."""
    n, channels, height, width = images.shape
    grey = np.clip((images - low) / max(high - low, 1e-300), 0, 1)
    if channels == 1:
        grey = 1 - np.repeat(grey, 3, axis=1)
    factor = max(1, side // max(height, width))
    big = grey.repeat(factor, 2).repeat(factor, 3)
    down = -(-n // columns)
    sheet = np.ones((3, down * (height * factor + 4) - 4, columns * (width * factor + 4) - 4))
    for k, tile in enumerate(big):
        top, left = (k // columns) * (height * factor + 4), (k % columns) * (width * factor + 4)
        sheet[:, top : top + tile.shape[1], left : left + tile.shape[2]] = tile
    return png(Image.fromarray((255 * sheet.transpose(1, 2, 0)).round().astype(np.uint8)), reduce=True)


def safe_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
