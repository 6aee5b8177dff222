r"""The score of a run that learned one law, judged by its implicit objective on held-out rows.

$J(s_\theta) = \mathbb E[\tfrac12\|s_\theta\|^2 + \operatorname{tr}\nabla s_\theta]$ is
$\tfrac12\mathbb E\|s_\theta - s\|^2$ above that of the true score: whatever has a lower J proves a distance. It is
told in nats: for a law of precision $\lambda$ the logarithmic Sobolev inequality gives
$KL \le \tfrac1{2\lambda}\mathbb E\|s_\theta - s\|^2$, with the mean precision $\mathbb E\|s\|^2/D$ for $\lambda$.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from scorefield.calculus import Score, divergence
from scorefield.data import Dataset
from scorefield.diagnostics import Gaussian, Level, jacobian_parts, kernel_density
from scorefield.diagnostics.rows import evenly
from scorefield.doctor.finding import Finding, Z, harm, judged, ok, skipped
from scorefield.doctor.levels import HALF, ROTATION, labels_of, more, slower, steps_of
from scorefield.doctor.patient import Patient
from scorefield.doctor.rows import HELD_OUT
from scorefield.fields import at, given
from scorefield.runs import Run

ROWS = {"vector": 1000, "image": 200}
TURNED = 100  # rows whose Jacobian is looked at
EXACT = 16  # dimensions up to which the divergence is exact
PROBES = 8


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of the one law, and the score there; flat, float64."""

    x: Tensor
    s: Tensor
    div: Tensor

    @property
    def implicit(self) -> Tensor:
        """½‖s‖² + tr ∇s of each row, (n,)."""
        return self.s.square().sum(1) / 2 + self.div


def examine_law(patient: Patient, run: Run, model: nn.Module, data: Dataset) -> list[Finding]:
    """Whether the one score is what the data say, as far as that can be known."""
    spare = data.held_out_rows if len(data.held_out_rows) >= HELD_OUT else data.train_rows
    held, train = _rows(run, model, data, spare, 1), _rows(run, model, data, data.train_rows, 2)
    if not bool(held.s.isfinite().all() and held.div.isfinite().all()):
        evidence = f"the score is not finite at {int((~held.s.isfinite()).any(1).sum())} of {len(held.s)} held-out rows"
        why = "The training diverged and its weights hold NaN or infinity: no sample can come of it."
        command = patient.train(learning_rate=slower(patient))
        return [judged("weights", False, evidence, why, command, severity="fault")]
    frame = Gaussian(train.x)
    level = Level(1.0, 0.0, held.x, torch.zeros_like(held.x), held.s)
    return [
        ok("weights", f"finite, and the score is finite at {len(held.s)} rows"),
        _energy(patient, run, held, frame, level),
        _divergence(patient, held),
        _orthogonality(patient, held, train),
        _trained(patient, run, held, train, frame, level),
        _overfit(patient, data, held, train, frame),
        _curl(patient, run, model, data),
    ]


def _rows(run: Run, model: nn.Module, data: Dataset, rows: np.ndarray, seed: int) -> Rows:
    chosen = np.resize(np.random.default_rng(0).permutation(rows), min(len(rows), ROWS[data.info.kind]))
    x, score, generator = one_law(run, model, data, chosen, seed)
    method = "exact" if x[0].numel() <= EXACT else "hutchinson"
    with torch.no_grad():
        s, div = divergence(score, x, method=method, probes=PROBES, generator=generator)
    return Rows(x.flatten(1).double(), s.detach().flatten(1).double(), div.detach().double())


def one_law(
    run: Run, model: nn.Module, data: Dataset, rows: np.ndarray, seed: int
) -> tuple[Tensor, Score, torch.Generator]:
    """Rows of the law that a run learned, its noise included, its score with their labels, and a generator."""
    generator = torch.Generator().manual_seed(seed)
    x = data.x_scaled(rows).to(next(model.parameters()).dtype)
    x = x + run.sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x, at(given(model, labels_of(run, data, rows)), None), generator


def _nats(half_divergence: float, held: Rows) -> float:
    return held.x.shape[1] * half_divergence / max(held.s.square().sum(1).mean().item(), 1e-12)


def _mean(rows: Tensor) -> tuple[float, float]:
    return rows.mean().item(), rows.std().item() / math.sqrt(len(rows))


def _energy(patient: Patient, run: Run, held: Rows, frame: Gaussian, level: Level) -> Finding:
    g, d = frame.score(level).square().sum(1), held.x.shape[1]
    low, high = frame.trace(level) ** 2 / g.mean().item(), d / run.sigma**2 if run.sigma else math.inf
    mine, error = _mean(held.s.square().sum(1))
    below = (
        math.sqrt(low)
        - math.sqrt(mine)
        - (Z + 1) * math.hypot(error / math.sqrt(mine), _mean(g)[1] / math.sqrt(low)) / 2
    )
    above = math.sqrt(mine) - math.sqrt(high) - (Z + 1) * error / math.sqrt(mine) / 2
    nats = d * max(0.0, below, above) ** 2 / (2 * low)
    return judged(
        "energy",
        nats <= harm(d),
        f"E‖s‖² is {mine:.3g} ± {error:.1g}, the true score's lies between {low:.3g} and {high:.3g}: at least "
        f"{nats:.2g} nats outside (tolerated: {harm(d):.2g})",
        "The score is too long or too short to be that of any law with the covariance of the data.",
        more(patient),
    )


