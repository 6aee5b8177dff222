"""Tables from .parquet files and arrays from .zarr folders, by the packages of the `data` extra."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scorefield.checks import nearest
from scorefield.data.arrays import NO_PICKLE, Table
from scorefield.data.stack import GROWTH, Stack, most_bytes

CODECS = (  # how the numbers of a zarr array may be packed; "pickle" and any other that could run code are not here
    *("blosc", "zstd", "gzip", "zlib", "bz2", "lzma", "lz4", "delta", "shuffle", "bitround", "quantize", "astype"),
    *("fixedscaleoffset", "packbits", "crc32", "crc32c", "adler32", "fletcher32", "bytes", "transpose"),
    *("sharding_indexed", "vlen-utf8"),
)
PIECE = 2**20  # values copied at once


def read_parquet(path: Path, label_column: str | None, only: Sequence[str] | None = None) -> Table:
    """The numeric columns of a .parquet file, or `only` some; a null is a missing number (NaN).

    Raises:
        ValueError: the file is damaged, a column is unknown or holds no numbers, a label is missing.
        RuntimeError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise RuntimeError(f"{path} needs pyarrow: pip install 'scorefield[data]'") from None
    try:
        with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            names = list(file.schema_arrow.names)
            chosen = _chosen(path, names, label_column, only)
            if 8 * file.metadata.num_rows * len(chosen) > most_bytes(path.stat().st_size):
                raise ValueError(f"it unpacks to more than {GROWTH} times its own size")
            table = file.read([*chosen, *([label_column] if label_column else [])])
    except _Unfit as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # pyarrow raises errors of many kinds on damaged files
        raise ValueError(f"{path} is damaged, or no .parquet file ({error}); write it again") from None
    columns = [_numbers(path, name, table.column(name)) for name in chosen]
    labels = None if label_column is None else _labels(path, label_column, table.column(label_column))
    return Table(np.stack(columns, axis=1), labels, tuple(chosen))


class _Unfit(ValueError):
    """A refusal of ours, as against an error of those who parse the file."""


def _chosen(path: Path, names: list[str], label_column: str | None, only: Sequence[str] | None) -> list[str]:
    shown = ", ".join(names)
    if len(set(names)) < len(names):
        raise _Unfit(f"the columns of {path} must have names of their own, got {shown}; rename them")
    if label_column is not None and label_column not in names:
        near = nearest(label_column, names)
        raise _Unfit(f"label_column {label_column!r} is not among the columns {shown} of {path}{near}")
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise _Unfit(f"columns must be among {shown} of {path}, got {unknown[0]!r}{nearest(unknown[0], names)}")
    if only is not None and len(set(only)) < len(only):
        raise _Unfit(f"columns must differ, got {', '.join(only)}; name each once")
    chosen = [name for name in only or names if name != label_column]
    if not chosen:
        raise _Unfit(f"{path} has no column besides the labels {label_column!r}; add the columns to learn from")
    return chosen


def _numbers(path: Path, name: str, column: Any) -> np.ndarray:
    import pyarrow

    kind = column.type
    if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)):
        hint = f"drop the column, or pass label_column={name!r} if it is the class"
        raise ValueError(f"{path}: column {name!r} must hold numbers, it holds {kind}; {hint}")
    small = pyarrow.types.is_float32(kind) or pyarrow.types.is_float16(kind)
    values = column.cast(pyarrow.int8()) if pyarrow.types.is_boolean(kind) else column
    return values.to_numpy().astype(np.float32 if small else np.float64)


def _labels(path: Path, name: str, column: Any) -> np.ndarray:
    import pyarrow

    kind = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
    if column.null_count:
        raise ValueError(f"{path}: label column {name!r} has {column.null_count} empty cells; fill in the class")
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_boolean(kind):
        return np.array(column.to_pylist(), dtype=np.int64)
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=str)
    raise ValueError(f"label column {name!r} of {path} must hold classes (whole numbers or names), it holds {kind}")


