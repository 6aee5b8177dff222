"""The data, before and after training: what is wrong with the rows themselves."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from torch import Tensor

from scorefield.data import Dataset
from scorefield.diagnostics import (
    atoms,
    constant_columns,
    flat_directions,
    levina_bickel,
    repeated_rows,
    ripple,
    rows_among,
    tail_share,
    two_nn,
)
from scorefield.diagnostics.rows import evenly
from scorefield.doctor.finding import LEVEL, Finding, Z, judged, ok, skipped
from scorefield.doctor.patient import Patient

MOST = 20_000  # rows that are looked at
PIXELS = 200_000  # that are sought for a grid
COPIES = 0.01  # the share of rows that may be copies: every figure of 100 rows is then off by one row
ATOMS = 0.05  # the share of a column that may sit on repeated values
RARE = 0.1  # of the average class
HELD_OUT = 30  # rows without which no error of a held-out mean is known
LOW = 20  # dimensions above which neighbours are too far apart for an estimate of the dimension to be a verdict


def examine_rows(patient: Patient, data: Dataset) -> list[Finding]:
    """All findings about the data."""
    x = np.asarray(data.x[evenly(len(data), MOST)])
    scaled = data.info.scaling.apply(x).flatten(1).double()
    vectors = data.info.kind == "vector"
    found = [_finite(patient, data), _constant(patient, data, x)]
    flat = skipped("redundant", "the pixels of images may follow from each other")
    found.append(_redundant(patient, data, x) if vectors else flat)
    found += [_range(patient, data, x), _duplicates(patient, x), _leak(patient, data)]
    spacing = _discrete(patient, data, x)
    found += [spacing, _dimension(patient, data, scaled, grid=not spacing.healthy)]
    return [*found, _balance(patient, data), _held_out(patient, data)]


def at_least(successes: int, trials: int) -> float:
    """Clopper and Pearson's lower bound of a proportion, at the level of one check."""
    return float(beta.ppf(LEVEL, successes, trials - successes + 1)) if successes else 0.0


def smallest_noise(patient: Patient) -> float | None:
    """The least noise that is learned with, over alpha, in units of scaled data; None where nothing was settled."""
    if patient.noise is not None:
        return patient.noise.ratio(patient.noise.t_min).item()
    return patient.resolved.noise["sigma"] if patient.resolved is not None else None


def _finite(patient: Patient, data: Dataset) -> Finding:
    dropped, n = data.info.dropped_rows, len(data)
    if patient.is_run:
        return ok("finite", f"{n:,} rows, all finite; {dropped} were dropped when they were read")
    return judged(
        "finite",
        not dropped,
        f"{dropped:,} of {n + dropped:,} rows hold NaN or infinity",
        "One such number makes every weight of a network NaN; training refuses these rows unless told to drop them.",
        patient.mend("~rows_not_finite(x)"),
        severity="fault",
    )


def _constant(patient: Patient, data: Dataset, x: NDArray) -> Finding:
    found = constant_columns(x.reshape(len(x), -1)) if data.info.kind == "vector" else []
    named = ", ".join(data.info.columns[j] for j in found[:8])
    evidence = f"constant columns: {named}" if named else "every column varies"
    return judged(
        "constant",
        not named,
        evidence if data.info.kind == "vector" else "images: constant pixels are no fault",
        "A column that does not vary has no density: its score is infinite across it, and costs capacity to learn.",
        patient.mend("slice(None)", f"np.delete(x, {[int(j) for j in found]}, 1)"),
    )


def _redundant(patient: Patient, data: Dataset, x: NDArray) -> Finding:
    if len(x) <= x.shape[1]:
        return skipped("redundant", f"{len(x)} rows in {x.shape[1]} dimensions always have flat directions")
    found = flat_directions(x)
    columns = sorted({int(np.abs(v).argmax()) for v in found})
    involved = "; ".join(
        " ".join(f"{v[j]:+.2f} {data.info.columns[j]}" for j in np.flatnonzero(np.abs(v) > 0.05)) for v in found[:3]
    )
    return judged(
        "redundant",
        not len(found),
        f"{len(found)} directions without spread{': ' + involved if len(found) else ''} (standardised columns)",
        "Columns that follow from others leave a law without a density: plain score matching is unbounded on it, and "
        "the smallest noise decides what is learned.",
        patient.mend("slice(None)", f"np.delete(x, {columns}, 1)"),
    )


