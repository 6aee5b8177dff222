r"""Predictors that choose their own steps between two times: the flow by Dormand and Prince, the SDE per sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, expand, randn_like
from scorefield.checks import check_count, check_non_negative, check_positive
from scorefield.noise import Noise
from scorefield.samplers.pair import ERROR, NODES, ROWS, combine
from scorefield.samplers.tables import levels


@dataclass(frozen=True)
class AdaptiveODE:
    r"""The probability flow with steps chosen by a tolerance: Dormand–Prince 5(4) in $\log\bar\sigma$.

    $$ \frac{d}{d\log\bar\sigma}\,\frac{x}{r} = \frac{\alpha\sigma}{r^2}\,\hat v,
       \qquad \hat v = -\frac{\sigma}{\alpha r}\,(x + r^2 s), \qquad r^2 = \alpha^2 + \sigma^2 $$

    A step is taken when the estimated error of every sample, the root mean square over its coordinates of
    error / (atol + rtol |x/r|), is at most 1. The steps are shared by the batch, so that a sample depends on its batch
    within the tolerance. The grid of `reverse` only says where states are wanted: `[t_max, t_min]` will do. Six score
    calls a step tried, and one to begin.

    Args:
        rtol: relative tolerance, >= 0.
        atol: absolute tolerance, > 0.
        most: steps after which it gives up between two times of the grid.

    Source: Dormand & Prince 1980; for the flow Song et al. 2021 (arXiv:2011.13456), section 4.3.
    """

    rtol: float = 1e-4
    atol: float = 1e-5
    most: int = 10_000
    order: ClassVar[int] = 5

    def __post_init__(self) -> None:
        """Refuse tolerances out of range."""
        check_non_negative("rtol", self.rtol)
        check_positive("atol", self.atol)
        check_count("most", self.most)

    def step(
        self,
        score: NoisyScore,
        noise: Noise,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        memory: float | None = None,
        *,
        generator: Generator = None,
    ) -> tuple[Tensor, float]:
        """From t to s in as many steps as it takes; the last step size is remembered."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(noise, t), levels(noise, s)
        now, end = math.log(sigma_t / alpha_t), math.log(sigma_s / alpha_s)
        sign = math.copysign(1.0, end - now)

        def slope(y: Tensor, mark: float) -> Tensor:
            at = t if mark == begin else s if mark == end else noise.time_at(torch.tensor(mark).double().exp())
            alpha, sigma = levels(noise, at)
            radius = math.hypot(alpha, sigma)
            velocity = torch.add(radius * y, score(radius * y, at), alpha=radius**2) * (-sigma / (alpha * radius))
            return velocity * (alpha * sigma / radius**2)

        begin, y = now, x / math.hypot(alpha_t, sigma_t)
        first, h = slope(y, now), memory or 0.05
        for _ in range(self.most):
            h = min(h, abs(end - now))
            stages, arrived = [first], y
            for where, row in zip(NODES, ROWS, strict=True):
                mark = end if where == 1.0 and h == abs(end - now) else now + sign * where * h
                arrived = y + combine(row, stages, sign * h)
                stages.append(slope(arrived, mark))
            allowed = self.atol + self.rtol * torch.maximum(y.abs(), arrived.abs())
            ratios = (combine(ERROR, stages, h) / allowed).flatten(1).square().mean(1).sqrt()
            ratio = ratios.nan_to_num(0.0, posinf=0.0).max().item() if len(ratios) else 0.0
            if ratio <= 1:  # a sample that is no longer finite does not hold up the others
                y, first = arrived, stages[-1]
                if h == abs(end - now):
                    return math.hypot(alpha_s, sigma_s) * y, max(h, 1e-3)
                now += sign * h
            h *= min(5.0, max(0.2, 0.9 * max(ratio, 1e-10) ** -0.2))
        raise RuntimeError(f"AdaptiveODE made {self.most} steps without arriving; raise rtol and atol, or most")


