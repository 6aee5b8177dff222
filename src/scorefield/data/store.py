"""A data set on disk: x.npy, y.npy and dataset.json, written whole or not at all and opened memory-mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefield.checks import check_count
from scorefield.data.arrays import Table
from scorefield.data.readers import TABLES, check_treatment, read, read_table
from scorefield.data.samples import check_samples, held_out_count, split
from scorefield.data.scaling import Scaling, learn_scaling
from scorefield.data.staging import Staging
from scorefield.settings import DataSettings


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """What dataset.json holds.

    Args:
        source: as it was given.
        kind: "image" or "vector".
        shape: (n, *D).
        dtype: of the stored samples: uint8, float32 or float64.
        sha256: of each file, by its name: x.npy and, for labelled data, y.npy.
        scaling: learned from the training rows.
        classes: names of the labels 0..K-1; () for unlabelled data.
        columns: names of the columns of vectors; () for images.
        dropped_rows: rows left out for NaN or infinity.
        held_out: number of rows kept out of training.
        seed: of the choice of those rows, and of the draw from a toy density.
        files: what was read of a named set, by the files' names; () for other sources.
    """

    source: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    sha256: dict[str, str]
    scaling: Scaling
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    dropped_rows: int
    held_out: int
    seed: int
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """A dict that `json.dumps` takes and `from_json` turns back."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {key: list(plain[key]) for key in ("shape", "classes", "columns", "files")}
        return {**plain, **lists, "scaling": self.scaling.to_json()}

    @classmethod
    def from_json(cls, content: dict) -> DatasetInfo:
        """The inverse of `to_json`."""
        tuples = {key: tuple(content[key]) for key in ("shape", "classes", "columns")}
        tuples["files"] = tuple(content.get("files", ()))  # older folders do not name them
        return cls(**{**content, **tuples, "scaling": Scaling.from_json(content["scaling"])})


