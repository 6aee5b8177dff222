"""At the edges of the formats: the first number that is too large, the last row, a member that is not what it says."""

import json
import pickle
import tarfile

import numpy as np
import pyarrow
import pytest
import zarr
from layouts import batch, tarred
from pyarrow import parquet

from scorefield.data import prepare
from scorefield.data.archives import members
from scorefield.data.cifar import read_batch
from scorefield.data.columnar import read_zarr
from scorefield.data.idx import read_idx_file
from scorefield.data.pickles import read_plain_pickle
from scorefield.settings import DataSettings

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("binary", "end"), [(True, ".bin"), (False, "")])
def test_the_first_label_that_is_no_class_is_refused(binary, end):
    """9 is a truck, 10 nothing."""
    pixels = RNG.integers(0, 256, (2, 3072), dtype=np.uint8)
    assert read_batch(batch(pixels, [0, 9], binary), "data_batch_1", end)[1].tolist() == [0, 9]
    with pytest.raises(ValueError, match="labels must be 0..9"):
        read_batch(batch(pixels, [0, 10], binary), "data_batch_1", end)


def test_a_batch_with_more_labels_than_images_is_refused():
    content = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1, 2]}, 4)
    with pytest.raises(ValueError, match="'labels', a list of 2 integers"):
        read_batch(content, "data_batch_1", "")


@pytest.mark.parametrize("value", [{1: 2}, {(): 2}, {None: 2}])
def test_dicts_with_other_keys_than_text_are_refused_by_their_kind(value):
    """A list as a key would be an error of Python's own."""
    (key,) = value
    with pytest.raises(ValueError, match=f"is refused.*a key of type {type(key).__name__}"):
        read_plain_pickle(pickle.dumps(value, 4), "batch")


def test_a_sparse_member_is_refused(tmp_path):
    """Ten bytes that say they are a thousand."""
    info = tarfile.TarInfo("a.bin")
    info.size, info.pax_headers = 0, {"GNU.sparse.map": "0,0", "GNU.sparse.size": "1000"}
    path = tarred(tmp_path / "sparse.tar", {"a.bin": info})
    with tarfile.open(path) as tar:
        assert tar.next().sparse is not None
    with pytest.raises(ValueError, match="sparse.tar is refused: its member 'a.bin' is a link, a device or another"):
        list(members(path, lambda place: True))


def test_an_idx_file_with_one_byte_more_is_refused(tmp_path):
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    assert read_idx_file(path, 1).tolist() == [7, 8, 9]
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="must hold 3 values .* it holds more"):
        read_idx_file(path, 1)


def test_a_codec_inside_another_is_seen(tmp_path):
    """A shard whose chunks are packed by something that could run code."""
    path = tmp_path / "d.zarr"
    zarr.create_array(str(path), data=np.ones((4, 3)), chunks=(2, 3), shards=(4, 3))
    described = json.loads((path / "zarr.json").read_text())
    (shard,) = described["codecs"]
    shard["configuration"]["codecs"].append({"name": "pickle"})
    (path / "zarr.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="is packed by 'pickle', which is not read"):
        read_zarr(path)


@pytest.mark.parametrize("piece", [1, 7, 57, 60, 10**6])
def test_zarr_is_whole_whatever_is_read_at_once(tmp_path, monkeypatch, piece):
    """Twenty rows of three, by one, two, nineteen or all."""
    monkeypatch.setattr("scorefield.data.columnar.PIECE", piece)
    x = RNG.normal(size=(20, 3))
    zarr.create_array(str(tmp_path / "d.zarr"), data=x, chunks=(6, 2))
    np.testing.assert_array_equal(read_zarr(tmp_path / "d.zarr").x, x)


def test_whole_numbers_of_parquet_become_doubles_and_singles_stay(tmp_path):
    """Also where both stand in one table: to double."""
    path = tmp_path / "d.parquet"
    a, n = np.array([0.1, 0.2, 0.3], np.float32), np.array([2**40, 2, 3])
    for columns, kind in (({"a": a}, np.float32), ({"n": n}, np.float64), ({"a": a, "n": n}, np.float64)):
        parquet.write_table(pyarrow.table(columns), path)
        data = prepare(DataSettings(str(path), held_out=0), tmp_path / "run")
        assert data.x.dtype == kind
        np.testing.assert_array_equal(data.x, np.column_stack(list(columns.values())))
