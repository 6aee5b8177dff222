r"""Objectives of the data's own law that need the score alone: explicit (where the truth is known) and implicit.

Both equal $\tfrac12\,\mathbb E\,\|s(x) - \nabla\log p(x)\|^2$ up to a constant in s, when $p\,s \to 0$ at the
boundary.
"""

from __future__ import annotations

from torch import Tensor

from scorefield.calculus import Generator, Score, check_smooth, divergence, inner
from scorefield.checks import check_floating, check_score, check_shape


def explicit(score: Score, x: Tensor, target: Tensor) -> Tensor:
    r"""Explicit score matching, for data whose true score is known.

    $$ \ell(x) = \tfrac12 \|s(x) - \nabla\log p(x)\|^2 $$

    Args:
        score: field, (B, *D) -> (B, *D).
        x: data, shape (B, *D), floating point.
        target: the true score at x, (B, *D).

    Returns:
        loss per sample, shape (B,); half the Fisher divergence in expectation.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: `target` or the score has another shape than `x`, or an energy has kinks (see
            `calculus.check_smooth`).

    Source: Hyvärinen 2005, equation 2.
    """
    check_floating("x", x)
    check_shape("target", target, tuple(x.shape), "the shape of x")
    check_smooth(score, derivatives=0)
    s = score(x)
    check_score(s, x)
    error = s - target
    return inner(error, error) / 2


def implicit(
    score: Score,
    x: Tensor,
    *,
    method: str = "exact",
    probes: int = 1,
    law: str = "rademacher",
    chunk: int | None = None,
    generator: Generator = None,
) -> Tensor:
    r"""Implicit score matching: the objective without the unknown truth, by integration by parts.

    $$ \ell(x) = \tfrac12 \|s(x)\|^2 + \operatorname{tr} \nabla_x s(x) $$

    Args:
        score: differentiable field, (B, *D) -> (B, *D), with smooth units.
        x: data, shape (B, *D), floating point.
        method: how the trace is computed, `"exact"`, `"hutchinson"` or `"hutch++"` (see `calculus.divergence`).
        probes: number of probes of an estimate.
        law: of the probes: `"rademacher"`, `"gaussian"` or `"sphere"`.
        chunk: how many derivatives are carried at once; None leaves it to `divergence`.
        generator: source of the probes; the global one when None.

    Returns:
        loss per sample, shape (B,); may be negative.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: an unknown method or law, no probe, a score of another shape than `x`, or one with kinks (ReLU;
            see `calculus.check_smooth`).
        RuntimeError: the score's graph does not lead to x.

    Source: Hyvärinen 2005, theorem 1.
    """
    half_square, trace = implicit_terms(
        score, x, method=method, probes=probes, law=law, chunk=chunk, generator=generator
    )
    return half_square + trace


def implicit_terms(
    score: Score,
    x: Tensor,
    *,
    method: str = "exact",
    probes: int = 1,
    law: str = "rademacher",
    chunk: int | None = None,
    generator: Generator = None,
) -> tuple[Tensor, Tensor]:
    r"""The two terms of `implicit`, whose sum it is: $\tfrac12\|s\|^2$ and $\operatorname{tr}\nabla_x s$, each (B,).

    Arguments and errors are those of `implicit`. Training that fails shows here first: the square grows, and the trace
    falls to pay for it.
    """
    check_smooth(score)
    s, trace = divergence(score, x, method=method, probes=probes, law=law, chunk=chunk, generator=generator)
    return inner(s, s) / 2, trace
