r"""The trace of a network's Jacobian and the Laplacian of an energy, from its slopes $d_l = \varphi'(a_l)$ and weights.

With $D_l = \operatorname{diag} d_l$ the Jacobian of $a_l$ in x is $J_1 = W_1$, $J_l = W_l D_{l-1} J_{l-1}$, one (h, D)
per sample. Two hidden layers need none of them; deeper ones carry its columns upwards, (K, B, h) with $K \le D$.

The sums below are plain expressions, differentiable as often as you like. `sweeps` computes the same together with all
first derivatives, which is what training asks for; `_Swept` joins the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from scorefield.networks.sweeps import gram_sweep, laplacian_sweep, trace_sweep


def product_trace(slopes: Sequence[Tensor], weights: Sequence[Tensor], last: Tensor) -> Tensor:
    r"""$\operatorname{tr}(W_{L+1} D_L W_L \cdots D_1 W_1)$ per sample, (B,), from the slopes $d_l$, each (B, h).

    With three or more layers the product is carried as columns: the D of $W_1$, or, where that is less work, the h of
    $W_1 W_{L+1}$ moved to the front by the cyclic property.

    Args:
        slopes: $\varphi'(a_l)$ of the L hidden layers.
        weights: $W_1, \dots, W_L$.
        last: $W_{L+1}$.
    """
    first, width, dimension = weights[0], weights[0].shape[0], last.shape[0]
    if len(slopes) == 1:
        return slopes[0] @ (first * last.T).sum(1)
    if len(slopes) == 2:
        return ((slopes[0] @ (weights[1] * (first @ last).T).T) * slopes[1]).sum(1)
    *below, top = slopes
    if len(below) * dimension <= (len(below) - 1) * width:
        return _swept(trace_sweep, carried_trace, [top], below, [*weights, last])
    return _swept(trace_sweep, carried_trace, [top], below, [first @ last, *weights[1:]])


def laplacian(bends: Sequence[Tensor], slopes: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    r"""$\sum_l \sum_j u_{l,j}\, \|\nabla_x a_{l,j}\|^2$ per sample, (B,): the rows of $J_l$, squared and weighted.

    The first layer's norms are those of the rows of $W_1$. With two hidden layers and many dimensions the second's
    are the diagonal of $W_2 D_1 G D_1 W_2^\top$ with the Gram matrix $G = W_1 W_1^\top$.

    Args:
        bends: $u_l = \partial E/\partial h_l \circ \varphi''(a_l)$ of the L hidden layers, each (B, h).
        slopes: $\varphi'(a_l)$ of all of them but the last.
        weights: $W_1, \dots, W_L$.
    """
    width, dimension = weights[0].shape
    if len(weights) == 1:
        return bends[0] @ weights[0].square().sum(1)
    if len(weights) == 2 and 2 * width < 3 * dimension:
        return _swept(gram_sweep, gram_laplacian, bends, slopes, weights)
    return _swept(laplacian_sweep, carried_laplacian, bends, slopes, weights)


def carried_trace(top: Sequence[Tensor], below: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    r"""$\sum_k \sum_i (W_{L+1})_{k,i}\, d_{L,i}\, (J_L)_{i,k}$, or, given $W_1 W_{L+1}, W_2, \dots, W_L$,
    $\sum_k d_{L,k} \sum_i (W_L)_{k,i}\, X_{i,k}$ with $X = D_{L-1} W_{L-1} \cdots D_1 (W_1 W_{L+1})$.
    """
    (*carried, last) = weights
    if len(carried) > len(below):
        return torch.einsum("kbi,bi,ki->b", _carry(below, carried), top[0], last)
    return torch.einsum("kbi,bk,ki->b", _carry(below[:-1], carried) * below[-1], top[0], last)


def carried_laplacian(bends: Sequence[Tensor], slopes: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    r"""$\sum_l \sum_j u_{l,j} \sum_k (J_l)_{j,k}^2$; where D > h by $J_l = A_l W_1$ and the Gram matrix of $W_1$."""
    first, total = weights[0], bends[0] @ weights[0].square().sum(1)
    gram = first @ first.T if first.shape[1] > first.shape[0] else None
    columns = (first.T if gram is None else torch.eye(len(gram)).to(gram))[:, None]
    for bend, slope, weight in zip(bends[1:], slopes, weights[1:], strict=True):
        columns = (columns * slope) @ weight.T
        closed = columns if gram is None else torch.tensordot(gram, columns, 1)
        total = total + ((columns * closed).sum(0) * bend).sum(1)
    return total


def gram_laplacian(bends: Sequence[Tensor], slopes: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    r"""$\sum_j u_{1,j}\, G_{j,j} + \sum_j u_{2,j} \sum_{i,k} (W_2)_{j,i}\, d_i\, G_{i,k}\, d_k\, (W_2)_{j,k}$."""
    gram, rows = weights[0] @ weights[0].T, weights[1] * slopes[0][:, None]
    return bends[0] @ gram.diagonal() + ((rows @ gram * rows).sum(2) * bends[1]).sum(1)


def _carry(slopes: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """J_l of every sample as columns (K, B, h), from one weight more than slopes; (K, 1, h) of the first alone."""
    columns = weights[0].T[:, None]
    for slope, weight in zip(slopes, weights[1:], strict=True):
        columns = (columns * slope) @ weight.T
    return columns


def _swept(sweep: Callable[..., tuple[Tensor, ...]], plain: Callable[..., Tensor], *groups: Sequence[Tensor]) -> Tensor:
    """The plain expression's value, by the sweep where all is of one dtype that sums in blocks leave precise."""
    tensors = [t for group in groups for t in group]
    dtypes, device = {t.dtype for t in tensors}, tensors[0].device.type
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64} or torch.is_autocast_enabled(device):
        return plain(*groups)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return _Swept.apply(sweep, plain, [len(group) for group in groups], wanted, *tensors)[0]


