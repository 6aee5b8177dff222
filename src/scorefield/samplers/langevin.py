"""Unadjusted moves along a score: `Ascent` to the modes and `Langevin` around them. The loop is `chains.chain`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scorefield.calculus import Generator, Score, randn_like
from scorefield.checks import check_positive
from scorefield.samplers.chains import Info, Kernel, chain, gather, single
from scorefield.samplers.preconditioning import Preconditioner
from scorefield.samplers.samples import Samples
from scorefield.samplers.targets import Counted

__all__ = ["Ascent", "Counted", "Info", "Kernel", "Langevin", "Samples", "chain", "gather"]


@dataclass(frozen=True, eq=False)
class Ascent:
    r"""Gradient ascent to a mode: $x' = x + h\,P s(x)$. Sampling as optimisation: it draws from no law.

    Args:
        step_size: h > 0.
        preconditioner: P; see `Preconditioner`.
    """

    step_size: float
    preconditioner: float | Tensor = 1.0
    _metric: Preconditioner = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a step size that is not > 0 and a preconditioner that is not positive."""
        check_positive("step_size", self.step_size)
        object.__setattr__(self, "_metric", Preconditioner(self.preconditioner))

    def step(self, target: Score, x: Tensor, *, generator: Generator = None) -> tuple[Tensor, Info]:
        """Move x (B, *D) once up the slope; nothing is drawn."""
        self._metric.check(x)
        return x + self.step_size * self._metric.apply(target(x)), {}


@dataclass
class Particles:
    """Where the samples of a Langevin chain are, and a buffer for their noise."""

    x: Tensor
    noise: Tensor


@dataclass(frozen=True, eq=False)
class Langevin:
    r"""Unadjusted Langevin: $x' = x + h\,P s(x) + \sqrt{2h}\,L z$ with $P = L L^\top$. Biased by $O(h)$.

    On N(0, 1) its stationary variance is exactly $1/(1 - h/2)$.

    Args:
        step_size: h > 0.
        preconditioner: P; see `Preconditioner`.

    Source: Parisi 1981; Roberts & Tweedie 1996. (Song & Ermon write h as $\epsilon/2$.)
    """

    step_size: float
    preconditioner: float | Tensor = 1.0
    _metric: Preconditioner = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a step size that is not > 0 and a preconditioner that is not positive."""
        check_positive("step_size", self.step_size)
        object.__setattr__(self, "_metric", Preconditioner(self.preconditioner))

    def step(self, target: Score, x: Tensor, *, generator: Generator = None) -> tuple[Tensor, Info]:
        """Move x (B, *D) once along the score, with noise."""
        return single(self, target, x, generator)

    def start(self, target: Score, x: Tensor, *, generator: Generator = None) -> Particles:
        """A state of its own, with room for the noise."""
        self._metric.check(x)
        x = x.detach().clone(memory_format=torch.contiguous_format)
        return Particles(x, torch.empty_like(x))

    def advance(self, target: Score, state: Particles, *, generator: Generator = None) -> tuple[Particles, Info]:
        """Move the state, in place."""
        h, z = self.step_size, refill(state.noise, state.x, generator)
        s = target(state.x)
        if s.stride() != state.x.stride():  # take on the layout of the score: sums of the same layout are fast
            state.x = torch.empty_like(s).copy_(state.x)
        state.x.add_(self._metric.apply(s), alpha=h).add_(self._metric.root(z), alpha=math.sqrt(2 * h))
        return state, {}


def refill(buffer: Tensor, x: Tensor, generator: Generator) -> Tensor:
    """The numbers of `randn_like(x, generator)`, in `buffer` where that saves an allocation."""
    if isinstance(generator, torch.Generator) and generator.device != x.device:
        return randn_like(x, generator)
    if generator is None or isinstance(generator, torch.Generator):
        return buffer.normal_(generator=generator)
    return generator.normal(x)
