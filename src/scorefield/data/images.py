"""Images from a folder of files or from MNIST's IDX files, as (n, C, H, W) arrays of uint8."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from scorefield.data.arrays import Table

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # what pillow calls it -> what we store


def read_folder(folder: Path) -> Table:
    """All images of a folder, or of its class folders one level down; other kinds of files are passed over."""
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
    first, mode = _open(files[0])
    x = np.empty((len(files), *first.shape), dtype=np.uint8)
    for row, file in enumerate(files):
        x[row] = _like(file, first.shape, mode, files[0])
    return Table(x, np.array(labels) if labels else None)


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _like(file: Path, shape: tuple[int, ...], mode: str, first: Path) -> np.ndarray:
    """One image, refused unless it has the mode and the size of the first."""
    x, own = _open(file)
    if own != mode:
        raise ValueError(f"images must all be of one mode: {first} is {mode}, {file} is {own}; convert them alike")
    if x.shape != shape:
        size, expected = (f"{s[2]}x{s[1]}" for s in (x.shape, shape))
        raise ValueError(f"images must all be of one size: {first} is {expected}, {file} is {size}; resize them alike")
    return x


def _open(file: Path) -> tuple[np.ndarray, str]:
    """One image as (C, H, W) and its mode, L or RGB."""
    try:
        with Image.open(file) as image:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            mode = MODES.get(image.mode)
            pixels = np.asarray(image.convert(mode)) if mode else np.empty(0)
    except Exception as error:  # pillow's decoders raise errors of many kinds on damaged files
        raise ValueError(f"{file} cannot be read as an image ({error}); replace or remove it") from None
    if mode is None:
        raise ValueError(f"{file} must be a grey or RGB image, it is {image.mode}; convert it, or give a .npy array")
    if frames > 1:
        raise ValueError(f"{file} must hold one image, it holds {frames} frames; save them as single images")
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1), mode


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def read_idx(name: str, root: str | None) -> Table:
    """The training images and labels of MNIST or a set of its layout, plain or .gz."""
    wanted = f"root must be the folder that holds its files {', '.join(IDX_FILES)}, each plain or .gz (the t10k files "
    wanted += "are not read)"
    if root is None:
        raise ValueError(f"{name} is not bundled: {wanted}; got no root, pass one (--root FOLDER)")
    folder = Path(root).expanduser()
    found = [_find(folder, file) for file in IDX_FILES[:2]]
    for file, path in zip(IDX_FILES, found, strict=False):
        if path is None:
            raise ValueError(f"{file} (plain or .gz) is not in {folder}; for {name}, {wanted}")
    images, labels = (_read_idx(path, axes) for path, axes in zip(found, (3, 1), strict=True) if path is not None)
    return Table(images, labels)


def _find(folder: Path, file: str) -> Path | None:
    candidates = [folder / f"{name}{end}" for name in (file, file.replace("-idx", ".idx")) for end in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _read_idx(path: Path, axes: int) -> np.ndarray:
    """The IDX format: two zeros, the type (8: unsigned bytes), the number of axes, their lengths, the bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or truncated ({error}); fetch it again") from None
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes with {axes} axes; fetch it again")
    shape = tuple(np.frombuffer(content, dtype=">u4", count=axes, offset=4).tolist())
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} must hold {math.prod(shape)} values (its header says {shape}), it holds {len(content) - start}: "
            "damaged or truncated; fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
