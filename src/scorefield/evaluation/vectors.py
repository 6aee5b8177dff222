"""Vectors: the figures that need no features, and the score beside the true one where that is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.densities import TOYS, Curve, Density, GaussianMixture, toy
from scorefield.evaluation.row import Row
from scorefield.evaluation.rows import distance_rows, support_rows
from scorefield.evaluation.sets import Sets, scaled
from scorefield.fields import at
from scorefield.metrics import c2st, fisher_divergence, mmd
from scorefield.runs import Run


def vector_rows(run: Run, sets: Sets, seed: int, generator: torch.Generator) -> list[Row]:
    """Discrepancies, a two-sample test, supports; the Fréchet distance where there are rows enough for the columns."""
    samples, held, train = (scaled(run, v).double() for v in (sets.samples, sets.held_out, sets.train))
    size = min(len(samples), len(held), len(train))
    pairs = [(x[:size], held[:size]) for x in (samples, train)]
    apart, apart_real = (mmd(a, b) for a, b in pairs)
    told, told_real = (c2st(a, b, generator=generator) for a, b in pairs)
    rows = [
        Row("MMD²", apart, apart_real, "0 within its error is perfect"),
        Row("two-sample test", told, told_real, f"accuracy; 0.5 cannot be told from {sets.against}"),
    ]
    columns = held.shape[1]
    if min(len(samples), len(held), len(train)) >= 2 * columns:
        rows += distance_rows(samples, train, held, f"Fréchet distance on {columns} columns", generator)
    if size >= 12:  # two halves with 5 neighbours each
        rows += support_rows(samples, train, held, generator)
    row = _fisher_row(run, toy(run.recipe.data), seed) if run.recipe.data in TOYS else None
    return rows if row is None else [*rows, row]


@dataclass(frozen=True)
class _Scaled:
    """A density seen in scaled units, u = (x - m) / c."""

    law: Density
    mean: Tensor
    scale: Tensor

    def score(self, u: Tensor) -> Tensor:
        return self.scale * self.law.score(self.mean + self.scale * u)

    def sample(self, shape: tuple[int], *, generator: torch.Generator) -> Tensor:
        return (self.law.sample(shape, generator=generator) - self.mean) / self.scale


def _fisher_row(run: Run, truth: Density | Curve, seed: int, sigma: float = 0.1) -> Row | None:
    """The learned score of scaled data against the exact one: at this noise level, or at the one law of the run.

    A mixture's is known under any blur, that of other densities only without; None where it is not known.
    """
    mean, scale = (torch.as_tensor(v) for v in (run.dataset.info.scaling.mean, run.dataset.info.scaling.scale))
    levels, exact = run.recipe.at_all_levels, None
    sigma = sigma if levels else run.sigma
    if isinstance(truth, GaussianMixture):
        covariances = truth.covariances / (scale[:, None] * scale[None, :])
        blur = 0.0 if levels else sigma**2 * torch.eye(len(scale), dtype=torch.float64)
        exact = GaussianMixture(truth.weights, (truth.means - mean) / scale, covariances + blur)
    elif not isinstance(truth, Curve) and not levels and sigma == 0:
        exact = _Scaled(truth, mean, scale)
    if exact is None:
        return None
    score = run.score
    if levels and isinstance(exact, GaussianMixture):
        t = run.noise.time_at(torch.tensor(sigma, dtype=torch.float64))
        exact, score = exact.blurred(run.noise, t.item()), at(run.score, t)
    x = exact.sample((2000,), generator=torch.Generator().manual_seed(seed))
    error = fisher_divergence(lambda x: score(x.float()).double(), exact.score, x)
    energy = fisher_divergence(torch.zeros_like, exact.score, x)
    return Row("Fisher divergence", error, energy, f"to the true score at noise {sigma:.3g}; real: E‖score‖²")
