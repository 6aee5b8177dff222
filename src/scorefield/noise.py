r"""How data is blurred: $x_t = \alpha_t x_0 + \sigma_t z$ with $z \sim N(0, I)$, for t from `t_min` (data) to `t_max`.

A schedule defines `alpha(t)` and `sigma(t)`, nothing else. All that the theory derives from them stands once, in
`Noise`: the SDE $dx = f(t)\,x\,dt + g(t)\,dW$ whose marginals these are,

$$ f = \frac{d \log \alpha}{dt}, \qquad g^2 = \frac{d \sigma^2}{dt} - 2 f \sigma^2, $$

the blurred sample, its score given $x_0$, the prior at `t_max` and a grid of times. Schedules compute in float64
and answer in the dtype of `t`.

Source: Song et al. 2021 (arXiv:2011.13456), section 3; Karras et al. 2022 (arXiv:2206.00364), appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from scorefield.calculus import expand
from scorefield.checks import check_count, check_floating, check_positive


class Noise:
    """What every schedule shares, derived from its `alpha(t)` and `sigma(t)`, t in [`t_min`, `t_max`]."""

    t_min: float = 0.0
    t_max: float = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        r"""The factor $\alpha_t$ on the data, shaped like `t`."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        r"""The standard deviation $\sigma_t$ of the noise, shaped like `t`."""
        raise NotImplementedError

    def f(self, t: Tensor) -> Tensor:
        r"""Drift coefficient $f(t) = d \log \alpha_t / dt$, shaped like `t`."""
        return _derivative(lambda u: self.alpha(u).log(), t)

    def g2(self, t: Tensor) -> Tensor:
        r"""Squared diffusion $g^2(t) = d\sigma_t^2/dt - 2 f(t)\,\sigma_t^2$, shaped like `t`."""
        return _derivative(lambda u: self.sigma(u) ** 2, t) - 2 * self.f(t) * self.sigma(t) ** 2

    def perturb(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        r"""The blurred sample $x_t = \alpha_t x + \sigma_t z$, shape (B, *D)."""
        return expand(self.alpha(t), x) * x + expand(self.sigma(t), x) * z

    def kernel_score(self, x_t: Tensor, x: Tensor, t: Tensor) -> Tensor:
        r"""$\nabla_{x_t} \log p(x_t \mid x) = (\alpha_t x - x_t)/\sigma_t^2$, shape (B, *D)."""
        return (expand(self.alpha(t), x) * x - x_t) / expand(self.sigma(t) ** 2, x)

    def ratio(self, t: Tensor | float) -> Tensor:
        r"""The noise beside the data, $\sigma_t/\alpha_t$, shaped like `t`; `time_at` inverts it."""
        at = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        return self.sigma(at) / self.alpha(at)

    def residual_weight(self, t: Tensor, data_scale: float = 1.0) -> Tensor:
        r"""The weight $\sigma^2 c^2/(\alpha^2 v)$ of denoising under which EDM's residual counts alike at every level.

        With v = data_scale² and $c^2 = \alpha^2 v + \sigma^2$: EDM's $\lambda(\sigma)$, written for the score (Karras
        et al. 2022, equation 8).
        """
        data, noise = self.alpha(t) ** 2 * data_scale**2, self.sigma(t) ** 2
        return noise * (data + noise) / data

    def times(self, n: int) -> Tensor:
        """A grid of n + 1 times decreasing evenly from `t_max` to `t_min`, float64."""
        check_count("n", n)
        return torch.linspace(self.t_max, self.t_min, n + 1, dtype=torch.float64)

    def rho_times(self, n: int, rho: float = 7.0) -> Tensor:
        r"""EDM's grid of n + 1 decreasing times, on which $(\sigma_t/\alpha_t)^{1/\rho}$ is evenly spaced; float64.

        Source: Karras et al. 2022 (arXiv:2206.00364), equation 5.
        """
        check_count("n", n)
        check_positive("rho", rho)
        ends = torch.tensor([self.t_max, self.t_min], dtype=torch.float64)
        high, low = (self.ratio(ends) ** (1 / rho)).tolist()
        inside = self.time_at(torch.linspace(high, low, n + 1, dtype=torch.float64)[1:-1] ** rho)
        return torch.cat([ends[:1], inside, ends[1:]])

    def time_at(self, ratio: Tensor) -> Tensor:
        r"""The time at which $\sigma_t/\alpha_t$ equals `ratio` (it increases with t), by bisection; float64.

        A ratio beyond the schedule's ends gives the nearer end.
        """
        low = torch.full_like(ratio, self.t_min, dtype=torch.float64)
        high = torch.full_like(low, self.t_max)
        for _ in range(54):
            middle = (low + high) / 2
            below = self.sigma(middle) < ratio * self.alpha(middle)
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def prior(self, shape: Sequence[int], mean: float | Tensor = 0.0, variance: float | Tensor = 0.0) -> Distribution:
        r"""The law at `t_max` of data with mean m and variance v: $N(\alpha_1 m, (\alpha_1^2 v + \sigma_1^2) I)$.

        Args:
            shape: shape (*D) of one sample.
            mean: m, a number or a tensor that broadcasts to `shape`.
            variance: v >= 0, likewise.

        Returns:
            a torch Distribution with event shape `shape`: `sample((n,))` is (n, *D), `log_prob(x)` is (B,).
        """
        end = torch.tensor(self.t_max, dtype=torch.float64)
        alpha, sigma = self.alpha(end).item(), self.sigma(end).item()
        location = torch.zeros(tuple(shape), dtype=torch.float64) + alpha * mean
        scale = torch.zeros(tuple(shape), dtype=torch.float64) + (alpha**2 * torch.as_tensor(variance) + sigma**2)
        return Independent(Normal(location, scale.sqrt()), len(tuple(shape)))


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """D function / dt at each t, in float64, answered in the dtype of `t`."""
    with torch.enable_grad():
        at = t.detach().double().requires_grad_()
        value = function(at)
        (slope,) = torch.autograd.grad(value.sum(), at) if value.requires_grad else (torch.zeros_like(at),)
    return slope.to(t)


@dataclass(frozen=True)
class VE(Noise):
    r"""Variance exploding: $\alpha_t = 1$, $\sigma_t = \sigma_{min} (\sigma_{max}/\sigma_{min})^t$ (Song et al. 2021).

    The law at `t_min` = 0 is the data blurred by `sigma_min`.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    reasons: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse standard deviations that are not 0 < sigma_min < sigma_max."""
        _check_sigmas(self.sigma_min, self.sigma_max)

    def alpha(self, t: Tensor) -> Tensor:
        r"""$\alpha_t = 1$."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        r"""$\sigma_t = \sigma_{min} (\sigma_{max}/\sigma_{min})^t$."""
        return _geometric(self.sigma_min, self.sigma_max, t)

    @staticmethod
    def from_data(x: Tensor, *, sigma_min: float | None = None, sigma_max: float | None = None) -> VE:
        """Choose the ends that are not given from the data `x` (n, *D); `.reasons` says how, see `Levels.from_data`."""
        low, high, reasons = _ends_from_data(x, sigma_min, sigma_max)
        return VE(low, high, reasons)


@dataclass(frozen=True)
class _Rates(Noise):
    """What VP and SubVP share: the rates and the factor on the data."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min = 1e-5

    def __post_init__(self) -> None:
        """Refuse rates that are not 0 < beta_min <= beta_max."""
        check_positive("beta_min", self.beta_min)
        check_positive("beta_max", self.beta_max)
        if not self.beta_min <= self.beta_max:
            raise ValueError(f"beta_min must be <= beta_max, got {self.beta_min!r} and {self.beta_max!r}")

    def alpha(self, t: Tensor) -> Tensor:
        r"""$\alpha_t = e^{-B(t)/2}$."""
        return torch.exp(-self._integral(t) / 2).to(t)

    def _integral(self, t: Tensor) -> Tensor:
        """B(t), float64."""
        t = t.double()
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2


