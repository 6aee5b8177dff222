"""What the tests of the samplers share: schedules, exact scores, given noise, and a mixture to be recovered."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator

from scorefield.calculus import expand
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.noise import VE, VP, Cosine, SubVP
from scorefield.samplers import reverse

NOISES = [VE(0.01, 25.0), VP(), SubVP(), Cosine()]
MEAN, VARIANCE = 1.5, 0.7


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def at(t):
    return torch.tensor(t, dtype=torch.float64)


def levels_of(noise, t):
    """Alpha and sigma at one time, as numbers."""
    t = torch.as_tensor(t, dtype=torch.float64)
    return noise.alpha(t).item(), noise.sigma(t).item()


def gaussian_score(noise, mean=MEAN, variance=VARIANCE):
    """The exact blurred score of N(mean, variance I), by hand; variance 0 for a point."""

    def score(x, t):
        alpha, sigma = expand(noise.alpha(t), x), expand(noise.sigma(t), x)
        return -(x - alpha * mean) / (alpha**2 * variance + sigma**2)

    return score


def slope_of(errors, counts):
    """The order of convergence: minus the slope of log error over log number of steps."""
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@dataclass
class Fixed:
    """Noise that is given: one row per sample."""

    rows: torch.Tensor

    def normal(self, x):
        return self.rows.to(x).expand_as(x)


@dataclass(frozen=True)
class Hold:
    """A predictor that leaves the state as it is: what annealed Langevin does if it forgets to rescale."""

    def step(self, score, noise, x, t, s, memory=None, *, generator=None):
        return x, None


LAW = GaussianMixture([0.3, 0.7], [[4.0, 2.0], [-1.5, -1.0]], [[[0.6, 0.25], [0.25, 0.4]], [[0.9, -0.4], [-0.4, 0.5]]])


def from_prior(noise, n, seed=0):
    """Draws of the prior of the mixture's mean and variances, from a generator of their own."""
    prior = noise.prior((2,), LAW.mean, LAW.covariance.diagonal())
    return prior.mean + prior.stddev * normal(n, 2, seed=seed)


def largest_z(x, law):
    """The largest of 11 errors, in standard errors: weight, means and covariances of both components.

    The components are 12 standard deviations apart, so that every sample's component is known.
    """
    parts = [Gaussian(mean, covariance) for mean, covariance in zip(law.means, law.covariances, strict=True)]
    member, zs = torch.stack([part.log_density(x) for part in parts]).argmax(0), []
    w = law.weights[0]
    zs.append(((member == 0).double().mean() - w) / (w * (1 - w) / len(x)).sqrt())
    for k, (mean, cov) in enumerate(zip(law.means, law.covariances, strict=True)):
        part = x[member == k]
        found = torch.cov(part.T)
        for i in range(2):
            zs.append((part[:, i].mean() - mean[i]) / (cov[i, i] / len(part)).sqrt())
            for j in range(i + 1):
                error = found[i, j] - cov[i, j]
                zs.append(error / ((cov[i, i] * cov[j, j] + cov[i, j] ** 2) / len(part)).sqrt())
    return torch.stack(zs).abs().max()


class Basis:
    """Noise that is 1 for one row at a time: row 2 + k in the k-th draw."""

    def __init__(self):
        self.draws = 0

    def normal(self, x):
        z = torch.zeros_like(x)
        z[2 + self.draws], self.draws = 1, self.draws + 1
        return z


def moments(predictor, noise, times, variance=VARIANCE):
    """Mean and variance at times[-1] of N(MEAN, variance) carried down from its exact law at times[0].

    With an exact Gaussian score every method is affine in the first state and in each draw: one run over a basis
    gives the law, without chance.
    """
    alpha, sigma = levels_of(noise, times[0])
    x = torch.zeros(len(times) + 1, 1, dtype=torch.float64)
    x[1] = 1
    score = gaussian_score(noise, variance=variance)
    end = reverse(score, noise, x, times=times, predictor=predictor, generator=Basis()).x[:, 0]
    shift, gain, spread = end[0], end[1] - end[0], end[2:] - end[0]
    mean = shift + gain * alpha * MEAN
    return mean.item(), (gain**2 * (alpha**2 * variance + sigma**2) + spread.square().sum()).item()
