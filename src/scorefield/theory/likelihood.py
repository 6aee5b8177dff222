r"""What the weighted objective says about the likelihood, where both sides are known: Gaussians on the line."""

from __future__ import annotations

import math

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from scorefield.calculus import NoisyScore
from scorefield.densities import Gaussian
from scorefield.noise import Noise
from scorefield.objectives import noise_conditional
from scorefield.theory.claim import Claim, seed_from
from scorefield.theory.dynamics import gaussian_kl
from scorefield.theory.quadrature import interval


def likelihood_bound(p: Gaussian, q: Gaussian, noise: Noise, *, factor: float) -> Claim:
    r"""The likelihood-weighted objective bounds the divergence of what the reverse SDE draws.

    $$ KL(p_0 \,\|\, q_0) \le \tfrac12 \int g^2(t)\, \mathbb E_{p_t}\|\nabla\log p_t - s_\theta\|^2\,dt
       + KL(p_1 \,\|\, \pi) $$

    Here $s_\theta = c\,\nabla\log q_t$, $\pi = q_1$, and $q_0$ is the law that the reverse SDE with $s_\theta$ draws
    from $\pi$, a Gaussian whose mean and variance solve linear equations. With c = 1 the model is the score of a
    diffusion of its own, $q_0$ is q, and the two sides are equal. Time runs from `t_max` to `t_min`.

    Args:
        p: the data's law, on the line.
        q: the law whose score the model has, on the line.
        noise: the schedule.
        factor: c.

    Returns:
        both sides in closed form and by quadrature; `"="` to 1e-6 for c = 1, else `"≤"`.

    Source: Song et al. 2021 (arXiv:2101.09258), theorems 1 and 2.
    """
    low, high = noise.t_min, noise.t_max
    start, end, prior = p.blurred(noise, low), p.blurred(noise, high), q.blurred(noise, high)
    drawn = _drawn(q, noise, factor)
    left = gaussian_kl(start.mean, start.covariance, drawn.mean, drawn.covariance).item()
    right = weighted_divergence(p, q, noise, factor=factor)
    right += gaussian_kl(end.mean, end.covariance, prior.mean, prior.covariance).item()
    return Claim(left, right, tolerance=1e-6, relation="=" if factor == 1 else "≤")


def weighted_divergence(p: Gaussian, q: Gaussian, noise: Noise, *, factor: float) -> float:
    r"""$\tfrac12\int g^2\,\mathbb E_{p_t}\|\nabla\log p_t - c\,\nabla\log q_t\|^2\,dt$ for Gaussians on the line.

    Args:
        p: $N(m, v)$.
        q: $N(\mu, u)$.
        noise: the schedule.
        factor: c.

    Returns:
        the integral from `t_min` to `t_max`, by quadrature in t.
    """
    # t = t_min + w² spreads the nodes where the schedules have a square root
    roots, w = interval(0.0, math.sqrt(noise.t_max - noise.t_min))
    t, w = noise.t_min + roots[:, 0] ** 2, w * 2 * roots[:, 0]
    alpha, square = noise.alpha(t), noise.sigma(t) ** 2
    v_p, v_q = alpha**2 * p.covariance.item() + square, alpha**2 * q.covariance.item() + square
    shift = alpha * (p.mean - q.mean)
    # at x = alpha m + sqrt(v_p) z the difference of the scores is (c/v_q - 1/v_p)(x - alpha m) + c shift/v_q
    mean_square = (factor / v_q - 1 / v_p) ** 2 * v_p + (factor * shift / v_q) ** 2
    return (w @ (noise.g2(t) * mean_square) / 2).item()


def _drawn(q: Gaussian, noise: Noise, factor: float) -> Gaussian:
    r"""What $dx = [f x - c g^2 \nabla\log q_t]\,dt + g\,d\bar W$ with dt < 0 draws, started from $q_1$."""

    def slopes(time: float, moments: list[float]) -> list[float]:
        t = torch.tensor(time, dtype=torch.float64)
        f, g2, alpha = noise.f(t).item(), noise.g2(t).item(), noise.alpha(t).item()
        v_q = alpha**2 * q.covariance.item() + noise.sigma(t).item() ** 2
        rate = f + factor * g2 / v_q
        mean, variance = moments
        return [rate * mean - factor * g2 / v_q * alpha * q.mean.item(), 2 * rate * variance - g2]

    prior = q.blurred(noise, noise.t_max)
    moments = [prior.mean.item(), prior.covariance.item()]
    path = solve_ivp(slopes, (noise.t_max, noise.t_min), moments, method="DOP853", rtol=1e-10, atol=1e-12)
    return Gaussian(path.y[:1, -1], path.y[1:, -1:])


def weighted_objective(
    p: Gaussian,
    q: Gaussian,
    noise: Noise,
    *,
    factor: float,
    n: int = 400_000,
    generator: torch.Generator | None = None,
) -> Claim:
    r"""Training with the weight $g^2$ lowers that bound: the objective is its integral, up to a constant.

    $$ \tfrac12\mathbb E\,g^2\|s_\theta(x_t, t) + z/\sigma_t\|^2
       - \tfrac12\mathbb E\,g^2\|\nabla\log p_t + z/\sigma_t\|^2
       = \tfrac12\int g^2\,\mathbb E_{p_t}\|\nabla\log p_t - s_\theta\|^2\,dt, $$

    the first means over t too (uniform; times the length of the interval).

    Args:
        p: the data's law, on the line.
        q: the law whose score, times `factor`, is the model's.
        noise: the schedule.
        factor: c.
        n: number of samples, each at one time.
        generator: source of samples, times and noise.

    Returns:
        the gap between model and truth under `noise_conditional` with the weight `"likelihood"`, on the same samples,
        and `weighted_divergence`.

    Source: Song et al. 2021 (arXiv:2101.09258), section 3; Vincent 2011.
    """
    x, seed = p.sample((n,), generator=generator), seed_from(generator)

    def loss(score: NoisyScore) -> Tensor:
        same = torch.Generator().manual_seed(seed)
        return noise_conditional(score, x, noise=noise, weight="likelihood", generator=same)

    model = q.noisy_score(noise)
    gap = (loss(lambda x, t: factor * model(x, t)) - loss(p.noisy_score(noise))) * (noise.t_max - noise.t_min)
    right = weighted_divergence(p, q, noise, factor=factor)
    return Claim(gap.mean().item(), right, gap.std().item() / math.sqrt(n), tolerance=1e-6)
