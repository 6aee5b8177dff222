"""Closed forms that the wrappers are held against: a Gaussian mixture given a linear observation."""

import torch
from torch import Tensor

from scorefield.densities import GaussianMixture
from scorefield.noise import VE, VP, Cosine, SubVP

NOISES = [VE(0.01, 20.0), VP(), SubVP(), Cosine()]
GAUSSIAN = GaussianMixture([1.0], [[0.5, -1.0, 0.3]], [[[1.5, 0.6, 0.2], [0.6, 1.0, -0.3], [0.2, -0.3, 0.5]]])
TWO = GaussianMixture([0.3, 0.7], [[-2.0, 0.0], [2.0, 1.0]], [[[0.5, 0.2], [0.2, 0.4]], [[0.3, -0.1], [-0.1, 0.6]]])
A3 = torch.tensor([[1.0, -0.5, 0.3], [0.0, 0.8, 1.2]], dtype=torch.float64)
Y3 = torch.tensor([0.7, -0.4], dtype=torch.float64)
A2, Y2 = torch.tensor([[1.0, 1.0]], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)


def exact_posterior(prior: GaussianMixture, a: Tensor, y: Tensor, sigma: float) -> tuple[GaussianMixture, float]:
    """The mixture given y = A x + sigma n, and log p(y): components by Kalman's rule, weights by their evidence."""
    weights, means, covariances = [], [], []
    for w, m, c in zip(prior.weights, prior.means, prior.covariances, strict=True):
        spread = a @ c @ a.T + sigma**2 * torch.eye(len(y), dtype=torch.float64)
        gain = c @ a.T @ torch.linalg.inv(spread)
        law = torch.distributions.MultivariateNormal(a @ m, spread)
        weights.append(w.log() + law.log_prob(y))
        means.append(m + gain @ (y - a @ m))
        covariances.append(c - gain @ a @ c)
    logs = torch.stack(weights)
    mixed = [(c + c.T) / 2 for c in covariances]
    return GaussianMixture(logs.softmax(0), torch.stack(means), torch.stack(mixed)), logs.logsumexp(0).item()
