r"""Denoising: the objective, what it costs in variance, and the two optima it is known by."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.calculus import LogDensity, Score, randn_like, score_of
from scorefield.checks import check_choice
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.fields import denoise
from scorefield.noise import VE, Noise
from scorefield.objectives import denoising, explicit
from scorefield.objectives.kernels import NAMED
from scorefield.theory.claim import Claim, paired, pointwise, seed_from
from scorefield.theory.quadrature import interval

LOG_KERNELS: dict[str, LogDensity] = {
    "gaussian": lambda z: -z.square().sum(1) / 2,
    "laplace": lambda z: -math.sqrt(2) * z.abs().sum(1),
    "student": lambda z: -3 * torch.log1p(z.square() / 5).sum(1),
}


def denoising_explicit(
    atoms: Tensor,
    one: Score,
    other: Score,
    *,
    kernel: str,
    sigma: float,
    n: int = 200_000,
    generator: torch.Generator | None = None,
) -> Claim:
    r"""Denoising score matching differs from explicit score matching of the blurred law by a constant.

    $$ \tfrac12 \mathbb E\|s(\tilde x) - \nabla_{\tilde x}\log q_\sigma(\tilde x \mid x)\|^2
       = \tfrac12 \mathbb E\|s(\tilde x) - \nabla\log p_\sigma(\tilde x)\|^2 + C, \qquad
       p_\sigma(\tilde x) = \tfrac1N \textstyle\sum_i q_\sigma(\tilde x \mid x_i) $$

    for every kernel with a finite Fisher information. The constant drops out of the difference of two models. What is
    regressed on is the gradient of the log of the kernel, for a Gaussian one $(x - \tilde x)/\sigma^2$, and not its
    density.

    Args:
        atoms: the data $x_i$, (N, d), float64; the blurred law is Parzen's estimate.
        one: the first model's score.
        other: the second model's score.
        kernel: `"gaussian"`, `"laplace"` or `"student"` (five degrees of freedom).
        sigma: its scale.
        n: number of noisy samples.
        generator: source of samples and noise.

    Returns:
        the difference of the two models under the denoising objective, and under the explicit one with the score of
        $p_\sigma$ by automatic differentiation, on the same samples.

    Source: Vincent 2011, equation 11 and appendix; section 4.2 for other kernels.
    """
    check_choice("kernel", kernel, LOG_KERNELS)
    x, seed = atoms[torch.randint(len(atoms), (n,), generator=generator)], seed_from(generator)
    noisy = x + sigma * NAMED[kernel]().sample(x, torch.Generator().manual_seed(seed))

    def log_blurred(at: Tensor) -> Tensor:
        return torch.stack([LOG_KERNELS[kernel]((at - atom) / sigma) for atom in atoms]).logsumexp(0)

    def gap(loss: Callable[[Score], Tensor]) -> Tensor:
        return loss(one) - loss(other)

    target = score_of(log_blurred)(noisy)
    left = gap(lambda s: denoising(s, x, sigma=sigma, kernel=kernel, generator=torch.Generator().manual_seed(seed)))
    return paired(left, gap(lambda s: explicit(s, noisy, target)))


def variance_ratio(
    sigma: float, variance: float, *, n: int = 200_000, generator: torch.Generator | None = None
) -> Claim:
    r"""What the unknown truth costs: at equal n the denoising estimate varies more than the explicit one.

    For data N(0, 1), noise of variance $\sigma^2$, $v = 1 + \sigma^2$ and the model $s = -x/a$ both losses are half the
    square of a centred Gaussian, of variance $\rho$ (denoising) and $k$ (explicit); so the losses have the variances
    $\rho^2/2$ and $k^2/2$:

    $$ \frac{\operatorname{Var} DSM}{\operatorname{Var} ESM} = \Big(\frac{\rho}{k}\Big)^2, \qquad
       \rho = \frac{v}{a^2} - \frac2a + \frac1{\sigma^2}, \qquad k = v\Big(\frac1a - \frac1v\Big)^2 $$

    It grows like $\sigma^{-4}$ as the noise vanishes, where the model is not the truth ($a \ne 1$).

    Args:
        sigma: standard deviation of the noise.
        variance: a, the model's.
        n: number of samples.
        generator: source of samples and noise.

    Returns:
        the ratio of the sample variances, and its closed form.

    Source: Vincent 2011 for the two objectives; the ratio is that of two chi-squared laws.
    """
    g, seed, v = torch.Generator(), seed_from(generator), 1 + sigma**2
    x = Gaussian([0.0], [[1.0]]).sample((n,), generator=generator)
    dsm = denoising(lambda x: -x / variance, x, sigma=sigma, generator=g.manual_seed(seed))
    x_t = x + sigma * randn_like(x, g.manual_seed(seed))
    esm = explicit(lambda x: -x / variance, x_t, -x_t / v)
    ratio = (dsm.var() / esm.var()).item()
    influence = (dsm - dsm.mean()) ** 2 / dsm.var() - (esm - esm.mean()) ** 2 / esm.var()
    rho, k = v / variance**2 - 2 / variance + 1 / sigma**2, v * (1 / variance - 1 / v) ** 2
    return Claim(ratio, (rho / k) ** 2, ratio * influence.std().item() / math.sqrt(n))


def autoencoder(
    law: GaussianMixture, sigma: float, point: Tensor, *, n: int = 200_000, generator: torch.Generator | None = None
) -> Claim:
    r"""The best denoising autoencoder steps along the score of the blurred law.

    $$ r^* = \arg\min_r \mathbb E\|r(x + \sigma z) - x\|^2
       \quad\Rightarrow\quad r^*(\tilde x) = \tilde x + \sigma^2 \nabla\log p_\sigma(\tilde x) $$

    The minimum is found by least squares over functions linear within each blurred component,
    $r(\tilde x) = \sum_k r_k(\tilde x)(A_k\tilde x + b_k)$, a family that holds $r^*$.

    Args:
        law: the data's law.
        sigma: standard deviation of the noise.
        point: where to look, (d,).
        n: number of pairs of a sample and its noisy self.
        generator: source of samples and noise.

    Returns:
        the first coordinate of the fitted $r$ at the point, and of $r^*$; the error is the sandwich estimate of least
        squares.

    Source: Vincent 2011; Alain & Bengio 2014 (arXiv:1211.4246), theorem 1, where it is the limit of small noise.
    """
    x = law.sample((n,), generator=generator)
    noisy = x + sigma * randn_like(x, generator)
    noise = VE(sigma, 2 * sigma)  # at time 0 its standard deviation is sigma
    blurred = law.blurred(noise, 0.0)

    def features(at: Tensor) -> Tensor:
        parts = zip(blurred.weights, blurred.means, blurred.covariances, strict=True)
        terms = torch.stack([w.log() + Gaussian(m, c).log_density(at) for w, m, c in parts], 1)
        return (terms.softmax(1)[:, :, None] * torch.cat([torch.ones_like(at[:, :1]), at], 1)[:, None, :]).flatten(1)

    rows, there = features(noisy), features(point[None])[0]
    gram = rows.T @ rows
    coefficients = torch.linalg.solve(gram, rows.T @ x[:, 0])
    pull = rows @ torch.linalg.solve(gram, there) * (x[:, 0] - rows @ coefficients)
    best = denoise(law.noisy_score(noise), noise, point[None], torch.tensor(0.0))
    return Claim((there @ coefficients).item(), best[0, 0].item(), pull.square().sum().sqrt().item())


def tweedie(law: GaussianMixture, noise: Noise, t: float, x_t: Tensor, *, reach: float = 16.0) -> Claim:
    r"""Tweedie's formula, also where the schedule shrinks the data.

    $$ \mathbb E[x_0 \mid x_t] = \frac{x_t + \sigma_t^2\,\nabla\log p_t(x_t)}{\alpha_t}
       = \frac{\int x_0\,p(x_0)\,N(x_t;\,\alpha_t x_0, \sigma_t^2)\,dx_0}
              {\int p(x_0)\,N(x_t;\,\alpha_t x_0, \sigma_t^2)\,dx_0} $$

    Args:
        law: the data's law, on the line.
        noise: the schedule.
        t: the time.
        x_t: noisy points, (B, 1), float64.
        reach: the data live on [-reach, reach].

    Returns:
        the formula and the integral by quadrature, at one point; all points are compared, to 1e-9.

    Source: Robbins 1956; Efron 2011, equation 2.8; here for any alpha.
    """
    at = torch.tensor(t, dtype=torch.float64)
    x_0, w = interval(-reach, reach, panels=256)
    apart = (x_t - noise.alpha(at) * x_0.T) / noise.sigma(at)  # (B, N)
    posterior = (w.log() + law.log_density(x_0) - apart**2 / 2).softmax(1)
    return pointwise(denoise(law.noisy_score(noise), noise, x_t, at), posterior @ x_0)
