"""A data set on disk: whole or not there, opened as it was written, damage found and named."""

import json

import numpy as np
import pytest
import torch

from scorefield.data import DatasetInfo, open_dataset, prepare
from scorefield.data.samples import held_out_count, split
from scorefield.data.staging import Staging
from scorefield.settings import DataSettings

RNG = np.random.default_rng(0)


@pytest.fixture
def source(tmp_path):
    x, y = RNG.normal(size=(100, 3)), np.repeat(["a", "b", "c"], [60, 39, 1])
    np.savez(tmp_path / "d.npz", x=x, y=y)
    return DataSettings(str(tmp_path / "d.npz"), held_out=0.2)


def test_what_is_opened_is_what_was_prepared(tmp_path, source):
    made = prepare(source, tmp_path / "run", seed=5)
    again = open_dataset(tmp_path / "run", verify=True)
    assert isinstance(again.x, np.memmap) and not again.x.flags.writeable
    assert again.info.to_json() == made.info.to_json() == DatasetInfo.from_json(made.info.to_json()).to_json()
    for name in ("x", "y", "train_rows", "held_out_rows", "class_frequencies"):
        np.testing.assert_array_equal(getattr(again, name), getattr(made, name))
    assert made.info.seed == 5 and made.info.classes == ("a", "b", "c") and made.shape == (3,) and len(made) == 100
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["dataset.json", "x.npy", "y.npy"]


def test_the_same_data_have_the_same_sha256_and_other_data_another(tmp_path, source):
    x = np.load(source.source)["x"].copy()
    np.save(tmp_path / "a.npy", x)
    np.nextafter(x[:1, :1], 9, out=x[:1, :1])
    np.save(tmp_path / "b.npy", x)
    a, b = (prepare(DataSettings(str(tmp_path / f"{n}.npy")), tmp_path / n).info.sha256 for n in "ab")
    labelled = prepare(source, tmp_path / "c").info.sha256
    assert a["x.npy"] == labelled["x.npy"] != b["x.npy"] and set(a) == {"x.npy"} and set(labelled) == {"x.npy", "y.npy"}


@pytest.mark.parametrize("name", ["x.npy", "y.npy"])
def test_one_flipped_bit_is_found_and_its_file_named(tmp_path, source, name):
    prepare(source, tmp_path / "run")
    path = tmp_path / "run" / name
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=f"{name} .*SHA-256"):
        open_dataset(tmp_path / "run", verify=True)


@pytest.mark.parametrize("name", ["x.npy", "y.npy", "dataset.json"])
def test_cut_and_missing_files_are_named_without_reading_them_whole(tmp_path, source, name):
    prepare(source, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RuntimeError, match=name):
        open_dataset(tmp_path / "run")
    path.unlink()
    for verify in (False, True):
        with pytest.raises(RuntimeError, match=name):
            open_dataset(tmp_path / "run", verify=verify)


def test_dataset_json_that_lacks_a_field_or_says_another_shape_is_refused(tmp_path, source):
    prepare(source, tmp_path / "run")
    path = tmp_path / "run" / "dataset.json"
    content = json.loads(path.read_text())
    for changed in ({**content, "shape": [99, 3]}, {k: v for k, v in content.items() if k != "seed"}, [1]):
        path.write_text(json.dumps(changed))
        with pytest.raises(RuntimeError, match="x.npy|dataset.json"):
            open_dataset(tmp_path / "run")


def test_held_out_rows_are_disjoint_stratified_and_a_function_of_the_seed(tmp_path, source):
    data = prepare(source, tmp_path / "run", seed=1)
    assert sorted([*data.train_rows, *data.held_out_rows]) == list(range(100))
    assert np.all(np.diff(data.train_rows) > 0) and np.all(np.diff(data.held_out_rows) > 0)
    assert np.bincount(data.y[data.held_out_rows], minlength=3).tolist() == [12, 8, 0]
    np.testing.assert_allclose(data.class_frequencies, np.array([48, 31, 1]) / 80, rtol=1e-15)
    other = prepare(source, tmp_path / "other", seed=2)
    assert not np.array_equal(other.held_out_rows, data.held_out_rows)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("sizes", [[2], [7], [1000], [1, 1, 1], [1, 1, 50], [3, 3, 3, 500], [2] * 40])
def test_every_split_holds_out_its_share_and_leaves_a_row_to_train(sizes, fraction):
    y, n = np.repeat(np.arange(len(sizes)), sizes), sum(sizes)
    count = held_out_count(n, y, fraction)
    train, held = split(n, y, count, seed=0)
    assert len(held) == count >= 1 and len(train) == n - count >= 1
    assert count == min(max(1, round(fraction * n)), n - len(sizes) if max(sizes) > 1 else n - 1)
    if max(sizes) > 1:
        assert set(y[train]) == set(y)


def test_scaling_is_learned_from_training_rows_alone(tmp_path, source):
    data = prepare(source, tmp_path / "run")
    x = data.x_scaled(data.train_rows)
    assert x.dtype == torch.float32 and x.shape == (80, 3)
    np.testing.assert_allclose(x.double().mean(0), 0, atol=1e-7)
    np.testing.assert_allclose(x.double().std(0, correction=0), 1, rtol=1e-6)
    labels = data.labels(data.train_rows)
    assert labels is not None and labels.dtype == torch.int64
    np.testing.assert_array_equal(labels, data.y[data.train_rows])


def test_no_held_out_rows_and_no_labels_are_said_plainly(tmp_path):
    np.save(tmp_path / "d.npy", RNG.normal(size=(10, 2)))
    data = prepare(DataSettings(str(tmp_path / "d.npy"), held_out=0), tmp_path / "run")
    assert data.y is None and data.labels(data.train_rows) is None and data.class_frequencies.shape == (0,)
    assert len(data.held_out_rows) == 0 and data.train_rows.tolist() == list(range(10))


def test_preparing_again_replaces_everything_and_touches_nothing_else(tmp_path, source):
    prepare(source, tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").write_text("kept")
    np.save(tmp_path / "d.npy", RNG.normal(size=(10, 2)))
    prepare(DataSettings(str(tmp_path / "d.npy")), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["dataset.json", "recipe.yaml", "x.npy"]
    assert open_dataset(tmp_path / "run", verify=True).info.shape == (10, 2)


def test_a_write_that_fails_midway_leaves_no_folder_and_no_change(tmp_path):
    def broken():
        yield b"half"
        raise OSError(28, "No space left on device")

    def fill(folder):
        with Staging(folder) as staging:
            staging.add("first", [b"whole"])
            staging.add("second", broken())
            staging.commit(last="second")

    with pytest.raises(OSError, match="No space"):
        fill(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "first").write_bytes(b"before")
    with pytest.raises(OSError, match="No space"):
        fill(tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("first", b"before")]


def test_data_larger_than_a_piece_pass_through_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("scorefield.data.samples.PIECE", 64)
    x = 100 + 0.5 * RNG.normal(size=(1000, 3))
    x[[3, 500]] = np.nan
    np.save(tmp_path / "d.npy", x)
    data = prepare(DataSettings(str(tmp_path / "d.npy"), on_nonfinite="drop"), tmp_path / "run")
    np.testing.assert_array_equal(data.x, np.delete(x, [3, 500], axis=0))
    np.testing.assert_allclose(data.info.scaling.mean, data.x[data.train_rows].mean(0), rtol=1e-14)
    np.testing.assert_allclose(data.info.scaling.scale, data.x[data.train_rows].std(0), rtol=1e-12)
