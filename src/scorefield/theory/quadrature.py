"""Integrals without randomness: on an interval, over a sphere and over a ball; and draws from a law on the line."""

from __future__ import annotations

import math
from functools import cache

import torch
from scipy.special import roots_legendre
from torch import Tensor

from scorefield.calculus import LogDensity, rand_rows


@cache
def _legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1]."""
    nodes, weights = roots_legendre(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def interval(low: float, high: float, *, panels: int = 64) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre with 16 nodes on each of `panels` equal parts: points (16 panels, 1) and weights, float64."""
    nodes, weights = _legendre(16)
    edges = torch.linspace(low, high, panels + 1, dtype=torch.float64)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    return (edges[:-1, None] + half * (1 + nodes)).reshape(-1, 1), (half * weights).flatten()


def sphere(n: int = 32) -> tuple[Tensor, Tensor]:
    r"""The unit sphere of $\mathbb R^3$: 2 n² directions and weights that sum to $4\pi$, float64.

    Gauss-Legendre in the cosine of the latitude, the trapezoidal rule in the longitude.
    """
    z, w = _legendre(n)
    angle = torch.arange(2 * n, dtype=torch.float64) * (math.pi / n)
    around = (1 - z**2).sqrt()[:, None]
    directions = torch.stack([around * angle.cos(), around * angle.sin(), z[:, None].expand(n, 2 * n)], 2)
    return directions.reshape(-1, 3), (w[:, None] * math.pi / n).expand(n, 2 * n).flatten()


def ball(radius: float, n: int = 32) -> tuple[Tensor, Tensor]:
    """The ball of a radius around the origin of three-dimensional space: n shells of `sphere(n)`, and weights."""
    directions, areas = sphere(n)
    nodes, weights = _legendre(n)
    r = radius * (1 + nodes) / 2
    points = r[:, None, None] * directions
    return points.reshape(-1, 3), ((radius / 2 * weights * r**2)[:, None] * areas).flatten()


def draw_on_line(log_density: LogDensity, n: int, *, reach: float, generator: torch.Generator | None = None) -> Tensor:
    """Samples (n, 1) of a law on [-reach, reach] known up to a constant, by inverting its distribution function."""
    x = torch.linspace(-reach, reach, 20_001, dtype=torch.float64)[:, None]
    logs = log_density(x)
    p = (logs - logs.max()).exp()
    below = torch.cat([p.new_zeros(1), ((p[1:] + p[:-1]) / 2).cumsum(0)])
    u = rand_rows(x.new_empty(n, 1), generator) * below[-1]
    right = torch.searchsorted(below, u).clamp(1, len(x) - 1)
    share = (u - below[right - 1]) / (below[right] - below[right - 1])
    return x[right - 1] + share[:, None] * (x[right] - x[right - 1])
