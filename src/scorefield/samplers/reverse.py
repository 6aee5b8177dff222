r"""Predictors that transport a law from `t_max` to `t_min`, correctors between them, and `reverse`, the one loop.

With $\bar x = x/\alpha$ and $\bar\sigma = \sigma/\alpha$ the probability-flow ODE of every schedule is

$$ \frac{d\bar x}{d\bar\sigma} = \hat\epsilon(x, t) = -\sigma_t\, s(x, t), $$

(Song et al. 2021, equation 13; Karras et al. 2022, equation 81), and the deterministic predictors step in $\bar\sigma$.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, randn_like
from scorefield.checks import check_choice, check_count, check_floating, check_positive
from scorefield.fields import denoise as tweedie
from scorefield.noise import Levels, Noise
from scorefield.samplers.langevin import Counted, Info, Samples, gather


class Predictor(Protocol):
    """A move from time t down to time s."""

    order: ClassVar[int]

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
    ) -> tuple[Tensor, Any]:
        """The state at s, and what the next step wants to remember."""
        ...


class Corrector(Protocol):
    """A kernel whose step size knows the level: it stays at the law of time t."""

    def step(
        self, score: NoisyScore, noise: Noise, x: Tensor, t: Tensor, *, generator: Generator = None
    ) -> tuple[Tensor, Info]:
        """Move x once at time t."""
        ...


@dataclass(frozen=True)
class Euler:
    r"""First-order probability flow: $\bar x_s = \bar x_t + (\bar\sigma_s - \bar\sigma_t)\,\hat\epsilon(x_t, t)$.

    Under a variance-preserving schedule this is DDIM with $\eta = 0$ (Song et al. 2020, arXiv:2010.02502).
    """

    order: ClassVar[int] = 1

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
        ratio, span, sigma_t, _ = _flow(noise, t, s)
        return ratio * x - span * sigma_t * score(x, t), None


@dataclass(frozen=True)
class Heun:
    r"""Second-order probability flow: Euler, then the trapezoidal rule (Karras et al. 2022, algorithm 1).

    $$ \bar x_s = \bar x_t + \tfrac12 (\bar\sigma_s - \bar\sigma_t)
       \left[\hat\epsilon(x_t, t) + \hat\epsilon(x_s^{Euler}, s)\right] $$

    Two score calls a step.
    """

    order: ClassVar[int] = 2

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
        ratio, span, sigma_t, sigma_s = _flow(noise, t, s)
        moved, first = ratio * x, -sigma_t * score(x, t)
        second = -sigma_s * score(moved + span * first, s)
        return moved + (span / 2) * (first + second), None


def _flow(noise: Noise, t: Tensor, s: Tensor) -> tuple[float, float, float, float]:
    r"""$\alpha_s/\alpha_t$, $\alpha_s(\bar\sigma_s - \bar\sigma_t)$, $\sigma_t$ and $\sigma_s$."""
    alpha_t, alpha_s = noise.alpha(t).item(), noise.alpha(s).item()
    sigma_t, sigma_s = noise.sigma(t).item(), noise.sigma(s).item()
    ratio = alpha_s / alpha_t
    return ratio, sigma_s - ratio * sigma_t, sigma_t, sigma_s


@dataclass(frozen=True)
class EulerMaruyama:
    r"""The reverse SDE $dx = [f x - g^2 s]\,dt + g\,d\bar W$ with $dt < 0$: weak order 1.

    $$ x_s = x_t + (s - t)\,[f(t)\,x_t - g^2(t)\,s(x_t, t)] + g(t)\sqrt{t - s}\,z $$

    Source: Anderson 1982; Song et al. 2021 (arXiv:2011.13456), equation 6.
    """

    order: ClassVar[int] = 1

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
        f, g2, dt = noise.f(t).item(), noise.g2(t).item(), (s - t).item()
        drift = f * x - g2 * score(x, t)
        return x + dt * drift + math.sqrt(-dt * g2) * randn_like(x, generator), None


@dataclass(frozen=True)
class Ancestral:
    r"""DDPM's ancestral step, for any schedule: draw from $q(x_s \mid x_t, \hat x_0)$ with Tweedie's $\hat x_0$.

    With $a = \alpha_t/\alpha_s$ and $\sigma_{t|s}^2 = \sigma_t^2 - a^2\sigma_s^2$:

    $$ x_s = \frac{a\,\sigma_s^2}{\sigma_t^2}\,x_t + \frac{\alpha_s\,\sigma_{t|s}^2}{\sigma_t^2}\,\hat x_0
       + \frac{\sigma_{t|s}\,\sigma_s}{\sigma_t}\,z $$

    Source: Ho et al. 2020 (arXiv:2006.11239), equations 6 and 7; Kingma et al. 2021 (arXiv:2107.00630), appendix A.
    """

    order: ClassVar[int] = 1

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
        alpha_s, a = noise.alpha(s).item(), (noise.alpha(t) / noise.alpha(s)).item()
        v_t, v_s = noise.sigma(t).item() ** 2, noise.sigma(s).item() ** 2
        v_ts = v_t - a**2 * v_s
        mean = (a * v_s / v_t) * x + (alpha_s * v_ts / v_t) * tweedie(score, noise, x, t)
        return mean + math.sqrt(v_ts * v_s / v_t) * randn_like(x, generator), None


@dataclass(frozen=True)
class Rescale:
    r"""The move between the levels of annealed Langevin: $x \leftarrow (\alpha_s/\alpha_t)\,x$, no score call.

    The identity for VE; where a schedule shrinks the data, leaving it out makes the mean drift. It transports nothing
    but the scale (order 0): a corrector must do the rest.
    """

    order: ClassVar[int] = 0

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
        """Rescale from t to s."""
        return x * (noise.alpha(s) / noise.alpha(t)).item(), None


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


@torch.no_grad()
def reverse(
    score: NoisyScore,
    noise: Noise,
    x: Tensor,
    *,
    times: Tensor,
    predictor: Predictor,
    corrector: Corrector | None = None,
    corrections: int = 1,
    project: Callable[[Tensor, Tensor], Tensor] | None = None,
    denoise: bool = False,
    path: bool = False,
    generator: Generator = None,
) -> Samples:
    """Carry samples along a decreasing grid of times: predict to the next time, then correct there.

    Args:
        score: noise-conditional score, (B, *D) and () -> (B, *D).
        noise: the schedule.
        x: the state at times[0], usually drawn from `noise.prior`, (B, *D).
        times: strictly decreasing times in [t_min, t_max], at least two.
        predictor: the move from one time to the next.
        corrector: the move at each time, the first included; None for none.
        corrections: how many moves of the corrector at each time.
        project: (x, t) -> x, applied to the state on arrival at each time.
        denoise: end with Tweedie's posterior mean of the data; else the state at times[-1] is returned.
        path: keep the state at every time, (len(times), B, *D), plus the denoised one.
        generator: source of the noise; the global one when None.

    Returns:
        the samples, their path, the corrector's info, and how many times the score was called.

    Raises:
        ValueError: times that do not decrease strictly or leave [t_min, t_max]; corrections < 1.
        TypeError: `x` is not floating point.

    """
    check_floating("x", x)
    check_count("corrections", corrections)
    counted, memory = Counted(score), None
    states, infos = [], []
    grid = list(_check_times(noise, times))
    for k, t in enumerate(grid):
        if k > 0:
            x, memory = predictor.step(counted, noise, x, grid[k - 1], t, memory, generator=generator)
        x = x if project is None else project(x, t)
        if corrector is not None:
            for _ in range(corrections):
                x, info = corrector.step(counted, noise, x, t, generator=generator)
                infos.append(info)
        states += [x] if path else []
    if denoise:
        x = tweedie(counted, noise, x, grid[-1])
        states += [x] if path else []
    return Samples(x, torch.stack(states) if path else None, gather(infos), counted.calls)


def _check_times(noise: Noise, times: Tensor) -> Tensor:
    times = torch.as_tensor(times, dtype=torch.float64).cpu()
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be a vector of at least 2 times, got shape {tuple(times.shape)}")
    if not bool((times[1:] < times[:-1]).all()):
        raise ValueError(f"times must decrease strictly, got {times.tolist()}; noise.times(n) gives such a grid")
    if times[0] > noise.t_max or times[-1] < noise.t_min:
        raise ValueError(
            f"times must lie in [{noise.t_min:g}, {noise.t_max:g}], got {times[0].item():g} to {times[-1].item():g}"
        )
    return times


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
