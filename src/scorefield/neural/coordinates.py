r"""Coordinates in which a table is learned: standardised, and decorrelated in part or wholly."""

from __future__ import annotations

import numpy as np

from scorefield.data import Scaling
from scorefield.estimators.gaussian import standardise
from scorefield.estimators.validation import Array

SHARES = np.geomspace(1e-8, 0.5, 24)  # of the identity in the correlations
FOLDS = 5
DEPENDENT = 1e-10  # an eigenvalue of the correlations below this is a linear relation between columns


def decorrelated(x: Array, w: Array, power: float, *, apart: np.ndarray | None = None) -> Scaling:
    r"""The scaling $u = D\,C^{-p/2} \operatorname{diag}(c)^{-1}(x - m)$; noise that is isotropic in u is not so in x.

    m and c are the means and standard deviations of the rows, C their correlations, shrunk towards the identity (see
    `shrinkage`), and D is diagonal and gives every column of u variance 1.

    Args:
        x: rows, (n, d).
        w: their shares, (n,).
        power: p in [0, 1]: 0 standardises alone, 1 makes the rows uncorrelated.
        apart: columns that are standardised alone, (d,); None for none of them.

    Raises:
        ValueError: the range of a column overflows.
    """
    z, mean, scale = standardise(x, w)
    mixed = np.ones(x.shape[1], bool) if apart is None else ~apart
    if not power or mixed.sum() < 2:
        return Scaling(mean, scale)
    inside, root = z[:, mixed], np.eye(x.shape[1])
    share, (values, vectors) = shrinkage(inside, w), np.linalg.eigh((inside * w[:, None]).T @ inside)
    values = (1 - share) * values.clip(min=0) + share
    root[np.ix_(mixed, mixed)] = (vectors * values ** (-power / 2)) @ vectors.T
    return Scaling(mean, scale, root / np.sqrt(w @ (z @ root.T) ** 2)[:, None])


def shrinkage(z: Array, w: Array) -> float:
    r"""The share a in $(1 - a) C + a I$ under which left-out rows are most likely, as normal rows: five-fold.

    Not Ledoit & Wolf's: theirs is best for C, this for $C^{-1}$, where two columns are nearly one.

    Args:
        z: standardised rows, (n, d).
        w: their shares, (n,).
    """
    costs = np.zeros(len(SHARES))
    for k in range(FOLDS):
        out = np.arange(len(z)) % FOLDS == k
        rows, shares = z[~out], w[~out] / w[~out].sum()
        values, vectors = np.linalg.eigh((rows * shares[:, None]).T @ rows)
        squares = w[out] @ (z[out] @ vectors) ** 2
        spread = (1 - SHARES[:, None]) * values.clip(min=0) + SHARES[:, None]
        costs += (squares / spread + w[out].sum() * np.log(spread)).sum(1)
    return float(SHARES[costs.argmin()])


def check_columns(x: Array, w: Array, names: list[str], *, apart: np.ndarray | None = None) -> None:
    """Refuse columns without a density of their own: constant ones, and linear functions of others.

    Args:
        x: rows, (n, d).
        w: their shares, (n,).
        names: of the columns.
        apart: one-hot columns, (d,), whose relations are as they should be; None for none of them.

    Raises:
        ValueError: names them.
    """
    z, _, _ = standardise(x, w)
    flat = np.abs(z).max(0) < 1e-6
    if flat.any():
        raise ValueError(f"column {names[int(flat.argmax())]!r} is constant and has no density; drop it")
    if apart is not None:
        z, names = z[:, ~apart], [name for name, out in zip(names, apart, strict=True) if not out]
    if len(x) > z.shape[1] > 1:
        values, vectors = np.linalg.eigh((z * w[:, None]).T @ z)
        if values[0] < DEPENDENT * values[-1]:
            share = np.abs(vectors[:, 0])
            involved = [name for name, part in zip(names, share, strict=True) if part > 0.1 * share.max()]
            raise ValueError(
                f"columns {', '.join(involved[:6])} are linear functions of each other and have no joint density; drop "
                "one of them"
            )
