"""Kernels that stay at one law, and `chain`, the loop that repeats them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from scorefield.calculus import Generator, Score, randn_like
from scorefield.checks import check_count, check_floating, check_positive, check_score

Info = dict[str, Tensor]


class Kernel(Protocol):
    """A move that leaves (nearly) one law invariant."""

    def step(self, target: Score, x: Tensor, *, generator: Generator = None) -> tuple[Tensor, Info]:
        """Move x (B, *D) once; also what a person wants to see about the move."""
        ...


@dataclass(frozen=True)
class Samples:
    """What a driver returns.

    Attributes:
        x: the last state, (B, *D).
        path: states on the way, (K, B, *D), or None when they were not asked for.
        info: what the kernels reported, one entry per step.
        evaluations: how many times the score was called on the batch.
    """

    x: Tensor
    path: Tensor | None = None
    info: dict[str, Tensor] = field(default_factory=dict)
    evaluations: int = 0


class Counted:
    """A score that counts its calls and answers the first one only if it has the right shape and dtype."""

    def __init__(self, score: Callable[..., Tensor]) -> None:
        self.score, self.calls = score, 0
        if hasattr(score, "log_density"):
            self.log_density = getattr(score, "log_density")  # noqa: B009  (pyright knows functions have none)

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        """The score at x; counted."""
        s = self.score(x, *t)
        if self.calls == 0:
            check_score(s, x)
        self.calls += 1
        return s


@dataclass(frozen=True)
class Langevin:
    r"""Unadjusted Langevin: $x' = x + h\,s(x) + \sqrt{2h}\,z$. Biased by $O(h)$.

    On N(0, 1) its stationary variance is exactly $1/(1 - h/2)$.

    Args:
        step_size: h > 0.

    Source: Parisi 1981; Roberts & Tweedie 1996. (Song & Ermon write h as $\epsilon/2$.)
    """

    step_size: float

    def __post_init__(self) -> None:
        """Refuse a step size that is not > 0."""
        check_positive("step_size", self.step_size)

    def step(self, target: Score, x: Tensor, *, generator: Generator = None) -> tuple[Tensor, Info]:
        """Move x (B, *D) once along the score, with noise."""
        h, z = self.step_size, randn_like(x, generator)
        return x + h * target(x) + math.sqrt(2 * h) * z, {}


@torch.no_grad()
def chain(
    kernel: Kernel, target: Score, x: Tensor, *, steps: int, keep: int | None = None, generator: Generator = None
) -> Samples:
    """Repeat a kernel on a batch of particles.

    Args:
        kernel: the move.
        target: score of the law to sample from, (B, *D) -> (B, *D).
        x: where the particles start, (B, *D), floating point.
        steps: how many moves, >= 1.
        keep: keep every `keep`-th state in `path`; None keeps none.
        generator: source of the noise; the global one when None.

    Returns:
        the last state, the kept path (steps // keep, B, *D), the kernel's info and the number of score calls.

    Raises:
        ValueError: steps or keep < 1.
        TypeError: `x` is not floating point.
    """
    check_floating("x", x)
    check_count("steps", steps)
    check_count("keep", 1 if keep is None else keep)
    score, path, infos = Counted(target), [], []
    for k in range(1, steps + 1):
        x, info = kernel.step(score, x, generator=generator)
        infos.append(info)
        if keep is not None and k % keep == 0:
            path.append(x)
    kept = None if keep is None else torch.stack(path) if path else x.new_empty((0, *x.shape))
    return Samples(x, kept, gather(infos), score.calls)


def gather(infos: list[Info]) -> Info:
    """Stack what each step reported, entry by entry."""
    return {name: torch.stack([info[name] for info in infos]) for name in (infos[0] if infos else {})}
