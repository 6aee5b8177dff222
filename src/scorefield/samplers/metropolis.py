"""Metropolis-adjusted Langevin, the acceptance step that exact kernels share, and its stand-in for bare scores."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from scipy.special import roots_legendre
from torch import Tensor

from scorefield.calculus import Generator, Score, expand, inner, rand_rows, randn_like
from scorefield.checks import check_choice, check_count, check_positive
from scorefield.samplers.chains import Info, single
from scorefield.samplers.preconditioning import Preconditioner
from scorefield.samplers.targets import with_density

ADJUSTMENTS = ("density", "line")


@dataclass(frozen=True, eq=False)
class MALA:
    r"""Metropolis-adjusted Langevin: a Langevin move, accepted so that the law is exactly invariant.

    With $x' = x + h\,P s(x) + \sqrt{2h}\,L z$ and $z' = -z - c\,g$, the noise of the way back, $c = \sqrt{h/2}$ and
    $g = L^\top(s(x) + s(x'))$, the move is accepted with probability $\min(1, e^a)$,

    $$ a = \log p(x') - \log p(x) + \tfrac12 |z|^2 - \tfrac12 |z'|^2
         = \log p(x') - \log p(x) - c\,g^\top(z + \tfrac c2 g) . $$

    `adjust="line"` takes a score without a density, such as a learned one: see `line_integral`. It is exact only for
    a gradient field; `info["loop"]` then reports how far the field is from one, see `circulation`.

    Args:
        step_size: h > 0; acceptance near 0.57 is best in many dimensions.
        preconditioner: P; see `Preconditioner`.
        adjust: `"density"`, or `"line"` for bare scores, at 4 `nodes` + 1 score calls a move.
        nodes: of the quadrature along a line, >= 1.

    Source: Roberts & Tweedie 1996; Roberts & Rosenthal 1998 (acceptance).
    """

    target_acceptance: ClassVar[float] = 0.574

    step_size: float
    preconditioner: float | Tensor = 1.0
    adjust: str = "density"
    nodes: int = 4
    _metric: Preconditioner = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse step sizes that are not > 0, unknown adjustments and preconditioners that are not positive."""
        check_positive("step_size", self.step_size)
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
        """Propose, then accept or stay."""
        x, s, h, z = state.x, state.score, self.step_size, randn_like(state.x, generator)
        proposed = torch.add(x, self._metric.apply(s), alpha=h).add_(self._metric.root(z), alpha=math.sqrt(2 * h))
        new = evaluate(target, proposed, self.adjust)
        c, g = math.sqrt(h / 2), self._metric.transposed_root(s + new.score)
        log_ratio = inner(g, torch.add(z, g, alpha=c / 2)).mul_(-c)
        return metropolis(target, state, new, log_ratio, self.adjust, self.nodes, generator)


@dataclass
class Evaluated:
    """A position (B, *D), the score there, and the log-density (B,) where a kernel uses one."""

    x: Tensor
    score: Tensor
    log_density: Tensor | None


def evaluate(target: Score, x: Tensor, adjust: str) -> Evaluated:
    """What `adjust` needs to know at x."""
    return Evaluated(x, *with_density(target, x)) if adjust == "density" else Evaluated(x, target(x), None)


def evaluate_start(target: Score, x: Tensor, adjust: str) -> Evaluated:
    """The same at a start, which must have a density > 0."""
    state = evaluate(target, x, adjust)
    if state.log_density is not None and not bool(state.log_density.isfinite().all()):
        i = int((~state.log_density.isfinite()).nonzero()[0])
        raise ValueError(
            f"log_density must be finite where a chain starts, but it is {state.log_density[i].item()} at sample {i}; "
            "start inside the support"
        )
    return state


def metropolis(
    target: Score, old: Evaluated, new: Evaluated, log_ratio: Tensor, adjust: str, nodes: int, generator: Generator
) -> tuple[Evaluated, Info]:
    r"""Accept each sample's move with probability $\min(1, e^a)$, a = `log_ratio` + $\log p(x') - \log p(x)$.

    What is not a number is refused. `info`: the acceptance probability, whether $a < -1000$ (a divergence), and the
    loop discrepancy of a line-adjusted move, each (B,).
    """
    info: Info = {}
    if old.log_density is None or new.log_density is None:
        log_ratio = log_ratio + line_integral(target, old.x, new.x, nodes=nodes)
        info["loop"] = circulation(target, old.x, new.x, nodes=nodes, generator=generator)
    else:
        log_ratio = log_ratio + (new.log_density - old.log_density)
    log_ratio = log_ratio.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    probability = log_ratio.clamp(max=0).exp_()
    accepted = rand_rows(old.x, generator) < probability
    info |= {"acceptance": probability, "divergent": log_ratio < -1000}
    chosen = accepted.reshape(-1, *(1,) * (old.x.ndim - 1))
    at, score = torch.where(chosen, new.x, old.x), torch.where(chosen, new.score, old.score)
    if old.log_density is None or new.log_density is None:
        return Evaluated(at, score, None), info
    return Evaluated(at, score, torch.where(accepted, new.log_density, old.log_density)), info


def line_integral(score: Score, x: Tensor, end: Tensor, *, nodes: int = 4) -> Tensor:
    r"""The work of a score along the segment from x to `end`, which is $\log p(x') - \log p(x)$ for a gradient field.

    $$ \int_0^1 s(x + u(x' - x))^\top (x' - x)\, du \approx \sum_i w_i\, s(x + u_i(x' - x))^\top (x' - x) $$

    Gauss-Legendre nodes lie symmetrically, so that the way back has exactly the opposite sign; the error vanishes
    where the score is a polynomial of degree up to 2 `nodes` - 1 along the segment.

    Args:
        score: (B, *D) -> (B, *D).
        x: where the segments begin, (B, *D).
        end: where they end, (B, *D).
        nodes: how many score calls, >= 1.

    Returns:
        one number per sample, (B,).
    """
    along, total = end - x, x.new_zeros(len(x))
    for u, w in _legendre(nodes):
        total = total + w * inner(score(x + u * along), along)
    return total


def circulation(score: Score, x: Tensor, end: Tensor, *, nodes: int = 4, generator: Generator = None) -> Tensor:
    r"""The absolute work of a score around a triangle, from x to `end` to a random third point and back, (B,).

    It is 0 for a gradient field, up to the quadrature. Otherwise it is what two ways to the same point disagree by in
    $\log p$, and an acceptance by `line_integral` is wrong by about as much. The third point is the middle of the
    segment moved by noise of half its length.

    Args:
        score: (B, *D) -> (B, *D).
        x: first corner, (B, *D).
        end: second corner, (B, *D).
        nodes: of the quadrature along each side.
        generator: source of the third corner; the global one when None.

    Returns:
        one number >= 0 per sample, (B,).
    """
    size = inner(end - x, end - x).sqrt() / (2 * math.sqrt(x[0].numel()) if len(x) else 1.0)
    corner = (x + end) / 2 + expand(size, x) * randn_like(x, generator)
    sides = ((x, end), (end, corner), (corner, x))
    return torch.stack([line_integral(score, a, b, nodes=nodes) for a, b in sides]).sum(0).abs()


@functools.cache
def _legendre(nodes: int) -> list[tuple[float, float]]:
    """Nodes in (0, 1) and their weights."""
    at, weights = roots_legendre(nodes)
    return [((1 + float(u)) / 2, float(w) / 2) for u, w in zip(at, weights, strict=True)]
