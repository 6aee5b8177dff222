r"""Sliced score matching: the trace of the implicit objective seen along random directions v, $\mathbb E[vv^\top] = I$.

$$ v^\top \nabla_x s(x)\, v + \tfrac12 (v^\top s(x))^2 $$

by one backward pass per direction, or by finite differences along it, which differentiate nothing in x.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.calculus import Generator, LogDensity, Score, check_smooth, inner, probe_like, quadratic_forms
from scorefield.checks import check_count, check_floating, check_positive, check_rows, check_score


def sliced(
    score: Score,
    x: Tensor,
    *,
    probes: int = 1,
    law: str = "rademacher",
    variance_reduced: bool = True,
    chunk: int | None = None,
    generator: Generator = None,
) -> Tensor:
    r"""Sliced score matching with random probes $v$, $\mathbb E[vv^\top] = I$.

    $$ \ell(x) = v^\top \nabla_x s(x)\, v + \tfrac12 \|s(x)\|^2
       \qquad\text{or plain:}\qquad v^\top \nabla_x s(x)\, v + \tfrac12 (v^\top s(x))^2 $$

    Equals `implicit` in expectation over v, for one backward pass per probe instead of D; the probes share the graph
    of one forward pass.

    Args:
        score: differentiable field, (B, *D) -> (B, *D), with smooth units.
        x: data, shape (B, *D), floating point.
        probes: number of probes per sample, averaged.
        law: of the probes: `"rademacher"`, `"gaussian"` or `"sphere"` (see `calculus.probe_like`).
        variance_reduced: the first form; False for the plain one.
        chunk: how many probes are taken in one batch; None for all, 1 for scores whose derivative cannot be batched.
        generator: source of the probes; the global one when None.

    Returns:
        loss per sample, shape (B,); may be negative.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: no probe, an unknown law, a score of another shape than `x`, or one with kinks (ReLU; see
            `calculus.check_smooth`).
        RuntimeError: the score returned a tensor without a graph, or its derivative cannot be batched.

    Source: Song et al. 2019 (arXiv:1905.07088), equations 7 and 8.
    """
    half_square, trace = sliced_terms(
        score, x, probes=probes, law=law, variance_reduced=variance_reduced, chunk=chunk, generator=generator
    )
    return half_square + trace


def sliced_terms(
    score: Score,
    x: Tensor,
    *,
    probes: int = 1,
    law: str = "rademacher",
    variance_reduced: bool = True,
    chunk: int | None = None,
    generator: Generator = None,
) -> tuple[Tensor, Tensor]:
    r"""The two terms of `sliced`, whose sum it is: the half square and the probed trace, each (B,).

    Arguments and errors are those of `sliced`.
    """
    check_floating("x", x)
    check_count("probes", probes)
    check_count("chunk", probes if chunk is None else chunk)
    check_smooth(score)
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        s = score(x)
        check_score(s, x)
    v = torch.stack([probe_like(x, law, generator) for _ in range(probes)])
    trace = torch.cat([quadratic_forms(s, x, part) for part in v.split(chunk or probes)]).mean(0)
    s = s if torch.is_grad_enabled() else s.detach()
    square = inner(s, s) if variance_reduced else (v * s).flatten(2).sum(2).square().mean(0)
    return square / 2, trace


def finite_difference_sliced(
    score: Score,
    x: Tensor,
    *,
    step: float,
    probes: int = 1,
    law: str = "rademacher",
    variance_reduced: bool = False,
    generator: Generator = None,
) -> Tensor:
    r"""Sliced score matching by central differences along the probe: nothing is differentiated in x.

    With $s_\pm = s(x \pm h v)$ and h = step, plain or variance-reduced,

    $$ \ell(x) = \frac{v^\top (s_+ - s_-)}{2h} + \frac12\Bigl(v^\top \frac{s_+ + s_-}2\Bigr)^2
       \qquad\text{or}\qquad \frac{v^\top (s_+ - s_-)}{2h} + \frac12\Bigl\|\frac{s_+ + s_-}2\Bigr\|^2 . $$

    A score that carries `.log_density` is not called in the plain form: values of $L = \log p$ suffice,

    $$ \ell(x) = \frac{L(x + hv) - 2L(x) + L(x - hv)}{h^2} + \frac12\Bigl(\frac{L(x + hv) - L(x - hv)}{2h}\Bigr)^2 . $$

    Each differs from `sliced` with the same probes by $O(h^2)$. Rounding adds about $\epsilon\,\|s\|/h$, and
    $\epsilon\,|L|/h^2$ with log-densities: in float32 a step near 0.1, measured in the data's scale, serves both.

    Args:
        score: field, (B, *D) -> (B, *D); or one that carries `.log_density`, (B, *D) -> (B,).
        x: data, shape (B, *D), floating point.
        step: h > 0, the length of the step in units of v, whose own length is near $\sqrt D$.
        probes: number of probes per sample, averaged; two evaluations each.
        law: of the probes: `"rademacher"`, `"gaussian"` or `"sphere"`.
        variance_reduced: the form with the whole norm; it calls the score, also where there is a log-density.
        generator: source of the probes; the global one when None.

    Returns:
        loss per sample, shape (B,); may be negative.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: step <= 0, no probe, an unknown law, a score of another shape than `x`, or an energy with kinks
            whose score is called.

    Source: Pang et al. 2020 (arXiv:2007.03317), section 4.
    """
    check_floating("x", x)
    check_positive("step", step)
    check_count("probes", probes)
    log_density = None if variance_reduced else getattr(score, "log_density", None)
    probe = _by_scores(score, x, step, variance_reduced) if log_density is None else _by_values(log_density, x, step)
    return torch.stack([probe(probe_like(x, law, generator)) for _ in range(probes)]).mean(0)


def _by_scores(score: Score, x: Tensor, step: float, variance_reduced: bool) -> Callable[[Tensor], Tensor]:
    """The loss along one probe, from the score on both sides."""
    check_smooth(score, derivatives=0)

    def loss(v: Tensor) -> Tensor:
        after, before = score(x + step * v), score(x - step * v)
        check_score(after, x)
        check_score(before, x)
        middle = (after + before) / 2
        square = inner(middle, middle) if variance_reduced else inner(v, middle) ** 2
        return inner(v, after - before) / (2 * step) + square / 2

    return loss


def _by_values(log_density: LogDensity, x: Tensor, step: float) -> Callable[[Tensor], Tensor]:
    """The loss along one probe, from the log-density at x and on both sides."""

    def value(at: Tensor) -> Tensor:
        out = log_density(at)
        check_rows("log_density(x)", out, at)
        return out

    centre = value(x)

    def loss(v: Tensor) -> Tensor:
        after, before = value(x + step * v) - centre, centre - value(x - step * v)
        return (after - before) / step**2 + ((after + before) / (2 * step)) ** 2 / 2

    return loss
