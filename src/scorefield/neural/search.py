"""How long to train, and in which coordinates: decided on held-out rows, each way tried in a run of its own."""

from __future__ import annotations

import dataclasses
import math
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scorefield.estimators.validation import Array
from scorefield.fields import given
from scorefield.likelihood import log_likelihood
from scorefield.noise import Noise
from scorefield.objectives import noise_conditional
from scorefield.runs import Run, build_model
from scorefield.settings import Recipe

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


def trial(recipe: Recipe, folder: Path, rows: Array, held_out: Array, w: Array, *, early: bool) -> Trial:
    r"""Train on some rows and look at others.

    The weights' moving average is judged every 25 steps by the denoising objective under the likelihood's weight
    $g^2$, with the same noise at every look. Where it was best, the held-out rows have the log-density of the
    probability flow. A run of its own over that many steps would let its learning rate fall, so the number of steps
    returned is the one with the same sum of learning rates.

    Args:
        recipe: of the run; its data are written here, its steps are the most.
        folder: for the run; must not exist.
        rows: to train on, (n, d).
        held_out: to judge by, (m, d).
        w: their shares, (m,).
        early: False to judge the end alone.
    """
    run = create(recipe, folder, rows)
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
    volume = float(np.log(run.dataset.info.scaling.scale).sum())
    return Trial(same_rates(at, most), float(nats) - volume)


def create(recipe: Recipe, folder: Path, rows: np.ndarray) -> Run:
    """A run at step 0 on these rows, which need not be kept in another place."""
    source = folder.with_name(f"{folder.name}-rows.npy")
    np.save(source, rows)
    try:
        return Run.create(dataclasses.replace(recipe, data=str(source)), folder)
    finally:
        source.unlink()


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
