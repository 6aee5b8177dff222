"""Annealed Langevin dynamics: Langevin at one noise level after the other, as a corrector under `reverse`.

Also its consistent form, a predictor whose noise is that of the next level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, randn_like
from scorefield.checks import check_choice, check_count, check_positive
from scorefield.noise import Levels, Noise
from scorefield.samplers.grids import time_grid
from scorefield.samplers.langevin import Info, Samples
from scorefield.samplers.predictors import Rescale
from scorefield.samplers.reverse import reverse
from scorefield.samplers.tables import levels as levels_of


@dataclass(frozen=True)
class AnnealedStep:
    r"""Langevin at the level of time t, with step $\alpha_i = \epsilon\,\sigma_t^2/\sigma_L^2$.

    `convention` `"ncsn"` moves by $h = \alpha_i/2$ as printed in Song & Ermon 2019 (arXiv:1907.05600), algorithm 1;
    `"ncsnv2"` by $h = \alpha_i$ as in Song & Ermon 2020 (arXiv:2006.09011), algorithm 1, and both code bases.

    Args:
        epsilon: the papers' step size, > 0.
        sigma_end: $\sigma_L$, the last level's standard deviation.
        convention: `"ncsn"` or `"ncsnv2"`.
    """

    epsilon: float
    sigma_end: float
    convention: str = "ncsn"

    def __post_init__(self) -> None:
        """Refuse values that are not > 0 and unknown conventions."""
        check_positive("epsilon", self.epsilon)
        check_positive("sigma_end", self.sigma_end)
        check_choice("convention", self.convention, ("ncsn", "ncsnv2"))

    def step(
        self, score: NoisyScore, noise: Noise, x: Tensor, t: Tensor, *, generator: Generator = None
    ) -> tuple[Tensor, Info]:
        """One Langevin move at time t."""
        step = self.epsilon * (noise.sigma(t).item() / self.sigma_end) ** 2
        h = step / 2 if self.convention == "ncsn" else step
        return x + h * score(x, t) + math.sqrt(2 * h) * randn_like(x, generator), {}


@dataclass(frozen=True)
class Consistent:
    r"""Consistent annealed sampling: a fraction of the way to the denoised state, and noise up to the next level.

    $$ \bar x_s = \bar x_t + \eta\,\bar\sigma_t^2\,\bar s + \sqrt{\bar\sigma_s^2 - (1-\eta)^2\bar\sigma_t^2}\;z $$

    in $\bar x = x/\alpha$, $\bar\sigma = \sigma/\alpha$, $\bar s = \alpha s$. For data at one point the level on
    arrival is $\bar\sigma_s$ exactly, where annealed Langevin has too much noise. With $\eta$ fixed it does not
    converge as the grid is refined (order 0).

    Args:
        eta: $\eta$ in (0, 1], the paper's $\epsilon/\sigma_L^2$; at least $1 - \bar\sigma_s/\bar\sigma_t$.

    Source: Jolicoeur-Martineau et al. 2020 (arXiv:2009.05475), algorithm 2.
    """

    eta: float
    order: ClassVar[int] = 0
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse eta outside (0, 1]."""
        check_positive("eta", self.eta)
        if self.eta > 1:
            raise ValueError(f"eta must be <= 1, got {self.eta!r}")

    def step(
        self,
        score: NoisyScore,
        noise: Noise,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        memory: Any = None,
        *,
        generator: Generator = None,
    ) -> tuple[Tensor, None]:
        """One step from t down to s."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels_of(noise, t), levels_of(noise, s)
        ratio = alpha_s / alpha_t
        variance = sigma_s**2 - ((1 - self.eta) * ratio * sigma_t) ** 2
        if variance < -1e-12 * sigma_s**2:
            least = 1 - sigma_s / (ratio * sigma_t)
            where = f"for the step to t = {s.item():.4g}"
            raise ValueError(f"eta must be >= {least:.4g} {where}, got {self.eta!r}; add levels")
        moved = ratio * torch.add(x, score(x, t), alpha=self.eta * sigma_t**2)
        return torch.add(moved, randn_like(x, generator), alpha=math.sqrt(max(variance, 0.0))), None


def consistent_annealed(
    score: NoisyScore,
    noise: Noise,
    x: Tensor,
    *,
    eta: float,
    steps_per_level: int = 1,
    levels: Tensor | None = None,
    denoise: bool = False,
    generator: Generator = None,
) -> Samples:
    r"""Consistent annealed sampling: as `annealed_langevin`, with the noise of every level right on arrival.

    T steps per level stand on a finer geometric grid, $\gamma^{1/T}$ instead of $\gamma$, as in the paper.

    Args:
        score: noise-conditional score.
        noise: the schedule.
        x: where the particles start, (B, *D).
        eta: $\eta$ in (0, 1]; see `Consistent`.
        steps_per_level: T >= 1.
        levels: decreasing times of the levels; None as in `annealed_langevin`.
        denoise: end with Tweedie's formula, as the paper advises.
        generator: source of the noise; the global one when None.

    Returns:
        the samples at the last level; see `reverse`.

    Source: Jolicoeur-Martineau et al. 2020 (arXiv:2009.05475), algorithm 2.
    """
    check_count("steps_per_level", steps_per_level)
    levels = torch.as_tensor(_levels(noise) if levels is None else levels, dtype=torch.float64)
    marks = noise.ratio(levels).log()
    parts = torch.arange(steps_per_level, dtype=torch.float64) / steps_per_level
    between = (marks[:-1, None] + parts * marks.diff()[:, None]).flatten()
    fine = noise.time_at(between.exp())
    fine[::steps_per_level] = levels[:-1]
    times = torch.cat([fine, levels[-1:]])
    return reverse(score, noise, x, times=times, predictor=Consistent(eta), denoise=denoise, generator=generator)


def annealed_langevin(
    score: NoisyScore,
    noise: Noise,
    x: Tensor,
    *,
    epsilon: float,
    steps_per_level: int,
    levels: Tensor | None = None,
    convention: str = "ncsn",
    denoise: bool = False,
    generator: Generator = None,
) -> Samples:
    r"""Annealed Langevin dynamics: Langevin at each noise level, from the largest to the smallest.

    $$ x \leftarrow x + \tfrac12 \alpha_i\, s(x, \sigma_i) + \sqrt{\alpha_i}\, z,
       \qquad \alpha_i = \epsilon\,\sigma_i^2/\sigma_L^2 $$

    (convention `"ncsn"`; see `AnnealedStep` for the other). Between levels the state is rescaled where the schedule
    shrinks the data.

    Args:
        score: noise-conditional score.
        noise: the schedule.
        x: where the particles start, (B, *D).
        epsilon: the papers' step size $\epsilon$ > 0.
        steps_per_level: the papers' T >= 1.
        levels: decreasing times of the levels; None takes the schedule's own `.levels`, else 10 with
            $\sigma_t/\alpha_t$ geometric.
        convention: `"ncsn"` (2019) or `"ncsnv2"` (2020).
        denoise: end with Tweedie's formula (Jolicoeur-Martineau et al. 2020, arXiv:2009.05475).
        generator: source of the noise; the global one when None.

    Returns:
        the samples at the last level; see `reverse`.

    Source: Song & Ermon 2019 (arXiv:1907.05600), algorithm 1.
    """
    if levels is None:
        levels = _levels(noise)
    sigma_end = noise.sigma(torch.as_tensor(levels[-1], dtype=torch.float64)).item()
    corrector = AnnealedStep(epsilon, sigma_end, convention)
    return reverse(
        score,
        noise,
        x,
        times=levels,
        predictor=Rescale(),
        corrector=corrector,
        corrections=steps_per_level,
        denoise=denoise,
        generator=generator,
    )


def _levels(noise: Noise) -> Tensor:
    """The schedule's own levels, or ten with sigma/alpha geometric between its ends."""
    return noise.levels if isinstance(noise, Levels) else time_grid(noise, 9, spacing="log-snr")
