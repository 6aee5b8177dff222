"""CelebA in its own layout: aligned faces in a folder or a zip, the list of its partition, the list of attributes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image

from scorefield.checks import nearest
from scorefield.data.archives import members
from scorefield.data.arrays import Table
from scorefield.data.images import open_image
from scorefield.data.named import folder_of, missing
from scorefield.data.stack import Stack

IMAGES, PARTITION, ATTRIBUTES = "img_align_celeba", "list_eval_partition.txt", "list_attr_celeba.txt"
WIDTH, HEIGHT, CROP = 178, 218, 140


def read_celeba(name: str, root: str | None, attribute: str | None, scratch: Path | None) -> Table:
    """The training images (partition 0), centre-cropped to 140 x 140 and resized with a bilinear filter.

    Args:
        name: celeba (64 x 64) or celeba-32.
        root: folder that holds the images and the lists.
        attribute: the attribute to label by, such as Smiling; the classes are Smiling and "not Smiling". None for no
            labels.
        scratch: folder whose disk holds the images meanwhile; the system's temporary folder when None.

    Raises:
        ValueError: a file is missing, damaged, or does not agree with the others; an unknown attribute.
    """
    folder, side = folder_of(name, root), 32 if name == "celeba-32" else 64
    partition = _rows(folder / PARTITION, _lines(folder, name, PARTITION))
    wanted = sorted(file for file, cells in partition.items() if _partition(folder, file, cells) == "0")
    labels = None if attribute is None else _labels(folder, name, attribute, wanted)
    if not wanted:
        raise ValueError(f"{folder / PARTITION} lists no image of partition 0, the training images; fetch it again")
    found, stack = [], Stack(scratch, len(wanted) * 3 * side**2, folder)
    for file, content in _images(folder, name, set(wanted)):
        stack.append(_face(content, f"{file} of {folder}", side))
        found.append(file)
    if len(found) < len(wanted):
        first = min(set(wanted) - set(found))
        raise ValueError(
            f"{len(wanted) - len(found)} of the {len(wanted)} training images that {folder / PARTITION} lists are "
            f"missing, the first is {first}; fetch {IMAGES}.zip again"
        )
    x = stack.array(np.argsort(found).tolist())
    return Table(x, labels, files=(_source(folder, name).name, PARTITION, *([ATTRIBUTES] if attribute else [])))


def _face(file: Path | IO[bytes], name: str, side: int) -> np.ndarray:
    """One aligned face, cropped and resized, (3, side, side)."""
    x, mode = open_image(file, name)
    if mode != "RGB" or x.shape != (3, HEIGHT, WIDTH):
        raise ValueError(
            f"{name} must be an RGB image of {WIDTH}x{HEIGHT}, it is {mode} of {x.shape[2]}x{x.shape[1]}; give the "
            f"aligned images of {IMAGES}.zip"
        )
    left, top = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2
    cropped = Image.fromarray(x[:, top : top + CROP, left : left + CROP].transpose(1, 2, 0))
    return np.asarray(cropped.resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def _source(folder: Path, name: str) -> Path:
    found = next((path for path in (folder / IMAGES, folder / f"{IMAGES}.zip") if path.exists()), None)
    if found is None:
        raise missing(name, f"{IMAGES}/ or {IMAGES}.zip", folder)
    return found


def _images(folder: Path, name: str, wanted: set[str]) -> Iterator[tuple[str, Path | IO[bytes]]]:
    """The wanted images, from the folder if it is there, else from the zip."""
    source = _source(folder, name)
    if source.is_dir():
        yield from ((file, source / file) for file in sorted(wanted) if (source / file).is_file())
        return
    for place, content in members(source, lambda place: place.parent == PurePosixPath(IMAGES) and place.name in wanted):
        yield place.name, io.BytesIO(content)


def _lines(folder: Path, name: str, file: str) -> list[str]:
    """The lines of a list."""
    path = folder / file
    if not path.is_file():
        raise missing(name, file, folder)
    try:
        return path.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: no plain text at byte {error.start}; fetch it again") from None


def _rows(path: Path, lines: list[str], start: int = 0) -> dict[str, list[str]]:
    """The cells of a list by the name of their image, from line `start` on."""
    rows: dict[str, list[str]] = {}
    for number, line in enumerate(lines[start:], start=start + 1):
        image, *cells = line.split()[:1000] or [""]
        if not image or image in rows or PurePosixPath(image).name != image:
            raise ValueError(f"{path} line {number} must begin with the name of an image of its own; fetch it again")
        rows[image] = cells
    return rows


def _partition(folder: Path, file: str, cells: list[str]) -> str:
    if cells not in (["0"], ["1"], ["2"]):
        raise ValueError(f"{folder / PARTITION}: {file} must be in partition 0, 1 or 2, got {cells}; fetch it again")
    return cells[0]


def _labels(folder: Path, name: str, attribute: str, wanted: list[str]) -> np.ndarray:
    """Of each wanted image, whether it has the attribute, in words."""
    path, lines = folder / ATTRIBUTES, _lines(folder, name, ATTRIBUTES)
    rows = _rows(path, lines, start=2)
    count, *rest = lines[:2] or [""]
    names = rest[0].split() if rest else []
    if not names or count.strip() != str(len(rows)):
        raise ValueError(
            f"{path} must begin with the number of its rows and a line of attributes; it says {count.strip()[:20]!r} "
            f"and has {len(rows)} rows; fetch it again"
        )
    if attribute not in names:
        near = nearest(attribute, names)
        shown = ", ".join(names)
        raise ValueError(f"label_column must be an attribute of {path}, got {attribute!r}; choose one of {shown}{near}")
    place = names.index(attribute)
    words = {"1": attribute, "-1": f"not {attribute}"}
    labels = []
    for image in wanted:
        cells = rows.get(image, [])
        if len(cells) != len(names) or cells[place] not in words:
            raise ValueError(f"{path}: {image} must have {len(names)} values of 1 or -1; damaged, fetch it again")
        labels.append(words[cells[place]])
    return np.array(labels)
