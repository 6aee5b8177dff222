"""Correctors for `reverse`: kernels whose step size knows the noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass, is_dataclass, replace

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, expand, randn_like
from scorefield.checks import check_positive
from scorefield.fields import at
from scorefield.noise import Noise
from scorefield.samplers.langevin import Info, Kernel
from scorefield.samplers.tables import levels


@dataclass(frozen=True)
class SignalToNoise:
    r"""Langevin whose step gives score and noise a set ratio, sample by sample.

    $$ x \leftarrow x + h\,s(x, t) + \sqrt{2h}\,z, \qquad h = 2\,\Big(r\,\frac{\|z\|}{\|s(x, t)\|}\Big)^2 $$

    The norms are of one sample, never a mean over the batch, so that a sample does not depend on its neighbours.
    Algorithm 5 of the paper, for VP, multiplies h by the grid's $1 - \beta_i$, close to 1; that is left out. The step
    depends on x and z, so the kernel leaves the law only nearly invariant, in few dimensions not even that: near a
    mode $\|s\|$ vanishes and the step has no bound, for D <= 2 no mean either. There take `LevelKernel(Langevin(h))`,
    whose h of about $2 r^2$ moves as far.

    Args:
        ratio: r > 0; the paper takes 0.16 for VE and VP.

    Source: Song et al. 2021 (arXiv:2011.13456), algorithms 4 and 5.
    """

    ratio: float = 0.16

    def __post_init__(self) -> None:
        """Refuse a ratio that is not > 0."""
        check_positive("ratio", self.ratio)

    def step(
        self, score: NoisyScore, noise: Noise, x: Tensor, t: Tensor, *, generator: Generator = None
    ) -> tuple[Tensor, Info]:
        """One Langevin move at time t; its step sizes are reported, (B,)."""
        z, s = randn_like(x, generator), score(x, t)
        lengths = s.flatten(1).norm(dim=1)
        h = 2 * (self.ratio * z.flatten(1).norm(dim=1) / lengths) ** 2
        h = torch.where(lengths > 0, h, torch.zeros_like(h))  # at a mode there is no step
        return x + expand(h, x) * s + expand((2 * h).sqrt(), x) * z, {"step_size": h}


@dataclass(frozen=True)
class LevelKernel:
    r"""Any kernel with a step size as a corrector: its step is $h\,c_t^p$ with $c_t$ the noise level $\sigma_t$.

    A Langevin step scales with the square of the law's width, a Hamiltonian one with the width. A kernel that adjusts
    itself by a log-density, as `MALA`, needs a score that carries `log_density(x, t)`.

    Args:
        kernel: the kernel, with the step size it has where $\sigma_t = 1$.
        power: p, 2 for `Langevin` and `MALA`, 1 for `Underdamped` and `HMC`.
    """

    kernel: Kernel
    power: float = 2.0

    def __post_init__(self) -> None:
        """Refuse a kernel without a step size."""
        if not (is_dataclass(self.kernel) and hasattr(self.kernel, "step_size")):
            raise TypeError(f"kernel must be a dataclass with a step_size, got {type(self.kernel).__name__}")

    def step(
        self, score: NoisyScore, noise: Noise, x: Tensor, t: Tensor, *, generator: Generator = None
    ) -> tuple[Tensor, Info]:
        """One move of the kernel at the law of time t."""
        size = getattr(self.kernel, "step_size") * math.pow(levels(noise, t)[1], self.power)  # noqa: B009
        kernel = replace(self.kernel, step_size=size)  # pyright: ignore[reportArgumentType]
        return kernel.step(at(score, t), x, generator=generator)
