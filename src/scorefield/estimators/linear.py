r"""The closed form: score matching of an exponential family is a linear system, gathered over rows in chunks.

With $T_{kj} = \partial_j t_k$ and the weight h of the domain (h = 1 without one), the mean objective is
$\tfrac12 \theta^\top W \theta - d^\top \theta$ with

$$ W = \mathbb E\, T \operatorname{diag}(h)\, T^\top, \qquad
   d = -\mathbb E \sum_j \left( h_j\, \partial_j^2 t + (\partial_j h_j)\, \partial_j t \right), $$

so that $\hat\theta = W^{-1} d$. A base b and parameters held fixed are statistics with known coefficients $\theta_c$:
what is free solves $W_{ff}\theta_f = d_f - W_{fc}\theta_c$. The estimating function of a row is
$g = T h (T^\top\theta) + \sum_j(h_j \partial_j^2 t + \partial_j h_j\,\partial_j t)$.

Source: Hyvärinen 2007 (Computational Statistics & Data Analysis 51), section 3; Yu, Drton & Shojaie 2019; Lin, Drton &
Shojaie 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scorefield.estimators.domains import Region
from scorefield.estimators.inference import Spread, invert
from scorefield.estimators.statistics import Derivatives, Statistic, derivatives
from scorefield.estimators.validation import Array

_NUMBERS = 2**17  # of one chunk's gradients: what fits into a cache is fastest


class Weighted(NamedTuple):
    r"""$T_{kj}$ (B, K, d); h (B, d), None where it is 1; $\sum_j(h_j \partial_j^2 t + \partial_j h_j \partial_j t)$."""

    gradient: Tensor
    h: Tensor | None
    trace: Tensor


@dataclass(frozen=True)
class Stack:
    """Several statistics side by side, such as the free ones and the base."""

    parts: tuple[Statistic, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """All of them, (B, K)."""
        return torch.cat([part(x) for part in self.parts], dim=1)

    def derivatives(self, x: Tensor) -> Derivatives:
        """All of theirs; Laplacians where one of them gives no more."""
        found = [derivatives(part, x) for part in self.parts]
        flat = any(f.second.ndim == 2 for f in found)
        second = [f.second.sum(2) if flat and f.second.ndim == 3 else f.second for f in found]
        return Derivatives(torch.cat([f.gradient for f in found], 1), torch.cat(second, 1))


@dataclass(frozen=True)
class LinearFit:
    """What the linear system says: estimate, its covariance (None without inference), W, objective, condition."""

    theta: Array
    covariance: Array | None
    hessian: Array
    objective: float
    condition: float


def solve(
    x: Array,
    w: Array,
    statistic: Statistic,
    region: Region,
    names: Sequence[str],
    *,
    fixed: Array | None = None,
    ridge: float = 0.0,
    ddof: float = 0.0,
    on_singular: str = "pinv",
    inference: bool = True,
) -> LinearFit:
    r"""Estimate and sandwich covariance of an exponential family: one pass for W and d, a second for the covariance.

    Args:
        x: rows, (n, d).
        w: their shares, (n,), with sum 1.
        statistic: t, (B, d) -> (B, K).
        region: where the data live, with the weight.
        names: of the K parameters.
        fixed: known values, (K,), nan where free.
        ridge: added to the diagonal of W, >= 0.
        ddof: see `Spread.covariance`.
        on_singular: see `invert`.
        inference: whether to make the second pass.

    Returns:
        the fit; in the covariance, rows and columns of fixed parameters are zero. `hessian` includes the ridge.
    """
    hessian, trace = moments(x, w, statistic, region)
    free = np.ones(len(trace), dtype=bool) if fixed is None else np.isnan(fixed)
    theta = np.zeros(len(trace)) if fixed is None else np.where(free, 0.0, fixed)
    _check_scale(hessian, trace, x, w, statistic, region, names)
    open_names = [name for name, is_free in zip(names, free, strict=True) if is_free]
    penalised = hessian + ridge * np.diag(free.astype(float))
    inner = np.ix_(free, free)
    solved = invert(penalised[inner], open_names, n=len(x), on_singular=on_singular)
    theta[free] = solved.inverse @ (trace - hessian @ theta)[free]
    covariance = None
    if inference:
        spread = Spread(int(free.sum()))
        for rows, shares in chunks(x, w, len(trace)):
            spread.add(estimating(rows, theta, statistic, region)[:, free], shares)
        covariance = np.zeros_like(hessian)
        covariance[inner] = solved.inverse @ spread.covariance(ddof) @ solved.inverse
    objective = theta @ hessian @ theta / 2 - trace @ theta
    return LinearFit(theta, covariance, penalised, float(objective), solved.condition)


def moments(x: Array, w: Array, statistic: Statistic, region: Region) -> tuple[Array, Array]:
    """W (K, K) and d (K,) over all rows: by the statistic's structure where it has one, else chunk by chunk."""
    if region.whole and region.weigh is None and hasattr(statistic, "moments"):
        return statistic.moments(x, w)  # pyright: ignore[reportFunctionMemberAccess]
    first = weighted(torch.from_numpy(x[:1]), statistic, region)
    count, d = first.trace.shape[1], x.shape[1]
    hessian, trace = np.zeros((count, count)), np.zeros(count)
    flat, start = np.empty((_rows(count, d), d, count)), 0
    level = w[0] if region.weigh is None and (w == w[0]).all() else 1.0  # equal shares are cheaper in the end
    for rows, shares in chunks(x, w, count):
        gradient, h, part = weighted(torch.from_numpy(rows), statistic, region)
        tall = flat[: len(rows)]
        if level == 1.0:
            root = np.sqrt(shares[:, None] if h is None else shares[:, None] * h.numpy())
            np.multiply(gradient.numpy().transpose(0, 2, 1), root[:, :, None], out=tall)
        else:
            tall[...] = gradient.numpy().transpose(0, 2, 1)
        tall = tall.reshape(-1, count)
        hessian += tall.T @ tall
        trace -= shares @ part.numpy()
        if not np.isfinite(np.diag(hessian)).all() or not np.isfinite(trace).all():
            _locate(Weighted(gradient, h, part), start)
            break  # the entries are finite, their squares are not
        start += len(rows)
    return level * hessian, trace


