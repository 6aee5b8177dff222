"""Sampling from the score of one law: kernels by the names they have on the command line, tuned on the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scorefield.calculus import Generator, PerSample, Score, inner, randn_like
from scorefield.checks import check_count
from scorefield.samplers import HMC, MALA, Kernel, Langevin, Samples, Underdamped, chain, warm_up

STEPS = 1000  # of a chain, when none are given
STEP = 0.1  # Langevin's step size in units of D / E|s|², the inverse of the mean precision
WARM_UP = 200  # moves in which a Metropolis-adjusted kernel finds its step size


def tuned(name: str, score: Score, x: Tensor, step_size: float | None) -> Kernel:
    r"""A kernel for the law of `score`, with the step size given or one that suits it.

    Langevin's $h$ is a tenth of $D/\mathbb E\|s\|^2$ (see `langevin_step`), the underdamped one's $\sqrt{2h}$, with
    which a step goes as far. MALA and HMC find theirs in a warm-up from `x`; a score without a density is adjusted by
    its line integral, which is exact only as far as the field is a gradient.

    Args:
        name: langevin, underdamped, mala or hmc.
        score: the score of the law, of scaled data.
        x: rows of that law, (n, *D).
        step_size: > 0, or None to choose it.
    """
    small = langevin_step(score, x) if step_size is None else step_size
    if name == "langevin":
        return Langevin(small)
    if name == "underdamped":
        return Underdamped(math.sqrt(2 * small) if step_size is None else step_size)
    adjust = "density" if hasattr(score, "log_density") else "line"
    kernel = MALA(small, adjust=adjust) if name == "mala" else HMC(small, steps=10, jitter=0.2, adjust=adjust)
    if step_size is not None:
        return kernel
    return warm_up(kernel, score, x, steps=WARM_UP, generator=PerSample(0, range(len(x))))[0]


def draw_one_law(
    score: Score,
    like: Tensor,
    kernel: Kernel,
    sigma: float,
    *,
    steps: int | None,
    denoise: bool,
    path: bool = False,
    generator: Generator = None,
) -> Samples:
    """Draw one sample per row of `like` from the score of one law of scaled data, by a kernel from N(0, I).

    Args:
        score: the score of this very batch.
        like: gives shape, dtype and device, (B, *D).
        kernel: the move.
        sigma: the noise that blurs the law; 0 for none.
        steps: how many moves; None for 1,000.
        denoise: end with Tweedie's formula, which takes that noise off.
        path: keep the states on the way.
        generator: source of the noise.

    Returns:
        the samples, in scaled units.
    """
    steps = STEPS if steps is None else steps
    check_count("steps", steps)
    start = randn_like(like, generator)
    drawn = chain(kernel, score, start, steps=steps, keep=1 if path else None, generator=generator)
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
