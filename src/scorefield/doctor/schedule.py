"""The noise schedule of a run: whether it covers the data, overlaps from level to level, and is fine enough."""

from __future__ import annotations

import torch
from torch import Tensor

from scorefield.data import Dataset
from scorefield.diagnostics import neighbour_scale, overlap, prior_gap
from scorefield.diagnostics.rows import evenly
from scorefield.doctor.finding import Finding, Z, harm, judged, skipped
from scorefield.doctor.patient import Patient
from scorefield.doctor.rows import HELD_OUT
from scorefield.noise import Levels, Noise, overlap_ratio

ROWS = 2000


def examine_noise(patient: Patient, noise: Noise, data: Dataset) -> list[Finding]:
    """Whether the schedule fits the data."""
    x = data.x_scaled(data.train_rows[evenly(len(data.train_rows), ROWS)])
    spare = data.held_out_rows if len(data.held_out_rows) >= HELD_OUT else data.train_rows
    other = data.x_scaled(spare[evenly(len(spare), 1000)])
    return [_covers(patient, noise, x, other), _overlap(patient, noise, x[0].numel()), _smallest(patient, noise, x)]


def _covers(patient: Patient, noise: Noise, x: Tensor, other: Tensor) -> Finding:
    ratio = noise.ratio(noise.t_max).item()
    gap = prior_gap(noise, x, other, generator=torch.Generator().manual_seed(0))
    error = gap.standard_error or 0.0
    apart = x[evenly(len(x), 1000)].flatten(1)
    farthest = torch.cdist(apart, apart).max().item()
    known = patient.recipe is not None and patient.recipe.noise in ("ve", "levels")
    return judged(
        "covers",
        not gap.value - Z * error > harm(x[0].numel()),
        f"at the widest level σ/α is {ratio:.3g}, the largest distance of two rows {farthest:.3g} (standard deviations "
        f"of the data); starting from the prior costs {gap.value:.2g} ± {error:.1g} nats (tolerated: "
        f"{harm(x[0].numel()):.2g})",
        "The widest noise does not cover the data: samples start where the data never arrive, and modes get the "
        "weights of their surroundings in place of their own.",
        patient.train(sigma_max=None) if known else patient.train(noise="ve"),
    )


def _overlap(patient: Patient, noise: Noise, d: int) -> Finding:
    if not isinstance(noise, Levels):
        return skipped("overlap", "the schedule has all levels between its ends")
    ratio = (noise.sigma_max / noise.sigma_min) ** (1 / (noise.count - 1))
    most, _ = overlap_ratio(d)
    return judged(
        "overlap",
        ratio <= most * (1 + 1e-9),
        f"{noise.count} levels, neighbours {ratio:.3g} apart: a particle meets the next level with probability "
        f"{overlap(ratio, d):.2g} (tolerated: ratio {most:.3g} in {d} dimensions)",
        "Neighbouring levels hardly overlap: a particle that comes from one lies where the next was never trained.",
        patient.train(levels=None),
    )


def _smallest(patient: Patient, noise: Noise, x: Tensor) -> Finding:
    sigma, scale = noise.ratio(noise.t_min).item(), neighbour_scale(x)
    known = patient.recipe is not None and patient.recipe.noise in ("ve", "levels")
    return judged(
        "smallest",
        sigma <= scale,
        f"at the smallest level σ/α is {sigma:.3g}; rows lie {scale:.3g} √D from their nearest neighbours",
        "The smallest noise is wider than the distance between neighbours: what is finer than that is never learned, "
        "and samples are blurred.",
        patient.train(sigma_min=None) if known else patient.train(noise="ve"),
    )
