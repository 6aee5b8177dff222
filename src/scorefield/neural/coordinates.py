r"""Coordinates in which a table is learned: standardised, and decorrelated in part or wholly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scorefield.estimators.gaussian import standardise
from scorefield.estimators.validation import Array

SHARES = np.geomspace(1e-8, 0.5, 24)  # of the identity in the correlations
FOLDS = 5
DEPENDENT = 1e-10  # an eigenvalue of the correlations below this is a linear relation between columns


@dataclass(frozen=True, eq=False)
class Coordinates:
    r"""The map $z = C^{-p/2}\,\operatorname{diag}(c)^{-1}(x - m)$; noise that is isotropic in z is not so in x.

    Args:
        centre: m, (d,).
        scale: c, (d,).
        root: $C^{-p/2}$, symmetric, (d, d).
    """

    centre: Array
    scale: Array
    root: Array

    @staticmethod
    def of(x: Array, w: Array, power: float, *, apart: np.ndarray | None = None) -> Coordinates:
        r"""Mean and standard deviations of the rows, and their correlations C, shrunk, to the power -p/2.

        C is shrunk towards the identity, see `shrinkage`.

        Args:
            x: rows, (n, d).
            w: their shares, (n,).
            power: p in [0, 1]: 0 standardises alone, 1 makes the rows uncorrelated.
            apart: columns that are standardised alone, (d,); None for none of them.

        Raises:
            ValueError: the range of a column overflows.
        """
        z, centre, scale = standardise(x, w)
        root = np.eye(x.shape[1])
        mixed = np.ones(x.shape[1], bool) if apart is None else ~apart
        if power and mixed.sum() > 1:
            inside = z[:, mixed]
            share, (values, vectors) = shrinkage(inside, w), np.linalg.eigh((inside * w[:, None]).T @ inside)
            values = (1 - share) * values.clip(min=0) + share
            root[np.ix_(mixed, mixed)] = (vectors * values ** (-power / 2)) @ vectors.T
        return Coordinates(centre, scale, root)

    def apply(self, x: Array) -> Array:
        """From the units of the data to z."""
        return ((x - self.centre) / self.scale) @ self.root

    def undo(self, z: Array) -> Array:
        """From z to the units of the data."""
        return self.centre + self.scale * np.linalg.solve(self.root, z.T).T

    @property
    def log_volume(self) -> float:
        r"""$\log |\det \partial z/\partial x|$: what a log-density in z gains in the units of the data."""
        return float(np.linalg.slogdet(self.root)[1] - np.log(self.scale).sum())


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
