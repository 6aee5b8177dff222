"""Tables from .parquet files and arrays from .zarr folders, by the packages of the `data` extra."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scorefield.data.arrays import NO_PICKLE, Table, choose_columns
from scorefield.data.stack import GROWTH, Stack, most_bytes

CODECS = (  # how the numbers of a zarr array may be packed; "pickle" and any other that could run code are not here
    *("blosc", "zstd", "gzip", "zlib", "bz2", "lzma", "lz4", "delta", "shuffle", "bitround", "quantize", "astype"),
    *("fixedscaleoffset", "packbits", "crc32", "crc32c", "adler32", "fletcher32", "bytes", "transpose"),
    *("sharding_indexed", "vlen-utf8"),
)
NUMBERS, TEXTS = "biuf", "UST"  # kinds of NumPy's dtypes
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
    with path.open("rb") as opened:
        with _parsing(path):
            file = parquet.ParquetFile(opened)
            names, rows = list(file.schema_arrow.names), file.metadata.num_rows
        if len(set(names)) < len(names):
            raise ValueError(f"the columns of {path} must have names of their own, got {', '.join(names)}; rename them")
        chosen = choose_columns(path, names, label_column, only)
        if 8 * rows * len(chosen) > most_bytes(path.stat().st_size):
            raise ValueError(f"{path} unpacks to more than {GROWTH} times its own size; give it as a .npy array")
        with _parsing(path):
            table = file.read([*chosen, *([label_column] if label_column else [])])
    columns = [_numbers(path, name, table.column(name)) for name in chosen]
    labels = None if label_column is None else _labels(path, label_column, table.column(label_column))
    return Table(np.stack(columns, axis=1), labels, tuple(chosen))


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Those who parse raise errors of many kinds on damaged files; here they are one."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} is damaged, or of another kind ({str(error)[:200]}); write it again") from None


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
    array = _open(x, size, NUMBERS)
    for rows in _pieces(x, array):
        stack.extend(rows)
    return Table(stack.array() if math.prod(array.shape) else np.empty(array.shape, array.dtype), labels)


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


def _open(path: Path, size: int, kinds: str) -> Any:
    """A zarr array whose numbers can be unpacked without running anything."""
    described = _described(path) or {}
    for codec in _codecs([described.get(key) for key in ("compressor", "filters", "codecs")]):
        if codec not in CODECS:
            raise ValueError(f"{path} is packed by {codec[:40]!r}, which is not read: {NO_PICKLE}")
    try:
        import zarr
    except ImportError:
        raise RuntimeError(f"{path} needs zarr: pip install 'scorefield[data]'") from None
    with _parsing(path):
        array = zarr.open_array(str(path), mode="r", zarr_format=2 if (path / ".zarray").is_file() else 3)
        kind, shape = array.dtype.kind, array.shape
    if kind not in kinds:
        way_out = NO_PICKLE if kind == "O" else "choose the numeric part"
        raise TypeError(
            f"{path} must hold {'numbers' if kinds == NUMBERS else 'classes'}, it holds {array.dtype}; {way_out}"
        )
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
        with _parsing(path):
            rows = np.asarray(array[start : start + step])
        yield rows


def _whole(path: Path) -> np.ndarray:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    array = _open(path, size, NUMBERS + TEXTS)
    y = np.concatenate(list(_pieces(path, array)) or [np.empty(array.shape, dtype=int)])
    return y.astype(str) if y.dtype.kind == "T" else y
