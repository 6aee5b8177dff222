"""`reverse`, the one loop: a predictor carries samples from time to time, a corrector moves them in between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore
from scorefield.checks import check_count, check_floating
from scorefield.fields import denoise as tweedie
from scorefield.noise import Noise
from scorefield.samplers.langevin import Counted, Samples, gather
from scorefield.samplers.predictors import Corrector, Predictor


@torch.no_grad()
def reverse(
    score: NoisyScore,
    noise: Noise,
    x: Tensor,
    *,
    times: Tensor,
    predictor: Predictor,
    corrector: Corrector | None = None,
    corrections: int = 1,
    project: Callable[[Tensor, Tensor], Tensor] | None = None,
    denoise: bool = False,
    path: bool = False,
    generator: Generator = None,
) -> Samples:
    """Carry samples along a decreasing grid of times: predict to the next time, then correct there.

    Args:
        score: noise-conditional score, (B, *D) and () -> (B, *D).
        noise: the schedule.
        x: the state at times[0], usually drawn from `noise.prior`, (B, *D).
        times: strictly decreasing times in [t_min, t_max], at least two.
        predictor: the move from one time to the next.
        corrector: the move at each time, the first included; None for none.
        corrections: how many moves of the corrector at each time.
        project: (x, t) -> x, applied to the state on arrival at each time.
        denoise: end with Tweedie's posterior mean of the data; else the state at times[-1] is returned.
        path: keep the state at every time, (len(times), B, *D), plus the denoised one.
        generator: source of the noise; the global one when None.

    Returns:
        the samples, their path, the corrector's info, and how many times the score was called.

    Raises:
        ValueError: times that do not decrease strictly or leave [t_min, t_max]; corrections < 1.
        TypeError: `x` is not floating point.
    """
    check_floating("x", x)
    check_count("corrections", corrections)
    counted, memory = Counted(score), None
    states, infos = [], []
    grid = list(_check_times(noise, times))
    for k, t in enumerate(grid):
        if k > 0:
            x, memory = predictor.step(counted, noise, x, grid[k - 1], t, memory, generator=generator)
        x = x if project is None else project(x, t)
        if corrector is not None:
            for _ in range(corrections):
                x, info = corrector.step(counted, noise, x, t, generator=generator)
                infos.append(info)
        states += [x] if path else []
    if denoise:
        x = tweedie(counted, noise, x, grid[-1])
        states += [x] if path else []
    return Samples(x, torch.stack(states) if path else None, gather(infos), counted.calls)


def _check_times(noise: Noise, times: Tensor) -> Tensor:
    times = torch.as_tensor(times, dtype=torch.float64).cpu()
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be a vector of at least 2 times, got shape {tuple(times.shape)}")
    if not bool((times[1:] < times[:-1]).all()):
        raise ValueError(f"times must decrease strictly, got {times.tolist()}; noise.times(n) gives such a grid")
    near = (times - noise.t_min).abs() <= 1e-6 * noise.t_min  # a grid that was kept in float32
    times = torch.where(near, noise.t_min, times)
    if times[0] > noise.t_max or times[-1] < noise.t_min:
        raise ValueError(
            f"times must lie in [{noise.t_min:g}, {noise.t_max:g}], got {times[0].item():g} to {times[-1].item():g}"
        )
    return times
