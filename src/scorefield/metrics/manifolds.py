r"""Whether samples lie where real data lie, and whether they lie everywhere there: two pairs of figures.

Balls around the rows of a set, each out to its k-th nearest other row, stand for the set's support. Their radii depend
on the number of rows, so that figures are compared at equal sizes only, best beside those of real data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scorefield.checks import check_count
from scorefield.metrics.estimate import Z95, Estimate, proportion
from scorefield.metrics.pairs import by_halves, check_least, rows_at_once, square_distances, two_sets


def precision_recall(
    a: Tensor, b: Tensor, *, neighbours: int = 3, splits: int = 10, generator: torch.Generator | None = None
) -> tuple[Estimate, Estimate]:
    """Precision: how many samples lie in a ball of the real rows. Recall: how many real rows in a ball of the samples.

    One real row far out has a large ball, which lifts precision; `density_coverage` does not suffer from it.

    Args:
        a: features to judge, shape (n, k).
        b: features of the real data, shape (m, k).
        neighbours: a ball reaches to this nearest other row of its own set.
        splits: random splits of both sets into halves, behind the standard errors; >= 2.
        generator: source of the splits; the global one when None.

    Returns:
        precision and recall, each between 0 and 1; the interval is the wider of the halves' and Wilson's.

    Raises:
        ValueError: fewer than 2 (neighbours + 1) rows.

    Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991).
    """

    def figures(a: Tensor, b: Tensor) -> Tensor:
        inside_b, _, _ = _in_balls(a, b, neighbours)
        inside_a, _, _ = _in_balls(b, a, neighbours)
        return torch.stack([inside_b.double().mean(), inside_a.double().mean()])

    a, b = _checked(a, b, neighbours, splits)
    values, errors = figures(a, b), by_halves(figures, a, b, splits, generator)[1]
    how = f"balls of {neighbours} neighbours, {splits} splits"
    return (
        _share(values[0], errors[0], len(a), len(a), f"precision against {len(b)} rows, {how}"),
        _share(values[1], errors[1], len(b), len(a), f"recall of {len(b)} rows, {how}"),
    )


def density_coverage(
    a: Tensor, b: Tensor, *, neighbours: int = 5, splits: int = 10, generator: torch.Generator | None = None
) -> tuple[Estimate, Estimate]:
    r"""Density: real balls around a sample, over k. Coverage: how many real rows have a sample in their ball.

    For samples of the very law of the data their expectations are known, whatever the law:

    $$ \mathbb E[\text{density}] = 1, \qquad
       \mathbb E[\text{coverage}] = 1 - \frac{(m-1) \cdots (m-k)}{(n+m-1) \cdots (n+m-k)} $$

    Args:
        a: features to judge, shape (n, k).
        b: features of the real data, shape (m, k).
        neighbours: a ball reaches to this nearest other real row.
        splits: random splits of both sets into halves, behind the standard errors; >= 2.
        generator: source of the splits; the global one when None.

    Returns:
        density, >= 0, and coverage, between 0 and 1.

    Raises:
        ValueError: fewer than 2 (neighbours + 1) rows.

    Source: Naeem et al. 2020 (arXiv:2002.09797).
    """

    def figures(a: Tensor, b: Tensor) -> Tensor:
        _, balls, covered = _in_balls(a, b, neighbours)
        return torch.stack([balls.double().mean() / neighbours, covered.double().mean()])

    a, b = _checked(a, b, neighbours, splits)
    values, errors = figures(a, b), by_halves(figures, a, b, splits, generator)[1]
    how, value, error = f"balls of {neighbours} neighbours, {splits} splits", values[0].item(), errors[0].item()
    interval = (max(0.0, value - Z95 * error), value + Z95 * error)
    return (
        Estimate(value, error, len(a), interval, f"density in {len(b)} rows, {how}"),
        _share(values[1], errors[1], len(b), len(a), f"coverage of {len(b)} rows, {how}"),
    )


def expected_coverage(n: int, m: int, *, neighbours: int = 5) -> float:
    """The expectation of `density_coverage`'s coverage for n samples of the very law of the m real rows.

    Args:
        n: number of samples, >= 1.
        m: number of real rows, > neighbours.
        neighbours: as there.

    Source: Naeem et al. 2020 (arXiv:2002.09797), lemma 2.
    """
    check_count("n", n)
    check_count("m", m, least=neighbours + 1)
    missed = 1.0
    for j in range(1, neighbours + 1):
        missed *= (m - j) / (n + m - j)
    return 1 - missed


def _checked(a: Tensor, b: Tensor, neighbours: int, splits: int) -> tuple[Tensor, Tensor]:
    check_count("neighbours", neighbours)
    check_count("splits", splits, least=2)
    a, b = two_sets(a, b)
    for name, x in (("a", a), ("b", b)):
        check_least(name, x, 2 * (neighbours + 1))
    return a, b


def _in_balls(a: Tensor, b: Tensor, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of `a` whether it lies in a ball of `b`, and in how many; of each ball whether it holds a row."""
    radii = torch.empty(len(b), dtype=b.dtype, device=b.device)
    for start in range(0, len(b), step := rows_at_once(len(b))):
        squares = square_distances(b[start : start + step], b)
        squares.diagonal(start).fill_(torch.inf)
        radii[start : start + step] = squares.kthvalue(neighbours, dim=1).values
    balls, covered = [], torch.zeros(len(b), dtype=torch.bool, device=b.device)
    for start in range(0, len(a), step := rows_at_once(len(b))):
        inside = square_distances(a[start : start + step], b) <= radii
        balls.append(inside.sum(1))
        covered |= inside.any(0)
    counts = torch.cat(balls)
    return counts > 0, counts, covered


def _share(value: Tensor, error: Tensor, trials: int, n: int, method: str) -> Estimate:
    """A share with its standard error; its interval is at least Wilson's, which knows that 0 of n may be chance."""
    p, e = value.item(), error.item()
    wilson = proportion(round(p * trials), trials, n, method)
    low, high = wilson.interval or (p, p)
    return Estimate(p, e, n, (max(0.0, min(low, p - Z95 * e)), min(1.0, max(high, p + Z95 * e))), method)
