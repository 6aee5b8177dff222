"""`MixtureScore`: the score of a mixture made ready for many calls, in one precision."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from scorefield.checks import check_floating, check_shape


class MixtureScore:
    r"""The score of a mixture $\sum_k w_k N(m_k, C_k)$ computed in one precision; made by `GaussianMixture.prepared`.

    Each kind of covariances has a way of its own; $r_k$ are the responsibilities:

    * one component: $s = C^{-1} m - C^{-1} x$;
    * one C for all: $s = \sum_k r_k\, C^{-1} m_k - C^{-1} x$, and $x^\top C^{-1} x$ drops out of $r_k$;
    * diagonal ones with inverses $a_k$: $s = \sum_k r_k\, a_k m_k - x \sum_k r_k a_k$, products with $x$ and $x^2$;
    * any, $C_k = L_k L_k^\top$: $s = -\sum_k r_k L_k^{-\top} y_k$ with $y_k = L_k^{-1}(x - m_k)$.

    Components come first and particles last, the layout in which sums over components are fast. The exponents are
    differences of squares: their error is about the precision's epsilon (6e-8 in float32) times the squared distance
    from the origin, in widths.

    Attributes:
        dtype: the precision of the mathematics.
    """

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        diagonal = torch.diagonal(covariances, dim1=1, dim2=2)
        if len(means) == 1:
            kind: type[_Way] = _Single
        elif torch.equal(covariances, covariances[:1].expand_as(covariances)):
            kind = _Shared
        else:
            kind = _Diagonal if torch.equal(covariances, torch.diag_embed(diagonal)) else _Whitened
        self.dtype, self._shape = dtype, means.shape
        self._way = kind(weights.log().to(device), means.to(device), covariances.to(device), dtype)

    def __call__(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$, (B, d) -> (B, d)."""
        at = self._checked(x)
        if isinstance(self._way, _Single):
            return self._way.pull(at).to(x.dtype)
        exponents, kept = self._way.exponents(at)
        return self._way.score(exponents.softmax(0), kept).to(x.dtype)

    def log_density(self, x: Tensor) -> Tensor:
        r"""$\log p(x)$, (B, d) -> (B,)."""
        at = self._checked(x)
        return (self._way.exponents(at)[0].logsumexp(0) + self._way.common(at)).to(x.dtype)

    def with_log_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The score (B, d) and the log-density (B,), from the same exponents."""
        way, at = self._way, self._checked(x)
        exponents, kept = way.exponents(at)
        total = exponents.logsumexp(0) + way.common(at)
        return way.score(exponents.softmax(0), kept).to(x.dtype), total.to(x.dtype)

    def _checked(self, x: Tensor) -> Tensor:
        check_floating("x", x)
        d = self._shape[1]
        check_shape("x", x, (len(x), d), f"one point of {d} coordinates per row")
        return x.to(self.dtype)


class _Way(Protocol):
    """How one kind of covariances is computed.

    The log-density of component k, with its weight, is `exponents(x)[0][k] + common(x)`, (B,); the second that
    `exponents` returns is what `score` wants to see again, beside the responsibilities r (K, B).
    """

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None: ...

    def exponents(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def common(self, x: Tensor) -> Tensor | float: ...

    def score(self, r: Tensor, kept: Tensor) -> Tensor: ...


class _Single:
    """A Gaussian."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None:
        precision = torch.linalg.inv(covariances[0])
        precision = (precision + precision.T) / 2
        self._mean, self._drift = means[0].to(dtype), (means[0] @ precision).to(dtype)
        self._precision = precision.to(dtype)
        self._log_norm = -torch.logdet(2 * math.pi * covariances[0]).item() / 2

    def pull(self, x: Tensor) -> Tensor:
        """The score."""
        return torch.addmm(self._drift, x, self._precision, alpha=-1)

    def exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = self.pull(x)
        return (self._log_norm + ((x - self._mean) * s).sum(1) / 2)[None], s

    def common(self, x: Tensor) -> float:
        return 0.0

    def score(self, r: Tensor, kept: Tensor) -> Tensor:
        return kept


class _Shared:
    """One covariance for all components; isotropic where it is v I."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None:
        precision = torch.linalg.inv(covariances[0])
        isotropic = torch.equal(covariances[0], covariances[0, 0, 0] * torch.eye(len(precision)).to(covariances))
        drift = means @ precision  # (K, d)
        self._offset = (log_weights - (drift * means).sum(1) / 2)[:, None].to(dtype)
        self._drift, self._columns = drift.to(dtype), drift.T.contiguous().to(dtype)
        self._precision = ((precision + precision.T) / 2).to(dtype)
        self._scale = precision[0, 0].item() if isotropic else None
        self._log_norm = -torch.logdet(2 * math.pi * covariances[0]).item() / 2

    def exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addmm(self._offset, self._drift, x.T), x

    def common(self, x: Tensor) -> Tensor:
        return self._log_norm - (x * self._pull(x)).sum(1) / 2

    def score(self, r: Tensor, kept: Tensor) -> Tensor:
        towards = _mean(r, self._drift, self._columns)
        return torch.sub(towards, self._pull(kept)) if self._scale is None else towards.sub_(kept, alpha=self._scale)

    def _pull(self, x: Tensor) -> Tensor:
        return self._scale * x if self._scale is not None else x @ self._precision


class _Diagonal:
    """Covariances that are diagonal, each its own."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None:
        variances = torch.diagonal(covariances, dim1=1, dim2=2)
        inverse = 1 / variances
        drift = means * inverse
        offset = log_weights - ((drift * means) + (2 * math.pi * variances).log()).sum(1) / 2
        self._offset, self._drift, self._inverse = offset[:, None].to(dtype), drift.to(dtype), inverse.to(dtype)
        self._drift_columns, self._inverse_columns = (a.T.contiguous().to(dtype) for a in (drift, inverse))

    def exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        linear = torch.addmm(self._offset, self._drift, x.T)
        return linear.addmm_(self._inverse, x.square().T, alpha=-0.5), x

    def common(self, x: Tensor) -> float:
        return 0.0

    def score(self, r: Tensor, kept: Tensor) -> Tensor:
        towards, precision = (
            _mean(r, self._drift, self._drift_columns),
            _mean(r, self._inverse, self._inverse_columns),
        )
        return towards.addcmul_(precision, kept, value=-1)


def _mean(r: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The sum over components of r (K, B) times `rows` (K, d), (B, d): by the product that is fast for this d."""
    return r.T @ rows if rows.shape[1] >= 16 else (columns @ r).T


class _Whitened:
    """Any covariances, by the inverses of their roots."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype) -> None:
        inverse_roots = torch.linalg.inv(torch.linalg.cholesky(covariances))  # (K, d, d)
        k, d = means.shape
        log_norm = torch.diagonal(inverse_roots, dim1=1, dim2=2).log().sum(1) - d / 2 * math.log(2 * math.pi)
        self._offset = (log_weights + log_norm)[:, None].to(dtype)
        self._rows = inverse_roots.reshape(k * d, d).to(dtype)
        self._centres = -(inverse_roots @ means[:, :, None]).reshape(k * d, 1).to(dtype)
        self._shape = (k, d)

    def exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.addmm(self._centres, self._rows, x.T).reshape(*self._shape, len(x))  # (K, d, B)
        return self._offset - y.square().sum(1) / 2, y

    def common(self, x: Tensor) -> float:
        return 0.0

    def score(self, r: Tensor, kept: Tensor) -> Tensor:
        return (self._rows.T @ kept.mul_(-r[:, None]).flatten(0, 1)).T
