"""A model with parameters as functions of one parameter vector, and the objectives of its rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from scorefield.calculus import check_smooth, quadratic_forms, vector_jacobian
from scorefield.estimators.statistics import Quadratic
from scorefield.estimators.validation import Array

Parametric = Callable[[Tensor, Tensor], Tensor]  # theta (K,), x (B, d) -> (B,) or (B, d)


class Model:
    """A model read once: its functions of (theta, x), where it starts, and the names of its parameters.

    Args:
        model: None, an `nn.Module`, or a callable log_density(x, theta); see `ScoreMatching`.
        start: first values of theta, for a callable.
        columns: names of the data's columns.
        x: one row of data, (1, d), on which the model's output is looked at.

    Attributes:
        start: (K,), float64.
        names: K words.
        log_density: (theta, x) -> (B,), or None for a bare score.
        score: (theta, x) -> (B, d).

    Raises:
        TypeError, ValueError: no such model, none of its parameters is free, or its output is neither (B,) nor (B, d).
    """

    def __init__(self, model: Any, start: Any, columns: list[str], x: Array) -> None:
        self.module: nn.Module | None = None
        if model is None:
            d = len(columns)
            i, j = np.triu_indices(d)
            self.names = Quadratic().names(columns)
            self.start = torch.from_numpy(np.concatenate([np.zeros(d), (i == j).astype(np.float64)]))
            place = torch.zeros(d, d, dtype=torch.long)
            place[i, j] = place[j, i] = d + torch.arange(len(i))
            called: Parametric = lambda theta, x: x @ theta[:d] - (x @ theta[place] * x).sum(1) / 2  # noqa: E731
        elif isinstance(model, nn.Module):
            called = self._read(model)
        elif callable(model):
            if start is None:
                raise ValueError("a callable log_density(x, theta) needs start, the first values of theta")
            given: Any = model
            self.start = torch.from_numpy(np.atleast_1d(np.asarray(start, dtype=np.float64)).copy())
            self.names = [f"theta[{k}]" for k in range(len(self.start))]
            called = lambda theta, x: given(x, theta)  # noqa: E731
        else:
            raise TypeError(
                "model must be an nn.Module, a callable log_density(x, theta) or None (a Gaussian energy), "
                f"got {type(model).__name__}"
            )
        if self.start.ndim != 1 or not len(self.start) or not bool(self.start.isfinite().all()):
            raise ValueError("a model must have parameters that are free (requires_grad) and start at finite values")
        self.log_density = called if self._is_density(called, x) else None
        self.score: Parametric = called if self.log_density is None else _score_of(called)
        if self.module is not None:
            check_smooth(_Seen(self.module, self.log_density is not None))

    def load(self, theta: Tensor) -> None:
        """Put theta into the module."""
        if self.module is not None:
            free = [p for p in self.module.parameters() if p.requires_grad]
            nn.utils.vector_to_parameters(theta.detach(), free)

    def _read(self, model: nn.Module) -> Parametric:
        self.module = module = copy.deepcopy(model).double()
        wrapped = _Density(module) if hasattr(module, "log_density") else module
        free = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
        sizes, shapes = [p.numel() for p in free.values()], [p.shape for p in free.values()]
        first = [p.detach().flatten() for p in free.values()]
        self.start = torch.cat(first) if first else torch.empty(0)
        self.names = [
            f"{name.removeprefix('inner.')}{list(map(int, np.unravel_index(k, p.shape))) if p.ndim else ''}"
            for name, p in free.items()
            for k in range(p.numel())
        ]

        def called(theta: Tensor, x: Tensor) -> Tensor:
            parts = [part.reshape(shape) for part, shape in zip(theta.split(sizes), shapes, strict=True)]
            return functional_call(wrapped, dict(zip(free, parts, strict=True)), (x,))

        return called

    def _is_density(self, called: Parametric, x: Array) -> bool:
        with torch.no_grad():
            value = called(self.start, torch.from_numpy(x))
        shape = tuple(getattr(value, "shape", ()))
        if shape not in ((1,), x.shape):
            raise ValueError(
                f"a model must return a log-density (B,) or a score (B, d), here (1,) or {x.shape}, got {shape}"
            )
        return shape == (1,)


class _Density(nn.Module):
    """A module whose call is the log-density of another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.log_density(x)  # pyright: ignore[reportCallIssue]


class _Seen:
    """What `check_smooth` looks at."""

    def __init__(self, module: nn.Module, density: bool) -> None:
        self.modules = module.modules
        if density:
            self.log_density = None


def _score_of(log_density: Parametric) -> Parametric:
    def score(theta: Tensor, x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            value = log_density(theta, at)
            if not value.requires_grad:
                return torch.zeros_like(at)
            how: Any = {"create_graph": True, "materialize_grads": True}
            return torch.autograd.grad(value.sum(), at, **how)[0]

    return score


def implicit(score: Parametric, theta: Tensor, x: Tensor, h: Tensor, slope: Tensor, v: Tensor | None = None) -> Tensor:
    r"""$\sum_j \tfrac12 h_j s_j^2 + h_j \partial_j s_j + \partial_j h_j s_j$ of each row, (B,).

    `slope` is $\partial_j h_j$. With probes v (B, d) of mean square 1 the second term is estimated by $\sum_j v_j h_j
    (v^\top \nabla s)_j$.
    """
    at = x.detach().requires_grad_()
    s = score(theta, at)
    if v is not None:
        curve = (vector_jacobian(s, at, v) * v * h).sum(1)
    else:
        basis = torch.eye(x.shape[1], dtype=x.dtype)[:, None].expand(-1, *x.shape)
        curve = (quadratic_forms(s, at, basis) * h.T).sum(0)
    return (h * s**2).sum(1) / 2 + curve + (slope * s).sum(1)


def denoising(score: Parametric, theta: Tensor, x: Tensor, z: Tensor, sigma: float) -> Tensor:
    r"""$\tfrac12 \|s(x + \sigma z) + z/\sigma\|^2$ of each row, (B,)."""
    return (score(theta, x + sigma * z) + z / sigma).square().sum(1) / 2