def _split(tensors: Iterable[Tensor], sizes: Sequence[int]) -> list[list[Tensor]]:
    rest = iter(tensors)
    return [list(islice(rest, n)) for n in sizes]


class _Swept(torch.autograd.Function):
    """A sum per sample that makes its gradients on the way, as if all samples weighed the same.

    Callers take means, so they nearly always do. Where they do not, the sweep is run again with the weights put into
    its first group of tensors, which are per sample and enter linearly. Derivatives of derivatives, and those of
    `torch.func`, are taken of the plain expression.
    """

    @staticmethod
    def forward(
        sweep: Callable[..., tuple[Tensor, ...]],
        plain: Callable[..., Tensor],
        sizes: list[int],
        wanted: bool,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        return sweep(*_split(tensors, sizes), gradients=wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.sweep, ctx.plain, ctx.sizes, _, *tensors = inputs
        ctx.extra = len(output) - 1
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output[1:])
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        g, count, needed = gradients[0], sum(ctx.sizes), ctx.needs_input_grad[4:]
        tensors, made = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        if g is None:
            found = [None] * count
        elif torch.is_grad_enabled():
            aliases = [t.view_as(t) for t in tensors]  # tensors may depend on each other; aliases do not
            wanted = [t for t, n in zip(aliases, needed, strict=True) if n]
            some = iter(torch.autograd.grad(ctx.plain(*_split(aliases, ctx.sizes)), wanted, g, create_graph=True))
            found = [next(some) if n else None for n in needed]
        elif made and len(g) and bool((g == g[0]).all()):
            found = [d * g[0] for d in made]
        else:
            linear, *rest = _split(tensors, ctx.sizes)
            _, *again = ctx.sweep([t * g[:, None] for t in linear], *rest, gradients=True)
            found = [d * g[:, None] for d in again[: len(linear)]] + again[len(linear) :]
        return None, None, None, None, *found

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor], tuple[int]]:
        _, plain, sizes, _, *tensors = inputs
        moved = torch.func.vmap(lambda *t: plain(*_split(t, sizes)), in_dims[4:])  # pyright: ignore[reportArgumentType]
        return (moved(*tensors),), (0,)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        moved = [torch.zeros_like(t) if v is None else v for t, v in zip(tensors, tangents[4:], strict=True)]
        tangent = torch.func.jvp(lambda *t: ctx.plain(*_split(t, ctx.sizes)), tensors, tuple(moved))[1]
        return tangent, *[None] * ctx.extra
