r"""The normalising constant of an energy by annealed importance sampling.

Particles walk from a normalised base q to the target f through $q^{1-\beta} f^\beta$; the product of the density ratios
at each change of $\beta$ is an unbiased weight, $\mathbb E\,w = Z = \int f$.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.calculus import Generator, LogDensity, score_of
from scorefield.checks import check_count
from scorefield.densities import Density
from scorefield.samplers import Kernel, chain


@dataclass(frozen=True)
class LogPartition:
    r"""An estimate of $\log Z$.

    Attributes:
        value: log of the mean weight; biased low by about standard_error² / 2.
        standard_error: by the delta method.
        effective_samples: $(\sum w)^2 / \sum w^2$, of the particles; with few of them the error is not to be trusted.
        log_weights: of each particle, (n,), float64.
        evaluations: how many times the target's density was called on the batch, those for the walk included.
    """

    value: float
    standard_error: float
    effective_samples: float
    log_weights: Tensor
    evaluations: int


def annealed_importance(
    log_density: LogDensity,
    base: Density,
    *,
    kernel: Kernel,
    particles: int,
    betas: int | Sequence[float] = 100,
    moves: int = 1,
    generator: Generator = None,
) -> LogPartition:
    r"""Estimate $\log \int e^{\log f}$ of an un-normalised density f.

    $$ \log w = \sum_k (\beta_k - \beta_{k-1})\,[\log f(x_{k-1}) - \log q(x_{k-1})] $$

    Args:
        log_density: $\log f$, (B, *D) -> (B,).
        base: a normalised density with samples, that covers the target.
        kernel: the move that keeps each law in between; exact for MALA and HMC. An unadjusted one biases the answer.
        particles: how many, >= 2.
        betas: number of changes of temperature, evenly spaced, or the increasing values from 0 to 1 themselves.
        moves: moves of the kernel at each temperature, >= 1.
        generator: source of the noise; the global one when None.

    Returns:
        the estimate with its standard error and its effective sample size.

    Raises:
        ValueError: fewer than 2 particles, or betas that do not rise from 0 to 1.
        RuntimeError: no particle has a finite weight.

    Source: Neal 2001, Annealed importance sampling, equations 4 to 6.
    """
    check_count("particles", particles, least=2)
    check_count("moves", moves)
    if isinstance(betas, int):
        check_count("betas", betas)
        rising = torch.linspace(0, 1, betas + 1, dtype=torch.float64).tolist()
    else:
        rising = [float(b) for b in betas]
        if rising[0] != 0 or rising[-1] != 1 or any(b <= a for a, b in zip(rising, rising[1:], strict=False)):
            raise ValueError(f"betas must rise from 0 to 1, got {rising[:8]}")
    x, calls = base.sample((particles,), generator=generator), 0
    log_w = torch.zeros(particles, dtype=torch.float64, device=x.device)
    for before, beta in zip(rising, rising[1:], strict=False):
        with torch.no_grad():
            log_w += (beta - before) * (log_density(x) - base.log_density(x)).double()
        calls += 1
        if beta < 1:
            between = score_of(lambda at, b=beta: (1 - b) * base.log_density(at) + b * log_density(at))
            drawn = chain(kernel, between, x, steps=moves, generator=generator)
            x, calls = drawn.x, calls + drawn.evaluations
    usable = log_w[~log_w.isnan()]
    top = usable.max() if len(usable) else torch.tensor(-math.inf)
    if not top.isfinite():
        raise RuntimeError("no particle has a finite weight; choose a base that covers the target")
    w = torch.nan_to_num((log_w - top).exp(), nan=0.0)
    mean = w.mean()
    error = (w.std() / math.sqrt(particles) / mean).item()
    size = (w.sum() ** 2 / w.square().sum()).item()
    return LogPartition((mean.log() + top).item(), error, size, log_w, calls)
