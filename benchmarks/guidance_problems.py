"""The problems of `guidance.py` and what is known of them: priors, observations, exact posteriors, errors of draws."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scorefield.densities import GaussianMixture

GRID: dict[str, tuple[int, int, float, float, bool]] = {  # d, components, condition number, sigma_y, A is a mask
    "G2": (2, 1, 1, 0.1, False),
    "G8": (8, 1, 30, 1.0, False),
    "G8 mask": (8, 1, 1000, 0.1, True),
    "G64": (64, 1, 1000, 0.01, False),
    "M2 mask": (2, 3, 1, 0.01, True),
    "M2": (2, 25, 30, 0.3, False),
    "M8 mask": (8, 5, 30, 0.01, True),
    "M8": (8, 3, 30, 1.0, False),
    "M8 many": (8, 25, 1000, 0.1, False),
    "M64": (64, 5, 30, 0.1, False),
}
N = 1024  # draws


class Problem(NamedTuple):
    """A prior, A with the noise of y, and one y."""

    prior: GaussianMixture
    a: Tensor
    sigma: float
    masked: bool
    y: Tensor

    def entropy(self) -> float:
        """Of the weights of the posterior's components."""
        weights = conditioned(self)[0].weights
        return -(weights * weights.log()).sum().item()


def conditioned(problem: Problem) -> tuple[GaussianMixture, float]:
    """The exact posterior, components by Kalman's rule with weights by their evidence, and log p(y)."""
    prior, a, y = problem.prior, problem.a, problem.y
    spread = a @ prior.covariances @ a.T + problem.sigma**2 * torch.eye(len(a), dtype=torch.float64)
    gain = prior.covariances @ a.T @ torch.linalg.inv(spread)
    rest = torch.eye(a.shape[1], dtype=torch.float64) - gain @ a
    covariances = rest @ prior.covariances @ rest.mT + problem.sigma**2 * gain @ gain.mT  # Joseph's form
    residual = y - prior.means @ a.T
    logs = prior.weights.log() + torch.distributions.MultivariateNormal(prior.means @ a.T, spread).log_prob(y)
    means = prior.means + (gain @ residual[:, :, None])[:, :, 0]
    kept = logs.softmax(0) > 1e-12
    weights = logs.softmax(0)[kept]
    return GaussianMixture(weights / weights.sum(), means[kept], covariances[kept]), logs.logsumexp(0).item()


def normals(seed: int) -> tuple[torch.Generator, Callable[..., Tensor]]:
    """A generator, and normal numbers from it."""
    g = torch.Generator().manual_seed(seed)
    return g, lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)


def make(name: str) -> Problem:
    """One line of the grid."""
    d, components, condition, sigma, masked = GRID[name]
    g, normal = normals(sum(map(ord, name)))
    axes, _ = torch.linalg.qr(normal(components, d, d))
    widths = torch.logspace(0, -math.log10(condition), d, dtype=torch.float64)
    inner = 1.0 if components == 1 else 0.03 if components > 5 and d == 2 else 0.3  # of the variance, within components
    covariances = (axes * (inner * widths / widths.mean())) @ axes.mT
    weights = torch.linspace(1, 2, components, dtype=torch.float64)
    weights /= weights.sum()
    means = normal(components, d)
    if components > 1:
        means = means - weights @ means
        means = means * ((1 - inner) * d / (weights @ means.square().sum(1))).sqrt()
    prior = GaussianMixture(weights, means, covariances)
    rows = max(1, min(d // 2, 4))
    if masked:
        a = torch.eye(d, dtype=torch.float64)[:rows]
    else:
        left, _ = torch.linalg.qr(normal(rows, rows))
        right, _ = torch.linalg.qr(normal(d, rows))
        a = left * torch.logspace(0, -math.log10(condition) / 2, rows, dtype=torch.float64) @ right.T
    observed = prior.sample((50,), generator=g) @ a.T + sigma * normal(50, rows)
    made = [Problem(prior, a, sigma, masked, y) for y in observed]
    return max(made, key=lambda problem: problem.entropy())


class Truth:
    """What draws are held against."""

    def __init__(self, problem: Problem) -> None:
        g, normal = normals(7)
        self.law, self.log_evidence = conditioned(problem)
        values, axes = torch.linalg.eigh(self.law.covariance)
        self.whiten = axes / values.sqrt()
        self.axes = axes[:, [0, -1]]  # the narrowest and the widest
        directions = normal(problem.a.shape[1], 128)
        self.directions = directions / directions.norm(dim=0)
        self.draws = self.law.sample((N,), generator=g)
        many = self.law.sample((100_000,), generator=g)
        self.weights = self.modes(many).mean(0)
        pairs = [self.errors(self.law.sample((N,), generator=g)) for _ in range(5)]
        self.floor = {key: statistics.mean(pair[key] for pair in pairs) for key in pairs[0]}

    def modes(self, x: Tensor) -> Tensor:
        """Which component of the posterior is the likeliest for each draw, (B, K), one-hot."""
        law, parts = self.law, []
        for w, m, c in zip(law.weights, law.means, law.covariances, strict=True):
            root = torch.linalg.cholesky(c)
            z = torch.linalg.solve_triangular(root, (x - m).T, upper=False)
            parts.append(w.log() - root.diagonal().log().sum() - z.square().sum(0) / 2)
        return nn.functional.one_hot(torch.stack(parts).argmax(0), len(parts)).double()

    def errors(self, x: Tensor) -> dict[str, float]:
        """Of one set of draws."""
        d = x.shape[1]
        white = (x - self.law.mean) @ self.whiten
        spread = torch.cov(white.T)
        sides = [(part @ self.directions).sort(0).values for part in (x, self.draws)]
        return {
            "distance": (sides[0] - sides[1]).square().mean().sqrt().item(),
            "mean": white.mean(0).square().mean().sqrt().item(),
            "covariance": ((spread - torch.eye(d, dtype=torch.float64)).square().sum() / d).sqrt().item(),
            "width": spread.diagonal().mean().sqrt().item(),  # > 1: too wide
            "modes": (self.modes(x).mean(0) - self.weights).abs().sum().item() / 2,
        }
