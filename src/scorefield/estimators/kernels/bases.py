"""Base densities of kernel exponential families: what the exponent of a fit is added to."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.exceptions import RankWarning

from scorefield.calculus import divergence
from scorefield.checks import check_choice
from scorefield.densities import Density
from scorefield.estimators.inference import ON_SINGULAR
from scorefield.estimators.kernels.rows import Rows
from scorefield.estimators.validation import Array


class Base(Protocol):
    """A log-density b, its gradient and its Laplacian, on arrays (n, d)."""

    def log_density(self, x: Array) -> Array:
        """(n,)."""
        ...

    def score(self, x: Array) -> Array:
        """(n, d)."""
        ...

    def laplacian(self, x: Array) -> Array:
        """(n,)."""
        ...


@dataclass(frozen=True)
class FlatBase:
    """Lebesgue measure: b = 0."""

    def log_density(self, x: Array) -> Array:
        """Zeros, (n,)."""
        return np.zeros(len(x))

    def score(self, x: Array) -> Array:
        """Zeros, (n, d)."""
        return np.zeros_like(x)

    def laplacian(self, x: Array) -> Array:
        """Zeros, (n,)."""
        return np.zeros(len(x))


@dataclass(frozen=True, eq=False)
class NormalBase:
    r"""$N(m, P^{-1})$, without its constant."""

    mean: Array
    precision: Array

    def log_density(self, x: Array) -> Array:
        r"""$-\tfrac12 (x - m)^\top P (x - m)$, (n,)."""
        apart = x - self.mean
        return -np.einsum("ni,ni->n", apart @ self.precision, apart) / 2

    def score(self, x: Array) -> Array:
        """$-P (x - m)$, (n, d)."""
        return -(x - self.mean) @ self.precision

    def laplacian(self, x: Array) -> Array:
        """Minus the trace of P, (n,)."""
        return np.full(len(x), -np.trace(self.precision))


@dataclass(frozen=True, eq=False)
class DensityBase:
    """A density of `scorefield.densities`, or any object with its `log_density` and `score`."""

    density: Density

    def log_density(self, x: Array) -> Array:
        """(n,)."""
        return self.density.log_density(torch.tensor(x)).numpy()

    def score(self, x: Array) -> Array:
        """(n, d)."""
        return self.density.score(torch.tensor(x)).numpy()

    def laplacian(self, x: Array) -> Array:
        """The exact trace of the score's Jacobian, (n,)."""
        return divergence(self.density.score, torch.tensor(x))[1].detach().numpy()


def normal_base(rows: Rows, on_singular: str) -> tuple[NormalBase, str | None]:
    """The Gaussian with the mean and covariance of the rows; flat, and improper, where these do not spread."""
    x = (rows.x - rows.mean) / rows.unit
    values, axes = np.linalg.eigh((x.T * rows.w) @ x)
    spread = values > 1e-12 * values[-1]
    precision = axes[:, spread] / values[spread] @ axes[:, spread].T / rows.unit**2
    if spread.all():
        return NormalBase(rows.mean, precision), None
    what = (
        f"the covariance of {len(x)} rows of {len(values)} columns has rank {spread.sum()}, so that the Gaussian base "
        "is singular; give more rows, drop columns that depend on others, or give another base"
    )
    if on_singular == "raise":
        raise ValueError(what)
    warnings.warn(f"{what}. Its pseudo-inverse is used, and there is no density", RankWarning, stacklevel=5)
    return NormalBase(rows.mean, precision), f"its Gaussian base has rank {spread.sum()} of {len(values)}"


def read_base(base: Any, rows: Rows, on_singular: str) -> tuple[Base, str | None]:
    """`None`, `"flat"` or a density, as a `Base`; and why it cannot be normalised, None where it can."""
    check_choice("on_singular", on_singular, ON_SINGULAR)
    if base is None:
        return normal_base(rows, on_singular)
    if isinstance(base, str):
        if base == "flat":
            return FlatBase(), 'base="flat" is no density'
        raise ValueError(f'base must be None, "flat" or a density with log_density and score, got {base!r}')
    if not (hasattr(base, "log_density") and hasattr(base, "score")):
        raise TypeError(f'base must be None, "flat" or a density with log_density and score, got {type(base).__name__}')
    return DensityBase(base), None
