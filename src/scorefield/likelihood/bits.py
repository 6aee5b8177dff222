r"""Bits per dimension of data on a grid, and the dequantisation they rest on.

A density of continuous data says nothing about data on a grid: a spike at each grid point has infinite density. With
noise u on the cell, $\log P(x) \ge \mathbb E_{q(u \mid x)}[\log p(x + u) - \log q(u \mid x)]$ (Theis et al. 2016;
Ho et al. 2019): uniform u gives $\log p + D \log \Delta$, a learned q a tighter bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.calculus import Generator
from scorefield.checks import check_count, check_floating, check_positive, check_shape


@dataclass(frozen=True)
class BitsPerDim:
    """Bits per dimension and what they rest on.

    Attributes:
        value: mean over the samples; an upper bound on the code length of the grid's data.
        standard_error: of the mean.
        per_sample: (B,).
        dequantisation: `"uniform"` or `"variational"`.
    """

    value: float
    standard_error: float
    per_sample: Tensor
    dequantisation: str


def dequantise(x: Tensor, bin_width: float, *, generator: Generator = None) -> Tensor:
    r"""Uniform dequantisation: $x + \Delta\,u$ with u uniform on $[-\tfrac12, \tfrac12)^D$.

    Args:
        x: data on a grid, (B, *D), floating point.
        bin_width: the grid's spacing $\Delta$ > 0, in the units of x.
        generator: source of the noise (a `torch.Generator`, or None for the global one).

    Raises:
        TypeError: `x` is not floating point, or a generator that draws normal numbers only.
    """
    check_floating("x", x)
    check_positive("bin_width", bin_width)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"dequantise needs a torch.Generator or None, got {type(generator).__name__}")
    u = torch.rand(x.shape, generator=generator, dtype=torch.float64, device=x.device)
    return x + (bin_width * (u - 0.5)).to(x)


def bits_per_dim(nats: Tensor, dimension: int, bin_width: float, *, log_q: Tensor | None = None) -> BitsPerDim:
    r"""Bits per dimension of dequantised data.

    $$ -\frac{\log p(x + u) + D \log \Delta}{D \log 2} \quad\text{(uniform)}, \qquad
       -\frac{\log p(x + u) - \log q(u \mid x)}{D \log 2} \quad\text{(variational)} $$

    Args:
        nats: $\log p$ of the dequantised data, (B,), in the units of the data.
        dimension: D >= 1.
        bin_width: the grid's spacing $\Delta$ > 0, in the same units.
        log_q: for variational dequantisation, the log-density of the noise that was added, in the same units, (B,).

    Returns:
        the mean with its standard error, named by its dequantisation.

    Raises:
        ValueError: dimension < 1, bin_width <= 0, or log_q of another shape.
    """
    check_count("dimension", dimension)
    check_positive("bin_width", bin_width)
    if log_q is not None:
        check_shape("log_q", log_q, tuple(nats.shape), "one number per sample")
    gain = torch.full_like(nats, dimension * math.log(bin_width)) if log_q is None else -log_q.to(nats)
    bits = -(nats + gain) / (dimension * math.log(2))
    error = bits.std().item() / math.sqrt(len(bits)) if len(bits) > 1 else math.nan
    return BitsPerDim(bits.mean().item(), error, bits, "uniform" if log_q is None else "variational")