def estimating(x: Array, theta: Array, statistic: Statistic, region: Region) -> Array:
    """The estimating function g of each row at theta, (n, K): the gradient of its objective."""
    found = weighted(torch.from_numpy(x), statistic, region)
    s = torch.from_numpy(theta) @ found.gradient
    s = s if found.h is None else found.h * s
    g = (found.gradient @ s[:, :, None])[:, :, 0] + found.trace
    if not bool(g.isfinite().all()):
        _locate(found)
    return g.numpy()


def contributions(x: Array, theta: Array, statistic: Statistic, region: Region) -> Array:
    """The same chunk by chunk, for any number of rows."""
    shares = np.ones(len(x))
    return np.concatenate([estimating(rows, theta, statistic, region) for rows, _ in chunks(x, shares, len(theta))])


def objective(x: Array, theta: Array, statistic: Statistic, region: Region) -> Array:
    r"""$\rho$ of each row at theta, (n,): $\sum_j \tfrac12 h_j s_j^2 + h_j \partial_j s_j + \partial_j h_j s_j$."""
    out = []
    for rows, _ in chunks(x, np.ones(len(x)), len(theta)):
        found = weighted(torch.from_numpy(rows), statistic, region)
        s = torch.from_numpy(theta) @ found.gradient
        square = s.square() if found.h is None else found.h * s.square()
        out.append((square.sum(1) / 2 + found.trace @ torch.from_numpy(theta)).numpy())
        if not np.isfinite(out[-1]).all():
            _locate(found)
    return np.concatenate(out)


def score(x: Array, theta: Array, statistic: Statistic) -> Array:
    r"""$s = \sum_k \theta_k \nabla t_k$ of each row, (n, d)."""
    out = []
    for rows, _ in chunks(x, np.ones(len(x)), len(theta)):
        out.append((torch.from_numpy(theta) @ derivatives(statistic, torch.from_numpy(rows)).gradient).numpy())
    return np.concatenate(out)


def weighted(x: Tensor, statistic: Statistic, region: Region) -> Weighted:
    """Derivatives of the statistics, with the weight of the domain.

    Raises:
        ValueError: Laplacians are given where the weight needs second derivatives apart.
    """
    gradient, second = derivatives(statistic, x)
    if region.weigh is None:
        return Weighted(gradient, None, second if second.ndim == 2 else second.sum(2))
    if second.ndim == 2:
        raise ValueError(
            "a weighted objective needs second derivatives in every coordinate, (B, K, d), not Laplacians (B, K)"
        )
    h, slope = region.weigh(x)
    trace = (second @ h[:, :, None] + gradient @ slope[:, :, None])[:, :, 0]
    return Weighted(gradient, h, trace)


def _locate(found: Weighted, first: int = 0) -> None:
    """Name the row, counted from `first`, and the statistic whose derivatives are not finite, if there is one."""
    broken = ~(found.gradient.isfinite().all(2) & found.trace.isfinite())
    if bool(broken.any()):
        i, k = (int(v) for v in broken.nonzero()[0])
        raise ValueError(
            f"derivatives of statistic {k} are not finite at row {first + i} of X; drop that row, rescale X, or choose "
            "a statistic that is smooth where the data are"
        )


def chunks(x: Array, w: Array, count: int) -> Iterator[tuple[Array, Array]]:
    """Rows with their shares, so many that `count` gradients of them fit into a cache."""
    rows = _rows(count, x.shape[1])
    for start in range(0, len(x), rows):
        yield x[start : start + rows], w[start : start + rows]


def _rows(count: int, d: int) -> int:
    return max(1, _NUMBERS // (count * d))


def _check_scale(
    hessian: Array, trace: Array, x: Array, w: Array, statistic: Statistic, region: Region, names: Sequence[str]
) -> None:
    """Refuse moments that overflowed, or that underflowed: zero or below the normal numbers, of what is not zero."""
    if not (np.isfinite(hessian).all() and np.isfinite(trace).all()):
        raise ValueError("the moments of the statistics overflow in float64; rescale the columns of X")
    small = np.diag(hessian) < 1e-290
    if not small.any():
        return
    for rows, _ in chunks(x, w, len(trace)):
        found = weighted(torch.from_numpy(rows), statistic, region)
        seen = found.gradient.ne(0) if found.h is None else found.gradient.ne(0) & (found.h > 0)[:, None]
        lost = small & seen.any(2).any(0).numpy()
        if lost.any():
            raise ValueError(
                f"the moments of {names[int(lost.argmax())]} underflow in float64; rescale the columns of X"
            )
