"""How long to train, and in which coordinates: decided on held-out rows, each way tried in a run of its own."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scorefield.data import Scaling, Table
from scorefield.estimators.validation import Array
from scorefield.fields import given
from scorefield.likelihood import log_likelihood
from scorefield.neural.coordinates import decorrelated
from scorefield.noise import Noise
from scorefield.objectives import noise_conditional
from scorefield.runs import Run, build_model
from scorefield.settings import Recipe

SOURCE = "rows given to ScoreDensity.fit"  # what the recipe names as its data
MOST = 2000  # steps, where they are not given
EVERY = 25  # steps between looks at the held-out rows
PATIENCE = 1.5  # a run ends when it was best before it did so many times as many steps again
DRAWS = 2048  # noised rows in a look
JUDGED = 500  # held-out rows whose log-density compares two coordinates
COPIES = 4  # rows drawn per row of data, where the rows have weights
NEVER = 1e9  # seconds: checkpoints are written at the end alone
DECAYED = 0.75  # mean learning rate of a whole run, over its peak


class Trial(NamedTuple):
    """What a trial found: the steps to train for, and the held-out rows' mean log-density."""

    steps: int
    log_density: float


def choose(
    x: Array,
    w: Array,
    recipe: Recipe,
    home: Path,
    rng: np.random.RandomState,
    *,
    powers: tuple[float, ...],
    held_out: float,
    apart: np.ndarray | None,
) -> tuple[int, float]:
    """Steps and coordinates: what was asked for, or what held-out rows like best.

    Args:
        x: rows, (n, d).
        w: their shares, (n,).
        recipe: of the run; its steps are given, or None to be found.
        home: a folder for the trials.
        rng: what picks the held-out rows.
        powers: those that are compared, see `decorrelated`.
        held_out: fraction of the rows.
        apart: columns that are standardised alone, (d,).

    Returns:
        the steps and the power.
    """
    if recipe.steps is not None and len(powers) == 1:
        return recipe.steps, powers[0]
    order = rng.permutation(len(x))
    cut = min(max(1, round(held_out * len(x))), len(x) - 3)
    kept, held = order[cut:], order[:cut]
    w_kept, w_held = w[kept] / w[kept].sum(), w[held] / w[held].sum()
    early, recipe, found = recipe.steps is None, dataclasses.replace(recipe, steps=recipe.steps or MOST), []
    for k, power in enumerate(powers):
        scaling, rows = decorrelated(x[kept], w_kept, power, apart=apart), resample(x[kept], w_kept, rng)
        tried = trial(recipe, home / f"trial-{k}", rows, x[held], w_held, scaling, early=early)
        found.append((tried.log_density, power, tried.steps if early else recipe.steps))
        shutil.rmtree(home / f"trial-{k}")
    _, power, steps = max(found)
    return steps, power


def trial(
    recipe: Recipe, folder: Path, rows: Array, held_out: Array, w: Array, scaling: Scaling | None = None, *, early: bool
) -> Trial:
    r"""Train on some rows and look at others.

    The weights' moving average is judged every 25 steps by the denoising objective under the likelihood's weight
    $g^2$, with the same noise at every look. Where it was best, the held-out rows have the log-density of the
    probability flow. A run of its own over that many steps would let its learning rate fall, so the number of steps
    returned is the one with the same sum of learning rates.

    Args:
        recipe: of the run; its steps are the most.
        folder: for the run; must not exist.
        rows: to train on, (n, d).
        held_out: to judge by, (m, d).
        w: their shares, (m,).
        scaling: to what the network sees; None learns mean and spread from the rows.
        early: False to judge the end alone.
    """
    run = create(recipe, folder, rows, scaling)
    model, noise = build_model(run.recipe, run.resolved, run.dataset.shape, 0), run.noise
    x, shares = run.dataset.info.scaling.apply(held_out), torch.from_numpy(w)
    most = run.resolved.training.steps
    best, at, kept = math.inf, most, None
    with closing(run.train(checkpoint_seconds=NEVER)) as steps:
        for step in steps:
            last = step.step == most
            if not last and (not early or step.step % EVERY):
                continue
            model.load_state_dict(step.state().ema)
            value = look(model, noise, x, shares)
            if value < best or kept is None:
                best, at, kept = value, step.step, {k: v.clone() for k, v in step.state().ema.items()}
            elif step.step > (1 + PATIENCE) * at + 8 * EVERY:
                break
    model.load_state_dict(kept or {})
    few = slice(None, None, max(1, len(x) // JUDGED))
    nats = _log_density(model, noise, x[few]) @ (shares[few] / shares[few].sum())
    return Trial(same_rates(at, most), float(nats) + run.dataset.info.scaling.log_volume(run.dataset.shape))


def create(
    recipe: Recipe, folder: Path, rows: np.ndarray, scaling: Scaling | None = None, columns: Sequence[str] = ()
) -> Run:
    """A run at step 0 on these rows, of which the recipe says where they come from."""
    return Run.create(
        dataclasses.replace(recipe, data=SOURCE), folder, table=Table(rows, None, tuple(columns)), scaling=scaling
    )


def look(model: nn.Module, noise: Noise, x: Tensor, w: Tensor) -> float:
    """The held-out objective of scaled rows x (m, *D) with shares w (m,), at noise that is the same every time."""
    copies = max(1, DRAWS // len(x))
    with torch.no_grad():
        losses = noise_conditional(
            model,
            x.repeat(copies, *[1] * (x.ndim - 1)),
            noise=noise,
            times="stratified",
            weight="likelihood",
            generator=torch.Generator().manual_seed(0),
        )
    return float(w @ losses.reshape(copies, len(x)).double().mean(0))


def same_rates(steps: int, most: int) -> int:
    """How many steps a whole run needs for the sum of learning rates that `steps` of a run over `most` had."""
    falling = max(0.0, steps - most / 2)
    return max(1, round((steps - falling**2 / most) / DECAYED))


def resample(x: Array, w: Array, rng: np.random.RandomState) -> Array:
    """Rows that occur in proportion to their shares, up to rounding; x itself where all weigh alike."""
    if np.allclose(w, w[0], rtol=1e-12, atol=0):
        return x
    count = COPIES * len(x)
    marks = (rng.uniform() + np.arange(count)) / count
    return x[np.searchsorted(np.cumsum(w), marks, side="right").clip(max=len(x) - 1)]


def _log_density(model: nn.Module, noise: Noise, x: Tensor) -> Tensor:
    """The probability flow's log-density of scaled rows, (m,), with few steps: it only compares."""
    prior = noise.prior(tuple(x.shape[1:]), mean=0.0, variance=1.0)
    return log_likelihood(given(model.double(), None), noise, x.double(), rtol=1e-2, prior=prior).nats
