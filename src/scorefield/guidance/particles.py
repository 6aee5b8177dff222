r"""Particles: sequential Monte Carlo along the reverse process, exact as the particles and the steps grow in number.

With a twist $\psi_t(x_t) \approx p(y \mid x_t)$, particles are moved from t to s by the reverse process with the
twist's score added, and weighted by what that proposal and the twist got wrong:

$$ q(x_s \mid x_t) = N\big(m(s_t + \nabla \log \psi_t),\ \tilde\sigma^2 I\big), \qquad
   w = \frac{p(x_s \mid x_t)\,\psi_s(x_s)}{q(x_s \mid x_t)\,\psi_t(x_t)}, $$

where at the end $\psi$ is the likelihood itself, $p(y \mid x_0)$ at $x_0 = x/\alpha$. The twist may be any positive
function: a better one only keeps more particles alive.

Source: Wu et al. 2023 (arXiv:2306.17775), algorithm 1. Del Moral 2004 for why it converges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scorefield.calculus import Generator, rand_rows, randn_like
from scorefield.checks import check_between, check_floating, check_non_negative
from scorefield.noise import Noise
from scorefield.samplers.grids import check_times


class Twisted(Protocol):
    """What `smc` follows: a prior with a twist, as `posterior` and `plug_in` make it."""

    def parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The prior's score (B, *D), the log of the twist (B,) and its gradient (B, *D)."""
        ...

    def log_likelihood(self, x: Tensor) -> Tensor:
        """The log-likelihood of clean samples, (B,)."""
        ...


@dataclass(frozen=True, eq=False)
class Particles:
    """Weighted draws of one posterior.

    Attributes:
        x: where they are, (N, *D).
        log_weights: normalised: their exponentials sum to 1, (N,).
        effective: effective number of particles before each possible resampling, one per time, (T,).
        log_evidence: log p(y), where the likelihood was normalised and as far as the reverse process samples the prior.
            Under `masked` the zeros of what was not seen count as observations.
        evaluations: how many times the score was called on the batch.
    """

    x: Tensor
    log_weights: Tensor
    effective: Tensor
    log_evidence: float
    evaluations: int

    def resample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """`n` draws of equal weight, (n, *D); copies of one particle are the same draw."""
        picked = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        return self.x[picked]


@torch.no_grad()
def smc(
    guide: Twisted,
    noise: Noise,
    x: Tensor,
    *,
    times: Tensor | Sequence[float],
    threshold: float = 0.5,
    variance: float = 1.0,
    generator: Generator = None,
) -> Particles:
    r"""Draw from a posterior with particles.

    Args:
        guide: a prior's score with a likelihood, from `posterior` or `plug_in`.
        noise: the schedule.
        x: particles at times[0], drawn from the prior's end `noise.prior`, (N, *D): all for one observation.
        times: strictly decreasing times; the more, the nearer is the reverse process to the prior.
        threshold: resample (systematically) when the effective number falls below this part of N, in [0, 1].
        variance: the data's, v >= 0, in the variance of a reverse step,
            $\tilde\sigma^2 = \sigma_{t|s}^2 (\alpha_s^2 v + \sigma_s^2)/(\alpha_t^2 v + \sigma_t^2)$, exact for
            $N(m, vI)$.
        generator: source of the noise; the global one when None.

    Returns:
        the particles at times[-1], with their weights and what was left of them at each time. The law is the
        posterior of the prior's law at times[-1].

    Raises:
        ValueError: fewer than 2 particles, an observation per row, times that do not decrease, a threshold outside
            [0, 1], variance < 0.
        RuntimeError: no particle has a finite weight.
    """
    check_floating("x", x)
    check_between("threshold", threshold, 0, 1)
    check_non_negative("variance", variance)
    if len(x) < 2:
        raise ValueError(f"x must hold at least 2 particles, got {len(x)}; their weights are what samples")
    if getattr(guide, "per_row", False):
        raise ValueError("particles are all for one observation, got one per row; run smc once for each")
    grid = check_times(noise, times)
    alphas, sigmas = noise.alpha(grid).tolist(), noise.sigma(grid).tolist()
    score, twist, pull = guide.parts(x, grid[0])
    log_w, evidence, effective, calls = twist.double(), 0.0, [], 1
    for k in range(1, len(grid)):
        log_w, gained = _normalised(log_w, grid[k - 1])
        evidence += gained
        effective.append(1 / log_w.exp().square().sum().item())
        if effective[-1] < threshold * len(x):
            kept = _systematic(log_w, x, generator)
            x, score, twist, pull = x[kept], score[kept], twist[kept], pull[kept]
            log_w = torch.full_like(log_w, -math.log(len(x)))
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (alphas[k - 1], sigmas[k - 1]), (alphas[k], sigmas[k])
        a = alpha_t / alpha_s
        given = sigma_t**2 - (a * sigma_s) ** 2
        spread = given * (alpha_s**2 * variance + sigma_s**2) / (alpha_t**2 * variance + sigma_t**2)
        shift = given / a * pull
        z = math.sqrt(spread) * randn_like(x, generator)
        moved = (x + given * score) / a + shift + z
        # log N(moved; m, spread) - log N(moved; m + shift, spread)
        correction = ((z**2 - (z + shift) ** 2) / (2 * spread)).flatten(1).sum(1)
        before, x = twist, moved
        if k < len(grid) - 1:
            score, twist, pull = guide.parts(x, grid[k])
            calls += 1
        else:
            twist = guide.log_likelihood(x / alpha_s)
        log_w = log_w + (correction + twist - before).double()
    log_w, gained = _normalised(log_w, grid[-1])
    effective.append(1 / log_w.exp().square().sum().item())
    return Particles(
        x, log_w, torch.tensor(effective, dtype=torch.float64), evidence + gained - math.log(len(x)), calls
    )


def _normalised(log_w: Tensor, t: Tensor) -> tuple[Tensor, float]:
    """Log-weights whose exponentials sum to 1, and the log of their sum."""
    log_w = torch.where(log_w.isnan(), -torch.inf, log_w)
    total = log_w.logsumexp(0)
    if not total.isfinite():
        raise RuntimeError(
            f"no particle has a finite weight at t = {t.item():.4g}; the observation is impossible under the prior, or "
            "the steps are too large"
        )
    return log_w - total, total.item()


def _systematic(log_w: Tensor, x: Tensor, generator: Generator) -> Tensor:
    """Systematic resampling: N equally spaced points with one random shift, through the cumulative weights."""
    shift = rand_rows(x[:1], generator).double()
    points = (torch.arange(len(x), dtype=torch.float64, device=x.device) + shift) / len(x)
    cumulative = log_w.exp().cumsum(0)
    return torch.searchsorted(cumulative / cumulative[-1], points).clamp(max=len(x) - 1)
