r"""Denoising score matching: regress the score on the known score of the noise.

For $\tilde x = x + \sigma z$, $z \sim q$, the conditional mean of $\nabla\log q(z)/\sigma$ given $\tilde x$ is the
score of the blurred law $p_\sigma$. So

$$ \tfrac12\,\mathbb E \left\| s(\tilde x) - \tfrac1\sigma \nabla\log q(z) \right\|^2
   = \tfrac12\,\mathbb E\,\|s(\tilde x) - \nabla\log p_\sigma(\tilde x)\|^2 + C $$

with C constant in s (Vincent 2011), whenever q is absolutely continuous and has a finite Fisher information
$\int \|\nabla q\|^2/q$ (otherwise the left side is infinite or the target is not the score of q).
"""

from __future__ import annotations

import torch
from torch import Tensor

from scorefield.calculus import Generator, Score, check_smooth, expand, inner
from scorefield.checks import check_floating, check_positive, check_score
from scorefield.objectives.kernels import NoiseKernel, kernel_of


def denoising(
    score: Score,
    x: Tensor,
    *,
    sigma: float,
    kernel: str | NoiseKernel = "gaussian",
    antithetic: bool = False,
    control_variate: bool = False,
    generator: Generator = None,
) -> Tensor:
    r"""Denoising score matching at one noise level, $\tilde x = x + \sigma z$ with $z \sim q$.

    $$ \ell(x) = \tfrac12 \left\| s(\tilde x) - \frac{\nabla\log q(z)}{\sigma} \right\|^2, \qquad
       \text{Gaussian noise:}\quad \tfrac12 \left\| s(\tilde x) + \frac z\sigma \right\|^2 $$

    Equals `explicit` on the blurred law up to a constant in s whenever q is absolutely continuous with a finite Fisher
    information: for all three named kernels, and for what `noise_kernel` admits. Two ways to less variance at small
    sigma, with the same mean and the same mean gradient (see `regress`); together they cost what the first does.

    Args:
        score: field of the law blurred by `sigma`, (B, *D) -> (B, *D).
        x: clean data, shape (B, *D), floating point.
        sigma: scale of the noise, > 0: the standard deviation for `"gaussian"` and `"laplace"`.
        kernel: law of the noise: `"gaussian"`, `"laplace"`, `"student"` (`Student()`, df 5) or a kernel.
        antithetic: average over z and -z; two calls of the score.
        control_variate: subtract terms of mean zero that make the variance; one more call of the score, at x.
        generator: source of the noise; the global one when None.

    Returns:
        loss per sample, shape (B,).

    Raises:
        TypeError: `x` is not floating point, or the kernel is none.
        ValueError: sigma <= 0, an unknown kernel or one without a Fisher information, antithetic noise of a kernel
            that is not symmetric, a score of another shape than `x`, or an energy with kinks.

    Source: Vincent 2011, equation 9.
    """
    check_floating("x", x)
    check_positive("sigma", sigma)
    check_smooth(score, derivatives=0)
    scale = torch.tensor(sigma, dtype=torch.float64, device=x.device)
    return regress(
        score,
        x,
        scale,
        kernel_of(kernel),
        antithetic=antithetic,
        control_variate=control_variate,
        generator=generator,
    )


def regress(
    score: Score,
    centre: Tensor,
    sigma: Tensor,
    kernel: NoiseKernel,
    *,
    antithetic: bool,
    control_variate: bool,
    generator: Generator = None,
) -> Tensor:
    r"""$\frac12\|s(c + \sigma z) - k\|^2$ with $k = \nabla\log q(z)/\sigma$, plain or with less variance.

    Expanded, $\frac12\|s\|^2 - k^\top s(c + \sigma z) + \frac12\|k\|^2$, the last two terms are of size $1/\sigma$ and
    $1/\sigma^2$, and $\mathbb E[k] = 0$. With the control variate $k^\top s(c)$ is added and $\frac12\|k\|^2$ becomes
    its mean (where the kernel's information is known), which leaves $-k^\top(s(c + \sigma z) - s(c))$: as
    $\sigma \to 0$, for Gaussian noise, the sliced objective with probe z. Antithetic noise averages z and -z, and the
    same terms cancel in the difference $s(c + \sigma z) - s(c - \sigma z)$.

    Args:
        score: field, (B, *D) -> (B, *D).
        centre: what is blurred, c (B, *D).
        sigma: scales, (B,) or ().
        kernel: law of z.
        antithetic: average over z and -z.
        control_variate: with the control variates.
        generator: source of z.

    Returns:
        loss per sample, shape (B,).

    Source: Wang et al. 2020 (arXiv:2002.07501); Song & Kingma 2021 (arXiv:2101.03288).
    """
    if antithetic and not kernel.symmetric:
        raise ValueError(
            "antithetic noise needs a symmetric kernel, got one whose score is not odd; use control_variate"
        )
    z = kernel.sample(centre, generator)
    step, k = expand(sigma, centre) * z, kernel.score(z) * expand(1 / sigma, centre)
    s = checked(score, centre + step)
    if not (antithetic or control_variate):
        error = s - k
        return inner(error, error) / 2
    if antithetic:
        other = checked(score, centre - step)
        half, pull = (inner(s, s) + inner(other, other)) / 4, inner(k, s - other) / 2
    else:
        half, pull = inner(s, s) / 2, inner(k, s - checked(score, centre))
    if control_variate and kernel.information is not None:
        return half - pull + (kernel.information * centre[0].numel() / (2 * sigma**2)).to(centre)
    return half - pull + inner(k, k) / 2


def checked(score: Score, x: Tensor) -> Tensor:
    """The score at x, refused where it has another shape or dtype."""
    s = score(x)
    check_score(s, x)
    return s
