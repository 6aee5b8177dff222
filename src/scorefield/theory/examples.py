"""The laws, models and points on which `table` checks the theorems."""

from __future__ import annotations

import torch
from torch import Tensor

from scorefield.densities import Gaussian, GaussianMixture


def on_line() -> GaussianMixture:
    """The law on the line that most examples begin from."""
    return with_mean(1.5)


def with_mean(mean: float) -> GaussianMixture:
    """The family that `on_line` belongs to: the mean of its second component is free."""
    return GaussianMixture([0.4, 0.6], [[-1.0], [mean]], [[[0.3]], [[0.5]]])


def broad() -> GaussianMixture:
    """Another law on the line."""
    return GaussianMixture([0.5, 0.5], [[-1.5], [1.0]], [[[0.5]], [[0.7]]])


def normal(mean: float, variance: float) -> Gaussian:
    """A Gaussian on the line."""
    return Gaussian([mean], [[variance]])


def in_space() -> GaussianMixture:
    """A law in three dimensions."""
    one = [[0.6, 0.2, 0.0], [0.2, 0.5, 0.0], [0.0, 0.0, 0.7]]
    other = [[0.8, -0.2, 0.1], [-0.2, 0.5, 0.0], [0.1, 0.0, 0.6]]
    return GaussianMixture([0.35, 0.65], [[1.2, 0.5, 0.0], [-0.8, 0.0, 0.4]], [one, other])


def near() -> GaussianMixture:
    """A model of `in_space` that is close to it."""
    return GaussianMixture([0.5, 0.5], [[1.0, 0.5, 0.3], [-1.0, 0.3, 0.0]], [diagonal(0.8, 0.5, 0.7)] * 2)


def coarse() -> Gaussian:
    """A model of `in_space` that is not."""
    return Gaussian([1.0, -1.0, 0.5], diagonal(1.0, 0.6, 0.5))


def diagonal(*entries: float) -> list[list[float]]:
    """A diagonal matrix, in rows."""
    return torch.diag(torch.tensor(entries)).tolist()


def in_plane() -> GaussianMixture:
    """A law in the plane."""
    covariances = [[[0.5, 0.2], [0.2, 0.3]], [[0.3, -0.2], [-0.2, 0.6]], [[0.8, 0.0], [0.0, 0.15]]]
    return GaussianMixture([0.5, 0.3, 0.2], [[2.0, 1.0], [-1.0, 1.5], [1.0, -1.5]], covariances)


def five_atoms() -> Tensor:
    """Five points of the plane, (5, 2)."""
    return torch.tensor([[1.5, 0.5], [-1.0, 1.0], [0.0, -1.5], [2.0, -1.0], [-0.5, 0.0]], dtype=torch.float64)


def column(low: float, high: float) -> Tensor:
    """Nine points of the line, (9, 1)."""
    return torch.linspace(low, high, 9, dtype=torch.float64)[:, None]


def double_well(x: Tensor, theta: Tensor) -> Tensor:
    r"""The energy $E(x, \theta) = x^4/4 + \theta x^2/2$, with two wells for theta < 0; x (B, 1), theta (B,)."""
    return x[:, 0] ** 4 / 4 + theta * x[:, 0] ** 2 / 2


def wave(x: Tensor) -> Tensor:
    """A function of the plane that is neither even nor a polynomial, (B, 2) -> (B,)."""
    return x.square().sum(1) / 2 + (x[:, 0] - x[:, 1]).cos() + x[:, 0].sin()
