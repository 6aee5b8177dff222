r"""A run that holds a classifier: guiding other runs by it, and its accuracy at every noise level.

Two runs scale their data each in its own way, $x = m + c\,x'$, and may blur by other schedules. A state $x_t$ of one
is, in the units of the other (marked °), $u = (c/c°)\,x_t/\alpha_t + (m - m°)/c°$: clean data with noise of
$(c/c°)\,\sigma_t/\alpha_t$. The other's schedule has that ratio at one time $t°$, where it expects $\alpha°\,u$. For
vectors c/c° is a number per column; their mean names the level, and they must be alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scorefield.calculus import expand, randn_like
from scorefield.metrics import Estimate, class_agreement

if TYPE_CHECKING:
    from scorefield.runs.run import Run

SAME = 0.05  # other training rows of the same data are scaled by other proportions, by less than this
WITHIN = 1.05  # how far beyond a classifier's last noise level a run may begin


def classifier_for(run: Run, other: Run, like: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The logits of the classifier in `other` at the scaled states and the times of `run`, (B, *D) and t -> (B, K).

    Args:
        run: the run that is guided.
        other: the run that holds the classifier.
        like: a tensor of the dtype and on the device of the states.

    Raises:
        ValueError: `other` is no classifier; its samples have another shape; the columns of its data were scaled by
            other proportions, so that noise would not stay alike in all; or its noise ends too early.
        RuntimeError: the classifier has no checkpoint yet, or `run` no noise levels.
    """
    if not other.recipe.classifier:
        raise ValueError(f"classifier must be a run that holds one, got {other.path}; make one: train … --classifier")
    if other.dataset.shape != run.dataset.shape:
        raise ValueError(
            f"classifier must be of samples of shape {run.dataset.shape}, {other.path} has {other.dataset.shape}"
        )
    ours, theirs, noise, levels = run.dataset.info.scaling, other.dataset.info.scaling, run.noise, other.noise
    stretch, ratio = ours.scale / theirs.scale, (ours.scale / theirs.scale).mean().item()
    mixed = ours.root is not None or theirs.root is not None
    if mixed or (np.abs(stretch / ratio - 1) > SAME).any():
        found = "mixes its columns" if mixed else f"is off by a factor of {stretch.max() / stretch.min():.3g}"
        raise ValueError(
            f"classifier must have scaled its columns in the same proportions as {run.path}, {other.path} {found}; "
            "train both on the same rows"
        )
    reach, known = (law.ratio(law.t_max).item() for law in (noise, levels))
    if ratio * reach > WITHIN * known:
        raise ValueError(
            f"classifier must know noise up to {ratio * reach:.3g} times its data's spread, {other.path} ends at "
            f"{known:.3g}; train it with --noise {run.recipe.noise}"
        )
    network = other.load_classifier().to(like)
    gain = torch.from_numpy(np.asarray(stretch)).to(like)
    shift = torch.from_numpy(np.asarray((ours.mean - theirs.mean) / theirs.scale)).to(like)

    def logits(x: Tensor, t: Tensor) -> Tensor:
        t = t.expand(len(x)) if t.ndim == 0 else t
        alpha, sigma = noise.alpha(t).double(), noise.sigma(t).double()
        at = levels.time_at(ratio * sigma / alpha)
        return network(expand(levels.alpha(at), x) * (gain * x / expand(alpha, x) + shift), at)

    return logits


def accuracy_by_level(run: Run, *, levels: int = 9, seed: int = 0) -> dict[float, Estimate]:
    r"""How often the likeliest class is the right one, on held-out rows, by the ratio $\sigma_t/\alpha_t$.

    Args:
        run: a run that holds a classifier.
        levels: how many noise levels, spaced evenly in the logarithm of the ratio.
        seed: seed of the noise, the same at every level.

    Raises:
        ValueError: no rows were held out.
        RuntimeError: there is no checkpoint yet, or the run holds a score.
    """
    rows, noise, network = run.dataset.held_out_rows, run.noise, run.load_classifier()
    x, y = run.dataset.x_scaled(rows).to(next(network.parameters())), run.dataset.labels(rows)
    if y is None or not len(rows):
        raise ValueError(f"{run.path} kept no rows out of training to judge by; train with --held-out 0.1")
    z = randn_like(x, torch.Generator().manual_seed(seed))
    low, high = (math.log(noise.ratio(t)) for t in (noise.t_min, noise.t_max))
    found = {}
    for ratio in torch.linspace(low, high, levels, dtype=torch.float64).exp():
        t = noise.time_at(ratio)
        with torch.no_grad():
            said = network(noise.perturb(x, t, z), t).argmax(1)
        found[ratio.item()] = class_agreement(said, y)
    return found