@dataclass(frozen=True)
class AdaptiveSDE:
    r"""The reverse SDE with steps of its own for every sample: Euler–Maruyama judged by stochastic improved Euler.

    $$ x' = x - h\,b(x, t) + \sqrt h\,g(t)\,z, \qquad
       x'' = \tfrac12\big(x' + x - h\,b(x', t - h) + \sqrt h\,g(t-h)\,z\big), \qquad b = f x - g^2 s $$

    A step is taken, with $x''$, when the root mean square over the sample of $(x' - x'')/\delta$ is at most 1,
    $\delta = \max(\epsilon_{abs}, \epsilon_{rel}\max(|x'|, |x'_{prev}|))$; then $h \leftarrow \theta h E^{-r}$. Every
    sample has its own time and step, whatever its batch; two score calls a step, made for the whole batch until the
    slowest sample arrives. A refused step is tried again on the same Brownian path, by bridges: with new noise, as in
    the paper, small noise is preferred and the law is wrong (variance 2.7 times too large in one dimension, 1.13 times
    in sixteen, at any tolerance).

    Args:
        rtol: $\epsilon_{rel}$ >= 0.
        atol: $\epsilon_{abs}$ > 0; the paper takes a 256th of the data's range.
        first: the first step in t, > 0.
        safety: $\theta$ > 0.
        power: r > 0.
        most: steps after which it gives up between two times of the grid.

    Source: Jolicoeur-Martineau et al. 2021 (arXiv:2105.14080), algorithm 1.
    """

    rtol: float = 0.02
    atol: float = 0.0078
    first: float = 0.01
    safety: float = 0.9
    power: float = 0.9
    most: int = 10_000
    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        check_non_negative("rtol", self.rtol)
        check_count("most", self.most)
        for name in ("atol", "first", "safety", "power"):
            check_positive(name, getattr(self, name))

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
        """From t down to s, each sample in as many steps as it takes; the step sizes are remembered."""
        end, now = s.item(), torch.full((len(x),), t.item(), dtype=torch.float64, device=x.device)
        h, before = (torch.full_like(now, self.first), x) if memory is None else memory
        ahead = _Path(x)
        for _ in range(self.most):
            going = now > end
            if not bool(going.any()):
                return x, (h, before)
            step = ahead.within(torch.minimum(h, now - end))
            later = torch.where(step >= now - end, torch.full_like(now, end), now - step)
            w = ahead.increment(step, x, generator)
            guess = self._move(score, noise, x, x, now, step, w)
            better = (guess + self._move(score, noise, x, guess, later, step, w)) / 2
            allowed = (self.rtol * torch.maximum(guess.abs(), before.abs())).clamp(min=self.atol)
            error = ((guess - better) / allowed).flatten(1).square().mean(1).sqrt().double()
            broken = ~error.isfinite()  # it ends here, and the others go on
            taken = going & ((error <= 1) | broken)
            ahead.settle(step, w, taken)
            x, before = torch.where(_rows(taken, x), better, x), torch.where(_rows(taken, x), guess, before)
            grown = (self.safety * step * error.clamp(min=1e-3) ** -self.power).clamp(min=1e-9)
            grown = torch.where(taken & (step < h), torch.maximum(grown, h), grown)  # a step cut short says little
            h = torch.where(going & ~broken, grown, h)
            now = torch.where(taken, torch.where(broken, end, later), now)
        raise RuntimeError(f"AdaptiveSDE made {self.most} steps without arriving; raise rtol and atol, or most")

    def _move(self, score: NoisyScore, noise: Noise, x: Tensor, at: Tensor, t: Tensor, h: Tensor, w: Tensor) -> Tensor:
        """Euler–Maruyama from x with the drift at (`at`, t), each sample at its own time."""
        f, g2 = noise.f(t), noise.g2(t)
        drift = expand(f, x) * at - expand(g2, x) * score(at, t)
        return x - expand(h, x) * drift + expand(g2.sqrt(), x) * w


class _Path:
    """What refused steps have already fixed of each sample's Brownian path: pieces ahead of it, the next one on top."""

    def __init__(self, x: Tensor) -> None:
        self.height = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.sample = torch.arange(len(x), device=x.device)
        self.lengths = torch.full((1, len(x)), math.inf, dtype=torch.float64, device=x.device)  # below all: unknown
        self.increments = torch.zeros_like(x)[None]

    def within(self, step: Tensor) -> Tensor:
        """The step, cut where the piece on top ends."""
        return torch.minimum(step, self.lengths[self.height, self.sample])

    def increment(self, step: Tensor, x: Tensor, generator: Generator) -> Tensor:
        """The increment over the step: new, or by a Brownian bridge inside the piece on top."""
        length, whole = self.lengths[self.height, self.sample], self.increments[self.height, self.sample]
        share = step / length  # 0 where nothing is known
        return expand(share, x) * whole + expand((step * (1 - share)).sqrt(), x) * randn_like(x, generator)

    def settle(self, step: Tensor, w: Tensor, taken: Tensor) -> None:
        """Take what was stepped over off the top; keep on top what was refused."""
        top, sample = self.height, self.sample
        over = step >= self.lengths[top, sample]  # the whole piece; never where nothing is known
        self.lengths[top, sample] = torch.where(over, self.lengths[top, sample], self.lengths[top, sample] - step)
        rest = self.increments[top, sample] - w
        known = (top > 0) & ~over
        self.increments[top, sample] = torch.where(_rows(known, w), rest, self.increments[top, sample])
        pushed = ~taken & ~over & (step > 0)
        self.height = top + pushed.long() - (taken & over).long()
        if int(self.height.max() if len(top) else 0) >= len(self.lengths):
            self.lengths = torch.cat([self.lengths, torch.zeros_like(self.lengths[:1])])
            self.increments = torch.cat([self.increments, torch.zeros_like(self.increments[:1])])
        at, of = self.height[pushed], sample[pushed]
        self.lengths[at, of], self.increments[at, of] = step[pushed], w[pushed]


def _rows(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(-1, *(1,) * (x.ndim - 1))
