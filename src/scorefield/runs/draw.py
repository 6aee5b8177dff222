"""The samplers by the names they have on the command line, with defaults that work on scaled data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scorefield.calculus import Generator, NoisyScore, PerSample, Score, inner, randn_like
from scorefield.checks import check_choice, check_count
from scorefield.fields import at, given
from scorefield.noise import Levels, Noise, overlap_ratio
from scorefield.runs.samples import Way
from scorefield.samplers import (
    Ancestral,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    Samples,
    annealed_langevin,
    chain,
    reverse,
)
from scorefield.settings import SAMPLERS, Recipe

DEFAULT_STEPS = {
    "heun": 18,
    "euler": 50,
    "euler-maruyama": 500,
    "ancestral": 250,
    "annealed-langevin": 100,
    "langevin": 1000,
}
STEP = 0.1  # Langevin's step size in units of D / E|s|², the inverse of the mean precision


def choose_sampler(sampler: str | None, step_size: float | None, recipe: Recipe) -> str:
    """The sampler asked for, or the default of what the recipe learns.

    Raises:
        ValueError: an unknown sampler, or one, or a step size, that does not go with what was learned.
    """
    if sampler is not None:
        check_choice("sampler", sampler, SAMPLERS)
    if recipe.at_all_levels:
        if sampler == "langevin":
            raise ValueError(
                "sampler langevin stays at one law, and this run learned all levels of its noise; take heun, or "
                "annealed-langevin, which goes through the levels"
            )
        if step_size is not None:
            raise ValueError(f"step_size is an option of sampler langevin, got {step_size!r}; leave it out")
        return sampler or "heun"
    if sampler not in (None, "langevin"):
        raise ValueError(
            f"sampler must be langevin for a run of objective {recipe.objective}, which learned one law and no noise "
            f"levels to come down from; got {sampler!r}"
        )
    return "langevin"


def choose_way(
    recipe: Recipe,
    model: nn.Module,
    law: Noise | float,
    x: Tensor,
    *,
    sampler: str | None,
    steps: int | None,
    step_size: float | None,
    denoise: bool,
    path: bool,
) -> Way:
    """How a chunk of samples is drawn from a model, given its shape, its labels and its noise.

    Args:
        recipe: what was learned.
        model: the model, s(x, t, y).
        law: the schedule, or the sigma of the one law.
        x: scaled training rows (n, *D), to choose Langevin's step size by.
        sampler: name of the sampler; None for the default.
        steps: of the sampler; None for the default.
        step_size: Langevin's; None to choose it.
        denoise: end with Tweedie's formula.
        path: keep the states on the way.

    Raises:
        ValueError: a sampler or a step size that does not go with what was learned.
    """
    name = choose_sampler(sampler, step_size, recipe)
    how: dict[str, Any] = {"steps": steps, "denoise": denoise, "path": path}
    if isinstance(law, Noise):
        return lambda like, y, noise: draw(given(model, y), law, like, name, **how, generator=noise)
    if step_size is None:
        x = x.to(next(model.parameters()))
        x = x + law * randn_like(x, PerSample(0, range(len(x))))
        step_size = langevin_step(at(given(model, None), None), x)
    how |= {"step_size": step_size, "sigma": law}
    return lambda like, y, noise: draw_one_law(at(given(model, y), None), like, **how, generator=noise)


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
    return reverse(
        score,
        noise,
        x,
        times=times,
        predictor=predictor,
        denoise=denoise,
        path=path,
        nonfinite="report",  # the run counts them, over all processes
        generator=generator,
    )


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


def draw_one_law(
    score: Score,
    like: Tensor,
    *,
    step_size: float,
    sigma: float,
    steps: int | None,
    denoise: bool,
    path: bool = False,
    generator: Generator = None,
) -> Samples:
    """Draw one sample per row of `like` from the score of one law of scaled data, by Langevin from N(0, I).

    Args:
        score: the score of this very batch.
        like: gives shape, dtype and device, (B, *D).
        step_size: Langevin's h > 0.
        sigma: the noise that blurs the law; 0 for none.
        steps: how many steps; None for 1,000.
        denoise: end with Tweedie's formula, which takes that noise off.
        path: keep the states on the way.
        generator: source of the noise.

    Returns:
        the samples, in scaled units.
    """
    steps = DEFAULT_STEPS["langevin"] if steps is None else steps
    start = randn_like(like, generator)
    drawn = chain(Langevin(step_size), score, start, steps=steps, keep=1 if path else None, generator=generator)
    if not (denoise and sigma):
        return drawn
    with torch.no_grad():
        x = drawn.x + sigma**2 * score(drawn.x)
    kept = None if drawn.path is None else torch.cat([drawn.path, x[None]])
    return Samples(x, kept, drawn.info, drawn.evaluations + 1)


def langevin_step(score: Score, x: Tensor) -> float:
    r"""A step size for Langevin at one law: a tenth of $D/\mathbb E\|s\|^2$, measured at `x` (n, *D) of that law.

    $\mathbb E\|s\|^2 = -\mathbb E \operatorname{tr} \nabla s$ is the law's mean precision times D: for a Gaussian the
    step is a tenth of the harmonic mean of its variances.
    """
    with torch.no_grad():
        s = score(x).double()
    return STEP * x[0].numel() / inner(s, s).mean().item()
