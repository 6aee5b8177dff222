r"""The noise and the score of a run that learned all levels, judged level by level on held-out rows.

Everything is told in nats: $\int \sigma^2\,\mathbb E\|s_\theta - s\|^2\, d\log(\sigma/\alpha)$ bounds the
Kullback-Leibler divergence of the law that the score generates. What lowers the denoising loss on held-out rows by so
much proves that the score is at least so far from the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from scorefield.data import Batch, Dataset
from scorefield.diagnostics import (
    Corrected,
    Gaussian,
    Level,
    Lookup,
    at_level,
    energy_bounds,
    energy_shortfall,
    jacobian_parts,
    log_widths,
    neighbour_scale,
)
from scorefield.diagnostics.rows import evenly
from scorefield.doctor.finding import Finding, Z, harm, judged, ok, skipped
from scorefield.doctor.patient import Patient
from scorefield.doctor.rows import HELD_OUT
from scorefield.noise import Levels, Noise
from scorefield.runs import Run

COUNT = 10  # levels
WHOLE = 2000  # training rows to compare with
ROWS = {"vector": 1000, "image": 360}  # noised rows per level
LATERAL = {"vector": 200, "image": 48}  # of them, rows whose Jacobian is looked at
HALF = 0.5
ROTATION = 0.1  # the share of the denoiser's Jacobian, in squared norm, that may be antisymmetric
RIVALS = ("no score at all", "the Gaussian of the data's covariance", "looking up the training rows")


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured at the levels of a run: held-out rows (L of them), training rows, and what to compare with."""

    times: Tensor
    widths: Tensor
    held: list[Level]
    train: list[Level]
    frame: Gaussian
    lookup: Lookup
    ratios: Tensor
    distinct: int

    @property
    def dimension(self) -> int:
        """D."""
        return self.held[0].x_t.shape[1]


def measure(run: Run, noise: Noise, model: nn.Module, data: Dataset) -> Measured:
    """Noise held-out and training rows to the levels of a run, and call its score there."""
    spare = data.held_out_rows if len(data.held_out_rows) >= HELD_OUT else data.train_rows
    whole, dtype = data.x_scaled(data.train_rows[evenly(len(data.train_rows), WHOLE)]), _dtype(model)
    frame, lookup = Gaussian(whole), Lookup(whole)
    times = _times(noise, neighbour_scale(whole))
    count = ROWS[data.info.kind]
    levels: dict[str, list[Level]] = {}
    for name, rows in (("held", spare), ("train", data.train_rows)):
        chosen = np.resize(np.random.default_rng(0).permutation(rows), count)
        x, y = data.x_scaled(chosen).to(dtype), labels_of(run, data, chosen)
        generator = torch.Generator().manual_seed(1 + len(levels))
        levels[name] = [at_level(model, noise, x, t, y=y, generator=generator) for t in times]
    ratios, widths, distinct = noise.ratio(times), log_widths(noise, times), min(count, len(spare))
    return Measured(times, widths, levels["held"], levels["train"], frame, lookup, ratios, distinct)


def examine_levels(patient: Patient, run: Run, noise: Noise, model: nn.Module, data: Dataset) -> list[Finding]:
    """Whether the score is what the data say, as far as that can be known."""
    found = measure(run, noise, model, data)
    bad = [level for level in found.held if not bool(level.s.isfinite().all())]
    if bad:
        return [_not_finite(patient, found, bad)]
    return [
        ok("weights", f"finite, and the score is finite at {len(found.times)} levels"),
        _loss_share(patient, run, model, data),
        _energy(patient, found),
        _divergence(patient, found),
        _orthogonality(patient, found),
        _trained(patient, found),
        _overfit(patient, found, data),
        _curl(patient, run, noise, model, data, found),
    ]


def _not_finite(patient: Patient, found: Measured, bad: list[Level]) -> Finding:
    return judged(
        "weights",
        False,
        f"the score is not finite at {len(bad)} of {len(found.held)} levels, the first at σ = {bad[0].sigma:.3g}",
        "The training diverged and its weights hold NaN or infinity, or overflow: no sample can come of it.",
        patient.train(learning_rate=slower(patient)),
        severity="fault",
    )


def _loss_share(patient: Patient, run: Run, model: nn.Module, data: Dataset) -> Finding:
    """How much of the training loss each tenth of the levels holds, as they are drawn in training."""
    if run.recipe.objective != "noise-conditional":
        return skipped("loss-share", f"the loss of {run.recipe.objective} has an unknown constant at every level")
    if run.recipe.antithetic:
        return skipped("loss-share", "of z and -z nearly all the loss is a constant, which moves no weight")
    rows = _resized(data.train_rows, 2000 if data.info.kind == "vector" else 500)
    batch = Batch(data.x_scaled(rows).to(_dtype(model)), data.labels(rows), torch.from_numpy(rows))
    objective = run.objective()
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    levels = objective.levels(batch, generator)  # pyright: ignore[reportAttributeAccessIssue]
    generator.set_state(state)
    with torch.no_grad():
        loss = objective(model, batch, generator).detach().double()
    order = levels.argsort()
    tenths = [part.sum().item() for part in loss[order].tensor_split(10)]
    shares = np.array(tenths) / sum(tenths)
    top = int(shares.argmax())
    ends = levels[order].tensor_split(10)[top]
    listed = " ".join(f"{share:.0%}" for share in shares)
    return judged(
        "loss-share",
        bool(shares[top] <= HALF),
        f"of the training loss, tenths of the levels from the smallest up hold {listed}; the most at σ from "
        f"{ends[0]:.2g} to {ends[-1]:.2g} (tolerated: {HALF:.0%})",
        "One tenth of the levels holds more than half of the loss: the others hardly move the weights.",
        patient.train(predicts="edm", learning_rate=slower(patient)),
    )


