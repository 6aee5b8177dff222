r"""Yardsticks for energies that compare the data with other points: no derivative in x enters the loss.

`noise_contrastive` asks a classifier to tell data from known noise, and learns the normalising constant with the
energy; `contrastive_divergence` follows the likelihood's gradient with the model's own samples, from a short chain.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from scorefield.calculus import Generator, LogDensity, Score, expand, rand_rows, score_of
from scorefield.checks import check_between, check_count, check_floating, check_rows, check_shape
from scorefield.densities import Density


def noise_contrastive(
    log_density: LogDensity, x: Tensor, *, noise: Density, ratio: int = 1, generator: Generator = None
) -> Tensor:
    r"""Noise-contrastive estimation: tell the data from $\nu$ times as many samples y of a known law q.

    $$ \ell(x) = -\log h(x) - \sum_{k=1}^{\nu} \log\bigl(1 - h(y_k)\bigr), \qquad
       h(u) = \frac{p(u)}{p(u) + \nu\, q(u)} $$

    p need not be normalised in advance: its constant is one of its parameters (the last bias of an MLP), and in
    expectation the loss is least where p is the data's density, normalised. There, where it also equals q, the loss
    is $\log(1+\nu) + \nu \log(1 + 1/\nu)$: 2 log 2 for $\nu = 1$.

    Args:
        log_density: $\log p$ with its constant, (B, *D) -> (B,).
        x: data, shape (B, *D), floating point.
        noise: the law q, with `log_density` and `sample`; > 0 wherever the data are.
        ratio: $\nu$, the samples of noise per sample of data, >= 1.
        generator: source of the noise; the global one when None.

    Returns:
        loss per sample, shape (B,), each with the noise paired with it; > 0.

    Raises:
        TypeError: `x` is not floating point, or `noise` is no density.
        ValueError: ratio < 1, or a log-density that is not (B,).

    Source: Gutmann & Hyvärinen 2010; 2012, with any number of noise samples.
    """
    check_floating("x", x)
    check_count("ratio", ratio)
    if not (hasattr(noise, "log_density") and hasattr(noise, "sample")):
        raise TypeError(f"noise must be a density with log_density and sample, got {type(noise).__name__}")

    def logit(u: Tensor) -> Tensor:
        model, known = log_density(u), noise.log_density(u)
        check_rows("log_density(x)", model, u)
        check_rows("noise.log_density(x)", known, u)
        return model - known - math.log(ratio)

    loss = -logsigmoid(logit(x))
    for _ in range(ratio):
        y = noise.sample((len(x),), generator=generator).to(x)
        check_shape("a sample of the noise", y, tuple(x.shape), "the shape of x")
        loss = loss - logsigmoid(-logit(y))
    return loss


class Move(Protocol):
    """What takes states to new ones with the model's law (nearly) unchanged: any kernel of the samplers."""

    def step(self, target: Score, x: Tensor, *, generator: Generator = None) -> tuple[Tensor, object]:
        """Move x (B, *D) once under the score `target`, which carries its `log_density`."""
        ...


def contrastive_divergence(
    log_density: LogDensity,
    x: Tensor,
    *,
    kernel: Move,
    steps: int = 1,
    start: Tensor | None = None,
    generator: Generator = None,
) -> Tensor:
    r"""Contrastive divergence: the data against the model's own samples from a short chain.

    $$ \ell(x) = \log p(x^-) - \log p(x), \qquad x^- = \text{the chain's state after } k \text{ steps, held constant} $$

    Only its gradient has a meaning: it is that of the negative log-likelihood where $x^-$ has the model's law, and
    from a short chain begun at the data nearly so, since the dependence of $x^-$ on the parameters is left out.

    Args:
        log_density: (B, *D) -> (B,), known up to a constant.
        x: data, shape (B, *D), floating point.
        kernel: the chain's move; anything with `step(score, x, generator=...)` such as a kernel of the samplers.
        steps: k >= 1.
        start: where the chain begins, (B, *D); None begins it at the data.
        generator: source of the chain's noise; the global one when None.

    Returns:
        loss per sample, shape (B,); may be negative.

    Raises:
        TypeError: `x` is not floating point, or `kernel` has no `step`.
        ValueError: steps < 1, a start of another shape than `x`, or a log-density that is not (B,).

    Source: Hinton 2002.
    """
    check_floating("x", x)
    start = x if start is None else start
    check_shape("start", start, tuple(x.shape), "the shape of x")
    end = _chain(log_density, start.to(x), kernel, steps, generator)
    return _contrast(log_density, x, end)


