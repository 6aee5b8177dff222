"""Hamiltonian Monte Carlo: leapfrog with a fresh momentum, accepted so that the law is exactly invariant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from scorefield.calculus import Generator, Score, expand, inner, rand_rows, randn_like
from scorefield.checks import check_choice, check_count, check_positive
from scorefield.samplers.chains import Info, single
from scorefield.samplers.metropolis import ADJUSTMENTS, Evaluated, evaluate, evaluate_start, metropolis
from scorefield.samplers.preconditioning import Preconditioner


@dataclass(frozen=True, eq=False)
class HMC:
    r"""Hamiltonian Monte Carlo with a fixed number of leapfrog steps of size $\epsilon$ under mass $P^{-1}$.

    A momentum $p \sim N(0, P^{-1})$ is drawn, L times

    $$ p \leftarrow p + \tfrac\epsilon2 s(x), \qquad x \leftarrow x + \epsilon P p, \qquad
       p \leftarrow p + \tfrac\epsilon2 s(x), $$

    and the end is accepted with probability $\min(1, e^a)$, $a = H(x, p) - H(x', p')$ with
    $H = -\log p(x) + \tfrac12 p^\top P p$. The energy error of a trajectory is $O(\epsilon^2)$. One leapfrog step is
    `MALA` with $h = \epsilon^2/2$.

    Args:
        step_size: $\epsilon > 0$; acceptance near 0.65 to 0.8 is best.
        steps: L >= 1, one score call each.
        preconditioner: P; see `Preconditioner`.
        jitter: in [0, 1): every chain and move takes its own step size, uniform in $\epsilon(1 \pm$ jitter$)$, so that
            no trajectory is a whole period of the target's.
        adjust: `"density"`, or `"line"` for bare scores; see `MALA`.
        nodes: of the quadrature along a line, >= 1.

    Source: Duane et al. 1987; Neal 2011 (arXiv:1206.1901).
    """

    target_acceptance: ClassVar[float] = 0.8

    step_size: float
    steps: int
    preconditioner: float | Tensor = 1.0
    jitter: float = 0.0
    adjust: str = "density"
    nodes: int = 4
    _metric: Preconditioner = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse step sizes and counts that are not > 0, and preconditioners that are not positive."""
        check_positive("step_size", self.step_size)
        check_count("steps", self.steps)
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must lie in [0, 1), got {self.jitter!r}")
        check_choice("adjust", self.adjust, ADJUSTMENTS)
        check_count("nodes", self.nodes)
        object.__setattr__(self, "_metric", Preconditioner(self.preconditioner))

    def step(self, target: Score, x: Tensor, *, generator: Generator = None) -> tuple[Tensor, Info]:
        """Move x (B, *D) once, or stay."""
        return single(self, target, x, generator)

    def start(self, target: Score, x: Tensor, *, generator: Generator = None) -> Evaluated:
        """The position with what is known there."""
        self._metric.check(x)
        return evaluate_start(target, x, self.adjust)

    def advance(self, target: Score, state: Evaluated, *, generator: Generator = None) -> tuple[Evaluated, Info]:
        """A trajectory, then accept or stay."""
        z = randn_like(state.x, generator)
        new, p = self.trajectory(target, state, self._metric.momentum(z), self._step_size(state.x, generator))
        log_ratio = (inner(z, z) - inner(p, self._metric.apply(p))).div_(2)
        return metropolis(target, state, new, log_ratio, self.adjust, self.nodes, generator)

    def trajectory(
        self, target: Score, state: Evaluated, p: Tensor, step_size: float | Tensor
    ) -> tuple[Evaluated, Tensor]:
        """L leapfrog steps from `state` with momentum p (B, *D): reversible, and it keeps volume."""
        x, p, half = state.x.clone(), p.clone(), step_size / 2
        _move(p, half, state.score)
        for _ in range(self.steps - 1):
            _move(p, step_size, target(_move(x, step_size, self._metric.apply(p))))
        new = evaluate(target, _move(x, step_size, self._metric.apply(p)), self.adjust)
        return new, _move(p, half, new.score)

    def _step_size(self, x: Tensor, generator: Generator) -> float | Tensor:
        if self.jitter == 0:
            return self.step_size
        return expand(self.step_size * (1 + self.jitter * (2 * rand_rows(x, generator) - 1)), x)


def _move(a: Tensor, step_size: float | Tensor, b: Tensor) -> Tensor:
    """Add step_size * b to a, in place and in one pass."""
    return a.addcmul_(step_size, b) if isinstance(step_size, Tensor) else a.add_(b, alpha=step_size)
