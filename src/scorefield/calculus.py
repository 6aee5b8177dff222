r"""Derivatives of scores, inner products over a sample's axes, and seeded noise.

A **score** is a function $s(x) = \nabla_x \log p(x)$, (B, *D) -> (B, *D). Everything in this room works on any
trailing shape `*D`: sums over a sample are `inner`, coefficients per sample are stretched by `expand`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scorefield.checks import check_choice, check_count, check_floating, check_rows, check_score

Score = Callable[[Tensor], Tensor]
NoisyScore = Callable[[Tensor, Tensor], Tensor]
LogDensity = Callable[[Tensor], Tensor]


def inner(a: Tensor, b: Tensor) -> Tensor:
    r"""Inner product over each sample's own axes: $\langle a, b \rangle$, shape (B,)."""
    return (a * b).flatten(1).sum(1)


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """View a coefficient (B,) or () so that it multiplies `x` (B, *D) sample by sample, in the dtype of `x`."""
    if coefficient.ndim == 0:
        return coefficient.to(x.dtype)
    return coefficient.to(x).reshape(-1, *(1,) * (x.ndim - 1))


class ScoreOf:
    """The score of a log-density by automatic differentiation; carries `.log_density`."""

    def __init__(self, log_density: LogDensity) -> None:
        self.log_density = log_density

    def __call__(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$, differentiable again in x and in the parameters."""

        def total(at: Tensor) -> Tensor:
            value = self.log_density(at)
            check_rows("log_density(x)", value, at)
            return value.sum()

        return torch.func.grad(total)(x)


def score_of(log_density: LogDensity) -> ScoreOf:
    r"""Turn a log-density into its score $s(x) = \nabla_x \log p(x)$.

    Args:
        log_density: (B, *D) -> (B,), known up to a constant, differentiable.

    Returns:
        a score (B, *D) -> (B, *D) that carries `.log_density`.
    """
    return ScoreOf(log_density)


def divergence(
    score: Score,
    x: Tensor,
    *,
    method: str = "exact",
    probes: int = 1,
    generator: Generator = None,
) -> tuple[Tensor, Tensor]:
    r"""A score and its divergence $\operatorname{tr} \nabla_x s(x)$, differentiable in the score's parameters.

    * `"exact"`: one forward-mode derivative $\partial_j s$ per dimension, all batched in one call: D times the work.
    * `"hutchinson"`: $\frac1m \sum_k v_k^\top \nabla_x s\, v_k$ with Rademacher probes (Hutchinson 1989): unbiased.

    A score that knows its own divergence (`with_divergence(x) -> (s, div)`) is asked for it when `method="exact"`.

    Args:
        score: differentiable field, (B, *D) -> (B, *D).
        x: points, shape (B, *D), floating point.
        method: `"exact"` or `"hutchinson"`.
        probes: number of probes of the estimate, >= 1.
        generator: source of the probes; the global one when None.

    Returns:
        the score (B, *D) and its divergence (B,).

    Raises:
        ValueError: an unknown method, no probe, or a score that returns another shape.
        TypeError: `x` is not floating point.
    """
    check_floating("x", x)
    check_choice("method", method, ("exact", "hutchinson"))
    check_count("probes", probes)
    own = getattr(score, "with_divergence", None)
    if method == "exact" and own is not None:
        return own(x)
    if method == "exact":
        return _exact_divergence(score, x)
    at = x if x.requires_grad else x.detach().requires_grad_()
    with torch.enable_grad():
        s = score(at)
        check_score(s, x)
        estimate = x.new_zeros(len(x))
        for _ in range(probes):
            v = rademacher_like(x, generator)
            estimate = estimate + inner(vector_jacobian(s, at, v), v) / probes
    return s, estimate


def _exact_divergence(score: Score, x: Tensor) -> tuple[Tensor, Tensor]:
    """Forward-mode derivatives along every basis vector, batched by vmap over the basis."""
    x = x.contiguous()  # an expanded view cannot carry a tangent
    basis = torch.eye(x.shape[1:].numel(), dtype=x.dtype, device=x.device).reshape(-1, 1, *x.shape[1:])

    def directional(e: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.func.jvp(score, (x,), (e.expand_as(x),))
        check_score(out[0], x)
        return out[0], inner(out[1], e.expand_as(x))

    s, diagonal = torch.func.vmap(directional, randomness="error")(basis)
    return s[0], diagonal.sum(0)


def vector_jacobian(s: Tensor, x: Tensor, v: Tensor) -> Tensor:
    r"""$v^\top \nabla_x s$ with a graph; zero where `s` does not depend on `x`.

    Raises:
        RuntimeError: `s` carries no graph, because the score detached it or ran under `no_grad`.
    """
    if not s.requires_grad:
        raise RuntimeError("the score returned a tensor without a graph; it must not detach or run under no_grad")
    (vjp,) = torch.autograd.grad(inner(v, s).sum(), x, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) if vjp is None else vjp


class Draws(Protocol):
    """What draws noise in place of a `torch.Generator`: one row per sample."""

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers like `x` (B, *D)."""
        ...

    def uniform(self, x: Tensor) -> Tensor:
        """One uniform number in [0, 1) per sample of `x`, (B,), float64."""
        ...


class PerSample:
    """One stream of noise per sample, keyed by (seed, index): sample i has the same noise in any batch.

    The n-th draw of sample `i` is a function of (seed, i, n) alone (Philox, Salmon et al. 2011), so samples do not
    change with the batch size or the number of devices. Stateful, like a generator.

    Args:
        seed: an integer >= 0.
        indices: which samples the batch holds, one integer >= 0 per row.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        check_count("seed", seed, least=0)
        for name, value in (("seed", seed), *(("index", int(i)) for i in indices)):
            if not 0 <= value < 2**64:
                raise ValueError(f"{name} must lie in [0, 2**64), got {value}")
        keys = [np.array([seed, int(i)], dtype=np.uint64) for i in indices]
        self._streams = [np.random.Generator(np.random.Philox(key=key)) for key in keys]

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers like `x`, one row from each sample's stream."""
        self._check(x)
        rows = np.empty((len(x), x[0].numel()))
        for row, stream in zip(rows, self._streams, strict=True):
            stream.standard_normal(out=row)
        return torch.from_numpy(rows).reshape(x.shape).to(x)

    def uniform(self, x: Tensor) -> Tensor:
        """One uniform number in [0, 1) from each sample's stream, float64."""
        self._check(x)
        return torch.tensor([stream.random() for stream in self._streams], dtype=torch.float64, device=x.device)

    def _check(self, x: Tensor) -> None:
        if len(x) != len(self._streams):
            raise ValueError(f"a batch of {len(x)} samples needs {len(x)} indices, got {len(self._streams)}")


class Share:
    """Rows `part` of the noise of a larger batch: what one process of several draws.

    Every process draws the noise of the whole batch and keeps its own rows, so that one process and many see the
    same numbers.
    """

    def __init__(self, generator: torch.Generator, total: int, part: slice) -> None:
        self._generator, self._total, self._part = generator, total, part

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers like `x`: this share of the whole batch's."""
        whole = x.new_empty(1).expand(self._total, *x.shape[1:])
        return randn_like(whole, self._generator)[self._part]

    def uniform(self, x: Tensor) -> Tensor:
        """One uniform number in [0, 1) per sample: this share of the whole batch's, float64."""
        return rand_rows(x.new_empty(self._total, 1), self._generator)[self._part]


Generator = torch.Generator | Draws | None


def randn_like(x: Tensor, generator: Generator = None) -> Tensor:
    """Standard normal noise with the shape, dtype and device of `x`."""
    if generator is None or isinstance(generator, torch.Generator):
        device = x.device if generator is None else generator.device
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)
    return generator.normal(x)


def rand_rows(x: Tensor, generator: Generator = None) -> Tensor:
    """One uniform number in [0, 1) per sample of `x`, shape (B,), float64."""
    if generator is None or isinstance(generator, torch.Generator):
        device = x.device if generator is None else generator.device
        return torch.rand(len(x), generator=generator, dtype=torch.float64, device=device).to(x.device)
    return generator.uniform(x)


def rademacher_like(x: Tensor, generator: Generator = None) -> Tensor:
    """Independent signs, -1 or +1 with probability one half, like `x`."""
    return torch.where(randn_like(x, generator) < 0, -1.0, 1.0).to(x)