class Replay:
    r"""The states of persistent chains: begun at an initial law, drawn, moved by the caller, and put back.

    A draw of n takes one slot from each of n equal parts of the pool, so that no slot is drawn twice, and replaces
    each state by a fresh one with probability `refresh`. With `size` = n and `refresh` = 0 these are Tieleman's
    persistent chains, one per row of the batch; a large pool with 0.05 is Du & Mordatch's replay buffer.

    Args:
        initial: the law chains begin at, with `sample((n,), generator=...)`.
        size: the number of slots, >= the batch's.
        refresh: probability that a drawn state is begun anew, in [0, 1].
        generator: source of the first states; the global one when None.

    Attributes:
        states: the pool, (size, *D).

    Source: Tieleman 2008; Du & Mordatch 2019 (arXiv:1903.08689).
    """

    states: Tensor

    def __init__(self, initial: Density, size: int, *, refresh: float = 0.05, generator: Generator = None) -> None:
        check_count("size", size)
        check_between("refresh", refresh, 0.0, 1.0)
        if not hasattr(initial, "sample"):
            raise TypeError(f"initial must have a sample((n,), generator=...), got {type(initial).__name__}")
        self.initial, self.refresh = initial, refresh
        self.states = initial.sample((size,), generator=generator)

    def draw(self, n: int, *, generator: Generator = None) -> tuple[Tensor, Tensor]:
        """The slots (n,) drawn, all different, and their states (n, *D), some begun anew; the pool is unchanged."""
        check_count("n", n)
        size = len(self.states)
        if n > size:
            raise ValueError(f"n must be at most the pool's size {size}, got {n}; build the Replay with a larger size")
        rows = self.states.new_empty(n, 1)
        edges = torch.arange(n + 1, device=rows.device) * size // n
        slots = edges[:-1] + (rand_rows(rows, generator) * edges.diff()).long()
        anew = rand_rows(rows, generator) < self.refresh
        fresh = self.initial.sample((n,), generator=generator).to(self.states)
        held = self.states[slots]
        return slots, torch.where(expand(anew, held).bool(), fresh, held)

    def store(self, slots: Tensor, x: Tensor) -> None:
        """Put states (n, *D) back into their slots (n,)."""
        check_shape("x", x, (len(slots), *self.states.shape[1:]), "one state of the pool per slot")
        self.states[slots] = x.detach().to(self.states)

    def state(self) -> dict[str, Tensor]:
        """A copy of all that changes, for a checkpoint."""
        return {"states": self.states.clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up a pool saved by `state`."""
        check_shape("state['states']", state["states"], tuple(self.states.shape), "the pool of this Replay")
        self.states = state["states"].to(self.states).clone()


def persistent_contrastive_divergence(
    log_density: LogDensity,
    x: Tensor,
    *,
    kernel: Move,
    replay: Replay,
    steps: int = 1,
    generator: Generator = None,
) -> Tensor:
    r"""Contrastive divergence whose chains go on where they ended: drawn from `replay`, moved, and put back.

    The loss is that of `contrastive_divergence` with `start` drawn from the pool. It changes the pool.

    Args:
        log_density: (B, *D) -> (B,), known up to a constant.
        x: data, shape (B, *D), floating point.
        kernel: the chain's move; anything with `step(score, x, generator=...)` such as a kernel of the samplers.
        replay: the pool of chains, of at least B slots.
        steps: moves of each drawn chain, >= 1.
        generator: source of the slots and the chain's noise; the global one when None.

    Returns:
        loss per sample, shape (B,); may be negative.

    Raises:
        TypeError: `x` is not floating point, or `kernel` has no `step`.
        ValueError: steps < 1, a pool that is too small or of another shape, or a log-density that is not (B,).

    Source: Tieleman 2008; Du & Mordatch 2019 (arXiv:1903.08689), algorithm 1.
    """
    check_floating("x", x)
    slots, start = replay.draw(len(x), generator=generator)
    check_shape("a state of the pool", start, tuple(x.shape), "the shape of x")
    end = _chain(log_density, start.to(x), kernel, steps, generator)
    replay.store(slots, end)
    return _contrast(log_density, x, end)


@torch.no_grad()
def _chain(log_density: LogDensity, start: Tensor, kernel: Move, steps: int, generator: Generator) -> Tensor:
    """Where `steps` moves under the model's score lead from `start`, without a graph."""
    check_count("steps", steps)
    if not hasattr(kernel, "step"):
        raise TypeError(f"kernel must have a step(score, x, generator=...), got {type(kernel).__name__}")
    score, at = score_of(log_density), start.detach()
    for _ in range(steps):
        at, _ = kernel.step(score, at, generator=generator)
    return at.detach()


def _contrast(log_density: LogDensity, x: Tensor, end: Tensor) -> Tensor:
    """The log-density at the chain's end less that at the data, (B,)."""
    at_data, at_end = log_density(x), log_density(end)
    check_rows("log_density(x)", at_data, x)
    check_rows("log_density(x)", at_end, end)
    return at_end - at_data
