"""Images from a folder of files, or from an archive of them, as (n, C, H, W) arrays of uint8."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image

from scorefield.data.archives import members
from scorefield.data.arrays import Table
from scorefield.data.stack import Stack, most_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")  # and none that pillow hands to another program
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # what pillow calls it -> what we store
PIXELS = 2**24  # of one image at most


class _Alike:
    """A stack of images that must all be of the mode and the size of the first."""

    def __init__(self, scratch: Path | None, most: int, source: Path) -> None:
        self.stack = Stack(scratch, most, source)
        self._first: tuple[object, tuple[int, ...], str] | None = None

    def append(self, file: Path | IO[bytes], name: object) -> None:
        """Decode one more image."""
        x, mode = open_image(file, name)
        first, shape, expected = self._first = self._first or (name, x.shape, mode)
        if mode != expected:
            raise ValueError(f"images must all be of one mode: {first} is {expected}, {name} is {mode}; convert them")
        if x.shape != shape:
            size, due = (f"{s[2]}x{s[1]}" for s in (x.shape, shape))
            raise ValueError(f"images must all be of one size: {first} is {due}, {name} is {size}; resize them alike")
        self.stack.append(x)


def read_folder(folder: Path, scratch: Path | None = None) -> Table:
    """All images of a folder, or of its class folders one level down; other kinds of files are passed over.

    Args:
        folder: where they are.
        scratch: folder whose disk holds them meanwhile; the system's temporary folder when None.
    """
    files = _images(folder)
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if files and classes:
        raise ValueError(
            f"{folder} must hold either images or class folders, it holds {len(files)} images beside the folder "
            f"{classes[0].name!r}; move the images into class folders or the folders away"
        )
    if not files and not classes:
        raise ValueError(f"{folder} holds no images ({' '.join(SUFFIXES)}); give the folder that holds the images")
    labels: list[str] = []
    for path in classes:
        found = _images(path)
        if not found:
            raise ValueError(
                f"class folder {path} holds no images ({' '.join(SUFFIXES)}); class folders go one level deep: "
                "remove it, or give the folder right above the class folders"
            )
        files += found
        labels += [path.name] * len(found)
    alike = _Alike(scratch, most_bytes(sum(file.stat().st_size for file in files)), folder)
    for file in files:
        alike.append(file, file)
    return Table(alike.stack.array(), np.array(labels) if labels else None)


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_image(PurePosixPath(path.name)) and path.is_file())


def _is_image(place: PurePosixPath) -> bool:
    return place.suffix.lower() in SUFFIXES and not place.name.startswith(".")


def read_archive(archive: Path, scratch: Path | None = None) -> Table:
    """All images of a tar or zip archive, sorted by class and name, whatever their order there.

    The class is the folder that an image lies in. The class folders must lie in one folder; where all images lie in
    one, they have no labels.

    Args:
        archive: .tar, .tar.gz, .tar.bz2, .tar.xz or .zip.
        scratch: as for `read_folder`.
    """
    alike, places = _Alike(scratch, most_bytes(archive.stat().st_size), archive), []
    for place, content in members(archive, _is_image):
        alike.append(io.BytesIO(content), f"{place} of {archive}")
        places.append(place)
    if not places:
        raise ValueError(
            f"{archive} holds no images ({' '.join(SUFFIXES)}); give an archive of images. The archives of named sets "
            "are read by name (train cifar10 --root FOLDER)"
        )
    folders = sorted({place.parent for place in places})
    if len(folders) > 1 and (len({folder.parent for folder in folders}) > 1 or not folders[0].name):
        raise ValueError(
            f"the class folders of {archive} must lie in one folder, it holds images in {str(folders[0])!r} and "
            f"{str(folders[-1])!r}; pack one set by itself, in class folders or in one folder"
        )
    order = sorted(range(len(places)), key=lambda row: (places[row].parent.name, places[row].name))
    labels = np.array([places[row].parent.name for row in order]) if len(folders) > 1 else None
    return Table(alike.stack.array(order), labels)


def open_image(file: Path | IO[bytes], name: object) -> tuple[np.ndarray, str]:
    """One image as (C, H, W) and its mode, L or RGB.

    Raises:
        ValueError: it is damaged, of another format or mode, too large, or holds several frames.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            small = width * height <= PIXELS
            frames = 1 if image.format == "MPO" or not small else getattr(image, "n_frames", 1)
            mode = MODES.get(image.mode)
            pixels = np.asarray(image.convert(mode)) if mode and small and frames == 1 else np.empty(0)
    except Exception as error:  # pillow's decoders raise errors of many kinds on damaged files
        raise ValueError(f"{name} cannot be read as an image ({error}); replace or remove it") from None
    if not small:
        raise ValueError(f"{name} must have at most {PIXELS:,} pixels, it is {width}x{height}; make it smaller")
    if mode is None:
        raise ValueError(f"{name} must be a grey or RGB image, it is {image.mode}; convert it, or give a .npy array")
    if frames > 1:
        raise ValueError(f"{name} must hold one image, it holds {frames} frames; save them as single images")
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1), mode
