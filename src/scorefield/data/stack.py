"""Samples stacked as they are read, in a file without a name, so that a set may be larger than memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MEMBER = 64 * 2**20  # bytes of one file inside an archive
GROWTH, FLOOR = 1000, 2**30  # a source of n bytes may unpack to GROWTH n + FLOOR; images rarely reach 100 n


def most_bytes(size: int) -> int:
    """What a source of this many bytes may unpack to; more is taken for a bomb."""
    return GROWTH * size + FLOOR


class Stack:
    """Arrays of one shape and dtype, appended one by one and given back memory-mapped.

    Args:
        folder: on whose disk the file lies, unseen, gone with the arrays; the system's temporary folder when None.
        most: bytes at most.
        source: named when there are more.
    """

    def __init__(self, folder: Path | None, most: int, source: object) -> None:
        self._folder = None if folder is None else next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
        self._file = tempfile.TemporaryFile(dir=self._folder)
        self._left, self._source = most, source
        self._shape: tuple[int, ...] | None = None
        self._dtype, self._count = np.dtype(np.uint8), 0

    def append(self, x: np.ndarray) -> None:
        """Add one sample; the first decides shape and dtype."""
        self.extend(x[None])

    def extend(self, x: np.ndarray) -> None:
        """Add several, (m, ...)."""
        if self._shape is None:
            self._shape, self._dtype = x.shape[1:], x.dtype
        self._left -= x.nbytes
        if self._left < 0:
            raise ValueError(
                f"{self._source} unpacks to more than {GROWTH} times its own size; a set of images does not: if it is "
                "sound, give it as a .npy array"
            )
        self._file.write(np.ascontiguousarray(x).data)
        self._count += len(x)

    def array(self, order: Sequence[int] | None = None) -> np.ndarray:
        """All samples, (n, ...), as they came or in another order."""
        self._file.flush()
        x = np.memmap(self._file, self._dtype, "r", shape=(self._count, *(self._shape or ())))
        if order is None or list(order) == list(range(self._count)):
            return x
        other = Stack(self._folder, x.nbytes, self._source)
        for row in order:
            other.append(x[row])
        return other.array()
