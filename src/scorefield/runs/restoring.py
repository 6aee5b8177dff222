r"""Restore what was masked, blurred, shrunk or made noisy: draws of the posterior under a run's prior.

Everything is said in the units of the data and computed in scaled ones. With $x = m + C x'$, where C is c, or
$\operatorname{diag}(c)R^{-1}$ where columns are mixed, and $y = A x + \sigma_y n$:

$$ y' = (y - A m)/\bar c, \qquad A' x' = A C x'/\bar c, \qquad \sigma' = \sigma_y/\bar c, $$

where $\bar c$ is the mean of c (c itself for images).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scorefield.calculus import NoisyScore, PerSample
from scorefield.checks import check_choice, check_count, check_non_negative
from scorefield.fields import given as given_label
from scorefield.guidance import Posterior, averaged, blurred, grey, masked, posterior, smc
from scorefield.runs.samples import start_like, write_whole
from scorefield.samplers import Heun, NonFinite, reverse, time_grid

if TYPE_CHECKING:
    from scorefield.runs.run import Run

TASKS = ("inpaint", "denoise", "deblur", "superres", "colourise")
METHODS = ("moments", "pigdm", "dps", "particles")
STEPS = {"particles": 200}
PARTICLES = 512
LEARNED = {"floor": 0.1, "iterations": 3}  # a learned Jacobian is neither symmetric nor right where it is small
NAMED_MASKS = ("left", "right", "top", "bottom", "centre")


@dataclass(frozen=True, eq=False)
class Restoration:
    """Draws of the posterior of one sample, in the units of the data.

    Attributes:
        observed: what was given or, where it was degraded here, what was made of it.
        draws: (n, *D).
        mean: over the draws, (*D).
        spread: their standard deviation, (*D).
        effective: least effective number of particles; None for the other methods.
        evaluations: score calls per draw.
    """

    observed: np.ndarray
    draws: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    effective: float | None
    evaluations: int


def degradation(task: str, shape: tuple[int, ...], *, known: np.ndarray | None, width: float, factor: int) -> Callable:
    """The operator A of a task, on samples of `shape`: a torch function (B, *D) -> (B, *M).

    Args:
        task: inpaint, denoise, deblur, superres or colourise.
        shape: of one sample.
        known: of inpaint, True where a value is known, (*D).
        width: of deblur, the blur's standard deviation in pixels.
        factor: of superres, pixels along the side of a square that is averaged.

    Raises:
        ValueError: an unknown task, a blur of vectors, a factor that does not divide the image's sides, images that
            have no three channels to colour.
    """
    check_choice("task", task, TASKS)
    if task == "inpaint":
        if known is None:
            raise ValueError(
                f"task inpaint needs a mask: a file, or one of {', '.join(NAMED_MASKS)} for what is missing"
            )
        if known.shape != shape:
            raise ValueError(f"mask must have the shape of a sample, {shape}, got {known.shape}")
        return masked(torch.from_numpy(known))
    if known is not None:
        raise ValueError(f"mask is an option of task inpaint, got one with {task}; leave it out")
    if task == "denoise":
        return lambda x: x
    if len(shape) != 3:
        raise ValueError(f"task {task} is for images, and this run learned vectors of {shape[0]} columns")
    if task == "deblur":
        return blurred(width)
    if task == "colourise":
        if shape[0] != 3:
            raise ValueError(f"task colourise is for images of 3 channels, and this run learned {shape[0]}")
        return grey()
    if shape[1] % factor or shape[2] % factor:
        raise ValueError(f"factor must divide the image's sides {shape[1]} and {shape[2]}, got {factor}")
    return averaged(factor)


def named_mask(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Where an image is known when its left, right, top or bottom half or its central quarter is missing, (*D)."""
    check_choice("mask", name, NAMED_MASKS)
    if len(shape) != 3:
        raise ValueError(f"mask {name} is for images, and samples have shape {shape}; give a .npy file")
    known = np.ones(shape, dtype=bool)
    h, w = shape[1:]
    missing = {
        "left": (slice(None), slice(None, w // 2)),
        "right": (slice(None), slice(w // 2, None)),
        "top": (slice(None, h // 2), slice(None)),
        "bottom": (slice(h // 2, None), slice(None)),
        "centre": (slice(h // 4, h - h // 4), slice(w // 4, w - w // 4)),
    }[name]
    known[(slice(None), *missing)] = False
    return known


def restore(
    run: Run,
    given: np.ndarray,
    operator: Callable[[Tensor], Tensor],
    *,
    n: int = 8,
    label: str | int | None = None,
    sigma: float = 0.0,
    method: str = "moments",
    steps: int | None = None,
    degrade: bool = False,
    seed: int = 0,
) -> Restoration:
    r"""Draw from the posterior of one sample given $y = A x + \sigma_y n$, in the units of the data.

    Args:
        run: a run that learned all noise levels.
        given: y, the output's shape of A; or, with `degrade`, a whole sample (*D) that A and the noise are put on.
        operator: A, a linear torch function (B, *D) -> (B, *M); see `degradation` for the usual ones.
        n: how many draws, >= 1.
        label: the class, where it is known.
        sigma: $\sigma_y$ >= 0; > 0 for dps and particles.
        method: moments, pigdm, dps (see `guidance.posterior`) or particles (`guidance.smc`, exact in the limit).
        steps: of the sampler; None for 30, or 200 with particles.
        degrade: make y from a whole sample first.
        seed: of the draws and of the noise that degrades.

    Raises:
        ValueError: an input of another shape, an operator that is not linear, options that do not go together, or a
            method that diverged.
        RuntimeError: a run of one law.
    """
    check_count("n", n)
    dataset, noise, model, y_class = run.dataset, run.noise, run.load_model(), run.label_number(label)
    like = next(model.parameters())

    def score(count: int) -> NoisyScore:
        return given_label(model, None if y_class is None else torch.full((count,), y_class, device=like.device))

    check_choice("method", method, METHODS)
    check_non_negative("sigma", sigma)
    scaling, shape = dataset.info.scaling, dataset.shape
    mean = torch.from_numpy(np.broadcast_to(scaling.mean, shape).copy())
    unit, vector = float(scaling.scale.mean()), torch.from_numpy(given.astype(np.float64))
    g = torch.Generator().manual_seed(seed)
    if degrade:
        if vector.shape != shape:
            raise ValueError(f"a sample to degrade must have shape {shape}, got {tuple(vector.shape)}")
        clean = operator(vector[None])[0]
        vector = clean + sigma * torch.randn(clean.shape, generator=g, dtype=torch.float64)
    centre = operator(mean[None])[0]
    if vector.shape != centre.shape:
        raise ValueError(f"the input must have shape {tuple(centre.shape)} for this task, got {tuple(vector.shape)}")
    y = ((vector - centre) / unit).to(like)

    def scaled(x: Tensor) -> Tensor:
        return operator(scaling.differences(x)) / unit

    def guide(count: int, how: str) -> Posterior:
        return posterior(score(count), noise, scaled, y, sigma=sigma / unit, shape=shape, method=how, **LEARNED)

    count = max(PARTICLES, n) if method == "particles" else n
    x = start_like(noise, torch.zeros((count, *shape)).to(like), PerSample(seed, range(count)))
    taken = steps if steps is not None else STEPS.get(method, 30)
    if method == "particles":
        found = smc(guide(count, "pigdm"), noise, x, times=time_grid(noise, taken), generator=g)
        drawn, effective, calls = found.resample(n, generator=g), found.effective.min().item(), found.evaluations
    else:
        times = time_grid(noise, taken, spacing="rho")
        try:
            made = reverse(guide(n, method), noise, x, times=times, predictor=Heun(), denoise=True)
        except NonFinite as error:
            raise ValueError(f"method {method} diverged ({error}); take moments, or more noise or steps") from error
        drawn, effective, calls = made.x, None, made.evaluations
    draws = scaling.undo(drawn, dataset.info.dtype)
    return Restoration(vector.numpy(), draws, draws.mean(0), draws.std(0, ddof=min(1, n - 1)), effective, calls)


def write_restoration(path: Path, found: Restoration) -> Path:
    """Write `observed`, `draws`, `mean` and `spread` as .npz, whole or not at all.

    Raises:
        ValueError: the file is named otherwise.
    """
    if path.suffix != ".npz":
        raise ValueError(f"restorations are written as .npz, got the output {path}; name it {path.with_suffix('.npz')}")
    arrays = {"observed": found.observed, "draws": found.draws, "mean": found.mean, "spread": found.spread}
    return write_whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
