"""The mean objective of a parametric model over rows, its derivatives in the parameters, and minimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from scorefield.estimators.inference import Spread
from scorefield.estimators.validation import Array

Rows = Callable[..., Tensor]  # (theta, x, what else belongs to the rows) -> objective of each row, (B,)
Both = Callable[[Array], tuple[float, Array]]  # theta (K,) -> an objective and its gradient
_NUMBERS = 2**18  # of one chunk's second derivatives


class Problem:
    """The weighted mean of an objective over rows, in chunks.

    Args:
        rows: (theta, x, *beside) -> (B,).
        w: shares of the rows, (n,).
        x: (n, d).
        beside: what else belongs to the rows and does not change with theta, such as noise and weights, (n, d) each.
    """

    def __init__(self, rows: Rows, w: Tensor, x: Tensor, *beside: Tensor) -> None:
        self._rows, self._w, self._x, self._beside = rows, w, x, beside

    def value_and_gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """Of the mean."""
        value, slope = 0.0, torch.zeros_like(theta)
        for part in self._chunks(1):
            slope_part, value_part = self._mean(theta, part)
            value, slope = value + float(value_part), slope + slope_part
        return value, slope

    def both(self, theta: Array) -> tuple[float, Array]:
        """The same, of arrays."""
        value, slope = self.value_and_gradient(torch.from_numpy(theta.copy()))
        return value, slope.numpy()

    def bend(self, theta: Array) -> Array:
        """The Hessian, of an array."""
        return self.hessian(torch.from_numpy(theta))

    def hessian(self, theta: Tensor) -> Array:
        """Of the mean, (K, K): one backward pass per parameter."""
        total = theta.new_zeros(len(theta), len(theta))
        for w, *rows in self._chunks(len(theta)):
            at = theta.detach().requires_grad_()
            (slope,) = _gradient(w @ self._rows(at, *rows), at, create_graph=True)
            if slope.requires_grad:
                total += torch.stack([_gradient(part, at)[0] for part in slope])
        return ((total + total.T) / 2).numpy()

    def spread(self, theta: Tensor) -> Spread:
        """The covariance of the gradients of the rows."""
        out = Spread(len(theta))
        for w, *rows in self._chunks(len(theta)):
            out.add(self._slopes(theta, rows).numpy(), w.numpy())
        return out

    def values(self, theta: Tensor) -> Tensor:
        """The objective of each row, (n,)."""
        return torch.cat([self._rows(theta, *rows).detach() for _, *rows in self._chunks(1)])

    def contributions(self, theta: Tensor) -> Tensor:
        """Its gradient in theta, of each row, (n, K)."""
        return torch.cat([self._slopes(theta, rows) for _, *rows in self._chunks(len(theta))])

    def batch(self, theta: Tensor, rows: Tensor) -> Tensor:
        """The gradient of the mean over some rows, each as often as it is listed."""
        shares = torch.full((len(rows),), 1 / len(rows), dtype=theta.dtype)
        return self._mean(theta, (shares, self._x[rows], *(part[rows] for part in self._beside)))[0]

    def draws(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of `count` rows, by their weight."""
        return torch.multinomial(self._w, count, replacement=True, generator=generator)

    def _mean(self, theta: Tensor, part: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Gradient and value of the sum over a part of the rows."""
        w, *rows = part
        at = theta.detach().requires_grad_()
        value = w @ self._rows(at, *rows)
        return _gradient(value, at)[0], value.detach()

    def _slopes(self, theta: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """The gradient of each row, (B, K): that of all, weighted by u, is linear in u, and is differentiated in u."""
        at = theta.detach().requires_grad_()
        value = self._rows(at, *rows)
        u = torch.ones_like(value).requires_grad_()
        (slope,) = _gradient(u @ value, at, create_graph=True)
        return torch.stack([_gradient(part, u)[0] for part in slope], dim=1)

    def _chunks(self, count: int) -> Iterator[tuple[Tensor, ...]]:
        rows = max(1, _NUMBERS // (count * self._x.shape[1]))
        return zip(*(whole.split(rows) for whole in (self._w, self._x, *self._beside)), strict=True)


def _gradient(value: Tensor, at: Tensor, *, create_graph: bool = False) -> tuple[Tensor, ...]:
    """Of a number, zero where it does not depend on `at`; its graph is kept."""
    if not value.requires_grad:
        return (torch.zeros_like(at),)
    how: Any = {"retain_graph": True, "create_graph": create_graph, "materialize_grads": True}
    return torch.autograd.grad(value, at, **how)


def lbfgs(both: Both, theta: Array, *, max_iter: int, tol: float) -> tuple[Array, int]:
    """Limited-memory BFGS by scipy: the minimiser and how many iterations it took.

    Args:
        both: theta (K,) -> value and gradient.
        theta: where to start.
        max_iter: iterations.
        tol: the largest entry of the gradient at which it stops.
    """
    options = {"maxiter": max_iter, "maxfun": 20 * max_iter, "gtol": tol, "ftol": 0.0, "maxcor": 20}
    found = minimize(both, theta, jac=True, method="L-BFGS-B", options=options)
    return np.array(found.x), int(found.nit)


def newton(
    both: Both, hessian: Callable[[Array], Array], theta: Array, *, max_iter: int, tol: float
) -> tuple[Array, int]:
    r"""Newton's method with $|H|$ in place of H, a step being halved until it goes down, or makes the gradient smaller.

    The latter decides at the minimum, where values agree to their last digits. Directions in which H is zero to
    rounding are left alone, so that the gradient there does not count.

    Args:
        both: theta (K,) -> value and gradient.
        hessian: theta (K,) -> (K, K).
        theta: where to start.
        max_iter: steps.
        tol: the largest entry of the gradient at which it stops.

    Returns:
        the minimiser, and how many steps were made.
    """
    value, slope = both(theta)
    for k in range(max_iter):
        if np.abs(slope).max() <= tol or not np.isfinite(value):
            return theta, k
        bend = hessian(theta)
        if not np.isfinite(bend).all():
            return theta, k
        values, vectors = np.linalg.eigh(bend)
        seen = np.abs(values) > 1e-12 * np.abs(values).max()
        along = vectors[:, seen].T @ slope
        if not np.abs(vectors[:, seen] @ along).max() > tol:
            return theta, k
        step, length = -(vectors[:, seen] / np.abs(values[seen])) @ along, 1.0
        while True:
            tried = theta + length * step
            new, new_slope = both(tried)
            flat = abs(new - value) <= 1e-13 * abs(value)
            lower = new <= value + 1e-4 * length * float(slope @ step) and not flat
            if lower or (flat and np.abs(new_slope).max() < np.abs(slope).max()):
                break
            length /= 2
            if length < 1e-10:
                return theta, k
        theta, value, slope = tried, new, new_slope
    return theta, max_iter


def polished(problem: Problem, theta: Tensor, *, steps: int = 3) -> Tensor:
    """A few full Newton steps near a minimum, kept while they make the gradient smaller and H is positive."""
    _, slope = problem.value_and_gradient(theta)
    for _ in range(steps):
        size = float(slope.abs().max())
        hessian = torch.from_numpy(problem.hessian(theta))
        if size == 0 or not bool(hessian.isfinite().all()):
            return theta
        values, vectors = torch.linalg.eigh(hessian)
        if not float(values[0]) > 1e-12 * float(values[-1]):
            return theta
        tried = theta - (vectors / values) @ (vectors.T @ slope)
        _, new = problem.value_and_gradient(tried)
        if not float(new.abs().max()) < size:
            return theta
        theta, slope = tried, new
    return theta


def adam(
    problem: Problem, theta: Tensor, *, max_iter: int, batch_size: int, learning_rate: float, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Adam on mini-batches drawn by weight, its rate falling to zero linearly."""
    at = theta.clone().requires_grad_()
    optimiser = torch.optim.Adam([at], lr=learning_rate)
    for k in range(max_iter):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - k / max_iter)
        at.grad = problem.batch(at.detach(), problem.draws(batch_size, generator))
        optimiser.step()
    return at.detach(), max_iter
