"""Samples of a fitted law that is known up to its normalising constant: Hamiltonian Monte Carlo from the data."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from scorefield.calculus import LogDensity, Score
from scorefield.estimators.validation import Array
from scorefield.samplers import HMC, chain, warm_up

_KEPT, _LEAST, _MOST = 1000, 64, 1000  # rows kept as starts; chains run side by side
_WARM, _THIN = 200, 10  # moves before the first sample, and between samples of one chain


class NotNormalisable(UserWarning):
    """The fitted model has no normalising constant: it is no density, and cannot be sampled."""


def say_improper(estimator: Any, why: str | None) -> None:
    """Keep why a fit has no normalising constant (None: it has), and warn."""
    estimator._improper = why
    if why is not None:
        warnings.warn(
            f"the fit is not normalisable: {why}. The estimate is left as it is, and `sample` refuses it",
            NotNormalisable,
            stacklevel=3,
        )


def starts(x: Array, w: Array) -> Array:
    """At most 1000 rows of the data, evenly by weight: where chains start."""
    count = min(len(x), _KEPT)
    middles = (np.arange(count) + 0.5) / count
    places = (middles * len(x)).astype(int) if (w == w[0]).all() else np.searchsorted(np.cumsum(w), middles)
    return x[places.clip(max=len(x) - 1)].copy()


class Target:
    """A score with its log-density, in coordinates where the starts have mean 0 and variance 1."""

    def __init__(self, score: Score, log_density: LogDensity, centre: Tensor, scale: Tensor) -> None:
        self._score, self._log_density, self._centre, self._scale = score, log_density, centre, scale

    def __call__(self, y: Tensor) -> Tensor:
        """The score at y."""
        return self._score(self._centre + self._scale * y) * self._scale

    def log_density(self, y: Tensor) -> Tensor:
        """At y, up to a constant."""
        return self._log_density(self._centre + self._scale * y)


def draw(score: Score, log_density: LogDensity, start: Array, count: int, rng: np.random.RandomState) -> Array:
    """Rows of a law by many chains of HMC, tuned and warmed up from the data; exact in the limit of long chains.

    Args:
        score: (B, d) -> (B, d), float64; may be anything outside of the domain.
        log_density: (B, d) -> (B,), up to a constant; -inf outside.
        start: rows within the domain, (m, d).
        count: how many rows to draw.
        rng: source of everything random.

    Returns:
        the rows, (count, d), in random order.
    """
    generator = Generator().manual_seed(int(rng.randint(2**31 - 1)))
    x = torch.from_numpy(start)
    held = log_density(x).isfinite()
    x = x[held] if bool(held.any()) else x
    centre, scale = x.mean(0), x.std(0, correction=0)
    target = Target(score, log_density, centre, torch.where(scale > 0, scale, 1.0))
    chains = max(_LEAST, min(count, _MOST))
    at = (x[torch.from_numpy(rng.randint(len(x), size=chains))] - centre) / target._scale
    first: Any = HMC(step_size=0.3, steps=8, jitter=0.5)
    kernel, at = warm_up(first, target, at, steps=_WARM, preconditioner="diagonal", generator=generator)
    rounds = -(-count // chains)
    path = chain(kernel, target, at, steps=rounds * _THIN, keep=_THIN, totals=True, generator=generator).path
    assert path is not None
    rows = (centre + target._scale * path.flatten(0, 1)).numpy()
    return rows[rng.permutation(len(rows))[:count]]
