"""CIFAR-10 as it is published (the python and the binary archive, packed or not), or as a tree of images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from scorefield.data.archives import ARCHIVES, members
from scorefield.data.arrays import Table
from scorefield.data.images import read_archive, read_folder
from scorefield.data.named import folder_of, missing
from scorefield.data.pickles import read_plain_pickle
from scorefield.data.stack import MEMBER

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
PIXELS = 3072
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
LAYOUTS = {  # folder, archive -> what a batch's name ends with
    ("cifar-10-batches-py", "cifar-10-python.tar.gz"): "",
    ("cifar-10-batches-bin", "cifar-10-binary.tar.gz"): ".bin",
}


def read_cifar10(root: str | None, scratch: Path | None) -> Table:
    """The 50,000 training images, (n, 3, 32, 32), in the order of the batches, or of the files of an image tree.

    The first of these that is there: the python batches, their archive, the binary batches, theirs, the tree `train`,
    an archive of it.
    """
    folder = folder_of("cifar10", root)
    for (unpacked, archive), end in LAYOUTS.items():
        for inner in (folder / unpacked, folder):
            if any((inner / f"{name}{end}").is_file() for name in BATCHES):
                return _from_batches(inner, ((inner / f"{name}{end}") for name in BATCHES), end)
        if (folder / archive).is_file():
            return _from_archive(folder / archive, unpacked, end)
    tree = next((folder / f"train{end}" for end in ("", *ARCHIVES) if (folder / f"train{end}").exists()), None)
    if tree is None:
        raise missing("cifar10", " or ".join(name for pair in LAYOUTS for name in pair), folder)
    table = read_folder(tree, scratch) if tree.is_dir() else read_archive(tree, scratch)
    labels = () if table.labels is None else tuple(np.unique(table.labels).tolist())
    if table.x.shape[1:] != SHAPE or labels != CLASSES:
        raise ValueError(
            f"{tree} must hold RGB images of 32 x 32 in the class folders {', '.join(CLASSES)}; it holds "
            f"{table.x.shape[1:]} in {', '.join(labels) or 'none'}; other images are given by their path, without root"
        )
    return Table(table.x, table.labels, files=(tree.name,))


def _from_batches(folder: Path, paths: Iterator[Path], end: str) -> Table:
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for path in paths:
        if not path.is_file():
            raise missing("cifar10", path.name, folder)
        if path.stat().st_size > MEMBER:
            raise ValueError(f"{path} is too large for a batch ({path.stat().st_size:,} bytes); fetch it again")
        found[path.name] = read_batch(path.read_bytes(), str(path), end)
    return _joined(folder, found, end)


def _from_archive(archive: Path, folder: str, end: str) -> Table:
    places = [PurePosixPath(folder, f"{name}{end}") for name in BATCHES]
    content = members(archive, lambda place: place in places)
    found = {place.name: read_batch(batch, f"{archive}, {place}", end) for place, batch in content}
    return _joined(archive, found, end)


def _joined(source: Path, found: dict[str, tuple[np.ndarray, np.ndarray]], end: str) -> Table:
    """The five batches in their order, of one size each: a batch that was cut short shows by that."""
    names = [f"{name}{end}" for name in BATCHES]
    absent = [name for name in names if name not in found]
    if absent:
        raise missing("cifar10", ", ".join(absent), source)
    sizes = [len(found[name][1]) for name in names]
    if len(set(sizes)) > 1:
        raise ValueError(f"{source}: the batches must be of one size, got {sizes} images; fetch them again")
    x = np.concatenate([found[name][0] for name in names]).reshape(-1, *SHAPE)
    y = np.concatenate([found[name][1] for name in names])
    return Table(x, np.array(CLASSES)[y], files=(source.name,))


def read_batch(content: bytes, name: str, end: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3072) and labels (n,) of one batch: the python kind, a pickle, unless its name has the `end` .bin.

    A binary batch is a row of records: the label, one byte of 0..9, then 3072 bytes, red, green and blue in turn.

    Raises:
        ValueError: it is damaged, or holds anything else.
    """
    if end == ".bin":
        if not content or len(content) % (PIXELS + 1):
            raise ValueError(
                f"{name} must hold records of {PIXELS + 1} bytes, it holds {len(content):,} bytes: damaged or cut; "
                "fetch it again"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, PIXELS + 1)
        pixels, labels = records[:, 1:], records[:, 0].astype(np.int64)
    else:
        pixels, labels = _from_pickle(content, name)
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(CLASSES)):
        raise ValueError(f"{name}: labels must be 0..9, got {labels.min()}..{labels.max()}: damaged; fetch it again")
    return pixels, labels


def _from_pickle(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    held: Any = read_plain_pickle(content, name)
    held = {_text(key): value for key, value in held.items()} if isinstance(held, dict) else {}
    pixels, labels = held.get("data"), held.get("labels")
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (PIXELS,)):
        raise ValueError(f"{name} must hold 'data', bytes of shape (n, {PIXELS}), as CIFAR-10's do; fetch it again")
    if not (isinstance(labels, list) and len(labels) == len(pixels) and all(type(k) is int for k in labels)):
        raise ValueError(f"{name} must hold 'labels', a list of {len(pixels)} integers; fetch it again")
    if any(not 0 <= k < len(CLASSES) for k in labels):  # before NumPy, whose integers end somewhere
        raise ValueError(f"{name}: labels must be 0..9; damaged, fetch it again")
    return pixels, np.array(labels, dtype=np.int64)


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode("latin-1")
