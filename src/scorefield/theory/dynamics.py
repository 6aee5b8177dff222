r"""Laws that move: two laws under the same noise, Langevin, and noise run backwards in two ways."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scorefield.calculus import LogDensity, divergence, inner, score_of
from scorefield.densities import Density, Gaussian, GaussianMixture
from scorefield.noise import Noise
from scorefield.objectives import explicit
from scorefield.samplers import Langevin, Predictor, chain, reverse
from scorefield.theory.claim import Claim, paired
from scorefield.theory.matching import gaussian_divergence
from scorefield.theory.quadrature import interval


def lyu(p: GaussianMixture, q: GaussianMixture, variance: float, *, reach: float = 16.0) -> Claim:
    r"""Under the same growing noise two laws approach each other at the speed of half their Fisher divergence.

    $$ \frac{d}{dt} KL(p_t \,\|\, q_t) = -\tfrac12\, \mathbb E_{p_t}\|\nabla\log p_t - \nabla\log q_t\|^2
       = -\tfrac12 D_F(p_t \,\|\, q_t), $$

    where $p_t$ and $q_t$ are p and q blurred by Gaussian noise of **variance** t, and $D_F$ has no ½.

    Args:
        p: a law on the line.
        q: another.
        variance: t > 0.
        reach: the blurred laws live on [-reach, reach].

    Returns:
        the derivative, from the divergences at t ± h and t ± 2 h, and the right-hand side, by quadrature; to 1e-8.

    Source: Lyu 2009 (arXiv:1205.2629).
    """
    x, w = interval(-reach, reach, panels=128)

    def blurred(law: GaussianMixture, t: float) -> GaussianMixture:
        return GaussianMixture(law.weights, law.means, law.covariances + t)

    def apart(t: float) -> float:
        log_p, log_q = blurred(p, t).log_density(x), blurred(q, t).log_density(x)
        return (w @ (log_p.exp() * (log_p - log_q))).item()

    h = variance / 100
    near, far = apart(variance + h) - apart(variance - h), apart(variance + 2 * h) - apart(variance - 2 * h)
    p_t, q_t = blurred(p, variance), blurred(q, variance)
    half_divergence = (w * p_t.log_density(x).exp()) @ explicit(q_t.score, x, p_t.score(x))
    return Claim((8 * near - far) / (12 * h), -half_divergence.item(), tolerance=1e-8)


def lyu_at_zero(p: Gaussian, q: Gaussian) -> Claim:
    r"""The first noise added: the Fisher divergence is twice the speed at which noise begins to hide a difference.

    $$ \frac{d}{dt} KL(p_t \,\|\, q_t) \Big|_{t=0} = -\tfrac12 D_F(p \,\|\, q) $$

    Args:
        p: a Gaussian.
        q: another, of the same dimension.

    Returns:
        the derivative of the closed form of KL by automatic differentiation, and `gaussian_divergence` / -2; to 1e-9.

    Source: Lyu 2009 (arXiv:1205.2629).
    """
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    grown = t * torch.eye(len(p.mean), dtype=torch.float64)
    (speed,) = torch.autograd.grad(gaussian_kl(p.mean, p.covariance + grown, q.mean, q.covariance + grown), t)
    return Claim(speed.item(), -gaussian_divergence(p, q) / 2, tolerance=1e-9)


def gaussian_kl(m: Tensor, c: Tensor, mu: Tensor, k: Tensor) -> Tensor:
    r"""$KL(N(m, C) \,\|\, N(\mu, K)) = \tfrac12[\operatorname{tr}(K^{-1}C) - d + (\mu-m)^\top K^{-1}(\mu-m)
    + \log\det K - \log\det C]$, shape ().
    """
    apart = torch.linalg.solve(k, torch.cat([c, (mu - m)[:, None]], 1))
    quadratic = apart[:, :-1].trace() + (mu - m) @ apart[:, -1]
    return (quadratic - len(m) + torch.logdet(k) - torch.logdet(c)) / 2


def langevin_stationary(
    law: Density, function: LogDensity, *, n: int = 200_000, generator: torch.Generator | None = None
) -> Claim:
    r"""Langevin dynamics $dx = s\,dt + \sqrt2\,dW$ leaves p where it is: the mean of no function changes.

    $$ \frac{d}{dt}\mathbb E[f(x_t)] = \mathbb E_p[\nabla f\cdot s + \Delta f] = 0 \quad\text{for every f} $$

    Args:
        law: p.
        function: f, smooth, (B, *D) -> (B,).
        n: number of samples of p.
        generator: source of the samples.

    Returns:
        the mean of the drift's part $\nabla f\cdot s$, and of minus the noise's part $\Delta f$, on the same samples.

    Source: Roberts & Tweedie 1996 (Bernoulli 2); Stein's identity.
    """
    x = law.sample((n,), generator=generator)
    gradient, laplacian = divergence(score_of(function), x)
    return paired(inner(gradient, law.score(x)), -laplacian)


def langevin_bias(step_size: float, *, n: int = 200_000, generator: torch.Generator | None = None) -> Claim:
    r"""With steps of size h Langevin's law is biased: on N(0, 1) its variance is exactly $1/(1 - h/2)$.

    It solves $v = (1-h)^2 v + 2h$.

    Args:
        step_size: h in (0, 2).
        n: number of chains, each run until the start is forgotten.
        generator: source of the noise.

    Returns:
        the variance of the chains, and $1/(1 - h/2)$.

    Raises:
        ValueError: a step size outside (0, 2), at which the chain does not settle.

    Source: Roberts & Tweedie 1996 (Bernoulli 2).
    """
    if not 0 < step_size < 2:
        raise ValueError(f"step_size must lie in (0, 2), where the chain has a law to settle to, got {step_size!r}")
    steps = math.ceil(-12 / math.log(abs(1 - step_size) + 1e-12))
    start = torch.zeros(n, 1, dtype=torch.float64)
    x = chain(Langevin(step_size), lambda x: -x, start, steps=steps, generator=generator).x
    expected = 1 / (1 - step_size / 2)
    return Claim(x.square().mean().item(), expected, expected * math.sqrt(2 / n))


def langevin_order(law: GaussianMixture, step_size: float, *, reach: float = 6.0) -> Claim:
    r"""The bias vanishes with the step, at order one: $\log_2$ of the bias at h over that at h/2 is 1 for small h.

    Args:
        law: p, on the line.
        step_size: h.
        reach: the chain lives on [-reach, reach].

    Returns:
        the measured order of the bias of $\mathbb E[x^2]$, and 1; to 0.05. The chain's own law is found from its
        transition density on a grid, with the move of `Langevin`.

    Source: Talay & Tubaro 1990 (Stochastic Analysis and Applications 8).
    """
    exact = (law.covariance + law.mean**2).item()
    bias = [abs(_stationary(law, h, reach) - exact) for h in (step_size, step_size / 2)]
    return Claim(math.log2(bias[0] / bias[1]), 1.0, tolerance=0.05)


class _Constant:
    """Noise that is not random: every number is `value`."""

    def __init__(self, value: float) -> None:
        self._value = value

    def normal(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self._value)

    def uniform(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), self._value, dtype=torch.float64)


def _stationary(law: GaussianMixture, step_size: float, reach: float) -> float:
    """E[x²] of the chain's own law, from its transition matrix on an even grid."""
    x = torch.linspace(-reach, reach, 601, dtype=torch.float64)[:, None]
    kernel = Langevin(step_size)
    middle, _ = kernel.step(law.score, x, generator=_Constant(0.0))
    width = kernel.step(law.score, x, generator=_Constant(1.0))[0] - middle
    moves = torch.exp(-((x.T - middle) ** 2) / (2 * width**2))
    moves = moves / moves.sum(1, keepdim=True)
    system = moves.T - torch.eye(len(x), dtype=torch.float64)
    system[0] = 1.0  # the probabilities sum to 1
    p = torch.linalg.solve(system, torch.eye(len(x), dtype=torch.float64)[0])
    return (p @ x[:, 0] ** 2).item()


