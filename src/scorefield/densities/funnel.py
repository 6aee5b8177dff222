"""Neal's funnel: a law whose scale changes by orders of magnitude, on which one step size is never right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.calculus import Generator, randn_like
from scorefield.checks import check_count, check_floating, check_positive, check_shape
from scorefield.densities.parameters import count


@dataclass(frozen=True)
class Funnel:
    r"""Neal's funnel in d dimensions: $v = x_1 \sim N(0, \tau^2)$ and $x_2, \dots, x_d \mid v \sim N(0, e^v)$.

    With r the sum of the squares of $x_2, \dots, x_d$,

    $$ s_1 = -\frac{v}{\tau^2} - \frac{d - 1}2 + \frac r2\,e^{-v}, \qquad s_i = -x_i\,e^{-v} . $$

    Args:
        dimension: d >= 2.
        width: $\tau > 0$, the standard deviation of v.
        dtype: the precision of the mathematics; float32 is faster for long chains.

    Source: Neal 2003 (doi:10.1214/aos/1056562461), section 8.
    """

    dimension: int = 10
    width: float = 3.0
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        """Refuse fewer than two dimensions and a width that is not > 0."""
        check_count("dimension", self.dimension, least=2)
        check_positive("width", self.width)

    def log_density(self, x: Tensor) -> Tensor:
        r"""$\log p(x)$, shape (B,)."""
        return self.with_log_density(x)[1]

    def score(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$, shape (B, d)."""
        return self._terms(x)[0].to(x.dtype)

    def with_log_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The score (B, d) and the log-density (B,), from the same terms."""
        s, v, squares = self._terms(x)
        constant = self.dimension / 2 * math.log(2 * math.pi) + math.log(self.width)
        log_density = v * (v / (-2 * self.width**2) - (self.dimension - 1) / 2) - constant
        return s.to(x.dtype), torch.add(log_density, squares, alpha=-0.5)[:, 0].to(x.dtype)

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        """Samples (n, d), float64: first v, then the others."""
        z = randn_like(torch.empty(count(shape), self.dimension, dtype=torch.float64), generator)
        v = self.width * z[:, :1]
        return torch.cat([v, (v / 2).exp() * z[:, 1:]], 1)

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""The score (B, d), v and $r e^{-v}$, (B, 1); in few operations, which is what few chains pay for."""
        if x.shape[1:] != (self.dimension,) or x.dtype != self.dtype:
            check_floating("x", x)
            check_shape("x", x, (len(x), self.dimension), f"one point of {self.dimension} coordinates per row")
        x = x.to(self.dtype)
        v, rest = x[:, :1], x[:, 1:]
        pull = rest * v.neg().exp_()
        squares = (rest * pull).sum(1, keepdim=True)
        first = torch.rsub(v, -(self.dimension - 1) / 2, alpha=1 / self.width**2).add_(squares, alpha=0.5)
        return torch.cat([first, -pull], 1), v, squares
