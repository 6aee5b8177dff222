"""MNIST and Fashion-MNIST in their own format, IDX, plain or .gz."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from scorefield.data.arrays import Table
from scorefield.data.named import folder_of, missing
from scorefield.data.stack import most_bytes

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


def read_idx(name: str, root: str | None) -> Table:
    """The training images and labels of MNIST or a set of its layout, plain or .gz."""
    folder = folder_of(name, root)
    found = [(_find(folder, file), file) for file in IDX_FILES]
    for path, file in found:
        if path is None:
            raise missing(name, f"{file} (plain or .gz)", folder)
    paths = [path for path, _ in found if path is not None]
    images, labels = (read_idx_file(path, axes) for path, axes in zip(paths, (3, 1), strict=True))
    return Table(images, labels, files=tuple(path.name for path in paths))


def _find(folder: Path, file: str) -> Path | None:
    candidates = [folder / f"{name}{end}" for name in (file, file.replace("-idx", ".idx")) for end in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def read_idx_file(path: Path, axes: int) -> np.ndarray:
    """One file: two zeros, the type (8: unsigned bytes), the number of axes, their lengths (big-endian), the bytes.

    Raises:
        ValueError: it is of another kind, or holds more or fewer bytes than its header says.
    """
    start = 4 + 4 * axes
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(start)
            if header[:4] != bytes([0, 0, 8, axes]) or len(header) < start:
                raise ValueError(f"{path} is not an IDX file of unsigned bytes with {axes} axes; fetch it again")
            shape = tuple(np.frombuffer(header, dtype=">u4", offset=4).tolist())
            due = math.prod(shape)
            possible = due <= most_bytes(path.stat().st_size)
            content = file.read(due + 1) if possible else b""
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or truncated ({error}); fetch it again") from None
    if len(content) != due:
        held = f"{len(content):,}" if len(content) < due and possible else "more" if possible else "far fewer"
        raise ValueError(
            f"{path} must hold {due:,} values (its header says {shape}), it holds {held}: damaged or truncated; fetch "
            "it again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
