"""Parquet tables and zarr arrays: the same numbers as written, and nothing that could run code."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pytest
import zarr
from pyarrow import parquet

from scorefield.data import prepare, read_columns
from scorefield.settings import DataSettings

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3))


def refused(source, *words, error=ValueError, **settings):
    with pytest.raises(error) as caught:
        prepare(DataSettings(str(source), **settings), source.parent / "new" / "run")
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert not (source.parent / "new").exists()


def test_parquet_reads_what_pandas_wrote(tmp_path):
    frame = pd.DataFrame({"a": X[:, 0], "n": np.arange(20), "flag": np.arange(20) % 2 == 0, "kind": ["x", "y"] * 10})
    frame["class"] = frame["kind"].astype("category")
    for label in ("kind", "class"):
        path = tmp_path / f"{label}.parquet"
        frame.drop(columns={"kind", "class"} - {label}).to_parquet(path)
        data = prepare(DataSettings(str(path), label_column=label, held_out=0), tmp_path / "run")
        np.testing.assert_array_equal(data.x, frame[["a", "n", "flag"]].to_numpy(float))
        assert data.info.columns == ("a", "n", "flag") and data.info.classes == ("x", "y")
        np.testing.assert_array_equal(data.y, np.arange(20) % 2)
        assert data.x.dtype == np.float64
    refused(path, "column 'class'", "label_column='class'")
    refused(path, "'klass'", "did you mean 'class'", label_column="klass")
    single = tmp_path / "single.parquet"
    pd.DataFrame(X.astype(np.float32), columns=list("abc")).to_parquet(single)
    assert prepare(DataSettings(str(single)), tmp_path / "run").x.dtype == np.float32


def test_parquet_nulls_are_missing_numbers_and_columns_are_chosen(tmp_path):
    path = tmp_path / "d.parquet"
    table = {"a": [1, None, 3], "b": [4.0, 5.0, None], "c": ["x", "y", None]}
    parquet.write_table(pyarrow.table(table), path)
    refused(path, "label column 'c'", "1 empty", label_column="c")
    x, names = read_columns(path, ["b", "a"])
    np.testing.assert_array_equal(x, [[4, 1], [5, np.nan], [np.nan, 3]])
    assert names == ("b", "a")
    for wrong, word in ((["d"], "'d'"), (["a", "a"], "differ")):
        with pytest.raises(ValueError, match=word):
            read_columns(path, wrong)
    parquet.write_table(pyarrow.table({k: table[k] for k in "ab"}), path)
    refused(path, "2 of 3 rows", "'a': 1", "'b': 1")


def test_parquet_that_is_damaged_or_a_bomb_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "d.parquet"
    pd.DataFrame(X, columns=list("abc")).to_parquet(path)
    whole = path.read_bytes()
    for content in (whole[:-9], whole[4:], b"PAR1", b"x" * 50):
        path.write_bytes(content)
        refused(path, "d.parquet", "damaged", "again")
    monkeypatch.setattr("scorefield.data.stack.FLOOR", 0)
    parquet.write_table(pyarrow.table({"a": pyarrow.nulls(10**6, pyarrow.int8())}), path)
    refused(path, "1000 times its own size")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_reads_what_zarr_wrote(tmp_path, zarr_format):
    images = RNG.integers(0, 256, (20, 3, 8, 9), dtype=np.uint8)
    alone = tmp_path / "alone.zarr"
    zarr.create_array(str(alone), data=images, chunks=(7, 3, 8, 9), zarr_format=zarr_format)
    data = prepare(DataSettings(str(alone), held_out=0), tmp_path / "run")
    np.testing.assert_array_equal(data.x, images)
    assert data.x.dtype == np.uint8 and data.y is None
    group = zarr.open_group(str(tmp_path / "both.zarr"), mode="w", zarr_format=zarr_format)
    group.create_array("x", data=X.astype(np.float32), chunks=(6, 2))
    group.create_array("y", data=np.arange(20) % 3)
    data = prepare(DataSettings(str(tmp_path / "both.zarr"), held_out=0), tmp_path / "run")
    np.testing.assert_array_equal(data.x, X.astype(np.float32))
    assert data.x.dtype == np.float32 and data.info.classes == ("0", "1", "2")
    np.testing.assert_array_equal(data.y, np.arange(20) % 3)


@pytest.mark.filterwarnings("ignore:The data type")  # format 3 has not settled how text is stored
def test_zarr_in_shards_and_with_names_as_labels_is_read(tmp_path):
    group = zarr.open_group(str(tmp_path / "d.zarr"), mode="w")
    group.create_array("x", data=X, chunks=(5, 3), shards=(10, 3))
    group.create_array("y", data=np.array(["a", "bb"] * 10))
    data = prepare(DataSettings(str(tmp_path / "d.zarr"), held_out=0), tmp_path / "run")
    np.testing.assert_array_equal(data.x, X)
    assert data.info.classes == ("a", "bb")


@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.array([["a", "b"]] * 9), TypeError, ("d.zarr", "must hold numbers", "choose the numeric part")),
        (np.array(["long", "texts"] * 9, np.dtypes.StringDType()), TypeError, ("d.zarr", "must hold numbers")),
        (np.ones((9, 2), complex), TypeError, ("d.zarr", "complex128", "choose the numeric part")),
        (np.ones((9, 0)), ValueError, ("(9, 0)", "holds no values")),
        (np.ones((0, 3)), ValueError, ("at least 2 rows", "got 0")),
    ],
    ids=["text", "long text", "complex", "no columns", "no rows"],
)
def test_zarr_without_numbers_is_refused_in_our_words(tmp_path, x, error, words):
    zarr.create_array(str(tmp_path / "d.zarr"), data=x)
    refused(tmp_path / "d.zarr", *words, error=error)


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_zarr_whose_chunks_are_pickles_runs_nothing(tmp_path):
    """Format 2 knows a filter that unpickles: we refuse it by its name, whatever the installed numcodecs allows."""
    mark = tmp_path / "ran"
    path = tmp_path / "d.zarr"
    objects = np.array([Bomb(mark), Bomb(mark)], dtype=object)
    path.mkdir()
    described = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "|O", "order": "C", "fill_value": None}
    described |= {"compressor": None, "filters": [{"id": "pickle", "protocol": 4}], "dimension_separator": "."}
    (path / ".zarray").write_text(json.dumps(described))
    (path / "0").write_bytes(pickle.dumps(objects, 4))
    refused(path, "'pickle'", "never opened")
    for changed in ({"dtype": "<f8"}, {"filters": None, "compressor": {"id": "pickle"}}, {"filters": None}):
        (path / ".zarray").write_text(json.dumps(described | changed))
        refused(path, "d.zarr", error=(ValueError, TypeError))
    assert not mark.exists()
    pickle.loads((path / "0").read_bytes())  # the bomb is a real one
    assert mark.exists()


def test_zarr_that_is_damaged_or_a_bomb_is_refused_by_name(tmp_path):
    path = tmp_path / "d.zarr"
    zarr.create_array(str(path), data=X, chunks=(5, 3))
    described = json.loads((path / "zarr.json").read_text())
    chunk = path / "c" / "0" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-5])
    refused(path, "d.zarr", "damaged", "again")
    chunk.write_bytes(whole)
    for changed in ({"shape": [2**40, 3]}, {"shape": "x"}, {"data_type": "object"}, {"codecs": [{"name": "evil"}]}):
        (path / "zarr.json").write_text(json.dumps(described | changed))
        refused(path, "d.zarr", error=(ValueError, TypeError))
    for content in ("{", "[" * 10**5, "3"):
        (path / "zarr.json").write_text(content)
        refused(path, "d.zarr")
    (tmp_path / "empty.zarr").mkdir()
    refused(tmp_path / "empty.zarr", "empty.zarr", "zarr.save")
    (tmp_path / "file.zarr").write_text("x")
    refused(tmp_path / "file.zarr", "file.zarr", "folder")


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    pd.DataFrame(X, columns=list("abc")).to_parquet(tmp_path / "d.parquet")
    zarr.create_array(str(tmp_path / "d.zarr"), data=X)
    for package, name in (("pyarrow", "d.parquet"), ("zarr", "d.zarr")):
        monkeypatch.setitem(sys.modules, package, None)
        refused(tmp_path / name, name, package, "pip install 'scorefield[data]'", error=RuntimeError)
