r"""Whether a noise schedule fits the data: its widest level, the gaps between levels, its smallest level."""

from __future__ import annotations

import math

import torch
from scipy.special import ndtr
from torch import Tensor

from scorefield.calculus import Generator, randn_like
from scorefield.checks import check_count, check_positive
from scorefield.diagnostics.dimension import neighbour_distances
from scorefield.diagnostics.rows import evenly
from scorefield.metrics import Estimate
from scorefield.metrics.estimate import normal
from scorefield.metrics.pairs import square_distances
from scorefield.noise import Noise

ROWS = 2000


def prior_gap(noise: Noise, train: Tensor, held_out: Tensor, *, generator: Generator = None) -> Estimate:
    r"""What starting from the prior in place of the noised data costs: $KL(p_1 \| \pi)$ in nats, from below.

    $$ \mathbb E \left[ \log \hat p_1(x_1) - \log \pi(x_1) \right], \qquad
       \hat p_1 = \frac1n \sum_i N(\alpha_1 x_i, \sigma_1^2 I) $$

    over held-out rows $x_1 = \alpha_1 x + \sigma_1 z$, with $x_i$ training rows and $\pi$ the prior of data of mean 0
    and variance 1. It is below the divergence by $KL(p_1 \| \hat p_1)$, little where the noise is wide. An error of the
    prior is one of the samples, at the most as large.

    Args:
        noise: the schedule, in the units of the rows.
        train: scaled rows (n, *D); at most 2,000 of them are used.
        held_out: other scaled rows (m, *D).
        generator: source of the noise.

    Returns:
        the bound, which may be below 0 by chance.
    """
    end = torch.tensor(noise.t_max, dtype=torch.float64)
    alpha, sigma = noise.alpha(end).item(), noise.sigma(end).item()
    kept, clean = train[evenly(len(train), ROWS)].double(), held_out.double()
    x = noise.perturb(clean, end, randn_like(clean, generator))
    squares = square_distances(x.flatten(1), alpha * kept.flatten(1))
    mixture = torch.logsumexp(-squares / (2 * sigma**2), dim=1) - math.log(len(kept))
    d = x[0].numel()
    mixture = mixture - d * math.log(sigma) - d * math.log(2 * math.pi) / 2
    gap = mixture - noise.prior(x.shape[1:], mean=0.0, variance=1.0).log_prob(x)
    error = gap.std().item() / math.sqrt(len(gap))
    return normal(gap.mean().item(), error, len(gap), "log-density of the noised data over the prior's, held-out rows")


def overlap(ratio: float, dimension: int) -> float:
    r"""The probability that a particle of a level lies within three deviations of the radius of the next one.

    $$ \Phi(\sqrt{2D}(\gamma-1)+3\gamma) - \Phi(\sqrt{2D}(\gamma-1)-3\gamma) $$

    Near 1 neighbouring levels overlap, near 0 a particle of one level is never seen at the next.

    Args:
        ratio: $\gamma > 1$, of neighbouring levels' sigma.
        dimension: D.

    Returns:
        the probability, in [0, 1].

    Source: Song & Ermon 2020 (arXiv:2006.09011), technique 2.
    """
    check_positive("ratio", ratio)
    check_count("dimension", dimension)
    shift = math.sqrt(2 * dimension) * (ratio - 1)
    return float(ndtr(shift + 3 * ratio) - ndtr(shift - 3 * ratio))


def neighbour_scale(x: Tensor) -> float:
    r"""The noise whose length $\sigma\sqrt D$ is the median distance to a nearest neighbour, among at most 2,000 rows.

    Noise that is wider than this hides one data point behind the next.

    Args:
        x: rows (n, *D), with at least 2 different ones.
    """
    kept = x[evenly(len(x), ROWS)]
    return neighbour_distances(kept, 1).median().item() / math.sqrt(kept[0].numel())


def ripple(spacing: float, sigma: float) -> float:
    r"""How much of a grid is seen behind noise: the height of its first wave, $2e^{-2\pi^2\sigma^2/h^2}$.

    The density of a lattice of spacing h blurred by sigma is, by Poisson's formula, flat but for waves of this height
    and smaller ones.

    Args:
        spacing: h > 0.
        sigma: standard deviation of the noise, >= 0.
    """
    check_positive("spacing", spacing)
    return 2 * math.exp(-2 * math.pi**2 * (sigma / spacing) ** 2)


def log_widths(noise: Noise, times: Tensor) -> Tensor:
    r"""The trapezoid's weights for $\int \cdot\; d\log(\sigma/\alpha)$ on a grid of times, (L,).

    In this variable $\sigma^2\,\mathbb E\|s_\theta - s\|^2$ integrates to the bound on $KL(p \| p_\theta)$ in nats, for
    every schedule, since $\tfrac12 g^2 dt = \sigma^2\, d\log(\sigma/\alpha)$.

    Args:
        noise: the schedule.
        times: increasing or decreasing, (L,), L >= 2.

    Source: Song et al. 2021 (arXiv:2101.09258), theorem 1, in these terms.
    """
    gaps = noise.ratio(times.double()).log().diff().abs()
    return torch.cat([gaps[:1], gaps[1:] + gaps[:-1], gaps[-1:]]) / 2
