r"""Denoising score matching: regress the score on the known score of the blurring kernel.

$\tfrac12\,\mathbb E\|s(x_t) - \nabla_{x_t}\log p(x_t \mid x_0)\|^2$ equals the explicit objective for the blurred law
$p_t$ up to a constant in s (Vincent 2011).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from scorefield.calculus import Generator, Score, expand, inner, rand_rows, randn_like
from scorefield.checks import check_choice, check_floating, check_positive, check_rows, check_score
from scorefield.noise import Levels, Noise


def denoising(
    score: Score, x: Tensor, *, sigma: float, kernel: str = "gaussian", generator: Generator = None
) -> Tensor:
    r"""Denoising score matching at one noise level, $\tilde x = x + \sigma z$.

    $$ \ell(x) = \tfrac12 \left\| s(\tilde x) - \frac{x - \tilde x}{\sigma^2} \right\|^2 $$

    Args:
        score: field of the law blurred by `sigma`, (B, *D) -> (B, *D).
        x: clean data, shape (B, *D), floating point.
        sigma: standard deviation of the noise, > 0.
        kernel: law of the noise; `"gaussian"`.
        generator: source of the noise; the global one when None.

    Returns:
        loss per sample, shape (B,).

    Raises:
        TypeError: `x` is not floating point.
        ValueError: sigma <= 0, an unknown kernel, or a score of another shape than `x`.

    Source: Vincent 2011, equation 9.
    """
    check_floating("x", x)
    check_positive("sigma", sigma)
    check_choice("kernel", kernel, ("gaussian",))
    z = randn_like(x, generator)
    s = score(x + sigma * z)
    check_score(s, x)
    error = s + z / sigma
    return inner(error, error) / 2


def noise_conditional(
    score: Callable[..., Tensor],
    x: Tensor,
    *,
    noise: Noise,
    y: Tensor | None = None,
    t: Tensor | None = None,
    weight: str | Callable[[Tensor], Tensor] = "sigma2",
    generator: Generator = None,
) -> Tensor:
    r"""Denoising score matching at many noise levels, one level per sample.

    $$ \ell(x) = \tfrac12\, w(t) \left\| s(x_t, t) + z/\sigma_t \right\|^2, \qquad x_t = \alpha_t x + \sigma_t z $$

    $w = \sigma_t^2$ (`"sigma2"`) is the weight of NCSN and DDPM, under which every level counts alike; $w = g^2(t)$
    (`"likelihood"`) makes the objective a bound on the negative log-likelihood (Song et al. 2021b).

    Args:
        score: noise-conditional score s(x, t), or s(x, t, y) where labels are given.
        x: clean data, shape (B, *D), floating point.
        noise: the schedule.
        y: labels (B,), or None.
        t: times (B,); None draws them uniformly in [t_min, t_max], or from the levels of a `Levels` schedule.
        weight: `"sigma2"`, `"likelihood"`, or a function of t giving (B,).
        generator: source of the times and the noise; the global one when None.

    Returns:
        loss per sample, shape (B,).

    Raises:
        TypeError: `x` is not floating point.
        ValueError: an unknown weight, times of another shape than (B,), or a score of another shape than `x`.

    Source: Song & Ermon 2019 (arXiv:1907.05600), equation 6; Song et al. 2021 (arXiv:2011.13456), equation 7.
    """
    check_floating("x", x)
    t = uniform_times(noise, x, generator) if t is None else t
    check_rows("t", t, x, "one time per sample")
    z = randn_like(x, generator)
    x_t = noise.perturb(x, t, z)
    s = score(x_t, t) if y is None else score(x_t, t, y)
    check_score(s, x)
    error = s + z * expand(1 / noise.sigma(t), x)
    return level_weight(noise, weight, t).to(x) * inner(error, error) / 2


def uniform_times(noise: Noise, x: Tensor, generator: Generator = None) -> Tensor:
    """One time per sample of `x`, uniform in [t_min, t_max], or uniform over the levels of a `Levels`; float64."""
    u = rand_rows(x, generator)
    if isinstance(noise, Levels):
        return noise.levels.to(x.device)[(u * noise.count).long()]
    return noise.t_min + (noise.t_max - noise.t_min) * u


def level_weight(noise: Noise, weight: str | Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    r"""The weight w(t) of a level, by name ($\sigma_t^2$, or the likelihood's $g^2$) or by the caller's function."""
    if callable(weight):
        w = weight(t)
        check_rows("weight(t)", w, t)
        return w
    check_choice("weight", weight, ("sigma2", "likelihood"))
    return noise.sigma(t) ** 2 if weight == "sigma2" else noise.g2(t)
