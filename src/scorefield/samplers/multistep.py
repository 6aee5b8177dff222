r"""Predictors that remember: exponential multistep methods.

With $\lambda = \log(\alpha/\sigma)$, Tweedie's $\hat x_0 = (x + \sigma^2 s)/\alpha$ and
$\hat\epsilon = -\sigma s$ the probability flow is any of

$$ d\Big(\frac{x}{\sigma}\Big) = e^\lambda\, \hat x_0\, d\lambda, \qquad
   d\Big(\frac{x}{\alpha}\Big) = -e^{-\lambda}\, \hat\epsilon\, d\lambda, \qquad
   d\Big(\frac{x}{r}\Big) = \hat v\, d\theta, $$

with $r^2 = \alpha^2 + \sigma^2$, $\tan\theta = \sigma/\alpha$ and the velocity
$\hat v = (\alpha\hat\epsilon - \sigma\hat x_0)/r$. The methods here put a polynomial through the last few values of
one of the three (`predicts`, named as in `ScoreModel`) and integrate it exactly, whatever the steps: `"data"` is
DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), `"noise"` DEIS (Zhang & Chen 2023, arXiv:2204.13902), `"velocity"` the
methods of Adams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, randn_like
from scorefield.checks import check_choice, check_count
from scorefield.noise import Noise
from scorefield.samplers.tables import cosine_weights, interpolation_weights, levels

RATES = {"data": 1.0, "noise": -1.0, "velocity": 0.0}


class Frame(NamedTuple):
    """One time as the flow of a quantity sees it: x/scale moves by gain/scale times its integral over the clock."""

    alpha: float
    sigma: float
    scale: float
    gain: float
    clock: float


class Past(NamedTuple):
    """One value of the quantity, and when."""

    value: Tensor
    clock: float


def frame(predicts: str, noise: Noise, t: Tensor) -> Frame:
    """The time t as the flow of this quantity sees it."""
    alpha, sigma = levels(noise, t)
    if predicts == "velocity":
        radius = math.hypot(alpha, sigma)
        return Frame(alpha, sigma, radius, radius, math.atan2(sigma, alpha))
    scale, gain = (sigma, alpha) if predicts == "data" else (alpha, sigma)
    return Frame(alpha, sigma, scale, gain, math.log(alpha / sigma))


def value(predicts: str, score: NoisyScore, x: Tensor, t: Tensor, at: Frame) -> Past:
    """The quantity at (x, t): one score call."""
    s, (alpha, sigma, radius, *_) = score(x, t), at
    if predicts == "noise":
        return Past(-sigma * s, at.clock)
    if predicts == "data":
        return Past(torch.add(x, s, alpha=sigma**2) / alpha, at.clock)
    return Past(torch.add(x, s, alpha=radius**2) * (-sigma / (alpha * radius)), at.clock)


def _carried(x: Tensor, here: Frame, there: Frame, known: tuple[Past, ...], rate: float) -> Tensor:
    """The state carried from here to there along the polynomial through what is known."""
    weights = interpolation_weights(there.clock - here.clock, [p.clock - here.clock for p in known], rate)
    moved = (there.scale / here.scale) * x
    for weight, past in zip(weights, known, strict=True):
        moved = torch.add(moved, past.value, alpha=there.gain * weight)
    return moved


@dataclass(frozen=True)
class DPMSolver:
    r"""DPM-Solver++ of order k, multistep: one score call a step, order k.

    $$ x_s = \frac{\sigma_s}{\sigma_t}\,x_t + \alpha_s \int_0^h e^{-(h-u)} P(u)\,du,
       \qquad h = \lambda_s - \lambda_t, $$

    with P the polynomial through the last k values of $\hat x_0$ (or of what else it `predicts`). k = 1 is `Euler`. The
    paper's formulas replace the integral of the linear term for k = 2 by one that agrees to $O(h^3)$; its k = 3 carries
    half of the second difference and is of second order as printed.

    A method of order k must begin with steps whose local error is $O(h^k)$. For k <= 2 the first-order step is such a
    one. For k = 3 `start="matched"` makes the first step by the exponential trapezoidal rule, one call more in all;
    `start="published"` begins with the first-order step, and the whole is then of order 2.

    Args:
        degree: k = 1, 2 or 3.
        start: `"matched"` or `"published"`.
        predicts: `"data"`, `"noise"` or `"velocity"`.

    Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2; Hochbruck & Ostermann 2010 for the exact integration.
    """

    degree: int = 3
    start: str = "matched"
    predicts: str = "data"

    def __post_init__(self) -> None:
        """Refuse degrees other than 1, 2, 3 and unknown names."""
        _check_degree(self.degree, 3)
        check_choice("predicts", self.predicts, RATES)
        check_choice("start", self.start, ("matched", "published"))

    @property
    def order(self) -> int:
        """The measured order: the degree, but 2 for degree 3 with the published start."""
        return 2 if self.degree == 3 and self.start == "published" else self.degree

    def step(
        self,
        score: NoisyScore,
        noise: Noise,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        memory: tuple[Past, ...] | None = None,
        *,
        generator: Generator = None,
    ) -> tuple[Tensor, tuple[Past, ...]]:
        """One step from t to s."""
        here, there = frame(self.predicts, noise, t), frame(self.predicts, noise, s)
        rate = RATES[self.predicts]
        past = (value(self.predicts, score, x, t, here), *(memory or ()))[: self.degree]
        known = past
        if memory is None and self.degree == 3 and self.start == "matched":
            known = (*past, value(self.predicts, score, _carried(x, here, there, past, rate), s, there))
        return _carried(x, here, there, known, rate), past


class Predicted(NamedTuple):
    """What `UniPC` remembers: the last values, where and when the step began, and where it arrived."""

    past: tuple[Past, ...]
    origin: Tensor
    began: Frame
    arrived: Tensor


@dataclass(frozen=True)
class UniPC:
    r"""UniPC-p: the multistep predictor of degree p, corrected on arrival by the same call: order p + 1.

    At t the new $\hat x_0(x_t, t)$ first corrects the step that led here, by the polynomial through it and the p
    values before, then predicts the next step through the last p values:

    $$ x_t^c = \frac{\sigma_t}{\sigma_r}\,x_r^c + \alpha_t \int_0^{h'} e^{-(h'-u)} P_{p+1}(u)\,du, \qquad
       x_s = \frac{\sigma_s}{\sigma_t}\,x_t^c + \alpha_s \int_0^h e^{-(h-u)} P_p(u)\,du. $$

    One call a step; the last state is predicted and not corrected. The steps before there are p values use what there
    is, which leaves p = 1, 2 at orders 2, 3 and takes p = 3 to order 3 in the end, between 3 and 4 at usual counts.
    `variant` `"B1"`, `"B2"` are the paper's choices of $B(h)$, $h$ and $e^h - 1$, which differ from the exact integral
    only where the paper sets a coefficient to ½ (the corrector for p = 1, the predictor for p = 2).

    Args:
        degree: p = 1, 2 or 3.
        variant: `"exact"`, `"B1"` or `"B2"`.
        predicts: `"data"`, `"noise"` or `"velocity"`.

    Source: Zhao et al. 2023 (arXiv:2302.04867), algorithms 5 and 6 (data prediction).
    """

    degree: int = 2
    variant: str = "exact"
    predicts: str = "data"

    def __post_init__(self) -> None:
        """Refuse degrees other than 1, 2, 3 and unknown names."""
        _check_degree(self.degree, 3)
        check_choice("predicts", self.predicts, RATES)
        check_choice("variant", self.variant, ("exact", "B1", "B2"))

    @property
    def order(self) -> int:
        """The measured order: 2, 3, 3 for p = 1, 2, 3."""
        return min(self.degree + 1, 3)

    def step(
        self,
        score: NoisyScore,
        noise: Noise,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        memory: Predicted | None = None,
        *,
        generator: Generator = None,
    ) -> tuple[Tensor, Predicted]:
        """Correct the step that led to t, then one step from t to s."""
        here, there = frame(self.predicts, noise, t), frame(self.predicts, noise, s)
        new = value(self.predicts, score, x, t, here)
        past = (new,)
        if memory is not None:
            better = self._through(memory.origin, memory.began, here, (*memory.past, new))
            # what a hook did to the state in between is kept
            x = better if x is memory.arrived else x + (better - memory.arrived)
            past = (new, *memory.past)[: self.degree]
        arrived = self._through(x, here, there, past)
        return arrived, Predicted(past, x, here, arrived)

    def _through(self, x: Tensor, here: Frame, there: Frame, known: tuple[Past, ...]) -> Tensor:
        """The state carried along the polynomial through what is known; with two values, as the variant has it."""
        rate = RATES[self.predicts]
        if self.variant == "exact" or len(known) != 2:
            return _carried(x, here, there, known, rate)
        h = there.clock - here.clock
        whole = -math.expm1(-rate * h) if rate else h
        b = whole if self.variant == "B2" or not rate else rate * h
        slope = (known[1].value - known[0].value) * (h / (known[1].clock - known[0].clock))
        return (there.scale / here.scale) * x + there.gain * (whole * known[0].value + (b / 2) * slope)


@dataclass(frozen=True)
class SDEDPMSolver:
    r"""SDE-DPM-Solver++ of degree k, multistep, on the reverse SDE: one score call a step.

    $$ x_s = \frac{\sigma_s}{\sigma_t} e^{-h}\,x_t + \alpha_s \int_0^h 2 e^{-2(h-u)} P(u)\,du
       + \sigma_s \sqrt{1 - e^{-2h}}\,z $$

    with P the polynomial through the last k values of $\hat x_0$; k = 1 is `Ancestral`. With `predicts="velocity"` the
    same SDE is solved by a polynomial through values of $\hat v$,

    $$ \frac{\cos\theta_s}{r_s}\,x_s = \frac{\cos\theta_t}{r_t}\,x_t
       + 2 \int_{\theta_t}^{\theta_s} \cos\theta\,P(\theta)\,d\theta
       + \sqrt{\sin(\theta_t - \theta_s)\,\sin(\theta_t + \theta_s)}\,z, $$

    which is exact for unit Gaussians. k = 2 is measured to be of weak order 2 on Gaussians (mean and variance, carried
    exactly); for other laws that is not proved.

    Args:
        degree: k = 1 or 2.
        predicts: `"data"` or `"velocity"`.

    Source: Lu et al. 2022 (arXiv:2211.01095), appendix A (SDE-DPM-Solver++(2M)); the velocity's form is derived here.
    """

    degree: int = 2
    predicts: str = "data"
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse degrees other than 1 and 2 and unknown names."""
        _check_degree(self.degree, 2)
        check_choice("predicts", self.predicts, ("data", "velocity"))

    @property
    def order(self) -> int:
        """The measured weak order: the degree."""
        return self.degree

    def step(
        self,
        score: NoisyScore,
        noise: Noise,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        memory: tuple[Past, ...] | None = None,
        *,
        generator: Generator = None,
    ) -> tuple[Tensor, tuple[Past, ...]]:
        """One step from t down to s."""
        here, there = frame(self.predicts, noise, t), frame(self.predicts, noise, s)
        past = (value(self.predicts, score, x, t, here), *(memory or ()))[: self.degree]
        if self.predicts == "velocity":
            return reversed_velocity(x, randn_like(x, generator), here, there, past), past
        h = there.clock - here.clock
        mean = _carried(math.exp(-h) * x, here, there, past, rate=2.0)
        return torch.add(mean, randn_like(x, generator), alpha=there.sigma * math.sqrt(-math.expm1(-2 * h))), past


def reversed_velocity(x: Tensor, z: Tensor, here: Frame, there: Frame, known: tuple[Past, ...]) -> Tensor:
    """The reverse SDE from here down to there, along the line through one or two velocities, with the noise z."""
    (alpha_t, _, r_t, _, angle_t), (alpha_s, _, r_s, _, angle_s) = here, there
    lift = r_s**2 / alpha_s
    spread = lift * math.sqrt(math.sin(angle_t - angle_s) * math.sin(angle_t + angle_s))
    moved = torch.add((lift * alpha_t / r_t**2) * x, z, alpha=spread)
    for weight, past in zip(cosine_weights(angle_t, angle_s, [p.clock for p in known]), known, strict=True):
        moved = torch.add(moved, past.value, alpha=2 * lift * weight)
    return moved


def _check_degree(degree: int, most: int) -> None:
    check_count("degree", degree)
    if degree > most:
        raise ValueError(f"degree must be <= {most}, got {degree}")
