r"""The numbers of a schedule that the predictors need, computed for a whole grid of times at once.

A step needs $\alpha$ and $\sigma$ at two times. Asked of a schedule one time at a time they cost more than a small
network, so `reverse` makes a `Tabulated` schedule of its grid, and the predictors ask `levels` and `rates`, which look
there first.
"""

from __future__ import annotations

import math
import operator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scorefield.noise import Noise


class Tabulated(Noise):
    """A schedule, and its numbers at the times of a grid; elsewhere it answers as the schedule does."""

    def __init__(self, noise: Noise, grid: Tensor) -> None:
        self.noise, self.grid, self.t_min, self.t_max = noise, grid, noise.t_min, noise.t_max
        pairs = zip(noise.alpha(grid).tolist(), noise.sigma(grid).tolist(), strict=True)
        self.level_table = dict(zip(grid.tolist(), pairs, strict=True))
        self.raised_tables: dict[float, dict[float, Tensor]] = {}

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


def raised(noise: Noise, t: Tensor, factor: float) -> Tensor:
    r"""The time at which $\sigma/\alpha$ is `factor` times what it is at t, or the last time."""
    if isinstance(noise, Tabulated) and t.item() in noise.level_table:
        if factor not in noise.raised_tables:
            times = noise.noise.time_at(factor * noise.noise.ratio(noise.grid))
            noise.raised_tables[factor] = dict(zip(noise.grid.tolist(), times, strict=True))
            pairs = zip(noise.noise.alpha(times).tolist(), noise.noise.sigma(times).tolist(), strict=True)
            noise.level_table |= dict(zip(times.tolist(), pairs, strict=True))
        return noise.raised_tables[factor][t.item()]
    alpha, sigma = levels(noise, t)
    return noise.time_at(torch.tensor(factor * sigma / alpha, dtype=torch.float64))


def interpolation_weights(h: float, nodes: list[float], rate: float = 1.0) -> list[float]:
    r"""Weights $w_j = \int_0^h r e^{-r(h-u)} L_j(u)\,du$ of Lagrange's polynomials $L_j$ on the `nodes`.

    They integrate what is known at the nodes exactly against the exponential of a semilinear equation. Their sum is
    $1 - e^{-rh}$. Rate 0 stands for the plain integral, of sum h. h and the nodes are distances from where the step
    begins, in the clock of the equation.
    """
    scaled = [u / h for u in nodes]
    moments = _moments(rate * h, len(nodes)) if rate else [h / (n + 1) for n in range(len(nodes))]
    weights = [0.0] * len(nodes)
    shares = [1.0] * len(nodes)  # of each node's value in the divided difference up to here
    product = [1.0]  # coefficients of Newton's product of (u - node), lowest power first
    for k, at in enumerate(scaled):
        for j in range(k):
            gap = scaled[j] - at
            shares[j] /= gap
            shares[k] /= -gap
        area = sum(map(operator.mul, product, moments))
        for j in range(k + 1):
            weights[j] += area * shares[j]
        product.insert(0, 0.0)
        for j in range(k + 1):
            product[j] -= at * product[j + 1]
    return weights


def cosine_weights(start: float, end: float, nodes: list[float]) -> list[float]:
    r"""Weights $\int_{start}^{end} \cos\theta\,L_j(\theta)\,d\theta$ of Lagrange's polynomials on one or two angles."""
    whole = math.sin(end) - math.sin(start)
    if len(nodes) == 1:
        return [whole]
    moment = end * math.sin(end) + math.cos(end) - start * math.sin(start) - math.cos(start)
    first = (moment - nodes[1] * whole) / (nodes[0] - nodes[1])
    return [first, whole - first]


def _moments(h: float, count: int) -> list[float]:
    r"""$\int_0^1 h e^{-h(1-v)} v^n\,dv$ for n = 0, …, count - 1: by recursion, down from a series if h is small."""
    if abs(h) > 0.7:
        moments = [-math.expm1(-h)]
        for n in range(1, count):
            moments.append(1 - n / h * moments[-1])
        return moments
    term = last = h / count
    for k in range(1, 20):
        term *= -h / (count + k)
        if last + term == last:
            break
        last += term
    moments = [last]
    for n in range(count - 1, 0, -1):
        moments.append((1 - moments[-1]) * h / n)
    return moments[::-1]
