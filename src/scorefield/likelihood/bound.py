r"""The discretised bound on the log-likelihood of an ancestral model, term by term.

For $p(x_{t_0}, \dots, x_{t_n})$ made of the prior, the ancestral steps and a normal decoder
$p(x \mid x_{t_n}) = N(x_{t_n}/\alpha,\ (\sigma/\alpha)^2 I)$,

$$ -\log p(x) \le KL\big(q(x_{t_0} \mid x) \,\|\, p(x_{t_0})\big)
   + \sum_{t > s} \tfrac12 \Big(\frac{\alpha_s^2}{\sigma_s^2} - \frac{\alpha_t^2}{\sigma_t^2}\Big)
     \mathbb E\,\|x - \hat x(x_t, t)\|^2 - \mathbb E \log p(x \mid x_{t_n}) . $$
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, inner, randn_like
from scorefield.checks import check_floating, check_score
from scorefield.fields import denoise
from scorefield.noise import Noise
from scorefield.samplers.grids import check_times


@dataclass(frozen=True)
class Bound:
    """A lower bound on log-likelihoods and its parts.

    Attributes:
        nats: one estimate of the bound per sample, (B,), float64: unbiased, from one path of noise each.
        prior: the divergence of the noised data from the prior, (B,), >= 0.
        steps: the divergence at each step, (n, B), >= 0.
        decoder: minus the log-density of x under the decoder, (B,).
        evaluations: how many times the score was called on the batch.
    """

    nats: Tensor
    prior: Tensor
    steps: Tensor
    decoder: Tensor
    evaluations: int


@torch.no_grad()
def ancestral_bound(
    score: NoisyScore,
    noise: Noise,
    x: Tensor,
    *,
    times: Tensor,
    mean: float | Tensor = 0.0,
    variance: float | Tensor = 0.0,
    generator: Generator = None,
) -> Bound:
    r"""A lower bound on the log-likelihood of the model that `Ancestral` samples from on the same times.

    Args:
        score: noise-conditional score.
        noise: the schedule.
        x: data, (B, *D), floating point.
        times: strictly decreasing times, as for `samplers.reverse`, n + 1 >= 2.
        mean: of the prior's law of data, as in `noise.prior`.
        variance: likewise.
        generator: source of the noise; the global one when None.

    Returns:
        the bound per sample and its three parts; more steps make it tighter.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: times that do not decrease strictly or leave [t_min, t_max].

    Source: Ho et al. 2020 (arXiv:2006.11239), equation 5; Kingma et al. 2021 (arXiv:2107.00630), equations 11 to 13.
    """
    check_floating("x", x)
    grid = check_times(noise, times)
    alpha, sigma, d = noise.alpha(grid), noise.sigma(grid), x[0].numel()
    signal = (alpha / sigma) ** 2
    target, steps = x.double(), []
    for t, rise in zip(grid[:-1], signal.diff(), strict=True):
        z = randn_like(x, generator)
        x_t = noise.perturb(x, t, z)
        clean = denoise(score, noise, x_t, t)
        check_score(clean, x)
        error = target - clean.double()
        steps.append(rise.to(x.device) / 2 * inner(error, error))
    end = noise.prior(x.shape[1:], mean=mean, variance=variance)
    centre, v, first = end.mean.to(target), end.variance.to(target), sigma[0].item() ** 2
    gap = (alpha[0].item() * target - centre) ** 2
    prior = ((first + gap) / v - 1 + (v / first).log()).flatten(1).sum(1) / 2
    z = randn_like(x, generator).double()
    ratio = (sigma[-1] / alpha[-1]).item()
    decoder = inner(z, z) / 2 + d / 2 * math.log(2 * math.pi * ratio**2)
    terms = torch.stack(steps)
    return Bound(-(prior + terms.sum(0) + decoder), prior, terms, decoder, len(steps))
