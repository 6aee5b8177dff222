r"""Quadratic forms $v^\top \nabla_x s\, v$: the one thing that every trace, exact or estimated, is a sum of.

All are taken from one graph of the score, by backward passes batched over the directions. A sum of many can be
differentiated with no more than one chunk of them in memory, in the time of one that keeps them all: the gradient of
$\sum_b w_b \sum_k v_k^\top \nabla_x s(x_b)\, v_k$ in the parameters is found for $w = 1$ while the chunks pass by; a
mean over the batch then only scales it, and any other $w$ makes the chunks pass by again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from scorefield.calculus.scores import Score, check_constant
from scorefield.checks import check_score


def vector_jacobian(s: Tensor, x: Tensor, v: Tensor) -> Tensor:
    r"""$v^\top \nabla_x s$, for one `v` per sample or several; zero where `s` does not depend on `x`.

    Several are one backward pass, batched over them. The result has a graph where gradients are enabled; that of `s`
    is kept.

    Args:
        s: what a score returned at `x`, (B, *D), with its graph.
        x: the points, (B, *D), which require gradients.
        v: like `x`, or (m, B, *D).

    Returns:
        the products, shaped like `v`.

    Raises:
        RuntimeError: `s` carries no graph, because the score detached it or ran under `no_grad`; or its backward pass
            cannot be batched.
    """
    if not s.requires_grad:
        raise RuntimeError("the score returned a tensor without a graph; it must not detach or run under no_grad")
    several = v.ndim > x.ndim
    if several and len(v) == 1:
        return vector_jacobian(s, x, v[0])[None]
    how = {"retain_graph": True, "create_graph": torch.is_grad_enabled(), "allow_unused": True}
    try:
        (product,) = torch.autograd.grad(s, x, v, is_grads_batched=several, **how)
    except RuntimeError as error:
        if not several:
            raise
        raise RuntimeError(
            f"the derivatives of this score failed for {len(v)} directions in one batch: {error} Where it is the batch "
            "that fails, chunk=1 takes them one by one"
        ) from error
    return torch.zeros_like(v) if product is None else product


def quadratic_forms(s: Tensor, x: Tensor, v: Tensor) -> Tensor:
    r"""$v_k^\top \nabla_x s\, v_k$ for several directions per sample, in one batched backward pass.

    The directions share the graph of `s`; five of them cost two to three times the loss and gradient of one.

    Args:
        s: what a score returned at `x`, (B, *D), with its graph.
        x: the points, (B, *D), which require gradients.
        v: directions, (m, B, *D).

    Returns:
        the forms, (m, B), with a graph where gradients are enabled.

    Raises:
        RuntimeError: `s` carries no graph, or its backward pass cannot be batched.
    """
    return (vector_jacobian(s, x, v) * v).flatten(2).sum(2)


class Opened(NamedTuple):
    """A score evaluated once, with its graph: the score (B, *D), the points it was given, what its gradient is in.

    `inputs` is None where nothing wants a gradient, and `apart` says whether gradients in `inputs` add up.
    """

    s: Tensor
    x: Tensor
    inputs: list[Tensor] | None
    apart: bool


def opened(score: Score, x: Tensor) -> Opened:
    """Evaluate a score with a graph to `x`, and find every tensor that a gradient of its divergence can go to.

    Raises:
        ValueError, TypeError: the score returned another shape or dtype than that of `x`.
        RuntimeError: its value changes with `x`, but its graph does not lead there; or no graph can be made.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("a divergence needs a graph, which torch.inference_mode forbids; use torch.no_grad")
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        start = x if x.requires_grad else x.detach().requires_grad_()
        at = start.view_as(start)  # a node of our own, where the search below stops
        s = score(at)
        check_score(s, x)
    leaves, reached = _leaves(s.grad_fn, at.grad_fn)
    if not reached:
        check_constant(score, x, s)
        s = s if s.requires_grad else s + 0 * at
    behind = _leaves(x.grad_fn, None)[0] if x.grad_fn is not None else [x]
    apart = not any(leaf._backward_hooks or any(leaf is other for other in behind) for leaf in leaves)
    inputs = [at, *leaves] if x.requires_grad else leaves
    return Opened(s, at, inputs if wanted and inputs else None, apart)


def _leaves(start: Node | None, stop: Node | None) -> tuple[list[Tensor], bool]:
    """The leaf tensors from which `start` was computed, without looking beyond `stop`; and whether that was met."""
    leaves: list[Tensor] = []
    seen: set[Node | None] = set()
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node is not stop:
            leaves += [node.variable] if hasattr(node, "variable") else []  # pyright: ignore[reportAttributeAccessIssue]
            waiting += [following for following, _ in node.next_functions]
    return leaves, stop in seen


def summed_forms(
    opened: Opened, directions: Callable[[int, int], Tensor], count: int, chunk: int
) -> tuple[Tensor, Tensor]:
    r"""$\sum_k v_k^\top \nabla_x s\, v_k$ over `count` directions, `chunk` of them in memory at once.

    Args:
        opened: the score, evaluated.
        directions: (first, last) -> those directions, (last - first, B, *D).
        count: how many there are.
        chunk: how many are taken in one batch.

    Returns:
        the sum (B,), with a graph where one is wanted, and the single forms (count, B) without.
    """
    s, x, inputs, apart = opened
    parts = [(first, min(first + chunk, count)) for first in range(0, count, chunk)]

    def whole() -> Tensor:
        return torch.cat([quadratic_forms(s, x, directions(*part)) for part in parts])

    if inputs is None or len(parts) == 1 or not apart:
        with torch.set_grad_enabled(inputs is not None):
            forms = whole()
        return forms.sum(0), forms.detach()

    def swept(weight: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """The single forms, and the gradient of their weighted sum."""
        forms: list[Tensor] = []
        gradients: list[Tensor | None] = [None] * len(inputs)
        for part in parts:
            with torch.enable_grad():
                form = quadratic_forms(s, x, directions(*part))
                total = form.sum(0)
            with torch.no_grad():
                gradients = _added(gradients, _gradients(total, inputs, weight))
            forms.append(form.detach())
        return torch.cat(forms), gradients

    forms, gradients = swept(s.new_ones(len(s)))
    total = _Swept.apply(forms.sum(0), gradients, lambda weight: swept(weight)[1], lambda: whole().sum(0), *inputs)
    return total, forms


class _Swept(torch.autograd.Function):
    """A sum whose gradient, for equal weights of the samples, is already there."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: list, sweep: Callable, whole: Callable, *inputs: Tensor) -> Tensor:
        ctx.gradients, ctx.sweep, ctx.whole = gradients, sweep, whole
        ctx.save_for_backward(*inputs)
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        inputs, (weight,) = ctx.saved_tensors, weights
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            found = _gradients(ctx.whole(), inputs, weight)
        elif bool((weight == weight[:1]).all()):
            found = [None if g is None else g * weight[:1].sum() for g in ctx.gradients]
        else:
            found = ctx.sweep(weight)
        return None, None, None, None, *found


def _gradients(value: Tensor, inputs: Sequence[Tensor], weight: Tensor) -> list[Tensor | None]:
    """Of the weighted sum of `value`, in each input; None where it does not enter."""
    if not value.requires_grad:
        return [None] * len(inputs)
    how = {"retain_graph": True, "create_graph": torch.is_grad_enabled(), "allow_unused": True}
    return list(torch.autograd.grad(value, inputs, weight, **how))


def _added(a: list[Tensor | None], b: list[Tensor | None]) -> list[Tensor | None]:
    return [q if p is None else p if q is None else p + q for p, q in zip(a, b, strict=True)]