def read_zarr(path: Path, scratch: Path | None = None) -> Table:
    """A zarr array, or of a group the array `x` and, if it is there, the labels `y`; formats 2 and 3.

    Args:
        path: the folder.
        scratch: folder whose disk holds the numbers meanwhile; the system's temporary folder when None.

    Raises:
        ValueError: it is damaged, or packed in a way that could run code.
        RuntimeError: zarr is not installed.
    """
    single = _described(path) is not None
    x = path if single else path / "x"
    if _described(x) is None:
        raise ValueError(
            f"{path} must be a zarr array or a group with an array 'x'; write it with zarr.save(path, x=x)"
        )
    labels = None if single or _described(path / "y") is None else _whole(path / "y")
    size = sum(file.stat().st_size for file in x.rglob("*") if file.is_file())
    stack = Stack(scratch, most_bytes(size), x)
    array = _open(x, size)
    for rows in _pieces(x, array):
        stack.extend(rows)
    return Table(stack.array() if array.shape[0] else np.empty(array.shape, array.dtype), labels)


def _described(path: Path) -> dict[str, Any] | None:
    """The description of the array in a folder; None where there is none."""
    for name, is_array in ((".zarray", True), ("zarr.json", False)):
        if (path / name).is_file():
            try:
                content = json.loads((path / name).read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise ValueError(f"{path / name} is damaged ({str(error)[:200]}); write the array again") from None
            if isinstance(content, dict) and (is_array or content.get("node_type") == "array"):
                return content
    return None


def _open(path: Path, size: int) -> Any:
    """A zarr array whose numbers can be unpacked without running anything."""
    described = _described(path) or {}
    for codec in _codecs([described.get(key) for key in ("compressor", "filters", "codecs")]):
        if codec not in CODECS:
            raise ValueError(f"{path} is packed by {codec[:40]!r}, which is not read: {NO_PICKLE}")
    try:
        import zarr
    except ImportError:
        raise RuntimeError(f"{path} needs zarr: pip install 'scorefield[data]'") from None
    try:
        array = zarr.open_array(str(path), mode="r", zarr_format=2 if (path / ".zarray").is_file() else 3)
        kind, shape = array.dtype.kind, array.shape
    except Exception as error:  # zarr raises errors of many kinds on damaged descriptions
        raise ValueError(f"{path} is damaged ({str(error)[:200]}); write the array again") from None
    if kind not in "biufUST":
        raise TypeError(f"{path} must hold numbers, it holds {array.dtype}; {NO_PICKLE}")
    if math.prod(shape) * max(1, array.dtype.itemsize) > most_bytes(size):
        raise ValueError(f"{path} unpacks to more than {GROWTH} times its own size; give it as a .npy array")
    return array


def _codecs(described: Any) -> Iterator[str]:
    """The names of all codecs in a description, those inside others too."""
    if isinstance(described, list):
        for part in described:
            yield from _codecs(part)
    elif isinstance(described, dict):
        name = described.get("id", described.get("name"))
        if name is not None:
            yield str(name)
        yield from _codecs([value for value in described.values() if isinstance(value, (dict, list))])
    elif isinstance(described, str):
        yield described


def _pieces(path: Path, array: Any) -> Iterator[np.ndarray]:
    if not array.shape:
        raise ValueError(f"{path} must hold rows, it holds one number; write an array of shape (n, d)")
    step = max(1, PIECE // max(1, math.prod(array.shape[1:])))
    for start in range(0, array.shape[0], step):
        try:
            yield np.asarray(array[start : start + step])
        except Exception as error:  # as above, of damaged chunks
            raise ValueError(f"{path} is damaged ({str(error)[:200]}); write the array again") from None


def _whole(path: Path) -> np.ndarray:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    array = _open(path, size)
    y = np.concatenate(list(_pieces(path, array)) or [np.empty(array.shape, dtype=int)])
    return y.astype(str) if y.dtype.kind == "T" else y
