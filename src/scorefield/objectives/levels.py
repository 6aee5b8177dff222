r"""Objectives at many noise levels: which levels are drawn, what each counts, and the loss at each.

$$ \mathbb E_{t}\, w(t)\, \mathbb E\, \ell_t(x_t), \qquad x_t = \alpha_t x + \sigma_t z $$

with t uniform in [t_min, t_max] (over the levels of a `Levels`). Other draws of t keep this mean.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.calculus import Generator, Score, check_smooth, expand, rand_rows, randn_like
from scorefield.checks import check_choice, check_floating, check_positive, check_rows
from scorefield.noise import Levels, Noise
from scorefield.objectives.denoising import regress
from scorefield.objectives.kernels import Gaussian
from scorefield.objectives.sliced import sliced

Weight = str | Callable[[Tensor], Tensor]

WEIGHTS = ("sigma2", "likelihood", "edm", "min-snr")
TIMES = ("uniform", "stratified", "importance")
CELLS = 1024  # of the table from which times are drawn by importance
FINENESS = 11.5  # the cells at its ends are this close to them, in logits: 1e-5
UNIFORM_SHARE = 0.05  # of those draws: so that no sample counts more than twenty times


def noise_conditional(
    score: Callable[..., Tensor],
    x: Tensor,
    *,
    noise: Noise,
    y: Tensor | None = None,
    t: Tensor | None = None,
    times: str = "uniform",
    weight: Weight = "sigma2",
    data_scale: float | None = None,
    antithetic: bool = False,
    control_variate: bool = False,
    generator: Generator = None,
) -> Tensor:
    r"""Denoising score matching at many noise levels, one level per sample.

    $$ \ell(x) = \tfrac12\, w(t) \left\| s(x_t, t) + z/\sigma_t \right\|^2, \qquad x_t = \alpha_t x + \sigma_t z $$

    Args:
        score: noise-conditional score s(x, t), or s(x, t, y) where labels are given.
        x: clean data, shape (B, *D), floating point.
        noise: the schedule.
        y: labels (B,), or None.
        t: times (B,); None draws them, uniformly in [t_min, t_max] or from the levels of a `Levels`.
        times: how they are drawn: `"uniform"`, `"stratified"` or `"importance"` (see `draw_times`); the mean of the
            loss is the same.
        weight: w(t): `"sigma2"`, `"likelihood"`, `"edm"`, `"min-snr"` (see `level_weight`), or a function of t
            giving (B,).
        data_scale: standard deviation of the data, which `"edm"` needs.
        antithetic: average over z and -z; two calls of the score.
        control_variate: subtract terms of mean zero that make the variance at small sigma; one more call.
        generator: source of the times and the noise; the global one when None.

    Returns:
        loss per sample, shape (B,).

    Raises:
        TypeError: `x` is not floating point.
        ValueError: an unknown weight or way to draw times, `"edm"` without data_scale, times of another shape than
            (B,) or given together with a way to draw them, a score of another shape than `x`, or an energy with kinks.

    Source: Song & Ermon 2019 (arXiv:1907.05600), equation 6; Song et al. 2021 (arXiv:2011.13456), equation 7.
    """
    check_floating("x", x)
    t, w = _times_and_weights(noise, x, t, times, weight, data_scale, generator)
    check_smooth(score, derivatives=0)
    loss = regress(
        _at(score, t, y),
        expand(noise.alpha(t), x) * x,
        noise.sigma(t),
        Gaussian(),
        antithetic=antithetic,
        control_variate=control_variate,
        generator=generator,
    )
    return w.to(x) * loss


def noise_conditional_sliced(
    score: Callable[..., Tensor],
    x: Tensor,
    *,
    noise: Noise,
    y: Tensor | None = None,
    t: Tensor | None = None,
    times: str = "uniform",
    weight: Weight = "sigma2",
    data_scale: float | None = None,
    probes: int = 1,
    law: str = "rademacher",
    variance_reduced: bool = True,
    chunk: int | None = None,
    generator: Generator = None,
) -> Tensor:
    r"""Sliced score matching at many noise levels, one level per sample: it needs samples of $x_t$ and no kernel.

    $$ \ell(x) = w(t)\left(v^\top \nabla_x s(x_t, t)\, v + \tfrac12 \|s(x_t, t)\|^2\right) $$

    Equals `noise_conditional` up to a constant in s, level by level. Arguments as there, and as in `sliced`.

    Args:
        score: noise-conditional score s(x, t), or s(x, t, y) where labels are given; differentiable in x.
        x: clean data, shape (B, *D), floating point.
        noise: the schedule.
        y: labels (B,), or None.
        t: times (B,); None draws them.
        times: how they are drawn: `"uniform"`, `"stratified"` or `"importance"`.
        weight: w(t), by name or as a function of t.
        data_scale: standard deviation of the data, which `"edm"` needs.
        probes: number of probes per sample, averaged.
        law: of the probes: `"rademacher"`, `"gaussian"` or `"sphere"`.
        variance_reduced: False for the plain form.
        chunk: how many probes are taken in one batch; None for all.
        generator: source of the times, the noise and the probes, in this order; the global one when None.

    Returns:
        loss per sample, shape (B,); may be negative.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: as in `noise_conditional` and `sliced`.
        RuntimeError: the score returned a tensor without a graph.

    Source: Song & Ermon 2019 (arXiv:1907.05600), section 4; Song et al. 2019 (arXiv:1905.07088), equations 7 and 8.
    """
    check_floating("x", x)
    t, w = _times_and_weights(noise, x, t, times, weight, data_scale, generator)
    check_smooth(score)
    x_t = noise.perturb(x, t, randn_like(x, generator))
    loss = sliced(
        _at(score, t, y),
        x_t,
        probes=probes,
        law=law,
        variance_reduced=variance_reduced,
        chunk=chunk,
        generator=generator,
    )
    return w.to(x) * loss


def _at(score: Callable[..., Tensor], t: Tensor, y: Tensor | None) -> Score:
    return (lambda x: score(x, t)) if y is None else (lambda x: score(x, t, y))


def _times_and_weights(
    noise: Noise,
    x: Tensor,
    t: Tensor | None,
    times: str,
    weight: Weight,
    data_scale: float | None,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """The time of each sample and what its loss is multiplied by, both (B,)."""
    check_choice("times", times, TIMES)
    if t is None:
        t, factor = draw_times(noise, x, times, weight=weight, data_scale=data_scale, generator=generator)
        return t, factor * level_weight(noise, weight, t, data_scale)
    if times != "uniform":
        raise ValueError(f"times says how t is drawn, got {times!r} together with t; give one of them")
    check_rows("t", t, x, "one time per sample")
    return t, level_weight(noise, weight, t, data_scale)


def level_weight(noise: Noise, weight: Weight, t: Tensor, data_scale: float | None = None) -> Tensor:
    r"""The weight w(t) of a level, by name or by the caller's function, shape (B,).

    | weight | w(t) | under it |
    |---|---|---|
    | `"sigma2"` | $\sigma_t^2$ | every level counts alike (NCSN, DDPM) |
    | `"likelihood"` | $g^2(t)$ | the objective bounds the negative log-likelihood (Song et al. 2021b) |
    | `"edm"` | $\sigma^2(\alpha^2 v + \sigma^2)/(\alpha^2 v)$, v = data_scale² | EDM's residual counts alike |
    | `"min-snr"` | $\sigma^2 \min(1, 5\,\sigma^2/\alpha^2)$ | see `min_snr` |

    Raises:
        ValueError: an unknown name, `"edm"` without data_scale, or a function that does not give one number per time.

    Source: Song et al. 2021b (arXiv:2101.09258); Karras et al. 2022 (arXiv:2206.00364), equation 8.
    """
    if callable(weight):
        w = weight(t)
        check_rows("weight(t)", w, t)
        return w
    check_choice("weight", weight, WEIGHTS)
    if weight == "edm":
        if data_scale is None:
            raise ValueError("weight 'edm' needs data_scale, the standard deviation of the data; give it, or 'sigma2'")
        check_positive("data_scale", data_scale)
        return noise.residual_weight(t, data_scale)
    if weight == "min-snr":
        return min_snr(noise)(t)
    return noise.sigma(t) ** 2 if weight == "sigma2" else noise.g2(t)


def min_snr(noise: Noise, gamma: float = 5.0) -> Callable[[Tensor], Tensor]:
    r"""The min-SNR weight as a function of t: levels with little noise count less than under `"sigma2"`.

    $$ w(t) = \sigma_t^2\,\min(\mathrm{SNR}, \gamma)/\mathrm{SNR}, \qquad \mathrm{SNR} = \alpha_t^2/\sigma_t^2 $$

    For a network that predicts the noise this is Hang et al.'s $\min(\mathrm{SNR}, \gamma)/\mathrm{SNR}$, since
    $\|s + z/\sigma\|^2 = \|z_\theta - z\|^2/\sigma^2$; for one that predicts the data, $\min(\mathrm{SNR}, \gamma)$.

    Source: Hang et al. 2023 (arXiv:2303.09556).
    """
    check_positive("gamma", gamma)
    return lambda t: noise.sigma(t) ** 2 * (gamma * noise.ratio(t) ** 2).clamp(max=1)


def uniform_times(noise: Noise, x: Tensor, generator: Generator = None) -> Tensor:
    """One time per sample of `x`, uniform in [t_min, t_max], or uniform over the levels of a `Levels`; float64."""
    return _uniform_at(noise, rand_rows(x, generator))


def draw_times(
    noise: Noise,
    x: Tensor,
    times: str = "uniform",
    *,
    weight: Weight = "sigma2",
    data_scale: float | None = None,
    generator: Generator = None,
) -> tuple[Tensor, Tensor]:
    r"""One time per sample, and the factor on its loss that keeps the mean that of uniform times.

    * `"uniform"`: independent; factor 1.
    * `"stratified"`: one in each of B equal strata, dealt out by a random permutation; factor 1. Each sample's time is
      uniform, the batch covers the levels evenly.
    * `"importance"`: with density r(t) proportional to the loss's typical size, factor $1/r(t)$ with r relative to
      the uniform law: $r \propto w(t)/\sigma_t^2$, since the target's square is of size $D/\sigma_t^2$; where
      `data_scale` is given $r \propto w(t)\,\alpha^2 v/(\sigma^2(\alpha^2 v + \sigma^2))$, the least loss on Gaussian
      data of variance v. A twentieth of the draws is uniform, so that no factor exceeds 20.

    Args:
        noise: the schedule.
        x: gives the number of samples and the device.
        times: the way.
        weight: w(t), for `"importance"`.
        data_scale: standard deviation of the data, > 0, or None.
        generator: source of the times; the global one when None.

    Returns:
        times and factors, each (B,), float64.

    Raises:
        ValueError: an unknown way or weight, or a weight that is negative, infinite or zero everywhere.

    Source: Song et al. 2021b (arXiv:2101.09258) for importance under the likelihood weight; Kingma et al. 2021
    (arXiv:2107.00630) for times spread evenly over a batch.
    """
    check_choice("times", times, TIMES)
    u = rand_rows(x, generator)
    if times == "stratified":
        u = (rand_rows(x, generator).argsort() + u) / len(u)
    if times != "importance":
        return _uniform_at(noise, u), torch.ones_like(u)
    discrete = isinstance(noise, Levels)
    edges = _edges(noise).to(u)
    at = noise.levels.to(u) if discrete else (edges[1:] + edges[:-1]) / 2
    share = torch.full_like(at, 1 / len(at)) if discrete else edges.diff() / (noise.t_max - noise.t_min)
    size = noise.sigma(at) ** 2 if data_scale is None else noise.residual_weight(at, data_scale)
    typical = level_weight(noise, weight, at, data_scale).to(at) / size
    mass = typical * share
    if not (mass.isfinite().all() and (mass >= 0).all() and mass.sum() > 0):
        raise ValueError("importance needs a weight that is finite, >= 0 and not 0 at all levels; use times='uniform'")
    mass = (1 - UNIFORM_SHARE) * mass / mass.sum() + UNIFORM_SHARE * share
    ends = mass.cumsum(0)
    cell = torch.searchsorted(ends, u * ends[-1], right=True).clamp(max=len(at) - 1)
    factor = (share / mass)[cell]
    if discrete:
        return at[cell], factor
    inside = (1 - (ends[cell] - u * ends[-1]) / mass[cell]).clamp(0, 1)
    return torch.lerp(edges[cell], edges[cell + 1], inside), factor


def _uniform_at(noise: Noise, u: Tensor) -> Tensor:
    """The time at each u in [0, 1) of the uniform law over times or levels."""
    if isinstance(noise, Levels):
        return noise.levels.to(u.device)[(u * noise.count).long().clamp(max=noise.count - 1)]
    return noise.t_min + (noise.t_max - noise.t_min) * u


def _edges(noise: Noise) -> Tensor:
    """Edges of cells of time, fine towards both ends, where schedules change fastest: (CELLS + 1,), float64."""
    u = torch.sigmoid(torch.linspace(-FINENESS, FINENESS, CELLS + 1, dtype=torch.float64))
    return noise.t_min + (noise.t_max - noise.t_min) * (u - u[0]) / (u[-1] - u[0])
