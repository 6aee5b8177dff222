"""Arrays and tables from .npy, .npz and .csv files; objects in them are refused, never unpickled."""

from __future__ import annotations

import csv
import math
import zipfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from scorefield.checks import nearest

NO_PICKLE = "pickles can run code when they are read and are never opened; save plain numbers with np.save or np.savez"


@dataclass(frozen=True, eq=False)
class Table:
    """What a reader found, as it stood in the source.

    Args:
        x: the samples, shape (n, ...).
        labels: one per row: integers or strings; None where there are none.
        columns: names of the columns of a table; () where the source names none.
        files: what was read of a named set, by the files' names; () for other sources.
    """

    x: np.ndarray
    labels: np.ndarray | None = None
    columns: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def read_npy(path: Path) -> Table:
    """One array, memory-mapped, so that it may be larger than memory."""
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError(f"{path} is not a NumPy array file (it lacks the mark of .npy); write it with np.save")
    try:
        return Table(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # NumPy's parser of headers raises errors of many kinds on damaged files
        raise _refusal(str(path), error) from None


def read_npz(path: Path) -> Table:
    """The array `x` and, if it is there, the labels `y`; other arrays of the file are not looked at."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a whole .npz file (damaged or truncated?); write it again with np.savez")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            held = list(arrays.files)
            found = {name: arrays[name] for name in ("x", "y") if name in held}
    except Exception as error:  # as above, and those of zipfile and zlib
        raise _refusal(str(path), error) from None
    if not isinstance(found.get("x"), np.ndarray):  # a member without the mark of .npy comes back as bytes
        shown = ", ".join(held) or "nothing"
        raise ValueError(f"{path} must hold an array named 'x', it holds {shown}; write it with np.savez(file, x=x)")
    return Table(found["x"], np.asarray(found["y"]) if "y" in found else None)


def _refusal(name: str, error: Exception) -> Exception:
    """NumPy's complaint in our words: objects are a wrong kind, everything else is damage."""
    if "object" in str(error).lower() or "pickle" in str(error).lower():
        return TypeError(f"{name} holds Python objects; {NO_PICKLE}")
    return ValueError(f"{name} is damaged or truncated ({error}); write it again")


def read_csv(path: Path, label_column: str | None, only: Sequence[str] | None = None) -> Table:
    """Numeric columns under a header, or `only` some; an empty cell is a missing number (NaN); labels are text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read_rows(path, file, label_column, only)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a well-formed .csv file ({error}); write it again, comma-separated") from None


def _read_rows(path: Path, file: IO[str], label_column: str | None, only: Sequence[str] | None) -> Table:
    reader = csv.reader(file)
    header = [name.strip() for name in next(reader, [])]
    _check_header(path, header)
    columns = choose_columns(path, header, label_column, only)
    at = None if label_column is None else header.index(label_column)
    places = [header.index(name) for name in columns]
    numbers, labels = array("d"), []
    for row, (line, cells) in enumerate(_even_rows(path, reader, len(header)), start=1):
        if at is not None:
            labels.append(cells[at].strip())
            if not labels[-1]:
                raise ValueError(f"{path} line {line}: label column {label_column!r} is empty; fill in the class")
        cells = [cells[place] for place in places]
        try:
            numbers.extend(map(_number, cells))
        except ValueError:
            name, cell = next((name, cell) for name, cell in zip(columns, cells, strict=True) if not _is_number(cell))
            hint = f"drop the column, or pass label_column={name!r} if it is the class, or leave missing cells empty"
            raise ValueError(
                f"{path}: column {name!r}, row {row} (line {line}) must be a number, got {cell!r}; {hint}"
            ) from None
    if labels and all(map(_is_number, labels)) and not all(map(is_whole, labels)):
        value = next(label for label in labels if not is_whole(label))
        raise ValueError(
            f"label column {label_column!r} of {path} must hold classes (whole numbers or names), got {value}"
        )
    x = np.frombuffer(numbers, dtype=np.float64).reshape(-1, len(columns)) if numbers else np.empty((0, len(columns)))
    return Table(x, None if at is None else np.array(labels, dtype=str), tuple(columns))


def choose_columns(path: Path, names: list[str], label_column: str | None, only: Sequence[str] | None) -> list[str]:
    """The columns to learn from: `only` these, or all, without the labels'.

    Raises:
        ValueError: an unknown column, one named twice, or none left.
    """
    shown = ", ".join(names)
    if label_column is not None and label_column not in names:
        near = nearest(label_column, names)
        raise ValueError(f"label_column {label_column!r} is not among the columns {shown} of {path}{near}")
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise ValueError(f"columns must be among {shown} of {path}, got {unknown[0]!r}{nearest(unknown[0], names)}")
    if only is not None and len(set(only)) < len(only):
        raise ValueError(f"columns must differ, got {', '.join(only)}; name each once")
    chosen = [name for name in only or names if name != label_column]
    if not chosen:
        raise ValueError(f"{path} has no column besides the labels {label_column!r}; add the columns to learn from")
    return chosen


def _check_header(path: Path, header: list[str]) -> None:
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise ValueError(f"{path} must be separated by commas, its header is {header[0]!r}; write it with commas")
    if header and all(map(_is_number, header)):
        shown = ",".join(header)[:60]
        raise ValueError(f"{path} must begin with a header of column names, got {shown!r}; add a first line of names")
    for position, name in enumerate(header):
        if not name:
            raise ValueError(
                f"{path}: column {position + 1} has no name in the header; name it, or drop it "
                "(with pandas: to_csv(..., index=False))"
            )
        if name in header[:position]:
            raise ValueError(f"{path}: two columns are named {name!r}; rename one")
    if not header:
        raise ValueError(f"{path} must begin with a header of column names, got an empty line; add a line of names")


def _even_rows(path: Path, reader: Iterator[list[str]], width: int) -> Iterator[tuple[int, list[str]]]:
    """Rows with their line numbers; blank lines are passed over, ragged ones refused."""
    for cells in reader:
        line: int = reader.line_num  # type: ignore[attr-defined]
        if len(cells) == width:
            yield line, cells
        elif cells:
            raise ValueError(f"{path} line {line} has {len(cells)} cells, the header has {width}; make them equal")


def _number(cell: str) -> float:
    if "_" in cell:  # Python's own float reads 1_0 as ten
        raise ValueError(cell)
    return float(cell) if cell.strip() else math.nan


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def is_whole(text: str) -> bool:
    """Whether a text is a whole number, with or without a sign."""
    return text.isascii() and text.removeprefix("-").removeprefix("+").isdigit()
