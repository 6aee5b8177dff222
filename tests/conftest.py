"""Shared by all tests: one thread, and small runs that are trained once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scorefield.runs import Run
from scorefield.settings import MLPSize, Recipe, UNetSize

torch.set_num_threads(1)  # small tensors gain nothing from more, and sums then come in one order

SMALL_UNET = UNetSize(width=8, blocks=1, resolutions=2)


def small_recipe(**changes) -> Recipe:
    """A network on the digits that trains in a second."""
    given = {"data": "digits", "steps": 12, "unet": SMALL_UNET, "batch_size": 16, "precision": "fp32"} | changes
    return Recipe(**given)


def trained(recipe: Recipe, path: Path, **how) -> Run:
    """A run trained to its last step."""
    run = Run.create(recipe, path)
    for _ in run.train(**how):
        pass
    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory) -> Run:
    """A small finished run on labelled images; do not write to it."""
    return trained(small_recipe(), tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="session")
def vector_run(tmp_path_factory) -> Run:
    """A finished run on a two-dimensional mixture, trained well enough to be judged; do not write to it."""
    recipe = Recipe("gaussian-mixture", steps=1500, mlp=MLPSize(64, 2), count=4000, learning_rate=4e-3)
    return trained(recipe, tmp_path_factory.mktemp("runs") / "mixture")


@pytest.fixture
def table(tmp_path) -> Path:
    """A small .npy of two columns far from the origin with tiny spread."""
    x = np.random.default_rng(0).normal(size=(200, 2)) * [0.5, 1e-6] + [100.0, 3.0]
    np.save(tmp_path / "table.npy", x)
    return tmp_path / "table.npy"