def _energy(patient: Patient, found: Measured) -> Finding:
    z = Z + math.log10(len(found.held))  # a little more, for the many levels
    short = [energy_shortfall(level, found.frame, z) for level in found.held]
    nats = float((found.widths * torch.tensor(short, dtype=torch.float64)).sum())
    worst = int(np.argmax(short)) if nats else len(short) // 2
    level = found.held[worst]
    low, high = energy_bounds(level, found.frame)
    mine = (level.sigma**2 * level.s.square().sum(1)).mean().item()
    return judged(
        "energy",
        nats <= harm(found.dimension),
        f"σ²E‖s‖² at σ/α = {found.ratios[worst]:.3g} is {mine:.3g}, where the true score's lies between {low:.3g} and "
        f"{high:g}; over all levels at least {nats:.2g} nats outside (tolerated: {harm(found.dimension):.2g})",
        "The score is too long or too short to be that of any law with the covariance of the data.",
        more(patient),
    )


def _divergence(patient: Patient, found: Measured) -> Finding:
    r"""Orthogonality to $g = s_\theta$: $\mathbb E\|s\|^2 = -\mathbb E\operatorname{tr}\nabla s$, by Stein's lemma."""
    nats, worst, said = 0.0, 0.0, ""
    for level, width, ratio in zip(found.held, found.widths, found.ratios, strict=True):
        square = level.sigma**2 * level.s.square().sum(1)
        trace = (level.sigma * level.s * level.z).sum(1)  # minus the divergence, in the mean
        away, error = (square + trace).mean().item(), (square + trace).std().item() / math.sqrt(len(square))
        lost = max(0.0, abs(away) - (Z + 1) * error) ** 2 / max(square.mean().item(), 1e-12)
        nats += float(width) * lost
        if lost >= worst:
            worst = lost
            said = f"{trace.mean():.3g}, -σ²E‖s‖² = {-square.mean():.3g} ± {error:.2g} at σ/α = {ratio:.3g}"
    return judged(
        "divergence",
        nats <= harm(found.dimension),
        f"σ²E tr∇s = {said}; over all levels {nats:.2g} nats (tolerated: {harm(found.dimension):.2g})",
        "The divergence of the score is not minus its mean square: it points the wrong way, or is longer or shorter "
        "than the score of what it was asked about, as after a wrong factor of σ, α or D.",
        more(patient),
    )