class Dataset:
    """Samples on disk, memory-mapped: `x` (n, *D) in data units, `y` (n,) or None, and what is known about them.

    Attributes:
        info: the content of dataset.json.
        x: raw samples, read-only.
        y: labels 0..K-1, int64, read-only; None for unlabelled data.
        train_rows: the rows to learn from, sorted.
        held_out_rows: the rows to judge by, sorted; of every class its share.
    """

    def __init__(self, info: DatasetInfo, x: np.ndarray, y: np.ndarray | None) -> None:
        self.info, self.x, self.y = info, x, y
        self.train_rows, self.held_out_rows = split(len(x), y, info.held_out, info.seed)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape *D of one sample."""
        return self.info.shape[1:]

    @property
    def class_frequencies(self) -> np.ndarray:
        """The share of each class among the training rows, shape (K,); empty for unlabelled data."""
        if self.y is None:
            return np.empty(0)
        return np.bincount(self.y[self.train_rows], minlength=len(self.info.classes)) / len(self.train_rows)

    def x_scaled(self, rows: np.ndarray | slice) -> Tensor:
        """Samples as networks see them, float32, shape (len(rows), *D)."""
        return self.info.scaling.apply(self.x[rows])

    def labels(self, rows: np.ndarray | slice) -> Tensor | None:
        """Labels 0..K-1, int64, shape (len(rows),); None for unlabelled data."""
        return None if self.y is None else torch.from_numpy(np.array(self.y[rows]))


def prepare(
    settings: DataSettings, folder: Path, *, seed: int = 0, table: Table | None = None, scaling: Scaling | None = None
) -> Dataset:
    """Read and check a source, write it into a folder and open it; what is refused leaves nothing behind.

    Args:
        settings: where the data come from and how they are treated.
        folder: where x.npy, y.npy and dataset.json go; made if it is not there.
        seed: of the choice of held-out rows, and of the draw from a toy density; >= 0.
        table: the samples themselves, where they lie in memory; `settings.source` then only says what they are.
        scaling: to what networks see, where the caller knows better; None learns it from the training rows.

    Returns:
        the data set, memory-mapped.

    Raises:
        ValueError: a setting, source, shape or value that cannot be used; the message says what to do.
        TypeError: values or labels of a kind that cannot be used.
    """
    check_count("seed", seed, least=0)
    if table is None:
        table = read(settings, seed=seed, scratch=Path(folder))
    else:
        check_treatment(settings)
    samples = check_samples(table, on_nonfinite=settings.on_nonfinite)
    n, y = len(samples.rows), samples.y
    held_out = held_out_count(n, y, settings.held_out)
    train_rows, _ = split(n, y, held_out, seed)
    if samples.columns and len(train_rows) < 2:
        raise ValueError(
            f"at least 2 rows are needed for training, {len(train_rows)} of {n} is left with held_out="
            f"{settings.held_out:g}; give more rows or pass held_out=0"
        )
    scaling = scaling or learn_scaling(lambda: samples.pieces(train_rows), samples.columns)
    with Staging(Path(folder)) as staging:
        shape = (n, *samples.x.shape[1:])
        sha256 = {"x.npy": staging.add_array("x.npy", samples.pieces(), shape, samples.dtype)}
        if y is not None:
            sha256["y.npy"] = staging.add_array("y.npy", [y], y.shape, y.dtype)
        info = DatasetInfo(
            source=settings.source,
            kind="vector" if samples.columns else "image",
            shape=shape,
            dtype=samples.dtype.name,
            sha256=sha256,
            scaling=scaling,
            classes=samples.classes,
            columns=samples.columns,
            dropped_rows=len(samples.x) - n,
            held_out=held_out,
            seed=seed,
            files=table.files,
        )
        staging.add("dataset.json", [json.dumps(info.to_json(), indent=1).encode()])
        staging.commit(last="dataset.json", retire=["y.npy"])
    return open_dataset(folder)


def read_rows(settings: DataSettings, *, seed: int = 0) -> np.ndarray:
    """Read and check a source without storing it: its rows, (n, d) or (n, C, H, W), in its own units.

    Args:
        settings: as for `prepare`; `held_out` has no meaning here.
        seed: of the draw from a toy density; >= 0.

    Raises:
        ValueError: a setting, source, shape or value that cannot be used; the message says what to do.
        TypeError: values of a kind that cannot be used.
    """
    check_count("seed", seed, least=0)
    samples = check_samples(read(settings, seed=seed), on_nonfinite=settings.on_nonfinite, least=1)
    return np.concatenate(list(samples.pieces()))


def read_columns(path: str | Path, columns: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read numbers from a .csv or .parquet file, all of its columns or some, or the vectors of another source.

    Args:
        path: the file.
        columns: names of columns of a table, in the order wanted; the others may hold anything.

    Returns:
        the rows (n, d), NaN where a cell is empty, and the columns' names.

    Raises:
        ValueError: a file that is missing, damaged or of another kind, unknown columns, or cells that are no numbers.
    """
    source = Path(path)
    if source.suffix.lower() in TABLES and source.is_file():
        table = read_table(source, None, columns)
    else:
        if columns is not None:
            raise ValueError(f"columns are chosen from {' and '.join(TABLES)} files, got {path}; leave them out")
        table = read(DataSettings(str(path)), seed=0)
    if table.x.ndim != 2:
        raise ValueError(f"{path} must hold rows of numbers, (n, d), got shape {table.x.shape}")
    return table.x, table.columns or tuple(f"x{j + 1}" for j in range(table.x.shape[1]))


def open_dataset(folder: Path, *, verify: bool = False) -> Dataset:
    """Open what `prepare` wrote.

    Args:
        folder: holds x.npy, y.npy for labelled data, and dataset.json.
        verify: also compare the files with their SHA-256, which reads them whole.

    Raises:
        RuntimeError: a file is missing or damaged; the message names it.
    """
    folder = Path(folder)
    try:
        info = DatasetInfo.from_json(json.loads((folder / "dataset.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder / "dataset.json", f"{type(error).__name__}: {error}") from None
    if verify:
        for name, expected in info.sha256.items():
            _verify(folder / name, expected)
    y = _open_array(folder / "y.npy", info.shape[:1], "int64") if info.classes else None
    return Dataset(info, _open_array(folder / "x.npy", info.shape, info.dtype), y)


def _open_array(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's parser of headers raises errors of many kinds on damaged files
        raise _damaged(path, str(error)) from None
    if values.shape != shape or values.dtype != dtype:
        raise _damaged(path, f"dataset.json says {dtype} {shape}, it holds {values.dtype} {values.shape}")
    return values


def _verify(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _damaged(path, str(error)) from None
    if found != expected:
        raise _damaged(path, f"its SHA-256 is {found[:12]}…, dataset.json says {expected[:12]}…")


def _damaged(path: Path, why: str) -> RuntimeError:
    return RuntimeError(f"{path} is missing or damaged ({why}); prepare the data again from their source")
