"""Replica exchange: copies at higher temperatures cross the valleys and hand their states down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from scorefield.calculus import Generator, Score, rand_rows
from scorefield.checks import check_count
from scorefield.samplers.chains import Info, single
from scorefield.samplers.metropolis import Evaluated
from scorefield.samplers.preconditioning import Preconditioner
from scorefield.samplers.targets import with_density


@dataclass
class Replicas:
    """The state of every temperature, coldest first, and how many rounds of exchanges there were."""

    states: list[Any]
    rounds: int = 0

    @property
    def x(self) -> Tensor:
        """The samples at temperature 1, (B, *D)."""
        return self.states[0].x


@dataclass(frozen=True, eq=False)
class Tempered:
    r"""Replica exchange (parallel tempering) around a kernel that needs a density.

    Each chain has a copy at every temperature $T_i$, with the law $p^{1/T_i}$. In a move every copy makes `moves` moves
    of `kernel`, with P times $T_i$ for its preconditioner; then neighbours (i, i + 1), i even and odd in turn, exchange
    states with probability

    $$ \min\Bigl(1, \exp\bigl[(1/T_i - 1/T_{i+1})(\log p(x_{i+1}) - \log p(x_i))\bigr]\Bigr). $$

    The law of all copies together is exactly invariant; the chain shows the one at $T = 1$. `info["exchange"]` is the
    mean probability of the exchanges in the move, (B,); near 0 the temperatures are too far apart.

    Args:
        kernel: `MALA` or `HMC`.
        temperatures: increasing, the first 1.
        moves: of the kernel between exchanges, >= 1.

    Source: Swendsen & Wang 1986; Geyer 1991.
    """

    kernel: Any
    temperatures: tuple[float, ...]
    moves: int = 1
    _kernels: list[Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse temperatures that do not increase from 1, and kernels that need no density."""
        t = tuple(float(v) for v in self.temperatures)
        if len(t) < 2 or t[0] != 1 or any(not a < b for a, b in zip(t, t[1:], strict=False)):
            raise ValueError(f"temperatures must increase from 1, at least two of them, got {self.temperatures!r}")
        check_count("moves", self.moves)
        if getattr(self.kernel, "adjust", None) != "density":
            raise TypeError(
                f"kernel must be MALA or HMC with adjust='density', got {type(self.kernel).__name__}: exchanges need "
                "the log-density"
            )
        values = [Preconditioner(self.kernel.preconditioner).tempered(v) for v in t]
        object.__setattr__(self, "_kernels", [replace(self.kernel, preconditioner=p) for p in values])

    def step(self, target: Score, x: Tensor, *, generator: Generator = None) -> tuple[Tensor, Info]:
        """One move with every copy started at x: `chain` carries the copies, a single step does not."""
        return single(self, target, x, generator)

    def start(self, target: Score, x: Tensor, *, generator: Generator = None) -> Replicas:
        """All copies at x (B, *D)."""
        return Replicas([k.start(_Heated(target, t), x, generator=generator) for k, t in self._levels()])

    def advance(self, target: Score, state: Replicas, *, generator: Generator = None) -> tuple[Replicas, Info]:
        """Move every copy, then exchange neighbours."""
        states, info = list(state.states), Info()
        for i, (kernel, t) in reversed(list(enumerate(self._levels()))):
            for _ in range(self.moves):
                states[i], info = kernel.advance(_Heated(target, t), states[i], generator=generator)
        exchanged = []
        for i in range(state.rounds % 2 if len(states) > 2 else 0, len(states) - 1, 2):
            states[i], states[i + 1], p = _exchange(states[i], states[i + 1], self.temperatures[i : i + 2], generator)
            exchanged.append(p)
        return Replicas(states, state.rounds + 1), info | {"exchange": torch.stack(exchanged).mean(0)}

    def _levels(self) -> list[tuple[Any, float]]:
        return list(zip(self._kernels, self.temperatures, strict=True))


class _Heated:
    """A target at a temperature: its score and log-density divided by it."""

    def __init__(self, target: Score, temperature: float) -> None:
        self._target, self._temperature = target, temperature
        self.log_density: Callable[[Tensor], Tensor] = lambda x: self.with_log_density(x)[1]

    def __call__(self, x: Tensor) -> Tensor:
        return self._target(x) / self._temperature

    def with_log_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s, log_density = with_density(self._target, x)
        return s / self._temperature, log_density / self._temperature


def _exchange(
    cold: Evaluated, hot: Evaluated, temperatures: tuple[float, ...], generator: Generator
) -> tuple[Evaluated, Evaluated, Tensor]:
    """Two states after an offer to exchange, chain by chain, and its probability."""
    t, u = temperatures
    log_cold, log_hot = (torch.as_tensor(v.log_density) * b for v, b in ((cold, t), (hot, u)))
    probability = ((1 / t - 1 / u) * (log_hot - log_cold)).clamp(max=0).exp()
    swap = rand_rows(cold.x, generator) < probability
    rows = swap.reshape(-1, *(1,) * (cold.x.ndim - 1))
    down = Evaluated(
        torch.where(rows, hot.x, cold.x),
        torch.where(rows, hot.score * (u / t), cold.score),
        torch.where(swap, log_hot, log_cold) / t,
    )
    up = Evaluated(
        torch.where(rows, cold.x, hot.x),
        torch.where(rows, cold.score * (t / u), hot.score),
        torch.where(swap, log_cold, log_hot) / u,
    )
    return down, up, probability
