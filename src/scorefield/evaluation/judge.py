"""`evaluate`: all figures of a run."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from scorefield.checks import check_count
from scorefield.evaluation.features import Features
from scorefield.evaluation.images import image_rows
from scorefield.evaluation.levels import objective_rows
from scorefield.evaluation.row import Row
from scorefield.evaluation.rows import memory_rows
from scorefield.evaluation.sets import LEAST, choose_sets, scaled
from scorefield.evaluation.vectors import vector_rows
from scorefield.metrics import Estimate
from scorefield.metrics.estimate import normal
from scorefield.runs import Run
from scorefield.runs.density import run_likelihood
from scorefield.settings import DataSettings

RTOL = 1e-2  # of the flow's steps: a hundredth of the spread over rows


def evaluate(
    run: Run,
    *,
    count: int = 1000,
    seed: int = 0,
    against: DataSettings | None = None,
    features: Features | None = None,
    likelihood_rows: int = 0,
) -> list[Row]:
    """Judge `count` samples of a run.

    Args:
        run: a run with a checkpoint.
        count: how many samples to draw, >= 100.
        seed: seed of the samples and of the choice of the real rows.
        against: another source to judge by, with rows of the same shape; None for the run's own held-out rows.
        features: what distances of images are measured on; None for principal components of the training images.
        likelihood_rows: rows behind the bits per dimension, which costs most; 0 for none. Only for images stored as
            bytes, of a run that learned all noise levels and the law of all classes.

    Returns:
        the figures, each with its standard error or interval and the number of samples, beside the same of as many
        training rows.

    Raises:
        ValueError: count < 100, too few rows to judge by for so many features, or data and features that do not fit.
        RuntimeError: there is no checkpoint yet.
    """
    check_count("count", count, least=100)
    check_count("likelihood_rows", likelihood_rows, least=0)
    image = run.dataset.info.kind == "image"
    if features is not None:
        features.check(run.dataset)
    drawn = run.sample(count, seed=seed)
    sets = choose_sets(run, drawn.x, drawn.info.get("y"), against, seed)
    generator = torch.Generator().manual_seed(seed)
    rows = image_rows(run, sets, features, generator) if image else vector_rows(run, sets, seed, generator)
    rows += _memory(run, drawn.x, seed, generator)
    return rows + _bits_rows(run, likelihood_rows, seed) + objective_rows(run, seed)


def _memory(run: Run, samples: Tensor, seed: int, generator: torch.Generator) -> list[Row]:
    """Memorisation, against all training rows; nothing where the run held no rows out."""
    data = run.dataset
    if len(data.held_out_rows) < LEAST:
        return []
    order = np.random.default_rng(seed).permutation(data.held_out_rows)
    train, held = (data.x_scaled(rows).flatten(1) for rows in (data.train_rows, order))
    what = data.info.kind if data.info.kind == "image" else "row"
    return memory_rows(scaled(run, samples.numpy()), train, held, generator, what)


def _bits_rows(run: Run, count: int, seed: int) -> list[Row]:
    """Bits per dimension of held-out images on the grid of bytes, beside those of training images."""
    data, recipe = run.dataset, run.recipe
    unconditional = not run.classes or recipe.label_dropout > 0
    if not (
        count and data.info.dtype == "uint8" and recipe.at_all_levels and unconditional and len(data.held_out_rows)
    ):
        return []
    held, train = (_bits(run, rows, count, seed) for rows in (data.held_out_rows, data.train_rows))
    reading = f"held-out beside training images, far above those: overfitted; uniform dequantisation, rtol {RTOL:g}"
    return [Row("bits/dim", held, train, reading)]


def _bits(run: Run, rows: np.ndarray, count: int, seed: int) -> Estimate:
    chosen = np.random.default_rng(seed).permutation(rows)[:count]
    found = run_likelihood(run, run.dataset.x[chosen], bin_width=1.0, probes=1, rtol=RTOL, seed=seed).bits
    if found is None:
        raise RuntimeError("bits per dimension need a bin width")
    error = 0.0 if math.isnan(found.standard_error) else found.standard_error
    return normal(found.value, error, len(chosen), "bits per dimension by the probability flow, one probe a row")
