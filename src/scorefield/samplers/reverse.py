"""`reverse`, the one loop: a predictor carries samples from time to time, a corrector moves them in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore
from scorefield.checks import check_choice, check_count, check_floating
from scorefield.fields import denoise as tweedie
from scorefield.noise import Noise
from scorefield.samplers.grids import check_times
from scorefield.samplers.langevin import Counted, Samples, gather
from scorefield.samplers.predictors import Corrector, Predictor
from scorefield.samplers.tables import Tabulated


class NonFinite(RuntimeError):
    """Some samples stopped being finite; the others are in `.samples`, with `info["broke"]` as `reverse` says."""

    def __init__(self, message: str, samples: Samples) -> None:
        super().__init__(message)
        self.samples = samples


@torch.no_grad()
def reverse(
    score: NoisyScore,
    noise: Noise,
    x: Tensor,
    *,
    times: Tensor | Sequence[float],
    predictor: Predictor,
    corrector: Corrector | None = None,
    corrections: int = 1,
    project: Callable[[Tensor, Tensor], Tensor] | None = None,
    denoise: bool = False,
    path: bool | int | Sequence[float] = False,
    nonfinite: str = "raise",
    generator: Generator = None,
) -> Samples:
    """Carry samples along a decreasing grid of times: predict to the next time, then correct there.

    Args:
        score: noise-conditional score, (B, *D) and () -> (B, *D).
        noise: the schedule.
        x: the state at times[0], usually drawn from `noise.prior`, (B, *D).
        times: strictly decreasing times in [t_min, t_max], at least two; see `time_grid`.
        predictor: the move from one time to the next.
        corrector: the move at each time, the first included; None for none.
        corrections: how many moves of the corrector at each time.
        project: (x, t) -> x, applied to the state on arrival at each time.
        denoise: end with Tweedie's posterior mean of the data; else the state at times[-1] is returned.
        path: which states to keep: True for all, (len(times), B, *D), plus the denoised one; k for every k-th of
            these from the first; a list of some of the times for the states at those.
        nonfinite: `"raise"`, or `"report"` to return broken samples among the others and say in info["broke"] where:
            (B,), the index of the first time at which a sample was not finite, -1 if it always was.
        generator: source of the noise; the global one when None.

    Returns:
        the samples, their path, the corrector's info, and how many times the score was called.

    Raises:
        ValueError: times that do not decrease strictly or leave [t_min, t_max]; corrections < 1; a path of times that
            are not in the grid.
        TypeError: `x` is not floating point.
        NonFinite: a sample that is not finite, after the others were finished.
    """
    return _march(
        Counted(score),
        noise,
        x,
        check_times(noise, times),
        predictor,
        corrector=corrector,
        corrections=corrections,
        project=project,
        denoise=denoise,
        path=path,
        nonfinite=nonfinite,
        generator=generator,
    )


@torch.no_grad()
def encode(
    score: NoisyScore,
    noise: Noise,
    x: Tensor,
    *,
    times: Tensor | Sequence[float],
    predictor: Predictor,
    path: bool | int | Sequence[float] = False,
    nonfinite: str = "raise",
) -> Samples:
    """Run the probability flow upwards, from data to latents: `reverse` on the same grid brings them back.

    The way there and back errs by the order of the predictor. Straight lines (or arcs) between two latents are paths
    between two samples.

    Args:
        score: noise-conditional score.
        noise: the schedule.
        x: the state at times[-1], the data's end, (B, *D).
        times: strictly decreasing times as for `reverse`; they are walked from the last to the first.
        predictor: a deterministic one.
        path: which states to keep, as in `reverse`, in the order they are reached.
        nonfinite: as in `reverse`.

    Returns:
        the latents at times[0].

    Raises:
        ValueError: a predictor that draws noise; times as in `reverse`.
        NonFinite: as in `reverse`.
    """
    if getattr(predictor, "stochastic", False):
        raise ValueError(f"encode needs a deterministic predictor, got {predictor}; take Heun() or DPMSolver()")
    grid = check_times(noise, times).flip(0)
    return _march(Counted(score), noise, x, grid, predictor, path=path, nonfinite=nonfinite)


def _march(
    score: Counted,
    noise: Noise,
    x: Tensor,
    times: Tensor,
    predictor: Predictor,
    *,
    corrector: Corrector | None = None,
    corrections: int = 1,
    project: Callable[[Tensor, Tensor], Tensor] | None = None,
    denoise: bool = False,
    path: bool | int | Sequence[float],
    nonfinite: str,
    generator: Generator = None,
) -> Samples:
    """The loop over the grid, up or down."""
    check_floating("x", x)
    check_count("corrections", corrections)
    check_choice("nonfinite", nonfinite, ("raise", "report"))
    kept, table, memory = _kept(path, times, denoise), Tabulated(noise, times), None
    states, infos, sums = [], [], []
    grid = list(times)
    for k, t in enumerate(grid):
        if k > 0:
            x, memory = predictor.step(score, table, x, grid[k - 1], t, memory, generator=generator)
        x = x if project is None else project(x, t)
        if corrector is not None:
            for _ in range(corrections):
                x, info = corrector.step(score, table, x, t, generator=generator)
                infos.append(info)
        sums.append(_sums(x))
        states += [x] if k in kept else []
    if denoise:
        x = tweedie(score, noise, x, grid[-1])
        sums.append(_sums(x))
        states += [x] if len(grid) in kept else []
    found = Samples(x, torch.stack(states) if path is not False else None, gather(infos), score.calls)
    return _check_finite(found, torch.stack(sums), times, nonfinite)


def _sums(x: Tensor) -> Tensor:
    """One number per sample that is finite if the sample is."""
    return x.flatten(1).sum(1, dtype=torch.promote_types(x.dtype, torch.float32))


def _check_finite(found: Samples, sums: Tensor, times: Tensor, nonfinite: str) -> Samples:
    """Refuse or report the samples that were not finite at some time; one look at the end, without a wait before."""
    bad = ~sums.isfinite()
    if nonfinite == "raise" and not bad.any():
        return found
    broke = torch.where(bad.any(0), bad.int().argmax(0), -1)
    found = Samples(found.x, found.path, found.info | {"broke": broke}, found.evaluations)
    if nonfinite == "raise":
        rows = (broke >= 0).nonzero().flatten()
        first = int(rows[broke[rows].argmin()])
        at = times[min(int(broke[first]), len(times) - 1)].item()
        raise NonFinite(
            f"{len(rows)} of {len(broke)} samples are not finite: sample {first} first, at step {int(broke[first])} "
            f"(t = {at:.4g}); the score diverges there or the steps are too large. nonfinite='report' returns the "
            "others, and so does .samples of this error",
            found,
        )
    return found


def _kept(path: bool | int | Sequence[float], times: Tensor, denoise: bool) -> set[int]:
    """Indices of the states to keep; that of the denoised one is len(times)."""
    count = len(times) + int(denoise)
    if isinstance(path, bool):
        return set(range(count)) if path else set()
    if isinstance(path, int):
        check_count("path", path)
        return set(range(0, count, path))
    wanted = torch.as_tensor(path, dtype=torch.float64).reshape(-1, 1)
    apart = (wanted - times).abs()
    nearest, index = apart.min(1)
    if bool((nearest > 1e-9).any()):
        lost = wanted[nearest > 1e-9].flatten().tolist()
        raise ValueError(f"path must be times of the grid, got {lost}; put them into times")
    return set(index.tolist())
