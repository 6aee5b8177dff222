"""What a run's own objective says: level by level, or of its one law on held-out rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scorefield.data import Batch
from scorefield.evaluation.row import Row
from scorefield.metrics import Estimate
from scorefield.metrics.estimate import normal
from scorefield.objectives import noise_conditional
from scorefield.runs import Run

NO_VALUE = ("contrastive-divergence", "persistent")  # objectives of which only the gradient has a meaning


def objective_rows(run: Run, seed: int) -> list[Row]:
    """The objective of one law on held-out rows, with its value on training rows: far above that, it was overfitted."""
    if run.recipe.at_all_levels or run.recipe.objective in NO_VALUE or not len(run.dataset.held_out_rows):
        return []
    held, train = (_objective(run, rows, seed) for rows in (run.dataset.held_out_rows, run.dataset.train_rows))
    beside = f"{train.value:.4g} ± {train.standard_error:.1g} on training rows"
    return [Row("objective, held out", held, None, f"{run.recipe.objective}; {beside}; far above that: overfitted")]


def _objective(run: Run, rows: np.ndarray, seed: int) -> Estimate:
    """The mean of a run's objective over at most 1,000 of these rows."""
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:1000])
    model = run.load_model()
    x = run.dataset.x_scaled(chosen).to(next(model.parameters()).dtype)
    batch = Batch(x, run.dataset.labels(chosen), torch.from_numpy(chosen))
    loss = run.objective()(model, batch, torch.Generator().manual_seed(seed)).detach().double()
    return normal(loss.mean().item(), (loss.std() / len(loss) ** 0.5).item(), len(loss), "mean over rows")


def loss_by_level(run: Run, rows: np.ndarray, *, levels: int = 24, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    r"""The denoising loss per dimension, $\sigma^2\|s(x_t, t) + z/\sigma\|^2 / D$, at levels from t_min to t_max.

    1 is what a field of zeros reaches; labels are given where there are any.

    Args:
        run: a run with a checkpoint.
        rows: which rows of its data to use.
        levels: how many noise levels.
        seed: seed of the noise, the same at every level.

    Returns:
        the levels' sigma, the mean loss and its standard error, each (levels,).
    """
    model, noise = run.load_model(), run.noise
    x, y = run.dataset.x_scaled(rows), run.dataset.labels(rows)
    times, means, errors = noise.times(levels - 1).flip(0), [], []
    for t in times:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            at_t = t.expand(len(x))
            loss = noise_conditional(model, x, noise=noise, y=y, t=at_t, generator=generator)
        per_dimension = 2 * loss.double() / x[0].numel()
        means.append(per_dimension.mean())
        errors.append(per_dimension.std() / len(x) ** 0.5)
    return noise.sigma(times), torch.stack(means), torch.stack(errors)