def _range(patient: Patient, data: Dataset, x: NDArray) -> Finding:
    low, high = float(x.min()), float(x.max())
    if data.info.kind == "image":
        return ok("range", f"values from {low:g} to {high:g}")
    shares = [tail_share(column) for column in x.T]
    worst = int(np.argmax(shares))
    name = data.info.columns[worst]
    away = np.abs(x[:, worst] - np.median(x[:, worst]))
    edge = float(np.sort(away)[-max(1, round(1e-3 * len(x))) - 1])
    return judged(
        "range",
        shares[worst] <= 0.5,
        f"values from {low:g} to {high:g}; the farthest thousandth of the rows holds at most {shares[worst]:.1%} of a "
        f"column's variance (tolerated: half), in {name}",
        f"A few rows far out in {name} set the scale of all others, which shrink to less than 0.7 of a standard "
        "deviation: a missing value coded as a number, or a tail too heavy for noise of one width.",
        patient.mend(f"np.abs(x[:, {worst}] - np.median(x[:, {worst}])) <= {edge!r}"),
    )


def _duplicates(patient: Patient, x: NDArray) -> Finding:
    copies = int(repeated_rows(x).sum())
    return judged(
        "duplicates",
        at_least(copies, len(x)) <= COPIES,
        f"{copies:,} of {len(x):,} rows repeat an earlier one ({copies / len(x):.2%}; tolerated: {COPIES:.0%})",
        "Rows that are there several times are learned by heart first, weigh several times, and some of their copies "
        "are held out, where they flatter every figure.",
        patient.mend("~repeated_rows(x)"),
    )


def _leak(patient: Patient, data: Dataset) -> Finding:
    if not len(data.held_out_rows):
        return skipped("leak", "no rows are held out")
    held = np.asarray(data.x[data.held_out_rows[evenly(len(data.held_out_rows), MOST)]])
    shared = int(rows_among(held, np.asarray(data.x[data.train_rows])).sum())
    return judged(
        "leak",
        at_least(shared, len(held)) <= COPIES,
        f"{shared:,} of {len(held):,} held-out rows are training rows too (tolerated: {COPIES:.0%})",
        "What is judged by held-out rows was trained on them: overfitting and memorisation cannot be seen.",
        patient.mend("~repeated_rows(x)"),
    )


def _discrete(patient: Patient, data: Dataset, x: NDArray) -> Finding:
    sigma, scale = smallest_noise(patient), data.info.scaling.scale
    if data.info.kind == "image":  # whole ones: a pixel of the border alone tells nothing
        pixels = x.reshape(-1)[:PIXELS]
        tied, spacing = atoms(pixels)
        spacing /= float(scale)
        grid = f", on a grid of {spacing:.3g} standard deviations" if spacing else ""
        plain = sigma is not None and patient.noise is None and spacing > 0 and 2 * sigma < spacing
        return judged(
            "discrete",
            not plain,
            f"{tied / len(pixels):.1%} of the pixels share their value with another{grid}: the law of noised images "
            "has a density; of likelihoods give --bin-width",
            _GRID,
            patient.train(objective="noise-conditional"),
        )
    x = x[~repeated_rows(x)]  # rows that are there twice and columns that do not vary are other findings
    looked, constant = [atoms(column) for column in x.T], set(constant_columns(x).tolist())
    worst = int(np.argmax([-1 if j in constant else a.tied for j, a in enumerate(looked)]))
    tied, spacing = looked[worst]
    spacing /= float(np.broadcast_to(scale, x.shape[1])[worst])
    grid = f", on a grid of {spacing:.3g} standard deviations" if spacing else ""
    evidence = f"{data.info.columns[worst]}: {tied / len(x):.1%} of the rows share their value with another{grid}"
    hidden = sigma is not None and spacing > 0 and 2 * sigma >= spacing
    if hidden and sigma is not None:
        evidence += f"; noise of {sigma:.3g} leaves {ripple(spacing, sigma):.1%} of it"
    spaced = [float(a.spacing) for a in looked]
    return judged(
        "discrete",
        hidden or at_least(tied, len(x)) <= ATOMS,
        f"{evidence} (tolerated: {ATOMS:.0%}, or noise of half the grid's spacing)",
        _GRID,
        patient.mend("slice(None)", f"x + np.random.default_rng(0).uniform(-0.5, 0.5, x.shape) * {spaced}"),
    )


