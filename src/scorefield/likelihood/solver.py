"""Dormand and Prince's Runge–Kutta pair, order 5 with an error estimate of order 4, for a state and what it gathers.

The right-hand side takes (u, y) and returns (dy/du, dq/du): y decides where the flow goes, q only adds up along it.
Steps are taken for the whole batch; a step is accepted when no sample's error is beyond the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Field = Callable[[float, Tensor], tuple[Tensor, Tensor]]

# Dormand & Prince 1980, the table of RK5(4)7M: nodes, rows, and the weights of order 5 minus those of order 4
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_ROWS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_FIFTH = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

MOST_STEPS = 10_000


class State:
    """Where the flow is: u, y (B, *D), what was gathered q (B, K), and the slopes there (they serve the next step)."""

    def __init__(self, field: Field, u: float, y: Tensor, q: Tensor, slopes: tuple[Tensor, Tensor]) -> None:
        self.field, self.u, self.y, self.q, self.slopes = field, u, y, q, slopes

    def step(self, h: float) -> tuple[State, Tensor, Tensor]:
        """The state at u + h, and the estimated errors of y and q."""
        slopes = [self.slopes]
        for node, row in zip(_NODES, _ROWS, strict=True):
            slopes.append(self.field(self.u + node * h, self.y + h * _combine(row, slopes, 0)))
        y, q = self.y + h * _combine(_FIFTH, slopes, 0), self.q + h * _combine(_FIFTH, slopes, 1)
        slopes.append(self.field(self.u + h, y))
        after = State(self.field, self.u + h, y, q, slopes[-1])
        return after, h * _combine(_ERROR, slopes, 0), h * _combine(_ERROR, slopes, 1)


def start(field: Field, u: float, y: Tensor) -> State:
    """The state at u, with nothing gathered yet."""
    slopes = field(u, y)
    return State(field, u, y, torch.zeros_like(slopes[1]), slopes)


def adaptive(state: State, end: float, *, rtol: float, atol: float) -> tuple[State, list[float]]:
    """Integrate to `end` with steps chosen by the error; the state there and the grid that was accepted.

    A sample's error is the root mean square of err / (atol + rtol |y|) over its own axes for y, and err / (atol + rtol
    |q|) for what it gathers; the worst finite sample decides.

    Raises:
        RuntimeError: the step shrinks to nothing, or 10,000 steps do not reach the end.
    """
    grid, h = [state.u], (end - state.u) / 16
    while len(grid) < MOST_STEPS:
        last = abs(h) >= abs(end - state.u) * (1 - 1e-12)
        h = end - state.u if last else h
        after, e_y, e_q = state.step(h)
        size = torch.maximum(_size(e_y, state.y, after.y, rtol, atol), _size(e_q, state.q, after.q, rtol, atol))
        worst = size[size.isfinite()].max().item() if bool(size.isfinite().any()) else 0.0
        if worst <= 1:
            state = after
            grid.append(state.u)
            if last:
                return state, grid
        elif abs(h) < 1e-10 * abs(end - grid[0]):
            break
        h *= min(5.0, max(0.2, 0.9 * worst**-0.2)) if worst > 0 else 5.0
    raise RuntimeError(
        f"the probability flow needs steps that are too small at log(sigma/alpha) = {state.u:.3f}; the score may be "
        f"rough there: take a larger rtol (now {rtol:g}), or give steps"
    )


def along(state: State, grid: Sequence[float]) -> State:
    """Integrate along a given grid, whose first point is where the state is."""
    for u in grid[1:]:
        state, _, _ = state.step(u - state.u)
    return state


def halved(grid: Sequence[float]) -> list[float]:
    """The grid with a point added in the middle of each step."""
    return [u for a, b in zip(grid, grid[1:], strict=False) for u in (a, (a + b) / 2)] + [grid[-1]]


def _combine(row: Sequence[float], slopes: list[tuple[Tensor, Tensor]], part: int) -> Tensor:
    total = row[0] * slopes[0][part]
    for weight, slope in zip(row[1:], slopes[1:], strict=False):
        if weight:
            total = total.add_(slope[part], alpha=weight)
    return total


def _size(error: Tensor, before: Tensor, after: Tensor, rtol: float, atol: float) -> Tensor:
    scale = atol + rtol * torch.maximum(before.abs(), after.abs())
    return (error / scale).flatten(1).norm(dim=1) / math.sqrt(error[0].numel())
