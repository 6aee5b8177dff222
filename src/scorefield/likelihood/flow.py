r"""The log-likelihood of the probability flow, with the errors of its probes and of its steps apart.

Along $dx/dt = f x - \tfrac12 g^2 s(x, t)$ the density changes by $d \log p_t(x_t)/dt = -\operatorname{tr}\nabla(\cdot)$
(Song et al. 2021, equation 39). With $c^2 = \alpha^2 v + \sigma^2$, v the data's variance, the state $y = x/c$ and
$\lambda = \log(\sigma/\alpha)$ make the flow of $N(0, vI)$ stand still, so that few steps suffice:

$$ \frac{dy}{d\lambda} = -\frac{\sigma^2}{c}\Big(s + \frac{x}{c^2}\Big), \qquad
   \log p_0(x_0) = \log p_T(x_T) + D \log\frac{c_T}{c_0}
   - \int \Big(\sigma^2 \operatorname{tr}\nabla_x s + \frac{\sigma^2}{c^2} D\Big)\, d\lambda . $$

The clock is the angle u of which $\tan u = \sigma/(\alpha\sqrt v)$, $d\lambda = 2\,du/\sin 2u$: at neither end does it
linger where nothing happens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import roots_legendre
from torch import Tensor
from torch.distributions import Distribution

from scorefield.calculus import Generator, NoisyScore, divergence, inner, probe_like, quadratic_forms
from scorefield.checks import check_choice, check_count, check_floating, check_positive, check_score
from scorefield.fields import at
from scorefield.likelihood import solver
from scorefield.noise import Noise


@dataclass(frozen=True)
class Grid:
    r"""The steps of one call, to be taken again by others: a row's answer then does not depend on its batch.

    Attributes:
        width: $\sqrt v$ of the coordinates.
        nodes: values of the clock where the steps end.
    """

    width: float
    nodes: tuple[float, ...]


@dataclass(frozen=True)
class LogLikelihood:
    r"""Log-likelihoods, each with its two errors.

    Attributes:
        nats: $\log p(x)$ per sample, natural logarithm, (B,), float64.
        probe_se: standard error from the random probes, (B,); 0 for the exact divergence, nan for one probe.
        step_error: how much steps of twice the length would have changed, added up over the steps without their
            signs, (B,): a bound on the error of the steps, as long as they resolve the flow.
        evaluations: how many times the score was called on the batch.
        grid: the steps that were taken; None where there were none.
    """

    nats: Tensor
    probe_se: Tensor
    step_error: Tensor
    evaluations: int
    grid: Grid | None = None


def log_likelihood(
    score: NoisyScore,
    noise: Noise,
    x: Tensor,
    *,
    method: str = "exact",
    probes: int = 32,
    law: str = "rademacher",
    rtol: float = 1e-4,
    steps: int | Grid | None = None,
    prior: Distribution | None = None,
    generator: Generator = None,
) -> LogLikelihood:
    r"""The log-density of the probability flow's law at `t_min`, in nats.

    One score call a step tried, by Adams' predictor and corrector of order five. Steps of twice the length are
    compared on the way and need no call of their own: `step_error`.

    Args:
        score: noise-conditional score.
        noise: the schedule.
        x: points at time `t_min`, (B, *D), floating point: the law is that of the data blurred by sigma(t_min).
        method: `"exact"`, or `"hutchinson"`: the trace by `probes` random probes, the same all along the path.
        probes: number of probes, >= 1.
        law: law of the probes (see `calculus.probe_like`).
        rtol: tolerance of a step, relative and absolute, > 0.
        steps: an even number >= 2 of steps of equal length in the angle, in place of the tolerance; the first is made
            in seven parts. Or the `grid` of another call, whose steps are taken again whatever the rows.
        prior: law at `t_max`, such as `noise.prior(shape, mean, variance)`; None for the law that has the given score
            there, $\log p_T(x) = -\tfrac12 c^2 \|s(0)\|^2 - \tfrac D2 \log 2\pi c^2 + \int_0^1 s(ux)^\top x\, du$
            with $c^2 = -D/\operatorname{tr}\nabla s(0)$: normal near the origin. (The plain $N(0, \sigma_T^2 I)$
            ignores the data's own mean and variance and errs by 0.01 nats and more.) Scores with a label per row, as
            `given` makes them, need a prior: the origin is one row.
        generator: source of the probes; the global one when None.

    Returns:
        the log-likelihoods with their errors and the number of score calls.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: values that are not finite, an unknown method, no probe, rtol <= 0, or steps odd or < 2.
        RuntimeError: the flow left the finite numbers (which rows), or needs steps that are too small.

    Source: Chen et al. 2018 (arXiv:1806.07366); Grathwohl et al. 2019 (arXiv:1810.01367); Song et al. 2021
    (arXiv:2011.13456), section 4.3.
    """
    check_floating("x", x)
    check_choice("method", method, ("exact", "hutchinson"))
    check_count("probes", probes)
    check_positive("rtol", rtol)
    check_count("steps", steps if isinstance(steps, int) else 2, least=2)
    if isinstance(steps, int) and steps % 2:
        raise ValueError(
            f"steps must be even, so that each two can be compared with one of twice the length; got {steps}"
        )
    bad = (~x.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"x must be finite, got nan or infinity in rows {bad[:8]}; leave them out")
    if len(x) == 0:
        empty = torch.zeros(0, dtype=torch.float64, device=x.device)
        return LogLikelihood(empty, empty, empty, 0)
    drawn = None if method == "exact" else torch.stack([probe_like(x, law, generator) for _ in range(probes)])
    with torch.no_grad():
        flow = Flow(score, noise, x, drawn, steps.width if isinstance(steps, Grid) else None)
        count = 1 if drawn is None else len(drawn)
        z = torch.cat(
            [x.double().flatten(1) / flow.scale(flow.low), x.new_zeros(len(x), count, dtype=torch.float64)], 1
        )
        nodes = steps.nodes if isinstance(steps, Grid) else steps
        walk = solver.adaptive(flow, z, rtol) if nodes is None else solver.along(flow, z, nodes)
        answers = flow.log_density(walk.past.z, prior)
        nats, step_error = answers.mean(1), walk.step_error()
    lost = (~nats.isfinite()).nonzero().flatten().tolist()
    if lost:
        raise RuntimeError(
            f"the flow of {len(lost)} of {len(x)} samples left the finite numbers (rows {lost[:8]}); leave them out, "
            "or look at the score there: the others are not affected"
        )
    if method == "exact":
        probe_se = torch.zeros_like(nats)
    else:
        probe_se = answers.std(1) / math.sqrt(probes) if probes > 1 else torch.full_like(nats, math.nan)
    return LogLikelihood(nats, probe_se, step_error, flow.calls, Grid(flow.width, tuple(walk.taken)))


class Flow:
    """The right-hand side on the clock, for the state z = (y, q), and the log-density at its two ends."""

    def __init__(
        self, score: NoisyScore, noise: Noise, x: Tensor, probes: Tensor | None, width: float | None = None
    ) -> None:
        self.score, self.noise, self.probes, self.shape, self.dtype, self.calls = (
            score,
            noise,
            probes,
            x.shape,
            x.dtype,
            0,
        )
        self._own = getattr(score, "with_divergence", None)
        first = torch.tensor(noise.t_min, dtype=torch.float64)
        alpha, sigma, power = noise.alpha(first).item(), noise.sigma(first).item(), x.double().square().mean().item()
        variance = max(power - sigma**2, 1e-2 * power, 1e-300) / alpha**2
        self.width = math.sqrt(variance) if width is None else width  # only coordinates: any v is right
        share = torch.cat([torch.zeros(1), torch.logspace(-8, 0, 512), torch.linspace(0, 1, 512)]).double().unique()
        times = torch.lerp(first, torch.full_like(first, noise.t_max), share)
        self._times = times.numpy()
        self._clock = torch.atan2(noise.sigma(times), noise.alpha(times) * self.width).numpy()
        self.low, self.high = self._clock[0].item(), self._clock[-1].item()

    def place(self, u: float) -> solver.Place:
        """The point of the clock next to u that its table gives: exact levels, at very nearly that u."""
        t = torch.tensor(float(np.interp(u, self._clock, self._times)), dtype=torch.float64)
        alpha, sigma = self.noise.alpha(t).item(), self.noise.sigma(t).item()
        return solver.Place(math.atan2(sigma, alpha * self.width), t, alpha, sigma)

    def scale(self, u: float) -> float:
        r"""$c = \sqrt{\alpha^2 v + \sigma^2}$ at a value of the clock."""
        place = self.place(u)
        return math.hypot(place.alpha * self.width, place.sigma)

    def __call__(self, place: solver.Place, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""$dz/du$ (B, D + K), y first and then the integrand of the log-density, and $\nabla_y \log p$ (B, D)."""
        c, d = math.hypot(place.alpha * self.width, place.sigma), self.shape[1:].numel()
        y = z[:, :d]
        s, traces = self._traces((c * y).to(self.dtype).reshape(self.shape), place.t)
        pull = c * s.double().flatten(1)
        gain = 2 / math.sin(2 * place.u) * place.sigma**2  # d lambda = 2 du/sin 2u
        rate = torch.cat([(pull + y) * (-gain / c**2), (traces.double() + d / c**2) * -gain], 1)
        return rate, pull

    def log_density(self, z: Tensor, prior: Distribution | None) -> Tensor:
        """The log-density at the start of the flow that ended at z, one answer per probe, (B, K)."""
        d, c = self.shape[1:].numel(), self.scale(self.high)
        x = (c * z[:, :d]).reshape(self.shape)
        at_end = self._own_law(x) if prior is None else _on(prior, x)
        return at_end[:, None] + z[:, d:] + d * math.log(c / self.scale(self.low))

    def _own_law(self, x: Tensor) -> Tensor:
        r"""$\log p_T(x)$ from the score at t_max alone: normal at the origin, and from there along the score."""
        d, t = x[0].numel(), torch.tensor(self.noise.t_max, dtype=torch.float64)
        here = at(self.score, t)
        origin, trace = divergence(here, torch.zeros_like(x[:1]).to(self.dtype))
        self.calls += 1
        square = -d / trace.double().item()
        if not square > 0:
            raise RuntimeError(
                f"the score's divergence at t_max must be < 0 to read the prior off it, got {-d / square:.3g}; give "
                "prior"
            )
        origin = origin.double()
        log_p = -square * inner(origin, origin) / 2 - d / 2 * math.log(2 * math.pi * square)
        for node, weight in zip(*roots_legendre(5), strict=True):
            log_p = log_p + weight / 2 * inner(here(((node + 1) / 2 * x).to(self.dtype)).double(), x)
            self.calls += 1
        return log_p

    def _traces(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The score at x and its divergence, exact (B, 1) or as each probe has it (B, K)."""
        self.calls += 1
        here = at(self.score, t)
        if self.probes is None:
            s, trace = divergence(here, x) if self._own is None else self._own(x, t.to(x.device))
            return s, trace[:, None]
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            s = here(point)
            check_score(s, x)
        return s.detach(), quadratic_forms(s, point, self.probes).T  # no graph of its own: gradients are off here


def _on(prior: Distribution, x: Tensor) -> Tensor:
    value = prior.log_prob(x.to(_location(prior)))
    if value.shape != (len(x),):
        raise ValueError(f"prior.log_prob(x) must be one number per sample, {(len(x),)}, got {tuple(value.shape)}")
    return value.to(x)


def _location(prior: Distribution) -> Tensor:
    return prior.mean
