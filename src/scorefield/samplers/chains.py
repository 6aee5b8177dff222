"""`Kernel`, the protocol of moves that stay at one law, and `chain`, the loop that repeats them."""

from __future__ import annotations

import math
import warnings
from typing import Any, Protocol

import torch
from torch import Tensor

from scorefield.calculus import Generator, Score
from scorefield.checks import check_count, check_floating
from scorefield.samplers.samples import Samples
from scorefield.samplers.targets import Counted, Target

Info = dict[str, Tensor]


class Kernel(Protocol):
    """A move that leaves (nearly) one law invariant.

    `step` is the whole contract. A kernel that gains by carrying more than x from move to move (the last score, a
    momentum) also has `start(target, x, generator=...) -> state` and `advance(target, state, generator=...) -> (state,
    Info)`, where `state.x` is the position and a state may be overwritten; `chain` then uses these, and `step` is one
    of each.
    """

    def step(self, target: Score, x: Tensor, *, generator: Generator = None) -> tuple[Tensor, Info]:
        """Move x (B, *D) once; also what a person wants to see about the move."""
        ...


def single(kernel: Any, target: Score, x: Tensor, generator: Generator) -> tuple[Tensor, Info]:
    """One move of a kernel that has `start` and `advance`."""
    state, info = kernel.advance(target, kernel.start(target, x, generator=generator), generator=generator)
    return state.x, info


@torch.no_grad()
def chain(
    kernel: Kernel,
    target: Target,
    x: Tensor,
    *,
    steps: int,
    keep: int | None = None,
    totals: bool = False,
    generator: Generator = None,
) -> Samples:
    """Repeat a kernel on a batch of particles, each row of `x` a chain of its own.

    A sample whose state stops being finite is named by a warning and in `Samples.lost`; the others go on.

    Args:
        kernel: the move.
        target: score of the law to sample from, (B, *D) -> (B, *D), or a density.
        x: where the particles start, (B, *D), floating point and finite.
        steps: how many moves, >= 1.
        keep: keep every `keep`-th state in `path`; None keeps none.
        totals: sum the kernel's info over the steps instead of stacking it: memory that does not grow with `steps`.
        generator: source of the noise; the global one when None.

    Returns:
        the last state, the kept path (steps // keep, B, *D), the kernel's info and the number of score calls.

    Raises:
        ValueError: steps or keep < 1, or a start that is not finite.
        TypeError: `x` is not floating point; a kernel that needs a density is given a bare score.
        RuntimeError: the states of all samples stopped being finite.
    """
    check_floating("x", x)
    check_count("steps", steps)
    check_count("keep", 1 if keep is None else keep)
    watch = Watch(x)
    score, path, infos = Counted(target), [], []
    carrying: Any = kernel if hasattr(kernel, "advance") else None
    state = None if carrying is None else carrying.start(score, x, generator=generator)
    for k in range(1, steps + 1):
        if carrying is None:
            x, info = kernel.step(score, x, generator=generator)
        else:
            state, info = carrying.advance(score, state, generator=generator)
            x = state.x
        watch.look(x, k)
        if totals and infos:
            infos[0] = {name: infos[0][name] + info[name] for name in info}
        else:
            infos.append({name: value.to(x.dtype) for name, value in info.items()} if totals else info)
        if keep is not None and k % keep == 0:
            path.append(x.clone())
    kept = None if keep is None else torch.stack(path) if path else x.new_empty((0, *x.shape))
    info = infos[0] if totals and infos else gather(infos)
    return Samples(x.contiguous(), kept, info, score.calls, steps, watch.report())


def gather(infos: list[Info]) -> Info:
    """Stack what each step reported, entry by entry."""
    return {name: torch.stack([info[name] for info in infos]) for name in (infos[0] if infos else {})}


class Watch:
    """Looks for samples whose state stops being finite, and says which and when.

    Args:
        x: where the samples start; refused unless finite.
    """

    def __init__(self, x: Tensor) -> None:
        start = _rows_not_finite(x)
        if start.any():
            i = int(start.nonzero()[0])
            raise ValueError(f"x must be finite, but sample {i} of {len(x)} is not; drop or replace it")
        self.lost = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def look(self, x: Tensor, step: int) -> None:
        """Note the samples that are not finite for the first time at `step`."""
        if math.isfinite(x.sum().item()):  # the cheap look; the sum of finite numbers may still overflow
            return
        self.lost[_rows_not_finite(x) & (self.lost == 0)] = step
        if bool((self.lost > 0).all()) and len(x):
            raise RuntimeError(f"all {len(x)} samples became non-finite by step {step}; {_WAY_OUT}")

    def report(self) -> Tensor:
        """The steps (B,), 0 for samples that stayed finite; a warning names the others."""
        gone = self.lost.nonzero().flatten().tolist()
        if gone:
            named = ", ".join(f"sample {i} at step {int(self.lost[i])}" for i in gone[:5])
            more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
            message = f"{len(gone)} of {len(self.lost)} samples became non-finite: {named}{more}; {_WAY_OUT}"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
        return self.lost


_WAY_OUT = "use a smaller step_size, or check the score there"


def _rows_not_finite(x: Tensor) -> Tensor:
    return ~x.isfinite().flatten(1).all(1)
