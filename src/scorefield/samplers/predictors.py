r"""The protocols of the moves that `reverse` makes, and the one-step predictors of the probability flow.

With $\bar x = x/\alpha$ and $\bar\sigma = \sigma/\alpha$ the probability-flow ODE of every schedule is

$$ \frac{d\bar x}{d\bar\sigma} = \hat\epsilon(x, t) = -\sigma_t\, s(x, t), $$

(Song et al. 2021, equation 13; Karras et al. 2022, equation 81), and these predictors step in $\bar\sigma$.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from scorefield.calculus import Generator, NoisyScore
from scorefield.noise import Noise
from scorefield.samplers.langevin import Info
from scorefield.samplers.tables import levels


class Predictor(Protocol):
    """A move from time t down to time s.

    The predictors here also carry `order`, the global order of convergence (of the state if deterministic, else of
    the law), and `stochastic` = True where they draw noise.
    """

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
        """One step from t to s."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(noise, t), levels(noise, s)
        ratio = alpha_s / alpha_t
        return ratio * x - (sigma_s - ratio * sigma_t) * sigma_t * score(x, t), None


@dataclass(frozen=True)
class Heun:
    r"""Second-order probability flow: Euler, then the trapezoidal rule (Karras et al. 2022, algorithm 1).

    $$ \bar x_s = \bar x_t + \tfrac12 (\bar\sigma_s - \bar\sigma_t)
       \left[\hat\epsilon(x_t, t) + \hat\epsilon(x_s^{Euler}, s)\right] $$

    Two score calls a step. With fresh noise on the way: `ChurnedHeun`. In $\bar\sigma$ it needs short steps where noise
    and data are alike and hardly any beyond: `time_grid(noise, n, Heun())`.
    """

    order: ClassVar[int] = 2
    spacing: ClassVar[str] = "band"

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
        """One step from t to s."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(noise, t), levels(noise, s)
        ratio = alpha_s / alpha_t
        span = sigma_s - ratio * sigma_t
        moved, first = ratio * x, -sigma_t * score(x, t)
        second = -sigma_s * score(moved + span * first, s)
        return moved + (span / 2) * (first + second), None


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
        return x * (levels(noise, s)[0] / levels(noise, t)[0]), None
