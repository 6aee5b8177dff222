"""What the experiments keep in their folder: data, the run of a recipe, and its score in the units of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefield.calculus import Score
from scorefield.data import Dataset, open_dataset, prepare
from scorefield.densities import Density
from scorefield.runs import Run
from scorefield.settings import DataSettings, Recipe


def trained(recipe: Recipe, folder: Path) -> Run:
    """The finished run of a recipe: made, gone on with, or found in the folder."""
    run = Run.resume(recipe, folder) if (folder / "recipe.yaml").is_file() else Run.create(recipe, folder)
    if not run.finished:
        for _ in run.train():
            pass
    return run


def stored(settings: DataSettings, folder: Path, *, seed: int) -> Dataset:
    """A data set in the folder: prepared, or found there."""
    return open_dataset(folder) if (folder / "dataset.json").is_file() else prepare(settings, folder, seed=seed)


def rows_of(law: Density, file: Path, *, count: int, seed: int) -> str:
    """The name of a .npy file with rows of a law, drawn where it is missing."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, law.sample((count,), generator=torch.Generator().manual_seed(seed)).numpy())
    return str(file)


def in_data_units(run: Run) -> Score:
    """The learned score of a run of one law, of the data as they are, (B, d) -> (B, d)."""
    scaling, learned = run.dataset.info.scaling, run.score
    mean, scale = torch.from_numpy(scaling.mean), torch.from_numpy(scaling.scale)

    def score(x: Tensor) -> Tensor:
        with torch.no_grad():
            return (learned(((x - mean) / scale).float()).double() / scale).to(x.dtype)

    return score