def shared_marginal(
    law: GaussianMixture,
    noise: Noise,
    predictor: Predictor,
    *,
    t: float,
    steps: int,
    tolerance: float,
    n: int = 50_000,
    generator: torch.Generator | None = None,
) -> Claim:
    r"""Backwards in time the reverse SDE and the probability flow have the marginals of the noise, at every t.

    $$ dx = [f x - g^2 s]\,dt + g\,d\bar W \quad\text{and}\quad dx = [f x - \tfrac12 g^2 s]\,dt, \qquad dt < 0 $$

    Args:
        law: the data's law.
        noise: the schedule.
        predictor: `EulerMaruyama()` for the SDE, `Heun()` for the flow.
        t: the time to stop at.
        steps: steps from `t_max` to t.
        tolerance: the error allowed for finite steps.
        n: number of particles; they start from the exact law at `t_max`.
        generator: source of start and noise.

    Returns:
        $\mathbb E\|x\|^2$ of the particles at t, and of the data blurred to t.

    Source: Anderson 1982; Song et al. 2021 (arXiv:2011.13456), equations 6 and 13.
    """
    start = law.blurred(noise, noise.t_max).sample((n,), generator=generator)
    times = torch.linspace(noise.t_max, t, steps + 1, dtype=torch.float64)
    x = reverse(law.noisy_score(noise), noise, start, times=times, predictor=predictor, generator=generator).x
    squares, there = x.square().sum(1), law.blurred(noise, t)
    exact = (there.covariance.trace() + there.mean @ there.mean).item()
    return Claim(squares.mean().item(), exact, squares.std().item() / math.sqrt(n), tolerance)
