"""azula's conditional samplers on our exact score: its methods for y = A x + noise, as its documentation calls them.

Tweedie's mean of our score is its denoiser, our grid its times. Settings are its defaults, except that DPS gets a
strength for a batch: it divides by the norm over the *whole* batch, so that a strength of 1 would fade with its size.
Where a linear system is solved, *converged* has as many iterations as A has rows, MMPS alone its default of one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from scorefield.calculus import NoisyScore
from scorefield.fields import denoise
from scorefield.noise import Noise

Draw = Callable[[NoisyScore, Tensor, Tensor, Tensor, int], Tensor]  # score, y, x at t_max, times, seed -> draws


class Given:
    """Our score as its denoiser; it walks evenly from 1 to 0 while our grid stands there."""

    def __init__(self, score: NoisyScore, noise: Noise, times: Tensor) -> None:
        self._score, self._noise, self._steps = score, noise, len(times) - 1
        self._times = times

    def _at(self, u: Tensor) -> Tensor:
        return self._times[((1 - u) * self._steps).round().long()]

    def schedule(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise at u."""
        return self._noise.alpha(self._at(u)), self._noise.sigma(self._at(u))

    def __call__(self, x: Tensor, u: Tensor, **_: Any) -> SimpleNamespace:
        """Tweedie's mean at u."""
        return SimpleNamespace(mean=denoise(self._score, self._noise, x, self._at(u)))


def azula_methods(
    noise: Noise, a: Tensor, sigma: float, variances: Tensor, masked: bool
) -> Iterator[tuple[str, str, Draw]]:
    """(method, sampler, draw) for a matrix A (M, D); `variances` are the prior's, for JFPS."""
    sample = importlib.import_module("azula.sample")
    covariance = importlib.import_module("azula.linalg.covariance")

    def module(name: str) -> Any:
        return importlib.import_module(f"azula.guidance.{name}")

    def forward(x: Tensor) -> Tensor:
        return x @ a.T

    def runner(make: Callable[..., Any]) -> Draw:
        def draw(score: NoisyScore, y: Tensor, x: Tensor, times: Tensor, seed: int) -> Tensor:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                settings = {"steps": len(times) - 1, "silent": True, "dtype": torch.float64}
                return make(Given(score, noise, times), y, len(x), settings)(x)

        return draw

    noise_y = covariance.IsotropicCovariance(sigma**2)
    wrapped: dict[str, Callable[[Given, Tensor], Any]] = {
        "TMPD": lambda q, y: module("tmpd").TMPDenoiser(q, y, forward, var_y=sigma**2),
        "MMPS": lambda q, y: module("mmps").MMPSDenoiser(q, y, forward, noise_y),
        "MMPS, converged": lambda q, y: module("mmps").MMPSDenoiser(q, y, forward, noise_y, iterations=len(a)),
        "JFPS": lambda q, y: module("jfps").JFPSDenoiser(
            q, y, forward, noise_y, covariance.DiagonalCovariance(variances), iterations=len(a)
        ),
        "DiffPIR": lambda q, y: module("diffpir").DiffPIRDenoiser(q, y, forward, var_y=sigma**2, iterations=len(a)),
    }
    for name, wrap in wrapped.items():
        for kind in ("Heun", "DDPM"):
            sampler = getattr(sample, f"{kind}Sampler")
            yield name, kind, runner(lambda q, y, n, s, wrap=wrap, sampler=sampler: sampler(wrap(q, y), **s))
    dps, pgdm, tds, repaint = module("dps"), module("pgdm"), module("tds"), module("repaint")
    yield "DPS", "DDPM", runner(lambda q, y, n, s: dps.DPSSampler(q, y, forward, zeta=n**0.5, **s))
    inverse = torch.linalg.pinv(a)
    yield "PGDM", "DDIM", runner(lambda q, y, n, s: pgdm.PGDMSampler(q, y, forward, lambda v: v @ inverse.T, **s))

    def twist(y: Tensor, mean: Tensor, ratio: Tensor) -> Tensor:
        spread = ratio**2 / (1 + ratio**2) * a @ a.T + sigma**2 * torch.eye(len(a), dtype=a.dtype)
        return torch.distributions.MultivariateNormal(mean @ a.T, spread, validate_args=False).log_prob(y)

    def twisted(q: Given, y: Tensor, n: int, s: dict[str, Any]) -> Any:
        return tds.TDSSampler(q, lambda mean, ratio: twist(y, mean, ratio), **s)

    yield "TDS", "particles", runner(twisted)
    if masked:
        known = torch.arange(a.shape[1]) < len(a)

        def repainted(q: Given, y: Tensor, n: int, s: dict[str, Any]) -> Any:
            whole = torch.zeros(n, a.shape[1], dtype=y.dtype)
            whole[:, : len(a)] = y
            return repaint.RePaintSampler(q, whole, known, **s)

        yield "RePaint", "DDIM", runner(repainted)
