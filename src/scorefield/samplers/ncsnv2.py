r"""The settings of annealed Langevin dynamics, computed from the schedule: levels, steps per level, step size.

For data at one point the variance of a particle at level i, in units of $\sigma_i^2$, follows a linear recursion. With
$a = \epsilon/\sigma_L^2$ the step in those units, $\gamma$ the ratio of neighbouring levels and T steps per level, it
is on leaving the level

$$ R(a) = (1 - a)^{2T} (\gamma^2 - c) + c, \qquad c = \frac{1}{1 - a/2}, $$

if it was 1 on leaving the level above. Particles that leave with $R = 1$ are as noisy as the next level expects. Both
$\gamma^2$ and c exceed 1, so that R never reaches 1: there is no root, only a least excess, which more steps lower.

The rule knows data at one point alone. Where data are wider than a level's noise by a factor r, relaxing there takes
about $r^2$ times as many steps, and weights of modes stay what they were where the modes parted: more levels and steps
than these bring both nearer to the truth, slowly.

Source: Song & Ermon 2020 (arXiv:2006.09011), techniques 2 and 4; proposition 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from scorefield.checks import check_count, check_positive
from scorefield.noise import Levels, Noise, overlap_ratio

MOST_STEPS = 100_000


@dataclass(frozen=True, eq=False)
class AnnealedSettings:
    r"""What `annealed_langevin` needs, in the convention `"ncsnv2"`.

    Attributes:
        levels: decreasing times of the levels, (L,), float64.
        epsilon: $\epsilon$, the step size at the last level.
        steps_per_level: T.
        variance_ratio: $R(\epsilon/\sigma_L^2) > 1$, what remains of the recursion at the widest gap between levels.
        reasons: in words, how each was chosen.
    """

    levels: Tensor
    epsilon: float
    steps_per_level: int
    variance_ratio: float
    reasons: tuple[str, ...]


def annealed_settings(
    noise: Noise, dimension: int, *, steps_per_level: int | None = None, excess: float = 0.05
) -> AnnealedSettings:
    r"""Choose the levels, T and $\epsilon$ of `annealed_langevin` for a schedule and data of D dimensions.

    * $\sigma_1$ and $\sigma_L$ are the schedule's ends (`Levels.from_data` and `VE.from_data` take them from the data).
    * Levels are a schedule's own, or those whose $\sigma/\alpha$ fall geometrically by the ratio at which neighbouring
      levels overlap (`noise.overlap_ratio`), down to $\sigma/\alpha = 0.01$ at most.
    * T: the least number of steps with which $R \le 1 +$ `excess` can be had, unless it is given.
    * $\epsilon = a\,\sigma_L^2$ with the a in (0, 1) that minimises $|R(a) - 1|$.

    The score of a network conditioned by $1/\sigma$ (technique 3) is `ScoreModel(predicts="noise")`.

    Args:
        noise: the schedule.
        dimension: D >= 1.
        steps_per_level: T >= 1; None for the least that meets `excess`.
        excess: the variance ratio's distance from 1 that is accepted, > 0; without meaning where T is given.

    Returns:
        the settings, with the variance ratio that is left.

    Raises:
        ValueError: a dimension or T < 1, or an excess that is not > 0 or asks for more than 100,000 steps.
    """
    check_count("dimension", dimension)
    check_positive("excess", excess)
    levels = overlapping_levels(noise, dimension)
    bar = noise.ratio(levels)
    gamma = (bar[:-1] / bar[1:]).max().item()
    if steps_per_level is None:
        steps, why = _fewest_steps(gamma, excess), f"the fewest whose variance ratio is at most {1 + excess:g}"
    else:
        check_count("steps_per_level", steps_per_level)
        steps, why = steps_per_level, "as given"
    a, left = best_step(gamma, steps)
    sigma_end = noise.sigma(levels[-1]).item()
    epsilon = a * sigma_end**2
    reasons = (
        f"{len(levels)} levels, sigma/alpha from {bar[0]:.4g} to {bar[-1]:.4g}: neighbours at most {gamma:.4g} apart",
        f"{steps} steps per level: {why}",
        f"epsilon {epsilon:.4g} = {a:.4g} sigma_L^2: it brings the variance ratio nearest to 1, to {left:.4g}",
    )
    return AnnealedSettings(levels, epsilon, steps, left, reasons)


def variance_ratio(a: float, gamma: float, steps: int) -> float:
    r"""$R(a)$: the variance over $\sigma_i^2$ after `steps` of size $a\,\sigma_i^2$, from a level $\gamma$ up."""
    c = 1 / (1 - a / 2)
    return (1 - a) ** (2 * steps) * (gamma**2 - c) + c


def best_step(gamma: float, steps: int) -> tuple[float, float]:
    """The a in (0, 1) at which the variance ratio is nearest to 1, and that ratio."""
    found: Any = minimize_scalar(
        variance_ratio, bounds=(0, 1), args=(gamma, steps), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.x), float(found.fun)


def overlapping_levels(noise: Noise, dimension: int, lowest: float = 0.01) -> Tensor:
    r"""Times of levels whose $\sigma/\alpha$ fall geometrically by the overlap ratio, from t_max to `lowest` or t_min.

    A schedule that has levels of its own keeps them.

    Source: Song & Ermon 2020 (arXiv:2006.09011), technique 2.
    """
    if isinstance(noise, Levels):
        return noise.levels
    ends = torch.tensor([noise.t_max, noise.t_min], dtype=torch.float64)
    high, low = noise.ratio(ends).tolist()
    low = max(low, lowest)
    ratio, _ = overlap_ratio(dimension)
    count = max(2, 1 + int(torch.tensor(high / low).log().div(torch.tensor(ratio).log()).ceil()))
    return noise.time_at(torch.logspace(0, 1, count, base=low / high, dtype=torch.float64) * high)


def _fewest_steps(gamma: float, excess: float) -> int:
    """The least T with min R <= 1 + excess: R falls with T, so that doubling and bisection find it."""
    enough = 1
    while best_step(gamma, enough)[1] > 1 + excess:
        if enough >= MOST_STEPS:
            raise ValueError(f"excess must be met by at most {MOST_STEPS:,} steps per level, got {excess!r}; take more")
        enough *= 2
    few = enough // 2
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if best_step(gamma, middle)[1] <= 1 + excess else (middle, enough)
    return enough
