"""`MixtureScore`: the score of a mixture made ready for many calls, in one precision."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from scorefield.calculus import inner
from scorefield.checks import check_floating, check_shape

_WIDE = 16  # from so many dimensions on, products with particles first are the faster ones


class MixtureScore:
    r"""The score of a mixture $\sum_k w_k N(m_k, C_k)$ computed in one precision; made by `GaussianMixture.prepared`.

    With the precisions $A_k = C_k^{-1}$ and the responsibilities $r_k$, each kind of covariances has a way of its own:

    * one component: $s = A m - A x$;
    * one A for all: $s = \sum_k r_k\, A m_k - A x$, and $x^\top A x$ drops out of $r_k$;
    * diagonal ones $a_k$: $s = \sum_k r_k\, a_k m_k - x \sum_k r_k a_k$, products with $x$ and $x^2$;
    * any in up to three dimensions: the same with all $x_i x_j$, $s = \sum_k r_k A_k m_k - (\sum_k r_k A_k)\,x$;
    * any in more: $s = \sum_k r_k (A_k m_k - y_k)$ with $y_k = A_k x$, which the exponents need too.

    Components come first and particles last, the layout in which sums over components are fast, and blocks of particles
    stay in the cache. The exponents are differences of squares: their error is about the precision's epsilon (6e-8 in
    float32) times the squared distance from the origin, in the narrowest widths.

    Attributes:
        dtype: the precision of the mathematics.
    """

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        diagonal = torch.diag_embed(torch.diagonal(covariances, dim1=1, dim2=2))
        if len(means) == 1:
            kind: type[_Way] = _Single
        elif torch.equal(covariances, covariances[:1].expand_as(covariances)):
            kind = _Shared
        elif torch.equal(covariances, diagonal):
            kind = _Diagonal
        else:
            kind = _Quadratic if means.shape[1] <= 3 else _Any
        self.dtype, self._shape = dtype, means.shape
        self._way = kind(weights.log().to(device), means.to(device), covariances.to(device), dtype)

    def __call__(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$, (B, d) -> (B, d)."""
        at = self._checked(x)
        if not isinstance(self._way, _Any):
            return self._way.score(at).to(x.dtype)
        return torch.cat([self._way.score(part).T for part in at.split(self._way.block)], 1).T.to(x.dtype)

    def log_density(self, x: Tensor) -> Tensor:
        r"""$\log p(x)$, (B, d) -> (B,)."""
        return self.with_log_density(x)[1]

    def with_log_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The score (B, d) and the log-density (B,), from the same exponents."""
        at = self._checked(x)
        if isinstance(self._way, _Any):
            parts = [self._way.both(part) for part in at.split(self._way.block)]
            s, log_density = torch.cat([s.T for s, _ in parts], 1).T, torch.cat([value for _, value in parts])
        else:
            s, log_density = self._way.both(at)
        return s.to(x.dtype), log_density.to(x.dtype)

    def _checked(self, x: Tensor) -> Tensor:
        d = self._shape[1]
        if x.dtype != self.dtype or x.ndim != 2 or x.shape[1] != d:
            check_floating("x", x)
            check_shape("x", x, (len(x), d), f"one point of {d} coordinates per row")
        return x.to(self.dtype)


class _Way(Protocol):
    """How one kind of covariances is computed: the score (B, d), alone or with the log-density (B,)."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None: ...

    def score(self, x: Tensor) -> Tensor: ...

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]: ...


class _Single:
    """A Gaussian."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None:
        precision = _precisions(covariances)[0]
        self._mean, self._drift = means[0].to(dtype), (means[0] @ precision).to(dtype)
        self._precision = precision.to(dtype)
        self._log_norm = (-torch.logdet(2 * math.pi * covariances[0]) / 2).to(dtype)

    def score(self, x: Tensor) -> Tensor:
        return torch.addmm(self._drift, x, self._precision, alpha=-1)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = self.score(x)
        return s, torch.add(self._log_norm, inner(x - self._mean, s), alpha=0.5)


class _Mixed:
    """Several components.

    The log-density of component k, with its weight, is `exponents(x)[0][k] * log 2 + common(x)`, (B,): powers of 2 are
    faster than those of e. The second that `exponents` returns is what `weighted` wants to see again, beside numbers
    (K, B) in proportion to the responsibilities.
    """

    def exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def weighted(self, r: Tensor, kept: Tensor) -> Tensor:
        raise NotImplementedError

    def common(self, x: Tensor) -> Tensor | float:
        raise NotImplementedError

    def score(self, x: Tensor) -> Tensor:
        exponents, kept = self.exponents(x)
        return self.weighted(_powers(exponents, exponents.amax(0)), kept)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        exponents, kept = self.exponents(x)
        largest = exponents.amax(0)
        r = _powers(exponents, largest)
        return self.weighted(r, kept), r.sum(0).log2().add_(largest).mul_(math.log(2)) + self.common(x)


class _Shared(_Mixed):
    """One covariance for all components; isotropic where it is v I."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None:
        precision = _precisions(covariances[:1])[0]
        isotropic = torch.equal(covariances[0], covariances[0, 0, 0] * torch.eye(len(precision)).to(covariances))
        drift = means @ precision  # (K, d)
        self._offset = (log_weights - (drift * means).sum(1) / 2)[:, None].div(math.log(2)).to(dtype)
        self._drift, self._table = drift.div(math.log(2)).to(dtype), drift.to(dtype)
        self._sums = _sums(self._table)
        self._precision = precision.to(dtype)
        self._scale = precision[0, 0].item() if isotropic else None
        self._log_norm = -torch.logdet(2 * math.pi * covariances[0]).item() / 2

    def exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addmm(self._offset, self._drift, x.T), x

    def common(self, x: Tensor) -> Tensor:
        return self._log_norm - inner(x, self._pull(x)) / 2

    def weighted(self, r: Tensor, kept: Tensor) -> Tensor:
        if kept.shape[1] >= _WIDE:
            towards = (r / r.sum(0)).T @ self._table
        else:
            sums = self._sums @ r
            towards = (sums[:-1] / sums[-1]).T
        return towards.sub_(self._pull(kept)) if self._scale is None else towards.sub_(kept, alpha=self._scale)

    def _pull(self, x: Tensor) -> Tensor:
        return self._scale * x if self._scale is not None else x @ self._precision