_GRID = (
    "Values that many rows share are atoms: the law has no density there, small noise levels learn the grid instead of "
    "the law, and likelihoods grow without bound. Uniform noise of the grid's width mends it."
)


def _dimension(patient: Patient, data: Dataset, x: Tensor, *, grid: bool) -> Finding:
    if data.info.kind == "vector":
        x = x[:, np.setdiff1d(np.arange(x.shape[1]), constant_columns(x.numpy()))]
    d, sigma = x.shape[1], smallest_noise(patient)
    if d < 2:
        return skipped("dimension", "one column that varies, or none")
    if len(torch.unique(x, dim=0)) <= 10:
        return skipped("dimension", "too few different rows")
    if data.info.kind == "vector":  # a row far out must not make its column look flat
        middle = x.median(0).values
        spread = (x - middle).abs().median(0).values
        x = (x - middle) / torch.where(spread > 0, spread, 1.0)
    wide, near = levina_bickel(x), two_nn(x)
    said = [f"{e.value:.2f} ± {e.standard_error:.2f}" for e in (wide, near)]
    evidence = f"{said[0]} (10 neighbours), {said[1]} (two) of {d}"
    if grid:
        return skipped("dimension", f"{evidence}; on a grid neighbours do not tell")
    if patient.noise is not None or (sigma is not None and sigma > 0):
        return ok("dimension", f"{evidence}; the noise that is learned with fills the rest")
    if data.info.kind == "image" and not patient.is_run:
        return ok("dimension", f"{evidence}; images are learned with noise")
    low = max(e.value + Z * (e.standard_error or 0.0) for e in (wide, near))
    return judged(
        "dimension",
        low > d - 0.5 if d <= LOW else low > d / 2,
        f"{evidence}; tolerated: {d - 0.5 if d <= LOW else d / 2:g}",
        "The rows lie on a set of fewer dimensions than they have numbers: there they have no density, the score is "
        "infinite across the set, and objectives without noise (implicit, sliced) have no minimum.",
        patient.train(objective="noise-conditional"),
    )


def _balance(patient: Patient, data: Dataset) -> Finding:
    if data.y is None or len(data.info.classes) < 2:
        return skipped("balance", "no labels")
    counts = np.bincount(data.y, minlength=len(data.info.classes))
    rare = int(counts.argmin())
    relative = counts[rare] * len(counts) / counts.sum()
    few = patient.mend(
        f"np.sort(np.concatenate([np.flatnonzero(t.labels == c)[: {5 * counts[rare]}] for c in np.unique(t.labels)]))"
    )
    return judged(
        "balance",
        relative >= RARE,
        f"the rarest class, {data.info.classes[rare]}, has {counts[rare]:,} rows, {relative:.2f} of the average "
        f"(tolerated: {RARE:g})",
        "A class that is seen ten times less often than the others is learned last and drawn badly. More rows of it "
        "are best; fewer of the others mend it too.",
        few,
    )


def _held_out(patient: Patient, data: Dataset) -> Finding:
    n = len(data.held_out_rows)
    share = min(0.5, math.ceil(100 * HELD_OUT / len(data)) / 100)
    return judged(
        "held-out",
        n >= HELD_OUT,
        f"{n:,} of {len(data):,} rows are held out (needed: {HELD_OUT})",
        "Without rows that training never sees, overfitting, memorisation and the quality of the score cannot be told.",
        patient.train(held_out=max(0.1, share)),
    )
