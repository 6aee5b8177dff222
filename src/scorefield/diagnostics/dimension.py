r"""The intrinsic dimension of rows, from the distances to their nearest neighbours.

Around a row the number of others within r grows like $r^m$, whatever the density: then $\log(T_k/T_j)$, with $T_j$ the
distance to the j-th neighbour, are exponential with rate m. Both estimators see the scale at which neighbours lie:
noise that is wider than this fills all dimensions, noise that is narrower is not seen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scorefield.checks import check_count
from scorefield.diagnostics.rows import evenly
from scorefield.metrics import Estimate
from scorefield.metrics.estimate import normal
from scorefield.metrics.pairs import nearest_rows, two_sets

QUERIES = 1000


def levina_bickel(x: Tensor, *, neighbours: int = 10) -> Estimate:
    r"""The maximum likelihood estimate with neighbours $1 … k$, its inverses averaged over the rows.

    $$ \frac1{\hat m} = \frac1n \sum_i \frac1{k-1} \sum_{j=1}^{k-1} \log \frac{T_k(x_i)}{T_j(x_i)} $$

    The mean of the inverses is unbiased for 1/m where the density is flat among k neighbours; the mean of the $\hat
    m(x_i)$ themselves, as first published, is not.

    Args:
        x: rows (n, *D), n > k; copies are dropped.
        neighbours: k >= 2.

    Returns:
        the dimension, with a standard error from the spread over at most 1,000 rows.

    Raises:
        ValueError: k < 2, or no more than k different rows.

    Source: Levina & Bickel 2004; the average of inverses, MacKay & Ghahramani 2005.
    """
    check_count("neighbours", neighbours, least=2)
    nearest = neighbour_distances(x, neighbours)
    inverse = (nearest[:, -1:] / nearest[:, :-1]).log().mean(1)
    return _from_inverses(inverse, f"Levina-Bickel with {neighbours} neighbours, inverses averaged")


def two_nn(x: Tensor) -> Estimate:
    r"""The estimate from two neighbours alone, $1/\hat m = \frac1n \sum_i \log(T_2/T_1)$: the smallest scale.

    Args:
        x: rows (n, *D), n > 2; copies are dropped.

    Returns:
        the dimension, with a standard error from the spread over at most 1,000 rows.

    Source: Facco et al. 2017 (arXiv:1803.06992), by maximum likelihood.
    """
    nearest = neighbour_distances(x, 2)
    return _from_inverses((nearest[:, 1] / nearest[:, 0]).log(), "two nearest neighbours, maximum likelihood")


def neighbour_distances(x: Tensor, neighbours: int, *, queries: int = QUERIES) -> Tensor:
    """Distances of evenly spaced rows to their nearest others, in increasing order; copies of rows are dropped.

    Args:
        x: rows (n, *D).
        neighbours: how many neighbours.
        queries: how many rows at most are asked; all others can be their neighbours.

    Returns:
        distances > 0, (q, neighbours), float64.

    Raises:
        ValueError: no more than `neighbours` different rows.
    """
    flat, _ = two_sets(x, x[:1], least=1)
    flat = torch.unique(flat, dim=0)
    if len(flat) <= neighbours:
        raise ValueError(f"x must have more than {neighbours} different rows, got {len(flat)}; give more data")
    distances, _ = nearest_rows(flat[evenly(len(flat), queries)], flat, neighbours + 1)
    return distances[:, 1:]  # each row is nearest to itself


def _from_inverses(inverse: Tensor, method: str) -> Estimate:
    mean, error = inverse.mean().item(), inverse.std().item() / math.sqrt(len(inverse))
    return normal(1 / mean, error / mean**2, len(inverse), method)
