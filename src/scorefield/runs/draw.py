"""The samplers by the names they have on the command line, with defaults that work on scaled data."""

from __future__ import annotations

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, randn_like
from scorefield.checks import check_choice, check_count
from scorefield.noise import Levels, Noise, overlap_ratio
from scorefield.samplers import Ancestral, Euler, EulerMaruyama, Heun, Samples, annealed_langevin, reverse
from scorefield.settings import SAMPLERS

DEFAULT_STEPS = {"heun": 18, "euler": 50, "euler-maruyama": 500, "ancestral": 250, "annealed-langevin": 100}


def draw(
    score: NoisyScore,
    noise: Noise,
    like: Tensor,
    sampler: str,
    steps: int | None,
    *,
    denoise: bool,
    path: bool = False,
    generator: Generator = None,
) -> Samples:
    r"""Draw one sample per row of `like` from a score of scaled data (mean 0, spread 1).

    Deterministic samplers step on EDM's grid, the SDE and ancestral ones on the schedule's own even grid. Annealed
    Langevin uses Song & Ermon's $\epsilon = 2\cdot 10^{-5}$ at $\sigma_L = 0.01$ in proportion to $\sigma_L^2$, with
    T = 100 steps at each level, and as many levels as overlap.

    Args:
        score: noise-conditional score of this very batch.
        noise: the schedule.
        like: gives shape, dtype and device, (B, *D).
        sampler: name of the sampler.
        steps: its steps (per level for annealed-langevin); None for the default.
        denoise: end with Tweedie's formula.
        path: keep the states on the way; not for annealed-langevin.
        generator: source of the noise.

    Returns:
        the samples, in scaled units.
    """
    check_choice("sampler", sampler, SAMPLERS)
    steps = DEFAULT_STEPS[sampler] if steps is None else steps
    check_count("steps", steps)
    prior = noise.prior(like.shape[1:], mean=0.0, variance=1.0)
    x = prior.mean.to(like) + prior.stddev.to(like) * randn_like(like, generator)
    if sampler == "annealed-langevin":
        levels = overlapping_levels(noise, like[0].numel())
        sigma_end = noise.sigma(levels[-1]).item()
        return annealed_langevin(
            score,
            noise,
            x,
            epsilon=2e-5 * (sigma_end / 0.01) ** 2,
            steps_per_level=steps,
            levels=levels,
            denoise=denoise,
            generator=generator,
        )
    predictor = {"heun": Heun(), "euler": Euler(), "euler-maruyama": EulerMaruyama(), "ancestral": Ancestral()}[sampler]
    times = noise.rho_times(steps) if sampler in ("heun", "euler") else noise.times(steps)
    return reverse(score, noise, x, times=times, predictor=predictor, denoise=denoise, path=path, generator=generator)


def overlapping_levels(noise: Noise, dimension: int, lowest: float = 0.01) -> Tensor:
    r"""Times of levels whose $\sigma/\alpha$ fall geometrically by the overlap ratio, from t_max to `lowest` or t_min.

    Source: Song & Ermon 2020 (arXiv:2006.09011), technique 2.
    """
    if isinstance(noise, Levels):
        return noise.levels
    ends = torch.tensor([noise.t_max, noise.t_min], dtype=torch.float64)
    high, low = (noise.sigma(ends) / noise.alpha(ends)).tolist()
    low = max(low, lowest)
    ratio, _ = overlap_ratio(dimension)
    count = max(2, 1 + int(torch.tensor(high / low).log().div(torch.tensor(ratio).log()).ceil()))
    return noise.time_at(torch.logspace(0, 1, count, base=low / high, dtype=torch.float64) * high)
