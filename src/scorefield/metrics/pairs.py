"""Two sets of rows: what is asked of them, and sums over all their pairs, a block at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.checks import check_floating, check_shape

_BLOCK = 2**24  # pairs handled at once: 128 MiB


def two_sets(a: Tensor, b: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both sets as float64 rows (n, k), (m, k); refused where they do not fit or are not finite."""
    for name, x in (("a", a), ("b", b)):
        check_floating(name, x)
        check_least(name, x, least)
        bad = len(x) - int(x.isfinite().flatten(1).all(1).sum())
        if bad:
            raise ValueError(f"{name} must be finite, got {bad} of {len(x)} rows with nan or infinity; drop them")
    check_shape("b", b, (len(b), *a.shape[1:]), "rows like those of a")
    return a.detach().flatten(1).double(), b.detach().flatten(1).to(a.device, torch.float64)


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
