"""Underdamped Langevin dynamics by the BAOAB splitting."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from scorefield.calculus import Generator, Score, randn_like
from scorefield.checks import check_positive
from scorefield.samplers.chains import Info, single
from scorefield.samplers.preconditioning import Preconditioner


@dataclass
class Phase:
    """A position, the velocity and the score there, each (B, *D)."""

    x: Tensor
    velocity: Tensor
    score: Tensor


@dataclass(frozen=True, eq=False)
class Underdamped:
    r"""Underdamped Langevin, $dx = v\,dt$, $dv = P s(x)\,dt - \gamma v\,dt + \sqrt{2\gamma}\,L\,dW$, unadjusted.

    BAOAB, with $c = e^{-\gamma h}$:

    $$ v \leftarrow v + \tfrac h2 P s(x), \quad x \leftarrow x + \tfrac h2 v, \quad
       v \leftarrow c\,v + \sqrt{1 - c^2}\,L z, \quad x \leftarrow x + \tfrac h2 v, \quad
       v \leftarrow v + \tfrac h2 P s(x) $$

    The bias is $O(h^2)$. On a Gaussian the positions have no bias at all, for h < 2 in units of its narrowest width;
    the velocities have the variance $1 - h^2/4$ on N(0, 1). `chain` carries the velocity from move to move; a single
    `step` draws a new one, which forgets the direction and is biased by $O(h^2)$ too.

    Args:
        step_size: h > 0.
        friction: $\gamma > 0$.
        preconditioner: P, the inverse of the mass; see `Preconditioner`.

    Source: Leimkuhler & Matthews 2013 (doi:10.1093/amrx/abs010).
    """

    step_size: float
    friction: float = 1.0
    preconditioner: float | Tensor = 1.0
    _metric: Preconditioner = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what is not > 0."""
        check_positive("step_size", self.step_size)
        check_positive("friction", self.friction)
        object.__setattr__(self, "_metric", Preconditioner(self.preconditioner))

    def step(self, target: Score, x: Tensor, *, generator: Generator = None) -> tuple[Tensor, Info]:
        """Move x (B, *D) once, from a velocity drawn anew."""
        return single(self, target, x, generator)

    def start(self, target: Score, x: Tensor, *, generator: Generator = None) -> Phase:
        """The position with a velocity drawn from N(0, P)."""
        self._metric.check(x)
        return Phase(x, self._metric.root(randn_like(x, generator)), target(x))

    def advance(self, target: Score, state: Phase, *, generator: Generator = None) -> tuple[Phase, Info]:
        """B, A, O, A, B; one score call."""
        h, c = self.step_size, math.exp(-self.friction * self.step_size)
        v = state.velocity + h / 2 * self._metric.apply(state.score)
        x = state.x + h / 2 * v
        v = c * v + math.sqrt(1 - c**2) * self._metric.root(randn_like(x, generator))
        x = x + h / 2 * v
        s = target(x)
        return Phase(x, v + h / 2 * self._metric.apply(s), s), {}
