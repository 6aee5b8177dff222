r"""The sums of `traces` and all their gradients in one sweep over the samples, a few at a time.

For a handful of samples the columns of $J_l$ lie as a block (K, samples, h) that fits a processor's cache. Each layer
costs one product on the way up and two on the way down; the rest is done in place, and nothing but sums outlives its
block. Gradients are those of the sum over the samples; the one in `t` is named `d_t`. Every sweep takes and returns
lists in the order of its `traces` twin, of which the first is per sample and enters linearly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CACHED = 3 * 2**16  # numbers in a block, so that the few blocks of a processor's core share its cache
FILLED = 2**24  # numbers in a block that keeps an accelerator busy


def trace_sweep(
    top: Sequence[Tensor], below: Sequence[Tensor], weights: Sequence[Tensor], *, gradients: bool
) -> tuple[Tensor, ...]:
    """`traces.carried_trace` (B,) and, if asked for, its gradient in every tensor."""
    (ends,), (first, *above, last) = top, weights
    cyclic, high, start = len(above) < len(below), len(above), first.T.contiguous()
    slopes = list(below) if cyclic else [*below, ends]  # d_L scales columns if cyclic, else their entries
    d_ends, d_slopes = torch.empty_like(ends), _empty_like(slopes)
    d_start, d_above, d_last = torch.zeros_like(start), [torch.zeros_like(w) for w in above], torch.zeros_like(last)
    for rows, blocks in _blocks(ends, len(start), 2 * high + 1):
        d, J, X = [s[rows] for s in slopes], [start[:, None], *blocks[:high]], blocks[high:]
        scale = ends[rows].T[:, :, None] if cyclic else ends.new_ones(())
        for k in range(high):
            _up(J[k], d[k], above[k], X[k], J[k + 1])
        closed = torch.mul(J[high], last[:, None], out=X[high])
        if cyclic:
            d_ends[rows] = (closed * d[high]).sum(2).T
        torch.sum(closed.mul_(scale), 0, out=d_slopes[high][rows])
        if gradients:
            adjoint = torch.mul(last[:, None], d[high], out=closed).mul_(scale)
            d_last += J[high].mul_(d[high]).mul_(scale).sum(1)
            for k in reversed(range(high)):
                adjoint = _down(adjoint, J[k], d[k], above[k], X[k], d_above[k], d_slopes[k][rows])
            d_start += adjoint.sum(1)
    value = (d_slopes[high] * slopes[high]).sum(1)
    d_top = [d_ends, *d_slopes] if cyclic else [d_slopes[-1], *d_slopes[:-1]]
    return (value, *d_top, d_start.T, *d_above, d_last) if gradients else (value,)


def laplacian_sweep(
    bends: Sequence[Tensor], slopes: Sequence[Tensor], weights: Sequence[Tensor], *, gradients: bool
) -> tuple[Tensor, ...]:
    r"""`traces.carried_laplacian` (B,) and, if asked for, its gradient in every tensor.

    Where D > h the rows of $W_1 = R\,Q^\top$ are measured in an orthonormal basis Q of their span, (D, h). Norms stay
    as they are, and so do first derivatives with Q held fixed: a row that leaves the span gains no length at first.
    """
    (first, *above), high = weights, len(slopes)
    basis = torch.linalg.qr(first.T).Q if first.shape[1] > first.shape[0] else None
    start = (first if basis is None else first @ basis).T.contiguous()
    d_bends, d_slopes = _empty_like(bends), _empty_like(slopes)
    d_bends[0][:] = start.square().sum(0)
    d_start, d_above = 2 * start * bends[0].sum(0), [torch.zeros_like(w) for w in above]
    for rows, blocks in _blocks(slopes[0], len(start), 2 * high + 1):
        u, d = [b[rows] for b in bends], [s[rows] for s in slopes]
        J, X = [start[:, None], *blocks[:high]], blocks[high:]
        for k in range(high):
            _up(J[k], d[k], above[k], X[k], J[k + 1])
            torch.sum(torch.mul(J[k + 1], J[k + 1], out=X[k + 1]), 0, out=d_bends[k + 1][rows])
        if gradients:
            adjoint = J[high].mul_(2 * u[high])
            for k in reversed(range(high)):
                adjoint = _down(adjoint, J[k], d[k], above[k], X[k], d_above[k], d_slopes[k][rows])
                adjoint = adjoint if k == 0 else J[k].mul_(2 * u[k]).add_(adjoint)
            d_start += adjoint.sum(1)
    d_first = d_start.T if basis is None else d_start.T @ basis.T
    return (
        (_paired(bends, d_bends), *d_bends, *d_slopes, d_first, *d_above) if gradients else (_paired(bends, d_bends),)
    )


def gram_sweep(
    bends: Sequence[Tensor], slopes: Sequence[Tensor], weights: Sequence[Tensor], *, gradients: bool
) -> tuple[Tensor, ...]:
    """`traces.gram_laplacian` (B,) and, if asked for, its gradient in every tensor; two products whatever D."""
    (first, weight), gram, half = weights, weights[0] @ weights[0].T, len(weights[0]) // 2
    start, columns = weight.T.contiguous()[:, None], slopes[0].T.contiguous()[:, :, None]
    d_bends, d_columns, d_start = _empty_like(bends), torch.empty_like(columns), torch.zeros_like(start)
    d_bends[0][:] = gram.diagonal()
    d_gram = torch.diag(bends[0].sum(0))
    for rows, (C, closed, product) in _blocks(slopes[0], len(gram), 3):
        u, d = bends[1][rows], columns[:, rows]
        torch.mul(start, d, out=C)  # the columns of W_2 D_1
        torch.mm(gram, C.flatten(1), out=closed.flatten(1))
        torch.sum(torch.mul(C, closed, out=product), 0, out=d_bends[1][rows])
        if gradients:
            torch.mul(C, u, out=product)
            for part, to in ((slice(half), half), (slice(half, None), len(gram))):  # symmetric: not the upper corner
                d_gram[part, :to].addmm_(product[part].flatten(1), C[:to].flatten(1).T)
            adjoint = closed.mul_(2 * u)
            torch.sum(torch.mul(adjoint, start, out=product), 2, keepdim=True, out=d_columns[:, rows])
            d_start += adjoint.mul_(d).sum(1, keepdim=True)
    if not gradients:
        return (_paired(bends, d_bends),)
    d_gram[:half, half:] = d_gram[half:, :half].T
    return (_paired(bends, d_bends), *d_bends, d_columns[:, :, 0].T, 2 * d_gram @ first, d_start[:, 0].T)


def _paired(some: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The sum over the list and over the units of products, (B,)."""
    return torch.stack([(a * b).sum(1) for a, b in zip(some, others, strict=True)]).sum(0)


