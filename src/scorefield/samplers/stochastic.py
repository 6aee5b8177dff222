r"""Predictors that draw noise: the reverse SDE, and the posterior steps of DDPM and DDIM.

For $s < t$ let $a = \alpha_t/\alpha_s$ and $\sigma_{t|s}^2 = \sigma_t^2 - a^2\sigma_s^2$, the variance of $x_t$ given
$x_s$. With Tweedie's $\hat x_0$ in place of the data,

$$ q(x_s \mid x_t, \hat x_0) = N\!\Big(\frac{a\,\sigma_s^2}{\sigma_t^2}\,x_t
   + \frac{\alpha_s\,\sigma_{t|s}^2}{\sigma_t^2}\,\hat x_0,\
   \frac{\sigma_{t|s}^2\,\sigma_s^2}{\sigma_t^2}\, I\Big). $$

Their order is the weak one: of the law, measured on its mean and variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, randn_like
from scorefield.checks import check_between, check_choice, check_count, check_non_negative, check_positive
from scorefield.noise import Noise
from scorefield.samplers.multistep import frame, reversed_velocity, value
from scorefield.samplers.predictors import Heun
from scorefield.samplers.tables import levels, raised, rates


@dataclass(frozen=True)
class EulerMaruyama:
    r"""The reverse SDE $dx = [f x - g^2 s]\,dt + g\,d\bar W$ with $dt < 0$: weak order 1.

    $$ x_s = x_t + (s - t)\,[f(t)\,x_t - g^2(t)\,s(x_t, t)] + g(t)\sqrt{t - s}\,z $$

    Source: Anderson 1982; Song et al. 2021 (arXiv:2011.13456), equation 6.
    """

    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

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
        (f, g2), dt = rates(noise, t), s.item() - t.item()
        moved = (1 + dt * f) * x - (dt * g2) * score(x, t)
        return torch.add(moved, randn_like(x, generator), alpha=math.sqrt(-dt * g2)), None


@dataclass(frozen=True)
class DDIM:
    r"""DDIM with $\eta$ of the posterior's noise, for any schedule: weak order 1.

    $$ x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - c^2}\,\hat\epsilon + c\,z, \qquad
       c = \eta\,\frac{\sigma_{t|s}\,\sigma_s}{\sigma_t}, \qquad \hat\epsilon = -\sigma_t\,s(x_t, t) $$

    $\eta = 0$ is `Euler`, deterministic; $\eta = 1$ is `Ancestral`.

    Args:
        eta: $\eta$ in [0, 1].

    Source: Song et al. 2020 (arXiv:2010.02502), equations 12 and 16.
    """

    eta: float = 0.0
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse eta outside [0, 1]."""
        check_between("eta", self.eta, 0, 1)

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise."""
        return self.eta > 0

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
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(noise, t), levels(noise, s)
        c2 = self.eta**2 * _given(alpha_t / alpha_s, sigma_t, sigma_s) * (sigma_s / sigma_t) ** 2 if self.eta else 0.0
        ratio = alpha_s / alpha_t
        gain = ratio * sigma_t**2 - math.sqrt(sigma_s**2 - c2) * sigma_t
        moved = torch.add(ratio * x, score(x, t), alpha=gain)
        return (torch.add(moved, randn_like(x, generator), alpha=math.sqrt(c2)) if self.eta else moved), None


@dataclass(frozen=True)
class Ancestral:
    r"""DDPM's ancestral step, for any schedule: draw from $q(x_s \mid x_t, \hat x_0)$ with Tweedie's $\hat x_0$.

    With $a = \alpha_t/\alpha_s$ and $\sigma_{t|s}^2 = \sigma_t^2 - a^2\sigma_s^2$:

    $$ x_s = \frac{a\,\sigma_s^2}{\sigma_t^2}\,x_t + \frac{\alpha_s\,\sigma_{t|s}^2}{\sigma_t^2}\,\hat x_0
       + \frac{\sigma_{t|s}\,\sigma_s}{\sigma_t}\,z $$

    Source: Ho et al. 2020 (arXiv:2006.11239), equations 6 and 7; Kingma et al. 2021 (arXiv:2107.00630), appendix A.
    """

    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

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
        return DDPM("small").step(score, noise, x, t, s, generator=generator)


@dataclass(frozen=True)
class DDPM:
    r"""DDPM's own sampling step, with either of its two variances; weak order 1.

    $$ x_s = \frac{1}{a}\,\big(x_t + \sigma_{t|s}^2\, s(x_t, t)\big) + \tilde\sigma\,z $$

    With $\beta = 1 - a^2$ of a variance-preserving schedule on its grid this is algorithm 2 of the paper. `variance`
    `"large"` is $\tilde\sigma^2 = \sigma_{t|s}^2 = \beta$, right for data of unit variance, and `"small"` the
    posterior's $\sigma_{t|s}^2 \sigma_s^2/\sigma_t^2$, right for data at one point: that is `Ancestral`.

    Args:
        variance: `"large"` or `"small"`.

    Source: Ho et al. 2020 (arXiv:2006.11239), algorithm 2 and section 3.2.
    """

    variance: str = "large"
    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse unknown variances."""
        check_choice("variance", self.variance, ("large", "small"))

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
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(noise, t), levels(noise, s)
        a = alpha_t / alpha_s
        given = _given(a, sigma_t, sigma_s)
        spread = math.sqrt(given) * (1.0 if self.variance == "large" else sigma_s / sigma_t)
        mean = torch.add(x / a, score(x, t), alpha=given / a)
        return torch.add(mean, randn_like(x, generator), alpha=spread), None


