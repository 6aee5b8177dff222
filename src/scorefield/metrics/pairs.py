"""Two sets of rows: what is asked of them, and sums over all their pairs, a block at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.checks import check_floating, check_shape

_BLOCK = 2**24  # pairs handled at once: 128 MiB


def two_sets(
    a: Tensor,
    b: Tensor,
    least: int = 2,
    *,
    names: tuple[str, str] = ("a", "b"),
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Both sets as rows (n, k), (m, k) of one dtype; refused where they do not fit or are not finite."""
    for name, x in zip(names, (a, b), strict=True):
        check_floating(name, x)
        check_least(name, x, least)
        bad = len(x) - int(x.isfinite().flatten(1).all(1).sum())
        if bad:
            raise ValueError(f"{name} must be finite, got {bad} of {len(x)} rows with nan or infinity; drop them")
    check_shape(names[1], b, (len(b), *a.shape[1:]), f"rows like those of {names[0]}")
    return a.detach().flatten(1).to(dtype), b.detach().flatten(1).to(a.device, dtype)


def check_least(name: str, x: Tensor, least: int) -> None:
    """Refuse fewer than `least` rows."""
    if len(x) < least:
        raise ValueError(f"{name} must have at least {least} rows, got {len(x)}; give more samples")


def rows_at_once(columns: int) -> int:
    """How many rows of a matrix of pairs are handled at once."""
    return max(1, _BLOCK // columns)


def square_distances(x: Tensor, y: Tensor) -> Tensor:
    r"""$\|x_i - y_j\|^2$ by one matrix product about a common origin, shape (n, m)."""
    origin = y.mean(0)
    x, y = x - origin, y - origin
    return torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.mT, alpha=-2).clamp_min_(0)


def nearest_rows(a: Tensor, b: Tensor, count: int = 1, *, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """The `count` nearest rows of `b` (m, k) to each row of `a` (n, k): distances in float64 and places, (n, count).

    Candidates are found by matrix products in the dtype of `a`; the distances to them are then exact, also where a
    product would cancel.
    """
    wanted = min(count + 2, len(b) - exclude_self)
    distances, places = [], []
    for start in range(0, len(a), step := rows_at_once(len(b))):
        rows = a[start : start + step]
        squares = square_distances(rows, b)
        if exclude_self:
            squares.diagonal(start).fill_(math.inf)
        found = squares.topk(wanted, largest=False).indices
        apart = torch.stack([(rows - b[column]).double().square().sum(1).sqrt() for column in found.T], 1)
        order = apart.argsort(dim=1, stable=True)[:, :count]
        distances.append(apart.gather(1, order))
        places.append(found.gather(1, order))
    return torch.cat(distances), torch.cat(places)


def by_halves(
    figures: Callable[[Tensor, Tensor], Tensor],
    a: Tensor,
    b: Tensor,
    splits: int,
    generator: torch.Generator | None,
    *,
    strata: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Means and standard errors of figures of two sets, from halves of both drawn without replacement.

    The two halves of a split share no row, so that half their difference has the variance of a figure of all rows
    wherever that falls like 1/n, and more where it falls faster. A bootstrap would draw rows twice, at distance 0 of
    each other, which moves every figure of neighbours and every covariance.

    Args:
        figures: of two sets of rows, shape (K,).
        a: rows (n, k).
        b: rows (m, k).
        splits: how often both are split.
        generator: source of the splits.
        strata: the class of each row of `b`, (m,), where as many of each class were chosen as there should be: then
            the halves share each class alike.

    Returns:
        the mean over all halves and the standard error of the figures of all rows, each (K,).
    """
    first, second = [], []
    for _ in range(splits):
        rows_a, rows_b = _halves(len(a), None, generator), _halves(len(b), strata, generator)
        first.append(figures(a[rows_a[0].to(a.device)], b[rows_b[0].to(b.device)]))
        second.append(figures(a[rows_a[1].to(a.device)], b[rows_b[1].to(b.device)]))
    x, y = torch.stack(first), torch.stack(second)
    return (x + y).mean(0) / 2, ((x - y) / 2).square().mean(0).sqrt()


def _halves(n: int, strata: Tensor | None, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Two random halves of n rows, of the same size; with strata every second row of each class goes to either."""
    order = torch.randperm(n, generator=generator)
    if strata is None:
        return order[: n // 2], order[n // 2 : n // 2 * 2]
    order = order[strata.cpu()[order].argsort(stable=True)][: n // 2 * 2]
    swapped = torch.rand(n // 2, generator=generator) < 0.5
    first, second = order[0::2], order[1::2]
    return torch.where(swapped, first, second), torch.where(swapped, second, first)


def unbiased_mmd2(a: Tensor, b: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Unbiased squared discrepancy and its standard error; see `mmd`."""
    n, m = len(a), len(b)
    aa, squares_a = _row_means(a, a, kernel, same=True)
    bb, squares_b = _row_means(b, b, kernel, same=True)
    ab, squares_ab = _row_means(a, b, kernel, same=False)
    ba, _ = _row_means(b, a, kernel, same=False)
    norm_a = _centred_square(aa, squares_a)
    norm_b = _centred_square(bb, squares_b)
    both = max(0.0, squares_ab - ab.square().mean().item() - ba.square().mean().item() + ab.mean().item() ** 2)
    # the spread of the estimated witness f holds that of its own error, which is taken off again
    first_a = max(0.0, (aa - ab).var().item() - norm_a / (n - 1) - both / m)
    first_b = max(0.0, (bb - ba).var().item() - norm_b / (m - 1) - both / n)
    second = 2 * norm_a / (n * (n - 1)) + 2 * norm_b / (m * (m - 1)) + 4 * both / (n * m)
    value = (aa.mean() + bb.mean() - 2 * ab.mean()).item()
    return value, math.sqrt(4 * first_a / n + 4 * first_b / m + second)


def _row_means(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor], *, same: bool) -> tuple[Tensor, float]:
    """Mean of each row of the kernel matrix, and the mean of its squares; without the diagonal for the same set."""
    sums, squares, count = [], 0.0, len(y) - same
    for start in range(0, len(x), step := rows_at_once(len(y))):
        block = kernel(x[start : start + step], y)
        if same:
            block.diagonal(start).fill_(0)
        sums.append(block.sum(1))
        squares += block.square().sum().item()
    return torch.cat(sums) / count, squares / (len(x) * count)


def _centred_square(row_means: Tensor, mean_square: float) -> float:
    r"""Mean of $(k_{ij} - c_i - c_j)^2$ over i ≠ j: the kernel centred at its mean, $c_i = \bar k_i - \bar k/2$."""
    n, c = len(row_means), row_means - row_means.mean() / 2
    pairs = (2 * (n - 2) * c.square().sum() + 2 * c.sum().square()) / (n * (n - 1))
    return max(0.0, (mean_square - 4 * (c * row_means).mean() + pairs).item())