@dataclass(frozen=True)
class VP(_Rates):
    r"""Variance preserving: $\alpha_t = e^{-B(t)/2}$, $\sigma_t^2 = 1 - \alpha_t^2$.

    $$ B(t) = \int_0^t \beta(u)\,du = \beta_{min} t + \tfrac12 (\beta_{max} - \beta_{min})\,t^2 $$

    The continuous form of DDPM (Ho et al. 2020; Song et al. 2021): $f = -\beta(t)/2$, $g^2 = \beta(t)$.
    """

    def sigma(self, t: Tensor) -> Tensor:
        r"""$\sigma_t = \sqrt{1 - e^{-B(t)}}$."""
        return torch.sqrt(-torch.expm1(-self._integral(t))).to(t)


@dataclass(frozen=True)
class SubVP(_Rates):
    r"""Sub-VP: $\alpha_t$ as in `VP`, $\sigma_t = 1 - \alpha_t^2$ (Song et al. 2021, appendix B)."""

    def sigma(self, t: Tensor) -> Tensor:
        r"""$\sigma_t = 1 - e^{-B(t)}$."""
        return (-torch.expm1(-self._integral(t))).to(t)


@dataclass(frozen=True)
class Cosine(Noise):
    r"""Cosine: $\alpha_t = \cos(c\,t\,\pi/2)$, $\sigma_t = \sin(c\,t\,\pi/2)$, with $\alpha_1$ = `alpha_end` > 0.

    Nichol & Dhariwal 2021 without their offset; c is set by $\cos(c\,\pi/2) = \alpha_1$, so that the score at the
    prior's end is finite.
    """

    alpha_end: float = 0.01
    t_min = 1e-5

    def __post_init__(self) -> None:
        """Refuse an end outside (0, 1)."""
        if not 0 < self.alpha_end < 1:
            raise ValueError(f"alpha_end must lie in (0, 1), got {self.alpha_end!r}")

    def alpha(self, t: Tensor) -> Tensor:
        r"""$\alpha_t = \cos(c\,t\,\pi/2)$."""
        return torch.cos(math.acos(self.alpha_end) * t.double()).to(t)

    def sigma(self, t: Tensor) -> Tensor:
        r"""$\sigma_t = \sin(c\,t\,\pi/2)$."""
        return torch.sin(math.acos(self.alpha_end) * t.double()).to(t)


