"""Dormand and Prince's Runge–Kutta pair of 1980, RK5(4)7M: order 5, with an error estimate of order 4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Where the stages stand, what each takes of those before it (the last is the state on arrival), and the weights of
# order 5 minus those of order 4.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
ROWS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def combine(weights: Sequence[float], slopes: Sequence[Tensor], h: float) -> Tensor:
    """The weighted sum of the slopes, times h."""
    total = (weights[0] * h) * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        total = torch.add(total, slope, alpha=weight * h) if weight else total
    return total
