r"""Objectives that need the score alone: explicit (where the truth is known), implicit and sliced score matching.

All three equal $\tfrac12\,\mathbb E\,\|s(x) - \nabla\log p(x)\|^2$ up to a constant in s, when $p\,s \to 0$ at the
boundary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scorefield.calculus import Generator, Score, divergence, inner, rademacher_like, vector_jacobian
from scorefield.checks import check_count, check_floating, check_score, check_shape


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
        ValueError: `target` or the score has another shape than `x`.

    Source: Hyvärinen 2005, equation 2.
    """
    check_floating("x", x)
    check_shape("target", target, tuple(x.shape), "the shape of x")
    s = score(x)
    check_score(s, x)
    error = s - target
    return inner(error, error) / 2


def implicit(score: Score, x: Tensor, *, method: str = "exact", probes: int = 1, generator: Generator = None) -> Tensor:
    r"""Implicit score matching: the objective without the unknown truth, by integration by parts.

    $$ \ell(x) = \tfrac12 \|s(x)\|^2 + \operatorname{tr} \nabla_x s(x) $$

    Args:
        score: differentiable field, (B, *D) -> (B, *D).
        x: data, shape (B, *D), floating point.
        method: how the trace is computed, `"exact"` or `"hutchinson"` (see `calculus.divergence`).
        probes: number of probes of the estimate.
        generator: source of the probes; the global one when None.

    Returns:
        loss per sample, shape (B,); may be negative.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: an unknown method, or a score of another shape than `x`.

    Source: Hyvärinen 2005, theorem 1.
    """
    s, trace = divergence(score, x, method=method, probes=probes, generator=generator)
    return inner(s, s) / 2 + trace


def sliced(
    score: Score,
    x: Tensor,
    *,
    probes: int = 1,
    variance_reduced: bool = True,
    generator: Generator = None,
) -> Tensor:
    r"""Sliced score matching, with Rademacher probes $v$ ($\mathbb E[vv^\top] = I$).

    $$ \ell(x) = v^\top \nabla_x s(x)\, v + \tfrac12 \|s(x)\|^2
       \qquad\text{or plain:}\qquad v^\top \nabla_x s(x)\, v + \tfrac12 (v^\top s(x))^2 $$

    Equals `implicit` in expectation over v, for one backward pass instead of D.

    Args:
        score: differentiable field, (B, *D) -> (B, *D).
        x: data, shape (B, *D), floating point.
        probes: number of probes per sample, averaged.
        variance_reduced: the first form; False for the plain one.
        generator: source of the probes; the global one when None.

    Returns:
        loss per sample, shape (B,); may be negative.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: no probe, or a score of another shape than `x`.
        RuntimeError: the score returned a tensor without a graph.

    Source: Song et al. 2019 (arXiv:1905.07088), equations 7 and 8.
    """
    check_floating("x", x)
    check_count("probes", probes)
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        s = score(x)
        check_score(s, x)
        loss = inner(s, s) / 2 if variance_reduced else torch.zeros_like(inner(s, s))
        for _ in range(probes):
            v = rademacher_like(x, generator)
            loss = loss + inner(vector_jacobian(s, x, v), v) / probes
            loss = loss if variance_reduced else loss + inner(v, s) ** 2 / (2 * probes)
    return loss
