r"""Predictors that transport a law from time t down to time s, and the protocols of the moves that `reverse` makes.

With $\bar x = x/\alpha$ and $\bar\sigma = \sigma/\alpha$ the probability-flow ODE of every schedule is

$$ \frac{d\bar x}{d\bar\sigma} = \hat\epsilon(x, t) = -\sigma_t\, s(x, t), $$

(Song et al. 2021, equation 13; Karras et al. 2022, equation 81), and the deterministic predictors step in $\bar\sigma$.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, randn_like
from scorefield.fields import denoise as tweedie
from scorefield.noise import Noise
from scorefield.samplers.langevin import Info


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
