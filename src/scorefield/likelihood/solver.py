"""The pair of `samplers.pair`, with steps chosen by its error, for a state and what it gathers on its way.

The right-hand side takes (u, y) and returns (dy/du, dq/du): y decides where the flow goes, q only adds up along it.
Steps are taken for the whole batch; a step is accepted when no sample's error is beyond the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scorefield.samplers.pair import ERROR, NODES, ROWS, combine

Field = Callable[[float, Tensor], tuple[Tensor, Tensor]]

MOST_STEPS = 10_000


class State:
    """Where the flow is: u, y (B, *D), what was gathered q (B, K), and the slopes there (they serve the next step)."""

    def __init__(self, field: Field, u: float, y: Tensor, q: Tensor, slopes: tuple[Tensor, Tensor]) -> None:
        self.field, self.u, self.y, self.q, self.slopes = field, u, y, q, slopes

    def step(self, h: float) -> tuple[State, Tensor, Tensor]:
        """The state at u + h, and the estimated errors of y and q."""
        y = self.y
        slopes, gathered = [self.slopes[0]], [self.slopes[1]]
        for node, row in zip(NODES, ROWS, strict=True):
            y = self.y + combine(row, slopes, h)
            slope, rate = self.field(self.u + node * h, y)
            slopes.append(slope)
            gathered.append(rate)
        q = self.q + combine(ROWS[-1], gathered[:-1], h)
        after = State(self.field, self.u + h, y, q, (slopes[-1], gathered[-1]))
        return after, combine(ERROR, slopes, h), combine(ERROR, gathered, h)


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


def _size(error: Tensor, before: Tensor, after: Tensor, rtol: float, atol: float) -> Tensor:
    scale = atol + rtol * torch.maximum(before.abs(), after.abs())
    return (error / scale).flatten(1).norm(dim=1) / math.sqrt(error[0].numel())
