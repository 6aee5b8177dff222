r"""Bandwidths by closed rules of weighted moments, and the rows that a held-out choice of them is judged on.

Both are equivariant: moved or rotated data keep their bandwidth, data multiplied by c have c times the bandwidth. Rows
with integer weights and the same rows repeated have the same bandwidth, and weights may be multiplied by any number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from scorefield.estimators.validation import Array


def moments(x: Array, w: Array) -> tuple[Array, float]:
    r"""The weighted mean $m$ (d,) and the unit $u = \sqrt{\operatorname{tr} S / d}$, with $w$ summing to 1."""
    mean = w @ x
    return mean, math.sqrt(float(w @ np.square(x - mean).sum(1)) / x.shape[1])


def effective_rows(x: Array, w: Array) -> float:
    r"""Kish's $(\sum_i w_i)^2 / \sum_i w_i^2$ over distinct rows, the weights of equal rows added first."""
    order = np.lexsort(x.T)
    new = np.r_[True, (x[order][1:] != x[order][:-1]).any(1)]
    merged = np.add.reduceat(w[order], np.flatnonzero(new))
    return float(merged.sum() ** 2 / np.square(merged).sum())


def normal_reference(x: Array, w: Array) -> float:
    r"""The bandwidth that is best, as n grows, for the gradient of a Gaussian's density.

    $$ h = u \left(\frac{4}{d + 4}\right)^{1/(d + 6)} n^{-1/(d + 6)} $$

    with u the root of the mean variance and n the effective number of rows. It is wider than the rule for the density
    itself, which has d + 2 and d + 4 in the places of d + 4 and d + 6; too wide where the law has several modes.

    Args:
        x: rows, (n, d).
        w: weights that sum to 1, (n,).

    Returns:
        h > 0.

    Source: Chacón, Duong & Wand 2011 (Statistica Sinica 21), the normal scale bandwidth for r = 1.
    """
    d = x.shape[1]
    return moments(x, w)[1] * (4 / (d + 4) / effective_rows(x, w)) ** (1 / (d + 6))


def half_distance(x: Array, w: Array) -> float:
    r"""Half the root-mean-square distance of two draws of the rows, $\sqrt{\operatorname{tr} S / 2}$.

    A closed rule in the place of half the median distance, to which it is close.
    """
    return moments(x, w)[1] * math.sqrt(x.shape[1] / 2)


def mild(x: Array, w: Array) -> float:
    r"""The regularisation $\lambda = 0.05 / \sqrt n$, n the effective number of rows, of operators of norm at most 1.

    A rule of thumb: of the order of what held-out rows choose for a few hundred to a few thousand rows in the plane.
    """
    return 0.05 / math.sqrt(effective_rows(x, w))


def held_out_folds(n: int, seed: int, *, enough: int = 2000) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows to fit on and rows to judge on: fifths in a shuffled order, until `enough` rows have been judged on."""
    judged = 0
    for rows, rest in KFold(min(5, n), shuffle=True, random_state=seed).split(np.empty(n)):
        yield rows, rest
        judged += len(rest)
        if judged >= enough:
            return
