"""Files of one folder written together: all of them whole, or none."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np


class Staging:
    """Files written beside their final names, moved there by `commit`, and removed again without it.

    Args:
        folder: made on entering if it is not there, and removed again if nothing is committed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Path] = []
        self._staged: dict[str, Path] = {}

    def __enter__(self) -> Staging:
        self._made = [path for path in (self._folder, *self._folder.parents) if not path.exists()]
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        for path in self._staged.values():
            path.unlink(missing_ok=True)
        for path in self._made if any(error) else ():
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def add(self, name: str, pieces: Iterable[bytes | memoryview]) -> str:
        """Write a file beside its final name, piece by piece, down to the disk; its SHA-256."""
        digest, path = hashlib.sha256(), self._folder / f".{name}.{os.getpid()}.tmp"
        self._staged[name] = path
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def add_array(self, name: str, pieces: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> str:
        """The same for an .npy file of this shape and dtype, whose rows come in pieces."""
        header = io.BytesIO()
        described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, described)

        def content() -> Iterator[bytes | memoryview]:
            yield header.getvalue()
            yield from (np.ascontiguousarray(piece).data.cast("B") for piece in pieces)

        return self.add(name, content())

    def commit(self, *, last: str, retire: Iterable[str] = ()) -> None:
        """Move the files to their names; where `last` is there, the others are whole and belong to it.

        Args:
            last: the file that is removed first and moved last.
            retire: files of an earlier commit that go, unless this one writes them.
        """
        for name in (last, *(name for name in retire if name not in self._staged)):
            (self._folder / name).unlink(missing_ok=True)
        for name in sorted(self._staged, key=lambda name: name == last):
            self._staged[name].replace(self._folder / name)
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
