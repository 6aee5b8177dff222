"""What a theorem's check returns: its two sides, and how far apart they may be."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SIGMAS = 4.0  # a true claim fails by chance once in 16,000 seeds


class Claim(NamedTuple):
    r"""The two sides of a statement, computed in two ways.

    Attributes:
        left: the left-hand side.
        right: the right-hand side.
        standard_error: of left - right, where samples were drawn; 0 where nothing is random.
        tolerance: the numerical error allowed besides: of a quadrature, of finite steps, of a limit.
        relation: `"="`, or `"≤"` where the statement is an inequality.
    """

    left: float
    right: float
    standard_error: float = 0.0
    tolerance: float = 0.0
    relation: str = "="

    @property
    def allowed(self) -> float:
        """How far apart the sides may be: four standard errors and the tolerance."""
        return SIGMAS * self.standard_error + self.tolerance

    @property
    def holds(self) -> bool:
        """|left - right|, or left - right for an inequality, is at most `allowed`; never where a side is nan."""
        apart = self.left - self.right
        return (apart if self.relation == "≤" else abs(apart)) <= self.allowed


def paired(left: Tensor, right: Tensor, *, tolerance: float = 0.0) -> Claim:
    """The means of two columns of numbers (n,) about the same samples; the error is that of their difference."""
    error = (left - right).std().item() / math.sqrt(len(left))
    return Claim(left.mean().item(), right.mean().item(), error, tolerance)


def pointwise(left: Tensor, right: Tensor, *, tolerance: float = 1e-9) -> Claim:
    """Two tensors that agree entry by entry; the claim shows the first entry where they do not, else the first."""
    apart = ~((left - right).abs() <= tolerance).flatten()  # also catches nan
    shown = int(apart.int().argmax())
    return Claim(left.flatten()[shown].item(), right.flatten()[shown].item(), tolerance=tolerance)


def seed_from(generator: torch.Generator | None) -> int:
    """A seed drawn from `generator`, so that two draws can be made of the same noise."""
    return int(torch.randint(2**62, (), generator=generator))
