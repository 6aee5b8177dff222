"""Batches: a pure function of (seed, step) that visits every training row once per epoch."""

import numpy as np
import pytest
import torch

from scorefield.data import Batches, prepare
from scorefield.settings import DataSettings


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(50, 2)), y=np.arange(50) % 3)
    return prepare(DataSettings(str(tmp_path / "d.npz"), held_out=0.14), tmp_path / "run")


def same(a, b):
    return all(torch.equal(first, second) for first, second in zip(a, b, strict=True))


@pytest.mark.parametrize("size", [1, 7, 43, 44, 100])
def test_every_epoch_is_a_permutation_of_the_training_rows_in_the_generators_order(dataset, size):
    n, epochs = len(dataset.train_rows), 4
    assert n == 43
    batches = Batches(dataset, size, seed=9)
    seen = torch.cat([batches(step).index for step in range(-(-epochs * n // size))]).numpy()
    for epoch in range(epochs):
        order = np.random.default_rng([9, epoch]).permutation(dataset.train_rows)
        np.testing.assert_array_equal(seen[epoch * n : (epoch + 1) * n], order)


def test_a_batch_depends_on_seed_and_step_alone(dataset):
    size = 16
    forward = [Batches(dataset, size, seed=1)(step) for step in range(12)]
    shared = Batches(dataset, size, seed=1)
    for step in (11, 0, 5, 5, 2, 10, 1):
        assert same(shared(step), forward[step])
    assert not torch.equal(Batches(dataset, size, seed=2)(0).index, forward[0].index)


def test_x_and_y_are_those_of_the_rows_in_index(dataset):
    batch = Batches(dataset, 20, seed=0)(3)
    assert batch.x.dtype == torch.float32 and batch.y is not None and batch.y.dtype == batch.index.dtype == torch.int64
    assert torch.equal(batch.x, dataset.x_scaled(batch.index.numpy()))
    np.testing.assert_array_equal(batch.y, dataset.y[batch.index])
    assert not set(batch.index.tolist()) & set(dataset.held_out_rows.tolist())


def test_large_data_are_read_from_disk_and_give_the_same_batches(dataset, monkeypatch):
    in_memory = Batches(dataset, 20, seed=0)
    monkeypatch.setattr("scorefield.data.batches.IN_MEMORY", 0)
    from_disk = Batches(dataset, 20, seed=0)
    assert all(same(in_memory(step), from_disk(step)) for step in range(6))


def test_unlabelled_data_give_batches_without_labels(tmp_path):
    data = prepare(DataSettings("rings", count=30), tmp_path / "run")
    assert Batches(data, 4, seed=0)(0).y is None


@pytest.mark.parametrize(("size", "seed", "word"), [(0, 0, "size"), (4, -1, "seed")])
def test_a_size_or_seed_out_of_range_is_refused(dataset, size, seed, word):
    with pytest.raises(ValueError, match=word):
        Batches(dataset, size, seed)