@dataclass(frozen=True)
class StochasticHeun:
    r"""The reverse SDE with weak order 2: a first-order step, then the trapezoidal rule with the same noise.

    With $r^2 = \alpha^2 + \sigma^2$, $\tan\theta = \sigma/\alpha$ and the velocity
    $\hat v = (\alpha\hat\epsilon - \sigma\hat x_0)/r$

    $$ \frac{\cos\theta_s}{r_s}\,x_s = \frac{\cos\theta_t}{r_t}\,x_t
       + 2 \int_{\theta_t}^{\theta_s} \cos\theta\,P(\theta)\,d\theta
       + \sqrt{\sin(\theta_t - \theta_s)\,\sin(\theta_t + \theta_s)}\,z, $$

    with P the line through $\hat v(x_t, t)$ and $\hat v(x'_s, s)$, $x'_s$ by P constant and the same z. Exact for unit
    Gaussians; two score calls a step.

    Source: the Runge–Kutta method of weak order 2 for additive noise (Kloeden & Platen 1992, section 15.1), in the
    form of `SDEDPMSolver(predicts="velocity")`.
    """

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True

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
        here, there, z = frame("velocity", noise, t), frame("velocity", noise, s), randn_like(x, generator)
        first = value("velocity", score, x, t, here)
        arrived = reversed_velocity(x, z, here, there, (first,))
        second = value("velocity", score, arrived, s, there)
        return reversed_velocity(x, z, here, there, (first, second)), None


@dataclass(frozen=True)
class ChurnedHeun:
    r"""EDM's stochastic sampler: raise the noise a little, then a `Heun` step down from there; weak order 2.

    $$ \hat{\bar\sigma} = (1 + \gamma)\,\bar\sigma_t, \qquad
       \hat{\bar x} = \bar x_t + S_{noise}\sqrt{\hat{\bar\sigma}^2 - \bar\sigma_t^2}\,z, \qquad
       \gamma = \min(S_{churn}/N, \sqrt2 - 1) \ \text{if}\ S_{min} \le \bar\sigma_t \le S_{max},\ \text{else}\ 0 $$

    If the law at t is exact so is the raised one (for $S_{noise} = 1$), so that the order in law is Heun's own. A level
    above the schedule's last stays at the last.

    Args:
        churn: $S_{churn}$ >= 0; 0 is `Heun`.
        steps: N >= 1, how many steps the grid has.
        s_min: smallest $\bar\sigma$ that is churned, >= 0.
        s_max: largest.
        s_noise: $S_{noise}$ > 0; other than 1 it changes the law.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 2.
    """

    churn: float
    steps: int
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0
    order: ClassVar[int] = 2
    spacing: ClassVar[str] = "band"
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        check_non_negative("churn", self.churn)
        check_count("steps", self.steps)
        check_non_negative("s_min", self.s_min)
        check_positive("s_noise", self.s_noise)
        if not self.s_min <= self.s_max:
            raise ValueError(f"s_min must be <= s_max, got {self.s_min!r} and {self.s_max!r}")

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
        """One step from t, by way of a little more noise, down to s."""
        alpha_t, sigma_t = levels(noise, t)
        ratio = sigma_t / alpha_t
        if self.churn > 0 and self.s_min <= ratio <= self.s_max:
            gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
            t = raised(noise, t, 1 + gamma)
            alpha, sigma = levels(noise, t)
            spread = alpha * self.s_noise * math.sqrt(max((sigma / alpha) ** 2 - ratio**2, 0.0))
            x = torch.add((alpha / alpha_t) * x, randn_like(x, generator), alpha=spread)
        return Heun().step(score, noise, x, t, s)


def _given(a: float, sigma_t: float, sigma_s: float) -> float:
    """The variance of x_t given x_s; rounding must not make it negative."""
    return max(sigma_t**2 - (a * sigma_s) ** 2, 0.0)
