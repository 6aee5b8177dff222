"""`Preconditioner`: a matrix P, ideally the target's covariance, given as a number, a diagonal or in full."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scorefield.checks import check_positive


@dataclass(frozen=True, eq=False)
class Preconditioner:
    r"""A positive definite $P = L L^\top$ over one sample: the metric in which a kernel moves.

    Overdamped moves drift by $P s$ under noise $L z$; for kernels with a momentum P is the inverse of the mass matrix.
    With P the target's covariance every coordinate has the scale 1.

    Args:
        value: a number > 0; numbers > 0 of one sample's shape `*D`, the diagonal of P; or a symmetric positive
            definite matrix (n, n), with n the numbers in one sample.
    """

    value: float | Tensor
    _root: Tensor = field(init=False, repr=False)
    _inverse_root: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Factor the matrix; refuse one that is not positive definite."""
        if not isinstance(self.value, Tensor):
            check_positive("preconditioner", self.value)
            return
        p = self.value.detach().double()
        if p.ndim == 2 and p.shape[0] == p.shape[1] and torch.equal(p, p.T):
            root, failed = torch.linalg.cholesky_ex(p)
            if not failed:
                object.__setattr__(self, "_root", root)
                object.__setattr__(self, "_inverse_root", torch.linalg.inv(root))
                return
        if not bool((p > 0).all()) or not bool(p.isfinite().all()):
            raise ValueError(
                "preconditioner must be a number > 0, numbers > 0 of the shape of one sample, or a symmetric positive "
                f"definite matrix, got a tensor of shape {tuple(p.shape)} that is neither"
            )

    def check(self, x: Tensor) -> None:
        """Refuse a preconditioner that does not fit the samples `x` (B, *D)."""
        shape, n = x.shape[1:], x.shape[1:].numel()
        if isinstance(self.value, Tensor) and self.value.shape != shape and self.value.shape != (n, n):
            raise ValueError(
                f"preconditioner must have the shape of one sample, {tuple(shape)}, or ({n}, {n}), "
                f"got {tuple(self.value.shape)}"
            )
        if isinstance(self.value, Tensor) and self.value.shape != shape and not hasattr(self, "_root"):
            raise ValueError("preconditioner must be symmetric and positive definite; use (p + p.T) / 2")

    def apply(self, a: Tensor) -> Tensor:
        """P a, (B, *D)."""
        return self._scaled(1.0, a) if self._elementwise(a) else _rows(torch.as_tensor(self.value), a)

    def root(self, z: Tensor) -> Tensor:
        r"""L z: of covariance P for $z \sim N(0, I)$."""
        return self._scaled(0.5, z) if self._elementwise(z) else _rows(self._root, z)

    def transposed_root(self, a: Tensor) -> Tensor:
        r"""$L^\top a$, so that $|L^\top a|^2 = a^\top P a$."""
        return self._scaled(0.5, a) if self._elementwise(a) else _rows(self._root.T, a)

    def momentum(self, z: Tensor) -> Tensor:
        r"""$L^{-\top} z$: of covariance $P^{-1}$ for $z \sim N(0, I)$."""
        return self._scaled(-0.5, z) if self._elementwise(z) else _rows(self._inverse_root.T, z)

    def tempered(self, temperature: float) -> float | Tensor:
        """P times a temperature, as a value for another kernel."""
        return self.value * temperature

    def _elementwise(self, a: Tensor) -> bool:
        return not isinstance(self.value, Tensor) or self.value.shape == a.shape[1:]

    def _scaled(self, power: float, a: Tensor) -> Tensor:
        """P to a power times a, for a number or a diagonal."""
        if isinstance(self.value, Tensor):
            return self.value.to(a) ** power * a
        return a if self.value == 1 else self.value**power * a


def _rows(matrix: Tensor, a: Tensor) -> Tensor:
    """The matrix (n, n) times every sample."""
    return (a.flatten(1) @ matrix.to(a).T).reshape(a.shape)