def _divergence(patient: Patient, held: Rows) -> Finding:
    square, d = held.s.square().sum(1), held.x.shape[1]
    away, error = _mean(square + held.div)
    lost = max(0.0, abs(away) - Z * error) ** 2 / (2 * max(square.mean().item(), 1e-12))
    return judged(
        "divergence",
        _nats(lost, held) <= harm(d),
        f"E tr∇s = {held.div.mean():.4g}, -E‖s‖² = {-square.mean():.4g}, their difference ± {error:.2g}: "
        f"{_nats(lost, held):.2g} nats (tolerated: {harm(d):.2g})",
        "The divergence of the score is not minus its mean square: it points the wrong way, or is longer or shorter "
        "than the score of the data.",
        more(patient),
    )


def _orthogonality(patient: Patient, held: Rows, train: Rows) -> Finding:
    r"""Stein's $\mathbb E\,s = 0$ and $\mathbb E\,s\,(x - m)^\top = -I$: what adding $B(x - m) + b$ would save."""
    d, mean = held.x.shape[1], train.x.mean(0)
    away = train.x - mean
    covariance = away.T @ away / len(away) + 1e-6 * torch.eye(d, dtype=torch.float64)
    moment = train.s.T @ away / len(away) + torch.eye(d, dtype=torch.float64)
    b, matrix = -train.s.mean(0), -torch.linalg.solve(covariance, moment.T).T
    change = (held.x - mean) @ matrix.T + b
    saved, error = _mean(-(held.s * change).sum(1) - change.square().sum(1) / 2 - matrix.trace())
    nats, beside = _nats(saved, held), _nats(error, held)
    return judged(
        "orthogonality",
        nats - Z * beside <= harm(d),
        f"a linear field added to the score, fitted on training rows, saves {nats:.2g} ± {beside:.1g} nats on held-out "
        f"rows (tolerated: {harm(d):.2g})",
        "Stein's identities E s = 0 and E s xᵀ = -I fail: the score has a wrong mean or a wrong linear part.",
        more(patient),
    )


def _trained(patient: Patient, run: Run, held: Rows, train: Rows, frame: Gaussian, level: Level) -> Finding:
    d, rivals = held.x.shape[1], {"no score at all": torch.zeros(len(held.x), dtype=torch.float64)}
    rivals["the Gaussian of the data's covariance"] = frame.score(level).square().sum(1) / 2 - frame.trace(level)
    width = 0.7 * len(train.x) ** (-1 / (d + 4)) if d <= EXACT else max(run.sigma, 0.3)
    for factor in (1, 0.5, 0.25):
        s, div = kernel_density(held.x, train.x, factor * width)
        rivals[f"a kernel density of width {factor * width:.2g}"] = s.square().sum(1) / 2 + div
    gains = {name: held.implicit - value for name, value in rivals.items()}
    best = max(gains, key=lambda name: gains[name][0::2].mean().item())  # chosen on one half, judged on the other
    saved, error = _mean(gains[best][1::2])
    nats, beside = _nats(saved, held), _nats(error, held)
    return judged(
        "trained",
        nats - Z * beside <= harm(d),
        f"of what needs no training, {best} does best: its implicit objective is {nats:.2g} ± {beside:.1g} nats below "
        f"the network's on held-out rows (tolerated: {harm(d):.2g})",
        f"The network is a worse score than {best}, which learned nothing: it was trained too little, or not for this.",
        more(patient),
    )


def _overfit(patient: Patient, data: Dataset, held: Rows, train: Rows, frame: Gaussian) -> Finding:
    if len(data.held_out_rows) < HELD_OUT:
        return skipped("overfit", f"{len(data.held_out_rows)} rows are held out")
    gain = {}
    for name, rows in (("held", held), ("train", train)):
        level = Level(1.0, 0.0, rows.x, torch.zeros_like(rows.x), rows.s)
        gain[name] = _mean(frame.score(level).square().sum(1) / 2 - frame.trace(level) - rows.implicit)
    (mine, error), (best, beside) = gain["held"], gain["train"]
    harmful = _nats(HALF * best - mine - Z * math.hypot(error, HALF * beside), held)
    return judged(
        "overfit",
        harmful <= 0,
        f"over the Gaussian of the data's covariance the implicit objective gains {best:.3g} ± {beside:.1g} on "
        f"training rows and {mine:.3g} ± {error:.1g} on held-out ones (tolerated: half)",
        "More than half of what it learned beyond the covariance holds for the training rows alone: it has begun to "
        "learn them by heart.",
        patient.train(steps=steps_of(patient) // 4 or 1, seconds=None),
    )


def _curl(patient: Patient, run: Run, model: nn.Module, data: Dataset) -> Finding:
    if run.recipe.model == "energy":
        return ok("curl", "the score of an energy is a gradient by construction")
    rows = data.train_rows[evenly(len(data.train_rows), TURNED)]
    x, score, generator = one_law(run, model, data, rows, 3)
    turning, other, _ = (v.mean().item() for v in jacobian_parts(score, x, generator=generator))
    share = turning / (turning + other)
    return judged(
        "curl",
        share <= ROTATION,
        f"{share:.2%} of the score's Jacobian is antisymmetric, in squared norm (tolerated: {ROTATION:.0%})",
        "The field turns: it is the gradient of no density, and its Langevin chains have another law.",
        patient.train(model="energy"),
    )
