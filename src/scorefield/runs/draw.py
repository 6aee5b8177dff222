"""The samplers by the names they have on the command line, with defaults that work on scaled data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from scorefield.calculus import Generator, NoisyScore, PerSample, randn_like
from scorefield.checks import check_choice, check_count
from scorefield.fields import at, given
from scorefield.guidance import classifier, classifier_free
from scorefield.noise import Noise
from scorefield.runs.one_law import draw_one_law, tuned
from scorefield.runs.samples import Way, start_like
from scorefield.samplers import (
    DDIM,
    DDPM,
    AdaptiveODE,
    AdaptiveSDE,
    Ancestral,
    ChurnedHeun,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    LevelKernel,
    Predictor,
    Samples,
    SDEDPMSolver,
    StochasticHeun,
    UniPC,
    annealed_langevin,
    annealed_settings,
    reverse,
    time_grid,
)
from scorefield.settings import KERNELS, SAMPLERS, Recipe

# name -> the predictor for n steps, its grid (None: its own), its steps when none are given
PREDICTORS: dict[str, tuple[Callable[[int], Predictor], str | None, int]] = {
    "heun": (lambda _: Heun(), "rho", 18),
    "euler": (lambda _: Euler(), "rho", 50),
    "unipc": (lambda _: UniPC(3, predicts="velocity"), None, 20),
    "dpm-solver": (lambda _: DPMSolver(3), None, 20),
    "adaptive-ode": (lambda _: AdaptiveODE(), "time", 1),
    "ddim": (lambda _: DDIM(), None, 50),
    "ddpm": (lambda _: DDPM(), "time", 250),
    "ancestral": (lambda _: Ancestral(), "time", 250),
    "churned-heun": (lambda n: ChurnedHeun(1.0, n), None, 32),
    "sde-dpm-solver": (lambda _: SDEDPMSolver(predicts="velocity"), None, 50),
    "stochastic-heun": (lambda _: StochasticHeun(), None, 50),
    "euler-maruyama": (lambda _: EulerMaruyama(), "time", 500),
    "predictor-corrector": (lambda _: EulerMaruyama(), "time", 250),
    "adaptive-sde": (lambda _: AdaptiveSDE(), "time", 1),
}
CORRECTION = 0.05  # the corrector's Langevin step in units of sigma_t²: 2 r² for the r = 0.16 of Song et al. 2021


def choose_sampler(
    sampler: str | None,
    recipe: Recipe,
    *,
    step_size: float | None = None,
    epsilon: float | None = None,
    guidance: float | None = None,
) -> str:
    """The sampler asked for, or the default of what the recipe learns.

    Raises:
        ValueError: an unknown sampler, or one, or an option, that does not go with what was learned.
    """
    if sampler is not None:
        check_choice("sampler", sampler, SAMPLERS)
    if recipe.at_all_levels:
        if sampler in KERNELS:
            raise ValueError(
                f"sampler {sampler} stays at one law, and this run learned all levels of its noise; take heun, or "
                "annealed-langevin, which goes through the levels"
            )
        if step_size is not None:
            raise ValueError(f"step_size is an option of {', '.join(KERNELS)}, got {step_size!r}; leave it out")
        chosen = sampler or "heun"
    elif sampler is not None and sampler not in KERNELS:
        raise ValueError(
            f"sampler must be {', '.join(KERNELS)} for a run of objective {recipe.objective}, which learned one law "
            f"and no noise levels to come down from; got {sampler!r}"
        )
    else:
        chosen = sampler or "langevin"
    if guidance is not None and not recipe.at_all_levels:
        raise ValueError(
            f"guidance needs all noise levels, got {guidance!r} for a run of objective {recipe.objective}; leave it "
            "out, or train with objective noise-conditional"
        )
    if epsilon is not None and chosen != "annealed-langevin":
        raise ValueError(
            f"epsilon is an option of sampler annealed-langevin, got {epsilon!r} for {chosen}; leave it out"
        )
    return chosen


def choose_way(
    recipe: Recipe,
    model: nn.Module,
    law: Noise | float,
    x: Tensor,
    *,
    sampler: str | None,
    steps: int | None,
    step_size: float | None,
    epsilon: float | None,
    guidance: float | None,
    logits: Callable[[Tensor, Tensor], Tensor] | None = None,
    denoise: bool,
    path: bool,
) -> Way:
    """How a chunk of samples is drawn from a model, given its shape, its labels and its noise.

    Args:
        recipe: what was learned.
        model: the model, s(x, t, y).
        law: the schedule, or the sigma of the one law.
        x: scaled training rows (n, *D), to tune the kernels of one law on.
        sampler: name of the sampler; None for the default.
        steps: of the sampler; None for the default.
        step_size: of a kernel of one law; None to choose it.
        epsilon: of annealed Langevin; None to compute it.
        guidance: w of guidance; None for the score of the labels given, w = 1.
        logits: of a noise-conditional classifier, x and t -> (B, K), to guide with; None for the model's own labels.
        denoise: end with Tweedie's formula.
        path: keep the states on the way.

    Raises:
        ValueError: a sampler or a step size that does not go with what was learned.
    """
    name = choose_sampler(sampler, recipe, step_size=step_size, epsilon=epsilon, guidance=guidance)
    how: dict[str, Any] = {"steps": steps, "denoise": denoise, "path": path}
    if isinstance(law, Noise):
        how |= {"epsilon": epsilon}

        def score(y: Tensor | None) -> NoisyScore:
            if logits is not None and y is not None:
                return classifier(given(model, None), logits, y, 1.0 if guidance is None else guidance)
            return given(model, y) if guidance is None or y is None else classifier_free(model, y, guidance)

        return lambda like, y, noise: draw(score(y), law, like, name, **how, generator=noise)
    x = x.to(next(model.parameters()))
    x = x + law * randn_like(x, PerSample(0, range(len(x))))
    kernel = tuned(name, at(given(model, None), None), x, step_size)
    return lambda like, y, noise: draw_one_law(at(given(model, y), None), like, kernel, law, **how, generator=noise)


def draw(
    score: NoisyScore,
    noise: Noise,
    like: Tensor,
    sampler: str,
    steps: int | None,
    *,
    epsilon: float | None = None,
    denoise: bool,
    path: bool = False,
    generator: Generator = None,
) -> Samples:
    r"""Draw one sample per row of `like` from a score of scaled data (mean 0, spread 1).

    Deterministic samplers and multistep ones step on grids in $\sigma/\alpha$, the SDE and ancestral ones on the
    schedule's own even grid. Annealed Langevin computes its levels, T and $\epsilon$: see `annealed_settings`.

    Args:
        score: noise-conditional score of this very batch.
        noise: the schedule.
        like: gives shape, dtype and device, (B, *D).
        sampler: name of the sampler.
        steps: its steps (per level for annealed-langevin); None for the default. Adaptive ones choose theirs.
        epsilon: annealed Langevin's, in the convention of 2020; None to compute it.
        denoise: end with Tweedie's formula.
        path: keep the states on the way; not for annealed-langevin.
        generator: source of the noise.

    Returns:
        the samples, in scaled units.

    Raises:
        ValueError: an unknown sampler, steps < 1, or steps of a sampler that chooses its own.
    """
    check_choice("sampler", sampler, SAMPLERS)
    check_count("steps", 1 if steps is None else steps)
    if steps is not None and sampler.startswith("adaptive-"):
        raise ValueError(f"sampler {sampler} chooses its own steps, got steps {steps}; leave them out")
    x = start_like(noise, like, generator)
    if sampler == "annealed-langevin":
        chosen = annealed_settings(noise, like[0].numel(), steps_per_level=steps)
        return annealed_langevin(
            score,
            noise,
            x,
            epsilon=chosen.epsilon if epsilon is None else epsilon,
            steps_per_level=chosen.steps_per_level,
            levels=chosen.levels,
            convention="ncsnv2",
            denoise=denoise,
            generator=generator,
        )
    made, spacing, default = PREDICTORS[sampler]
    n = default if steps is None else steps
    predictor = made(n)
    return reverse(
        score,
        noise,
        x,
        times=time_grid(noise, n, predictor, spacing=spacing),
        predictor=predictor,
        corrector=LevelKernel(Langevin(CORRECTION)) if sampler == "predictor-corrector" else None,
        denoise=denoise,
        path=path,
        nonfinite="report",  # the run counts them, over all processes
        generator=generator,
    )
