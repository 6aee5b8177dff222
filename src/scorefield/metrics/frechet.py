r"""The Fréchet distance of two sets of features, and where it goes as the sets grow.

The distance between the Gaussians of two samples is biased upwards, by an amount that grows with the number of features
and falls like 1/n: two samples of one law are apart. `frechet_limit` takes that part off.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scorefield.checks import check_count, check_rows
from scorefield.metrics.estimate import Estimate, normal
from scorefield.metrics.pairs import by_halves, two_sets


def frechet_distance(
    a: Tensor, b: Tensor, *, bootstrap: int = 100, generator: torch.Generator | None = None
) -> Estimate:
    r"""Fréchet distance between the Gaussians that have the moments of two sets of features.

    $$ \|m_a - m_b\|^2 + \operatorname{tr}\bigl(C_a + C_b - 2 (C_a C_b)^{1/2}\bigr) $$

    It is biased upwards by an amount that grows with k and falls with n: compare distances at equal n and k only, best
    beside that of real data of the same size, or take `frechet_limit`.

    Args:
        a: features to judge, shape (n, k), n >= 2 k.
        b: features of the real data, shape (m, k), m >= 2 k.
        bootstrap: resamples of both sets behind the standard error; 0 for none.
        generator: source of the resamples; the global one when None.

    Returns:
        the distance; its standard error is the spread over the resamples.

    Raises:
        ValueError: fewer than 2 k rows: the covariances would say more about the rows than about the laws.

    Source: Dowson & Landau 1982; Heusel et al. 2017 (arXiv:1706.08500).
    """
    a, b = _enough(a, b)
    check_count("bootstrap", bootstrap, least=0)
    value, method = _distance(a, b).item(), f"Fréchet distance to {len(b)} rows of {b.shape[1]} features"
    if bootstrap < 2:
        return Estimate(value, None, len(a), None, method)
    values = torch.stack([_distance(_resample(a, generator), _resample(b, generator)) for _ in range(bootstrap)])
    return normal(value, values.std().item(), len(a), f"{method}, {bootstrap} bootstrap resamples")


def frechet_limit(
    a: Tensor,
    b: Tensor,
    *,
    splits: int = 10,
    strata: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""The Fréchet distance for infinitely many rows: on the line in 1/n through the values at n and at n/2.

    $$ d_\infty = 2\,d_n - \overline{d_{n/2}} $$

    with the mean over the halves of random splits of both sets. About 0, or negative, for equal laws. What falls faster
    than 1/n stays, some hundredths of $d_n$, or a tenth of it where one set is near 2 k and the other far larger; hold
    it against that of real data of the same sizes. The standard error, from half the difference of the two
    halves of a split, is right where the laws differ and about $\sqrt2$ too large where they are equal.

    Args:
        a: features to judge, shape (n, k), n >= 2 k.
        b: features of the real data, shape (m, k), m >= 2 k.
        splits: random splits of both sets into halves, >= 2.
        strata: the class of each row of `b`, (m,), where as many rows of each class were chosen as there should be:
            halves that forgot it would differ from `b` by more than their size.
        generator: source of the splits; the global one when None.

    Returns:
        the extrapolated distance.

    Raises:
        ValueError: fewer than 2 k rows.

    Source: Chong & Forsyth 2020 (arXiv:1911.07023), who vary the number of samples alone; here both sets shrink, so
    that the bias of the real rows goes too.
    """
    a, b = _enough(a, b)
    check_count("splits", splits, least=2)
    if strata is not None:
        check_rows("strata", strata, b, "one class per row of b")
    mean, error = by_halves(lambda x, y: _distance(x, y)[None], a, b, splits, generator, strata=strata)
    value = (2 * _distance(a, b) - mean).item()
    method = f"Fréchet distance to {len(b)} rows of {b.shape[1]} features, extrapolated in 1/n, {splits} splits"
    return normal(value, error.item(), len(a), method)


def _enough(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = two_sets(a, b)
    k = a.shape[1]
    for name, x in (("a", a), ("b", b)):
        if len(x) < 2 * k:
            raise ValueError(
                f"{name} must have at least 2 x {k} = {2 * k} rows for a Fréchet distance on {k} features, got "
                f"{len(x)}; give more rows, or fewer features"
            )
    return a, b


def _distance(a: Tensor, b: Tensor) -> Tensor:
    r"""$\operatorname{tr}(C_a C_b)^{1/2}$ is the sum of the singular values of $R_a R_b^\top$, with $R^\top R = C$."""
    mean_a, mean_b = a.mean(0), b.mean(0)
    root_a, root_b = (
        torch.linalg.qr(x - mean, mode="r").R / math.sqrt(len(x) - 1) for x, mean in ((a, mean_a), (b, mean_b))
    )
    both = torch.linalg.svdvals(root_a @ root_b.mT).sum()
    return (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * both


def _resample(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return x[torch.randint(len(x), (len(x),), generator=generator).to(x.device)]
