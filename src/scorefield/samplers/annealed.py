"""Annealed Langevin dynamics: Langevin at one noise level after the other, as a corrector under `reverse`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, randn_like
from scorefield.checks import check_choice, check_positive
from scorefield.noise import Levels, Noise
from scorefield.samplers.langevin import Info, Samples
from scorefield.samplers.predictors import Rescale
from scorefield.samplers.reverse import reverse


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
        levels = noise.levels if isinstance(noise, Levels) else _geometric_levels(noise, 10)
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


def _geometric_levels(noise: Noise, count: int) -> Tensor:
    """Times at which sigma/alpha is geometric between the schedule's ends, decreasing."""
    ends = torch.tensor([noise.t_max, noise.t_min], dtype=torch.float64)
    high, low = (noise.sigma(ends) / noise.alpha(ends)).log().tolist()
    inside = noise.time_at(torch.linspace(high, low, count, dtype=torch.float64).exp()[1:-1])
    return torch.cat([ends[:1], inside, ends[1:]])