def _gains(found: Measured, rival: list[Tensor]) -> tuple[float, float, int]:
    """By how many nats a rival's losses (n,) at the levels are lower, its error, and at which level most.

    Levels where it is better are chosen on one half of the rows and judged on the other, so that choice flatters
    nobody.
    """
    gains = torch.stack([level.loss - loss for level, loss in zip(found.held, rival, strict=True)])
    choose, judge = gains[:, 0::2], gains[:, 1::2]
    better = choose.mean(1) > 2 * choose.std(1) / math.sqrt(choose.shape[1])
    if not better.any():
        return 0.0, 0.0, int(choose.mean(1).argmax())
    rows = (found.widths[:, None] * judge)[better].sum(0)
    worst = int(torch.where(better, found.widths * choose.mean(1), -math.inf).argmax())
    return rows.mean().item(), rows.std().item() / math.sqrt(min(len(rows), found.distinct // 2)), worst


def _orthogonality(patient: Patient, found: Measured) -> Finding:
    fits = [Corrected(level, found.frame) for level in found.train]
    rival = [level.loss_of(fit.score(level)) for level, fit in zip(found.held, fits, strict=True)]
    nats, error, worst = _gains(found, rival)
    if nats == 0:
        return ok("orthogonality", "no affine change of the score, fitted on training rows, denoises other rows better")
    return judged(
        "orthogonality",
        nats - Z * error <= harm(found.dimension),
        f"an affine change of the score, fitted on training rows, saves {nats:.2g} ± {error:.1g} nats on held-out rows "
        f"(tolerated: {harm(found.dimension):.2g}), most at σ/α = {found.ratios[worst]:.3g}",
        "What the denoiser leaves over, x₀ - D(x_t), should be orthogonal to every function of x_t; it is not to 1, "
        "x_t and the score itself: the score has a wrong factor, a wrong mean or a wrong linear part.",
        more(patient),
    )


def _trained(patient: Patient, found: Measured) -> Finding:
    rivals = [
        [level.loss_of(torch.zeros_like(level.s)) for level in found.held],
        [level.loss_of(found.frame.score(level)) for level in found.held],
        [level.loss_of(found.lookup.score(level)) for level in found.held],
    ]
    best = max(zip(rivals, RIVALS, strict=True), key=lambda pair: _gains(found, pair[0])[0])
    nats, error, worst = _gains(found, best[0])
    if nats == 0:
        return ok("trained", f"neither {', '.join(RIVALS[:-1])} nor {RIVALS[-1]} denoises better at any level")
    loss = found.held[worst].loss.mean().item() / found.dimension
    return judged(
        "trained",
        nats - Z * error <= harm(found.dimension),
        f"of what needs no training, {best[1]} does best: {nats:.2g} ± {error:.1g} nats better on held-out rows "
        f"(tolerated: {harm(found.dimension):.2g}); at σ/α = {found.ratios[worst]:.3g} the network's loss is "
        f"{loss:.3g} per dimension",
        f"The network denoises worse than {best[1]}, which learned nothing: it was trained too little, or not for "
        "this.",
        more(patient),
    )


def _overfit(patient: Patient, found: Measured, data: Dataset) -> Finding:
    if len(data.held_out_rows) < HELD_OUT:
        return skipped("overfit", f"{len(data.held_out_rows)} rows are held out")
    gain = {}
    for name, levels in (("held", found.held), ("train", found.train)):
        rows = torch.stack([level.loss_of(found.frame.score(level)) - level.loss for level in levels])
        rows = (found.widths[:, None] * rows).sum(0)
        gain[name] = rows.mean().item(), rows.std().item() / math.sqrt(min(len(rows), found.distinct))
    (held, error), (train, beside) = gain["held"], gain["train"]
    lost = HALF * train - held
    margin = Z * math.hypot(error, HALF * beside)
    return judged(
        "overfit",
        lost <= margin,
        f"over the Gaussian of the data's covariance the network gains {train:.3g} ± {beside:.1g} nats on training "
        f"rows and {held:.3g} ± {error:.1g} on held-out ones (tolerated: half)",
        "More than half of what it learned beyond the covariance holds for the training rows alone: it has begun to "
        "learn them by heart.",
        patient.train(steps=steps_of(patient) // 4 or 1, seconds=None),
    )


def _curl(patient: Patient, run: Run, noise: Noise, model: nn.Module, data: Dataset, found: Measured) -> Finding:
    if run.recipe.model == "energy":
        return ok("curl", "the score of an energy is a gradient by construction")
    rows = _resized(data.train_rows, LATERAL[data.info.kind])
    x, y = data.x_scaled(rows).to(_dtype(model)), labels_of(run, data, rows)
    generator = torch.Generator().manual_seed(3)
    turning = whole = 0.0
    for t, width in list(zip(found.times, found.widths, strict=True))[::2]:
        sigma = noise.sigma(t).item()
        x_t = noise.perturb(x, t, torch.randn(x.shape, generator=generator, dtype=x.dtype))
        part = jacobian_parts(lambda u, t=t: model(u, t, y), x_t, shift=1 / sigma**2, probes=2, generator=generator)
        turning += float(width) * sigma**4 * part[0].mean().item()
        whole += float(width) * sigma**4 * (part[0] + part[1]).mean().item()
    share = turning / whole if whole else 0.0
    return judged(
        "curl",
        share <= ROTATION,
        f"{share:.2%} of the denoiser's Jacobian is antisymmetric, in squared norm (tolerated: {ROTATION:.0%})",
        "The field turns: it is the gradient of no density, and the laws of its flow, its diffusion and its Langevin "
        "chains are different ones.",
        patient.train(model="energy"),
    )


def _times(noise: Noise, scale: float) -> Tensor:
    """Times at geometric σ/α, from the widest level to a tenth of the neighbours' scale or the smallest one."""
    if isinstance(noise, Levels):
        return noise.levels[evenly(noise.count, COUNT)]
    high, low = (noise.ratio(end).item() for end in (noise.t_max, noise.t_min))
    low = min(max(low, 0.1 * scale), high / 2)
    return noise.time_at(torch.logspace(math.log10(high), math.log10(low), COUNT, dtype=torch.float64))


def _resized(rows: np.ndarray, count: int) -> np.ndarray:
    """So many of the rows, evenly spaced; again from the first where there are fewer."""
    return np.resize(rows[evenly(len(rows), count)], count)


def labels_of(run: Run, data: Dataset, rows: np.ndarray) -> Tensor | None:
    """The labels a run was trained with; None where it learned none."""
    return data.labels(rows) if run.recipe.label_dropout < 1 else None


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def steps_of(patient: Patient) -> int:
    """How many steps it was made for."""
    return patient.resolved.training.steps if patient.resolved is not None else 2000


def slower(patient: Patient) -> float:
    """A quarter of the learning rate."""
    return patient.recipe.learning_rate / 4 if patient.recipe is not None else 5e-4


def more(patient: Patient) -> str:
    """Train anew, four times as long."""
    return patient.train(steps=4 * steps_of(patient), seconds=None)