class _Diagonal(_Mixed):
    """Covariances that are diagonal, each its own."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None:
        inverse = 1 / torch.diagonal(covariances, dim1=1, dim2=2)
        self._offset, self._drift, drift = _linear(log_weights, means, torch.diag_embed(inverse), dtype)
        self._squares = (inverse / (-2 * math.log(2))).to(dtype)
        self._tables = (drift, inverse.to(dtype))
        self._sums = _sums(*self._tables)

    def exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addmm(self._offset, self._drift, x.T).addmm_(self._squares, x.square().T), x

    def common(self, x: Tensor) -> float:
        return 0.0

    def weighted(self, r: Tensor, kept: Tensor) -> Tensor:
        d = kept.shape[1]
        if d >= _WIDE:
            r = (r / r.sum(0)).T
            drift, precision = (r @ table for table in self._tables)
            return drift.addcmul_(precision, kept, value=-1)
        sums = self._sums @ r
        return torch.addcmul(sums[:d], sums[d:-1], kept.T, value=-1).div_(sums[-1]).T


class _Quadratic(_Mixed):
    """Any covariances in few dimensions: the exponents are linear in the numbers x_i and x_i x_j."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None:
        precisions = _precisions(covariances)
        self._offset, self._drift, drift = _linear(log_weights, means, precisions, dtype)
        squares = precisions.flatten(1)  # (K, d d)
        self._squares = (squares / (-2 * math.log(2))).to(dtype)
        self._sums = _sums(drift, squares.to(dtype))

    def exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        products = (x.T[:, None] * x.T).flatten(0, 1)
        return torch.addmm(self._offset, self._drift, x.T).addmm_(self._squares, products), x

    def common(self, x: Tensor) -> float:
        return 0.0

    def weighted(self, r: Tensor, kept: Tensor) -> Tensor:
        d, sums = kept.shape[1], self._sums @ r  # of the drifts, of the precisions row by row, and of r
        s = torch.addcmul(sums[:d], sums[d : 2 * d], kept[:, 0], value=-1)
        for i in range(1, d):
            s.addcmul_(sums[(i + 1) * d : (i + 2) * d], kept[:, i], value=-1)
        return s.div_(sums[-1]).T


class _Any(_Mixed):
    """Any covariances, by one product with all precisions."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None:
        precisions = _precisions(covariances)
        self._offset, self._drift, drift = _linear(log_weights, means, precisions, dtype)
        self._rows, self._columns = precisions.flatten(0, 1).to(dtype), drift.T.contiguous()
        self.block = max(1, 2**18 // len(self._rows))  # particles whose y stay in the cache

    def exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.T.contiguous()
        y = (self._rows @ x).reshape(len(self._drift), *x.shape)  # (K, d, B)
        return torch.addmm(self._offset, self._drift, x).sub_((y * x).sum(1), alpha=0.5 / math.log(2)), y

    def common(self, x: Tensor) -> float:
        return 0.0

    def weighted(self, r: Tensor, kept: Tensor) -> Tensor:
        r = r / r.sum(0)
        s = self._columns @ r
        for weight, y in zip(r, kept, strict=True):
            s.addcmul_(weight, y, value=-1)
        return s.T


def _precisions(covariances: Tensor) -> Tensor:
    """The inverses of covariances (K, d, d), symmetric to the last digit."""
    inverse = torch.linalg.inv(covariances)
    return (inverse + inverse.mT) / 2


def _linear(
    log_weights: Tensor, means: Tensor, precisions: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The constant (K, 1) and linear (K, d) parts of the exponents, over log 2, and the drifts $A_k m_k$, (K, d)."""
    k, d = means.shape
    drift = (precisions @ means[:, :, None]).reshape(k, d)
    log_norm = (torch.logdet(precisions) - d * math.log(2 * math.pi)) / 2
    offset = (log_weights + log_norm - (drift * means).sum(1) / 2)[:, None]
    return offset.div(math.log(2)).to(dtype), drift.div(math.log(2)).to(dtype), drift.to(dtype)


def _powers(exponents: Tensor, largest: Tensor) -> Tensor:
    """2 to the exponents (K, B) less the largest (B,); not below 2^-100, for denormal numbers are slow."""
    if exponents.requires_grad:  # a graph needs them as they are
        return (exponents - largest).clamp(min=-100).exp2()
    return exponents.sub_(largest).clamp_(min=-100).exp2_()


def _sums(*tables: Tensor) -> Tensor:
    """What makes of weights r (K, B) their sums with every column of the tables (K, n), and their own: (n + 1, K)."""
    return torch.cat([*tables, torch.ones_like(tables[0][:, :1])], 1).T.contiguous()
