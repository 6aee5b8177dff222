r"""Statistics t of exponential families $\log p(x) = \theta \cdot t(x) + b(x) - \log Z(\theta)$ and their derivatives.

A statistic is a torch callable (B, d) -> (B, K). One that knows more may say so, by methods that the engine looks for:

* `derivatives(x)`: $\partial_j t_k$ and $\partial_j^2 t_k$, both (B, K, d); otherwise found by autodiff, in d passes of
  second-order forward mode, each about three to six times the price of t;
* `moments(x, w)`: W and d of the plain objective at once, where its structure makes that cheap;
* `names(columns)`: K words for the parameters;
* `improper(theta, region)`: a sentence when the fit has no normalising constant, else None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp

from scorefield.checks import check_choice
from scorefield.estimators.domains import Region
from scorefield.estimators.validation import Array

Statistic = Callable[[Tensor], Tensor]


class Derivatives(NamedTuple):
    r"""$\partial_j t_k$, (B, K, d), and $\partial_j^2 t_k$, (B, K, d), or their sums over j, (B, K)."""

    gradient: Tensor
    second: Tensor


@dataclass(frozen=True)
class Quadratic:
    r"""The Gaussian family in its natural parameters: $\log p = \eta^\top x - \tfrac12 x^\top P x - \log Z$.

    t holds $x_j$, then $-\tfrac12 x_j^2$ and $-x_i x_j$ in the order of an upper triangle, row by row, so that
    $\theta = (\eta, P_{11}, P_{12}, \dots, P_{22}, \dots)$.
    """

    def __call__(self, x: Tensor) -> Tensor:
        """The statistics, (B, d + d (d + 1) / 2)."""
        i, j, half = self._pairs(x)
        return torch.cat([x, -half * x[:, i] * x[:, j]], dim=1)

    def derivatives(self, x: Tensor) -> Derivatives:
        """Linear and constant in x; filled in by rows and columns of the pattern."""
        i, j, half = self._pairs(x)
        d, pairs = x.shape[1], torch.arange(len(i))
        gradient = x.new_zeros(len(x), d + len(i), d)
        gradient[:, torch.arange(d), torch.arange(d)] = 1
        gradient[:, d + pairs, i] -= half * x[:, j]
        gradient[:, d + pairs, j] -= half * x[:, i]
        second = x.new_zeros(d + len(i), d)
        second[d + pairs[i == j], i[i == j]] = -1
        return Derivatives(gradient, second.expand(len(x), -1, -1))

    def moments(self, x: Array, w: Array) -> tuple[Array, Array]:
        r"""W and d from the first two moments: $\mathbb E\|\eta - Px\|^2$ is a quadratic form in them."""
        first, second = w @ x, (x * w[:, None]).T @ x
        slopes = quadratic_slopes(first)
        hessian = np.block([[np.eye(x.shape[1]), -slopes], [-slopes.T, quadratic_forms(second)]])
        return hessian, np.concatenate([0 * first, _diagonal(len(first))])

    def names(self, columns: list[str]) -> list[str]:
        """`eta[a]` and `P[a, b]`."""
        i, j = np.triu_indices(len(columns))
        pairs = [f"P[{columns[a]}, {columns[b]}]" for a, b in zip(i, j, strict=True)]
        return [f"eta[{name}]" for name in columns] + pairs

    def improper(self, theta: Array, region: Region) -> str | None:
        """Unless the domain is bounded, P must be positive definite."""
        return None if region.bounded else not_definite(self.unpack(theta)[1])

    def unpack(self, theta: Array) -> tuple[Array, Array]:
        r"""$\eta$ (d,) and P (d, d) of a parameter vector."""
        d = int((np.sqrt(9 + 8 * len(theta)) - 3) / 2 + 0.5)
        precision = np.zeros((d, d))
        i, j = np.triu_indices(d)
        precision[i, j] = precision[j, i] = theta[d:]
        return theta[:d], precision

    @staticmethod
    def _pairs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        i, j = torch.triu_indices(x.shape[1], x.shape[1]).unbind()
        return i, j, torch.where(i == j, 0.5, 1.0).to(x.dtype)


def quadratic_slopes(m: Array) -> Array:
    r"""The derivative of $Pm$ in the upper triangle of a symmetric P, (d, d (d + 1) / 2)."""
    i, j = np.triu_indices(len(m))
    out, pair = np.zeros((len(m), len(i))), np.arange(len(i))
    out[i, pair] = m[j]
    out[j, pair] = m[i]
    return out


def quadratic_forms(second: Array) -> Array:
    r"""The Hessian of $\tfrac12 \operatorname{tr} P M P$ in the upper triangle of a symmetric P, for a symmetric M."""
    i, j = np.triu_indices(len(second))
    half = np.where(i == j, 0.5, 1.0)  # P = sum over pairs of theta * half * (e_i e_j' + e_j e_i')
    both = ((i, j), (j, i))
    return np.outer(half, half) * sum((a[:, None] == c) * second[np.ix_(b, e)] for a, b in both for c, e in both)


def _diagonal(d: int) -> Array:
    i, j = np.triu_indices(d)
    return (i == j).astype(np.float64)


@dataclass(frozen=True)
class Standardised:
    """A statistic of (x - centre) / scale: the same family in coordinates where its system is well conditioned.

    Args:
        inner: the statistic.
        centre: (d,).
        scale: (d,), > 0.
    """

    inner: Statistic
    centre: Array
    scale: Array

    def __call__(self, x: Tensor) -> Tensor:
        """The statistics at the standardised rows, (B, K)."""
        return self.inner(self._moved(x))

    def derivatives(self, x: Tensor) -> Derivatives:
        """In x, by the chain rule."""
        found, slope = derivatives(self.inner, self._moved(x)), 1 / torch.from_numpy(self.scale)
        return Derivatives(found.gradient * slope, found.second * slope**2)

    def _moved(self, x: Tensor) -> Tensor:
        return (x - torch.from_numpy(self.centre)) / torch.from_numpy(self.scale)


@dataclass(frozen=True)
class Powers:
    r"""Powers of every column: $t = (x_j^a)$ for each a of `powers` and each column j; `(1, 2, 3, 4)` is the quartic.

    Args:
        powers: distinct, none 0; on the half-line they may be fractions or negative.
    """

    powers: tuple[float, ...] = (1, 2, 3, 4)

    def __post_init__(self) -> None:
        """Refuse what is no list of distinct powers."""
        if not self.powers or 0 in self.powers or len(set(self.powers)) < len(self.powers):
            raise ValueError(f"powers must be distinct numbers other than 0, got {self.powers!r}")

    def __call__(self, x: Tensor) -> Tensor:
        """The powers, (B, len(powers) d), one power after the other."""
        return torch.cat([x**a for a in self.powers], dim=1)

    def derivatives(self, x: Tensor) -> Derivatives:
        """Each of its own column."""
        first = [a * x ** (a - 1) if a != 1 else torch.ones_like(x) for a in self.powers]
        second = [
            a * (a - 1) * x ** (a - 2) if a not in (1, 2) else a * (a - 1) * torch.ones_like(x) for a in self.powers
        ]
        return Derivatives(
            torch.cat([f.diag_embed() for f in first], 1), torch.cat([s.diag_embed() for s in second], 1)
        )

    def names(self, columns: list[str]) -> list[str]:
        """`x1`, `x1^2`, …"""
        return [name if a == 1 else f"{name}^{a:g}" for a in self.powers for name in columns]

    def improper(self, theta: Array, region: Region) -> str | None:
        """Where a column is unbounded, its highest power must have a coefficient < 0, and be even if both sides are."""
        if region.bounded:
            return None
        top = int(np.argmax(self.powers))
        leading = theta.reshape(len(self.powers), -1)[top]
        odd = self.powers[top] % 2 != 0
        for value, down, up in zip(leading, np.isinf(region.low), np.isinf(region.high), strict=True):
            if down and odd:
                return f"the highest power, {self.powers[top]:g}, is odd, and the domain is open below"
            if (up or down) and not value < 0:
                return f"the leading coefficient {value:.4g} of power {self.powers[top]:g} must be < 0"
        return None


@dataclass(frozen=True)
class Gamma:
    r"""Independent gamma laws on the half-line: $t = (\log x_j), (x_j)$, $\theta = (\alpha_j - 1), (-\beta_j)$."""

    def __call__(self, x: Tensor) -> Tensor:
        """The statistics, (B, 2 d)."""
        return torch.cat([x.log(), x], dim=1)

    def derivatives(self, x: Tensor) -> Derivatives:
        """Each of its own column."""
        first, second = torch.cat([(1 / x).diag_embed(), torch.ones_like(x).diag_embed()], 1), (-1 / x**2).diag_embed()
        return Derivatives(first, torch.cat([second, torch.zeros_like(second)], 1))

    def names(self, columns: list[str]) -> list[str]:
        """`shape - 1` and `-rate` of each column."""
        return [f"shape[{name}] - 1" for name in columns] + [f"-rate[{name}]" for name in columns]

    def improper(self, theta: Array, region: Region) -> str | None:
        """Shape and rate must be > 0."""
        shape, rate = theta.reshape(2, -1)[0] + 1, -theta.reshape(2, -1)[1]
        if not (shape > 0).all() and (region.low == 0).any():
            return f"the shape {shape.min():.4g} must be > 0"
        return None if region.bounded or (rate > 0).all() else f"the rate {rate.min():.4g} must be > 0"


NAMED: dict[str, Any] = {
    "quadratic": Quadratic(),
    "quartic": Powers((1, 2, 3, 4)),
    "exponential": Powers((1,)),
    "gamma": Gamma(),
}


class Given:
    """A statistic with derivatives that the user gave: the triple (t, gradient, second)."""

    def __init__(self, parts: Any) -> None:
        if len(parts) != 3 or not all(callable(part) for part in parts):
            raise ValueError(
                "a statistic with derivatives is three callables (t, gradient, second): (B, d) -> (B, K), (B, K, d) "
                f"and (B, K, d), or (B, K) Laplacians where there is no weight; got {parts!r}"
            )
        self._t, self._gradient, self._second = parts

    def __call__(self, x: Tensor) -> Tensor:
        """The statistics, (B, K)."""
        return torch.as_tensor(self._t(x))

    def derivatives(self, x: Tensor) -> Derivatives:
        """As they are given."""
        return Derivatives(torch.as_tensor(self._gradient(x)), torch.as_tensor(self._second(x)))


def statistic_of(statistic: Any) -> Any:
    """Read a statistic as the estimators take it: a name, a callable, or the triple with derivatives.

    Raises:
        ValueError, TypeError: none of these.
    """
    if isinstance(statistic, str):
        check_choice("statistic", statistic, NAMED)
        return NAMED[statistic]
    if isinstance(statistic, (tuple, list)):
        return Given(statistic)
    if not callable(statistic):
        raise TypeError(f"statistic must be a name, a callable or (t, gradient, second), got {statistic!r}")
    return statistic


def derivatives(statistic: Statistic, x: Tensor) -> Derivatives:
    r"""$\partial_j t_k$ and $\partial_j^2 t_k$ at x (B, d): the statistic's own, else by autodiff.

    Raises:
        ValueError: statistics that are not (B, K), or derivatives of another shape.
        RuntimeError: an operation without forward-mode derivatives.
    """
    own = getattr(statistic, "derivatives", None)
    if own is not None:
        found = own(x)
        if found.gradient.ndim != 3 or found.gradient.shape[::2] != x.shape:
            got = tuple(found.gradient.shape)
            raise ValueError(
                f"the gradients of a statistic must be (B, K, d), here ({len(x)}, K, {x.shape[1]}), got {got}"
            )
        if found.second.shape not in (found.gradient.shape, found.gradient.shape[:2]):
            raise ValueError(
                f"second derivatives must be (B, K, d) like the gradients, {tuple(found.gradient.shape)}, or "
                f"Laplacians (B, K), got {tuple(found.second.shape)}"
            )
        return found
    first, second = [], []
    for j in range(x.shape[1]):
        e = torch.zeros_like(x)
        e[:, j] = 1
        try:
            twice: Any = jvp(lambda y, e=e: jvp(statistic, (y,), (e,)), (x,), (e,))
        except RuntimeError as error:
            raise RuntimeError(
                f"the statistic cannot be differentiated: {error}. It must be written in torch operations; or give "
                "its derivatives too: (t, gradient, second)"
            ) from error
        (value, slope), (_, curve) = twice
        if value.ndim != 2 or len(value) != len(x):
            raise ValueError(
                f"a statistic must return one row of K numbers per row, ({len(x)}, K), got {tuple(value.shape)}"
            )
        first.append(slope)
        second.append(curve)
    return Derivatives(torch.stack(first, dim=2), torch.stack(second, dim=2))


def not_definite(precision: Array) -> str | None:
    """A sentence when a symmetric matrix is not positive definite, else None."""
    least = float(np.linalg.eigvalsh(precision)[0])
    return None if least > 0 else f"the precision matrix has the eigenvalue {least:.4g}, which must be > 0"
