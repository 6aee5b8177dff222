r"""Grids of times: where a sampler with n steps should stop on the way from `t_max` to `t_min`.

A grid is even in some increasing function of time. The noise-to-signal ratio $\bar\sigma = \sigma/\alpha$ is the
natural clock of the probability flow, so most of them are functions of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scorefield.checks import check_choice, check_count, check_positive
from scorefield.noise import Noise

SPACINGS = ("time", "log-sigma", "log-snr", "rho", "angle", "root-angle", "band")
Measure = Callable[[Tensor], Tensor]


def time_grid(
    noise: Noise,
    n: int,
    predictor: object = None,
    *,
    spacing: str | Measure | None = None,
    rho: float = 7.0,
    start: float | None = None,
    end: float | None = None,
) -> Tensor:
    r"""A grid of n + 1 decreasing times, even in a function of time.

    | `spacing` | even in |
    |---|---|
    | `"time"` | t, as `noise.times` |
    | `"log-sigma"` | $\log\sigma$ |
    | `"log-snr"` | $\log(\alpha/\sigma)$, DPM-Solver's |
    | `"rho"` | $\bar\sigma^{1/\rho}$, EDM's, as `noise.rho_times` |
    | `"angle"` | $\arctan\bar\sigma$, the angle in which noise turns into data of unit variance |
    | `"root-angle"` | $\arctan\,(6\bar\sigma)^{2/5}$: log-SNR near $\bar\sigma = 1/6$, coarser at both ends |
    | `"band"` | $\log\frac{1 + 20\bar\sigma}{20 + \bar\sigma}$: log-SNR between 1/20 and 20, little beyond |
    | a function of t | its value; it must increase with t |

    Args:
        noise: the schedule.
        n: how many steps, >= 1.
        predictor: what the grid is for; a predictor may name the `spacing` that suits it, as `Heun` does `"band"`.
        spacing: a name or a function (n,) -> (n,); None for the predictor's own, else `"root-angle"`.
        rho: $\rho$ > 0 of `"rho"`.
        start: first time; None for t_max.
        end: last time; None for t_min.

    Returns:
        the times, (n + 1,), float64.

    Raises:
        ValueError: an unknown spacing; a start that is not after the end; a function that does not increase.

    Source: Karras et al. 2022 (arXiv:2206.00364), equation 5; Lu et al. 2022 (arXiv:2206.00927), section 3.3.
    """
    check_count("n", n)
    check_positive("rho", rho)
    first, last = noise.t_max if start is None else start, noise.t_min if end is None else end
    if not noise.t_min <= last < first <= noise.t_max:
        raise ValueError(f"times must decrease within [{noise.t_min:g}, {noise.t_max:g}], got {first:g} to {last:g}")
    chosen = getattr(predictor, "spacing", "root-angle") if spacing is None else spacing
    measure = _measure(noise, chosen, rho) if isinstance(chosen, str) else chosen
    ends = torch.tensor([first, last], dtype=torch.float64)
    high, low = measure(ends).tolist()
    if not (math.isfinite(high) and math.isfinite(low) and low < high):
        raise ValueError(f"spacing must increase with t, got {low:g} at t = {last:g} and {high:g} at t = {first:g}")
    inside = _solve(measure, torch.linspace(high, low, n + 1, dtype=torch.float64)[1:-1], last, first)
    return torch.cat([ends[:1], inside, ends[1:]])


def check_times(noise: Noise, times: Tensor | Sequence[float]) -> Tensor:
    """The times as float64, refused unless they are at least two and decrease strictly within the schedule."""
    grid = torch.as_tensor(times, dtype=torch.float64).cpu()
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"times must be a vector of at least 2 times, got shape {tuple(grid.shape)}")
    if not bool((grid[1:] < grid[:-1]).all()):
        raise ValueError(f"times must decrease strictly, got {grid.tolist()}; noise.times(n) gives such a grid")
    near = (grid - noise.t_min).abs() <= 1e-6 * noise.t_min  # a grid that was kept in float32
    grid = torch.where(near, noise.t_min, grid)
    if grid[0] > noise.t_max or grid[-1] < noise.t_min:
        raise ValueError(
            f"times must lie in [{noise.t_min:g}, {noise.t_max:g}], got {grid[0].item():g} to {grid[-1].item():g}"
        )
    return grid


def _measure(noise: Noise, spacing: str, rho: float) -> Measure:
    """The function of time that a spacing is even in."""
    check_choice("spacing", spacing, SPACINGS)
    if spacing == "time":
        return lambda t: t
    if spacing == "log-sigma":
        return lambda t: noise.sigma(t).log()
    if spacing == "log-snr":
        return lambda t: noise.sigma(t).log() - noise.alpha(t).log()
    if spacing == "rho":
        return lambda t: noise.ratio(t) ** (1 / rho)
    if spacing == "band":
        return lambda t: ((noise.alpha(t) + 20 * noise.sigma(t)) / (20 * noise.alpha(t) + noise.sigma(t))).log()
    centre, power = (1.0, 1.0) if spacing == "angle" else (6.0, 0.4)
    return lambda t: torch.atan((centre * noise.ratio(t)) ** power)


def _solve(measure: Measure, values: Tensor, low: float, high: float) -> Tensor:
    """The times in [low, high] at which an increasing function has the values, by bisection."""
    below, above = torch.full_like(values, low), torch.full_like(values, high)
    for _ in range(56):
        middle = (below + above) / 2
        less = measure(middle) < values
        below, above = torch.where(less, middle, below), torch.where(less, above, middle)
    return (below + above) / 2
