"""What the laws have in common: parameters checked and kept in float64, a sample's shape, a choice by weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scorefield.calculus import Generator, rand_rows
from scorefield.checks import check_count

Numbers = Tensor | np.ndarray | Sequence


def float64(name: str, value: Numbers) -> Tensor:
    """A float64 copy of numbers given as a tensor, an array or nested lists."""
    try:
        x = torch.as_tensor(value, dtype=torch.float64).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be numbers in one rectangular array, got {value!r}") from None
    if not x.isfinite().all():
        raise ValueError(f"{name} must be finite, got {value!r}")
    return x


def store(law: object, **values: object) -> None:
    """Set the fields of a frozen dataclass while it is being made."""
    for name, value in values.items():
        object.__setattr__(law, name, value)


def check_weights(weights: Tensor) -> Tensor:
    """Weights that sum to 1 to the last digit; refused where they are not close to it."""
    total = weights.sum().item()
    if not (weights > 0).all() or abs(total - 1) > 1e-6:
        raise ValueError(f"weights must be > 0 and sum to 1, got {weights.tolist()}; divide them by their sum")
    return weights / total


def count(shape: Sequence[int]) -> int:
    """The n of a sample shape (n,)."""
    if not isinstance(shape, Sequence) or len(shape) != 1:
        raise ValueError(f"shape must be (n,), got {shape!r}; for n samples write sample((n,))")
    check_count("n", shape[0], least=0)
    return shape[0]


def choose(weights: Tensor, x: Tensor, generator: Generator) -> Tensor:
    """One component per row of `x`, by weight, shape (B,)."""
    steps = weights.cumsum(0)[:-1]
    return torch.searchsorted(steps, rand_rows(x, generator), right=True)