@dataclass(frozen=True)
class Levels(Noise):
    r"""NCSN's geometric levels $\sigma_1 > \dots > \sigma_L$ (Song & Ermon 2019): the curve of `VE`, with its own grid.

    `levels` are the times at which $\sigma_t$ takes the `count` values of the geometric sequence from `sigma_max`
    down to `sigma_min`.
    """

    sigma_max: float = 1.0
    sigma_min: float = 0.01
    count: int = 10
    reasons: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse standard deviations that are not 0 < sigma_min < sigma_max, or fewer than two levels."""
        _check_sigmas(self.sigma_min, self.sigma_max)
        check_count("count", self.count, least=2)

    def alpha(self, t: Tensor) -> Tensor:
        r"""$\alpha_t = 1$."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        r"""$\sigma_t = \sigma_{min} (\sigma_{max}/\sigma_{min})^t$."""
        return _geometric(self.sigma_min, self.sigma_max, t)

    @property
    def levels(self) -> Tensor:
        r"""The times of $\sigma_1 > \dots > \sigma_L$: `count` times decreasing from 1 to 0, float64."""
        return torch.linspace(1.0, 0.0, self.count, dtype=torch.float64)

    @staticmethod
    def from_data(
        x: Tensor, *, sigma_min: float | None = None, sigma_max: float | None = None, count: int | None = None
    ) -> Levels:
        r"""Choose what is not given of $\sigma_1$, $\sigma_L$ and L from the data.

        The rules are those of Song & Ermon 2020 (arXiv:2006.09011).

        * $\sigma_1$: the largest distance between two data points (technique 1), on a subsample.
        * $\sigma_L$: one tenth of the median positive distance to a nearest neighbour, shared over the D coordinates
          ($\|\sigma z\| \approx \sigma \sqrt D$), and at least $10^{-3}$ of the data's standard deviation.
        * L: neighbouring levels overlap. The radii of two neighbouring levels meet when the ratio $\gamma$ solves
          $\Phi(\sqrt{2D}(\gamma-1)+3\gamma) - \Phi(\sqrt{2D}(\gamma-1)-3\gamma) = \frac12$ (technique 2), at most 2.

        Args:
            x: data, shape (n, *D), n >= 2, floating point.
            sigma_min: $\sigma_L$ where it is known; chosen when None.
            sigma_max: $\sigma_1$ where it is known; chosen when None.
            count: L where it is known; chosen when None.

        Returns:
            the levels; `.reasons` says in words how each number was chosen.

        Raises:
            ValueError: fewer than two rows, or all rows equal.
        """
        low, high, reasons = _ends_from_data(x, sigma_min, sigma_max)
        if count is not None:
            return Levels(high, low, count, (*reasons, f"{count} levels: as given"))
        gamma, why = overlap_ratio(x[0].numel())
        count = max(2, 1 + math.ceil(math.log(high / low) / math.log(gamma)))
        return Levels(high, low, count, (*reasons, f"{count} levels: {why}"))


def overlap_ratio(dimension: int) -> tuple[float, str]:
    r"""The ratio $\gamma = \min(\text{root}, 2)$ of neighbouring levels in D dimensions, and how it was found."""
    check_count("dimension", dimension)

    def excess(gamma: float) -> float:
        shift = math.sqrt(2 * dimension) * (gamma - 1)
        return float(ndtr(shift + 3 * gamma) - ndtr(shift - 3 * gamma)) - 0.5

    if excess(1e6) > 0:
        return 2.0, f"ratio 2 (the overlap equation has no root for D = {dimension})"
    root = float(brentq(excess, 1.0, 1e6))  # pyright: ignore[reportArgumentType]
    if root > 2:
        return (
            2.0,
            f"ratio 2 (the overlap equation's root for D = {dimension} is {root:.3g}, taken at most 2)",
        )
    return root, f"ratio {root:.4g}, the root of the overlap equation for D = {dimension}"


def _ends_from_data(
    x: Tensor, given_min: float | None, given_max: float | None
) -> tuple[float, float, tuple[str, str]]:
    """sigma_min, sigma_max and their reasons: as given, or measured on at most 2,000 evenly spaced rows."""
    check_floating("x", x)
    if len(x) < 2:
        raise ValueError(f"x must have at least 2 rows to measure distances, got {len(x)}; give more data")
    rows = torch.linspace(0, len(x) - 1, min(len(x), 2000)).round().long()
    sample = x[rows].flatten(1).double()
    distances = torch.cdist(sample, sample, compute_mode="donot_use_mm_for_euclid_dist")
    high = distances.max().item()
    if not math.isfinite(high):
        raise ValueError("x must be finite, got rows with nan or infinity; drop them")
    if not high > 0:
        raise ValueError(f"x must have at least 2 different rows, got {len(x)} equal ones; give data that varies")
    positive = torch.where(distances > 0, distances, math.inf)
    nearest = positive.min(1).values.median().item()
    floor = 1e-3 * (sample - sample.mean(0)).square().mean().sqrt().item()
    by_neighbours = 0.1 * nearest / math.sqrt(sample.shape[1])
    source = f"{len(sample)} of {len(x)} rows"
    why_high = f"the largest pairwise distance among {source}"
    why_low = (
        f"a tenth of the median positive nearest-neighbour distance {nearest:.4g} / sqrt(D) among {source}, at least "
        "0.001 of the data's standard deviation"
    )
    high, why_high = (high, why_high) if given_max is None else (given_max, "as given")
    low = min(max(by_neighbours, floor), high / 2)
    low, why_low = (low, why_low) if given_min is None else (given_min, "as given")
    return low, high, (f"sigma_max {high:.4g}: {why_high}", f"sigma_min {low:.4g}: {why_low}")


def _geometric(low: float, high: float, t: Tensor) -> Tensor:
    return (low * torch.exp(math.log(high / low) * t.double())).to(t)


def _check_sigmas(low: float, high: float) -> None:
    check_positive("sigma_min", low)
    check_positive("sigma_max", high)
    if not low < high:
        raise ValueError(f"sigma_min must be < sigma_max, got {low!r} and {high!r}")
