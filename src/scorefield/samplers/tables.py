r"""The numbers of a schedule that the predictors need, computed for a whole grid of times at once.

A step needs $\alpha$ and $\sigma$ at two times. Asked of a schedule one time at a time they cost more than a small
network, so `reverse` makes a `Tabulated` schedule of its grid, and the predictors ask `levels` and `rates`, which look
there first.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

from torch import Tensor

from scorefield.noise import Noise


class Tabulated(Noise):
    """A schedule, and its numbers at the times of a grid; elsewhere it answers as the schedule does."""

    def __init__(self, noise: Noise, grid: Tensor) -> None:
        self.noise, self.grid, self.t_min, self.t_max = noise, grid, noise.t_min, noise.t_max
        pairs = zip(noise.alpha(grid).tolist(), noise.sigma(grid).tolist(), strict=True)
        self.level_table = dict(zip(grid.tolist(), pairs, strict=True))

    def __getattr__(self, name: str) -> Any:
        """What else the schedule has."""
        return getattr(self.__dict__["noise"], name)

    def alpha(self, t: Tensor) -> Tensor:
        r"""The schedule's $\alpha_t$."""
        return self.noise.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        r"""The schedule's $\sigma_t$."""
        return self.noise.sigma(t)

    @cached_property
    def rate_table(self) -> dict[float, tuple[float, float]]:
        """The drift coefficient and the squared diffusion at each time of the grid."""
        pairs = zip(self.noise.f(self.grid).tolist(), self.noise.g2(self.grid).tolist(), strict=True)
        return dict(zip(self.grid.tolist(), pairs, strict=True))


def levels(noise: Noise, t: Tensor) -> tuple[float, float]:
    r"""$\alpha_t$ and $\sigma_t$ at one time, as numbers."""
    known = noise.level_table.get(t.item()) if isinstance(noise, Tabulated) else None
    return known or (noise.alpha(t).item(), noise.sigma(t).item())


def rates(noise: Noise, t: Tensor) -> tuple[float, float]:
    """The drift coefficient f and the squared diffusion g2 at one time, as numbers."""
    known = noise.rate_table.get(t.item()) if isinstance(noise, Tabulated) else None
    return known or (noise.f(t).item(), noise.g2(t).item())


def interpolation_weights(h: float, nodes: list[float], rate: float = 1.0) -> list[float]:
    r"""Weights $w_j = \int_0^h r e^{-r(h-u)} L_j(u)\,du$ of Lagrange's polynomials $L_j$ on the `nodes`.

    They integrate what is known at the nodes exactly against the exponential of a semilinear equation. Their sum is
    $1 - e^{-rh}$. Rate 0 stands for the plain integral, of sum h. h and the nodes are distances from where the step
    begins, in the clock of the equation.
    """
    scaled = [u / h for u in nodes]
    moments = _moments(rate * h, len(nodes)) if rate else [h / (n + 1) for n in range(len(nodes))]
    weights = []
    for j, at in enumerate(scaled):
        others = [u for k, u in enumerate(scaled) if k != j]
        coefficients = [1.0]  # of the product of (u - other), lowest power first
        for other in others:
            raised, lowered = [0.0, *coefficients], [other * c for c in coefficients] + [0.0]
            coefficients = [a - b for a, b in zip(raised, lowered, strict=True)]
        below = math.prod(at - other for other in others)
        weights.append(sum(c * m for c, m in zip(coefficients, moments, strict=True)) / below)
    return weights


def _moments(h: float, count: int) -> list[float]:
    r"""$\int_0^1 h e^{-h(1-v)} v^n\,dv$ for n = 0, …, count - 1: by recursion, or by their series where h is small."""
    if abs(h) > 0.7:
        moments = [-math.expm1(-h)]
        for n in range(1, count):
            moments.append(1 - n / h * moments[-1])
        return moments
    series = []
    for n in range(count):
        term, total = h / (n + 1), 0.0
        for k in range(1, 20):
            total += term
            term *= -h / (n + 1 + k)
        series.append(total)
    return series