def _empty_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty_like(t) for t in tensors]


def _blocks(like: Tensor, columns: int, count: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """The samples a few at a time, each time with the same memory for `count` blocks (columns, samples, h)."""
    samples, width = like.shape
    numbers = max(CACHED, width**2) if like.device.type == "cpu" else FILLED
    most = max(1, min(samples, numbers // (columns * width)))
    memory = like.new_empty(count, columns * most * width)
    for start in range(0, samples, most):
        n = min(most, samples - start)
        yield slice(start, start + n), [m[: columns * n * width].view(columns, n, width) for m in memory]


def _up(columns: Tensor, slope: Tensor, weight: Tensor, scaled: Tensor, out: Tensor) -> None:
    r"""The columns of $X = D J$ into `scaled`, and of $W X$ into `out`."""
    torch.mul(columns, slope, out=scaled)
    torch.mm(scaled.flatten(0, 1), weight.T, out=out.flatten(0, 1))


def _down(
    adjoint: Tensor, columns: Tensor, slope: Tensor, weight: Tensor, scaled: Tensor, d_weight: Tensor, d_slope: Tensor
) -> Tensor:
    r"""From the adjoint of $W D J$ to that of J, in the memory of $X = D J$; on the way the gradients of W and D."""
    d_weight.addmm_(adjoint.flatten(0, 1).T, scaled.flatten(0, 1))
    torch.mm(adjoint.flatten(0, 1), weight, out=scaled.flatten(0, 1))
    torch.sum(torch.mul(scaled, columns, out=adjoint), 0, out=d_slope)
    return scaled.mul_(slope)
