"""The panels of a report, each made of a run: (run, count, seed) -> Panel."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield import plots
from scorefield.doctor import examine
from scorefield.evaluation import evaluate, loss_by_level
from scorefield.fields import at
from scorefield.report.blocks import Panel, Picture, Player, Table, Words, picture, safe_json, tiles
from scorefield.runs import Run
from scorefield.runs.log import read

SHOWN, MOVING, FRAMES = 24, 400, 32
FIELD_LEVELS = (0.1, 0.5, 2.0)  # noise, in standard deviations of the data


def lead(run: Run) -> str:
    """One sentence: what was trained on what."""
    info = run.dataset.info
    rows = f"{info.shape[0] - info.held_out:,} {info.kind}s of {info.source}"
    what = "An energy" if run.recipe.model == "energy" else "A score network"
    return f"{what} trained on {rows} for {run.step:,} of {run.resolved.training.steps:,} steps."


def samples(run: Run, count: int, seed: int) -> Panel:
    """Samples, and beneath each the training row that is nearest to it."""
    data = run.dataset
    said = Words(
        "A sample that is its own neighbour was memorised; samples far from all neighbours are blurred. The distances "
        "stand among the figures below."
    )
    if data.info.kind == "image":
        return Panel((*_beside_their_neighbours(run, run.sample(SHOWN, seed=seed).x), said))
    names, axes = _names(run), (0, min(1, data.shape[0] - 1))
    x = np.asarray(data.x[data.train_rows[:2000]], dtype=np.float64)
    many = run.sample(500, seed=seed).x.double().numpy()
    figure = _pairs(x[:, axes], many[:, axes], [names[k] for k in axes])
    alt = f"500 samples over training rows, in the coordinates {names[axes[0]]} and {names[axes[1]]}"
    return Panel((picture(figure, alt, "Training rows: dots. Samples: crosses."), said))


def _beside_their_neighbours(run: Run, x: Tensor) -> tuple[Picture, Picture]:
    """Images, and the training image nearest to each."""
    data, some = run.dataset, run.dataset.train_rows[:20_000]
    scaled = data.info.scaling.apply(x.numpy()).flatten(1).double()
    nearest = torch.cdist(scaled, data.x_scaled(some).flatten(1).double()).argmin(1).numpy()
    real = np.asarray(data.x[some])
    low, high = float(real.min()), float(real.max())
    above, below = (tiles(images.astype(np.float64), 8, low, high) for images in (x.numpy(), real[nearest]))
    alt = "the nearest training image of each, in the same places"
    return (
        Picture(above, f"{len(x)} samples", "Samples", tiles=True),
        Picture(below, alt, "Nearest in training", tiles=True),
    )


def particles(run: Run, count: int, seed: int) -> Panel:
    """The states of the sampler on its way, behind a slider."""
    image, data = run.dataset.info.kind == "image", run.dataset
    drawn = run.sample(12 if image else MOVING, seed=seed, path=True)
    if drawn.path is None:
        raise RuntimeError("the sampler kept no path")
    keep = np.unique(np.linspace(0, len(drawn.path) - 1, FRAMES).round().astype(int))
    path = drawn.path.double().numpy()
    if run.recipe.at_all_levels:
        sigma = run.noise.sigma(run.noise.rho_times(len(path) - 2)).tolist()
        names = [f"σ = {sigma[k]:.3g}" if k < len(path) - 1 else "sample" for k in keep]
    else:
        names = [f"step {k} of {len(path) - 1}" for k in keep]
    if image:
        low, high = float(np.min(data.x[:1000])), float(np.max(data.x[:1000]))
        frames = []
        for k in keep:
            spread = np.quantile(path[k], [0.005, 0.995])
            frames.append(tiles(path[k], 6, min(low, spread[0]), max(high, spread[1])))
        return Panel((Player(names, "twelve samples on their way from noise", frames),))
    axes = (0, min(1, data.shape[0] - 1))
    moving, columns = path[:, :, axes], _names(run)
    low, high = moving[-1].min(0), moving[-1].max(0)
    low, high = low - 0.25 * (high - low), high + 0.25 * (high - low)
    placed = np.clip(1000 * (moving[keep] - low) / (high - low), -400, 1400).round().astype(int)
    labels = (columns[axes[0]], columns[axes[1]])
    limits = (f"{low[0]:.3g}", f"{high[0]:.3g}", f"{low[1]:.3g}", f"{high[1]:.3g}")
    alt = f"{MOVING} particles moving from noise to samples, in the coordinates {labels[0]} and {labels[1]}"
    return Panel(
        (Player(names, alt, points=safe_json(placed.reshape(len(keep), -1).tolist()), labels=labels, limits=limits),)
    )


def field(run: Run, count: int, seed: int) -> Panel:
    """Arrows of the learned score in a plane of the scaled data."""
    data = run.dataset
    x = data.x_scaled(data.train_rows[:: max(1, len(data.train_rows) // 2000)]).flatten(1).double()
    basis, said = _plane(run, x)
    centre = x.mean(0) if data.shape != (2,) else torch.zeros(2, dtype=torch.float64)
    seen = (x - centre) @ basis.T
    reach = 1.25 * seen.abs().quantile(0.995).item()
    model_dtype = next(run.load_model().parameters()).dtype
    pictures = []
    for sigma in FIELD_LEVELS if run.recipe.at_all_levels else (None,):
        score = run.score if sigma is None else at(run.score, run.noise.time_at(torch.tensor(sigma)))

        def in_plane(u: Tensor, score: Any = score) -> Tensor:
            full = (centre + u.double() @ basis).to(model_dtype).unflatten(1, data.shape)
            return score(full).detach().flatten(1).double() @ basis.T

        name = "at the one law that was learned" if sigma is None else f"at noise σ = {sigma:g}"
        figure = plots.score_field(in_plane, box=(-reach, reach, -reach, reach), samples=seen[:300], n=19)
        pictures.append(picture(figure, f"arrows of the score over data, {name}", f"The score {name}"))
    return Panel((*pictures, Words(said)))


def loss(run: Run, count: int, seed: int) -> Panel:
    """The loss over the steps, and over the noise levels on training and held-out rows."""
    entries = [e for e in read(run.path / "metrics.jsonl") if not e.get("skipped") and math.isfinite(e["loss"])]
    if not entries:
        raise RuntimeError(f"{run.path / 'metrics.jsonl'} holds no steps")
    steps = np.array([entry["step"] for entry in entries])
    blocks: list[Picture | Words] = []
    keys = [k for k in entries[0] if k not in ("step", "loss", "grad_norm", "lr", "training_seconds")]
    series = {"loss": _smooth([e["loss"] for e in entries])}
    series |= {k.replace("sigma/alpha", "σ/α"): _smooth([e.get(k, math.nan) for e in entries]) for k in keys}
    figure = plots.curves(steps, series, log_x=True, log_y=min(map(np.nanmin, series.values())) > 0, x_name="step")
    alt = "the loss over the steps of training, and the part of it in each band of noise levels"
    blocks.append(picture(figure, alt, "Loss over time (running mean), and its parts"))
    if run.recipe.at_all_levels:
        curves, bands, sigma = {}, {}, torch.empty(0)
        for name, rows in (("training", run.dataset.train_rows[:500]), ("held out", run.dataset.held_out_rows[:500])):
            if len(rows):
                sigma, mean, error = loss_by_level(run, rows)
                curves[name], bands[name] = mean, (mean - 1.96 * error, mean + 1.96 * error)
        figure = plots.curves(
            sigma, curves, bands=bands, log_x=True, x_name="noise level σ", y_name="σ²‖s + z/σ‖² per dimension"
        )
        blocks.append(picture(figure, "the loss by noise level, training and held-out rows", "By noise level, now"))
        blocks.append(Words("1 is what a field of zeros reaches. A gap between the curves at small σ is overfitting."))
    return Panel(blocks)


def figures(run: Run, count: int, seed: int) -> Panel:
    """The evaluation of the run as a table with intervals."""
    rows = []
    for row in evaluate(run, count=count, seed=seed):
        rows.append([row.name, _said(row.samples), "" if row.real is None else _said(row.real), row.reading])
    headings = ("figure", "samples", "real data", "how to read it")
    return Panel((Table(headings, rows, (False, True, True, False), "Values with their 95 % intervals."),))


def findings(path: Path) -> Panel:
    """What the doctor found in the folder, what is wrong first."""
    order = {"fault": "✗ fault", "warning": "! warning", "ok": "✓ healthy", "skipped": "– skipped"}
    found = sorted(examine(str(path)), key=lambda finding: list(order).index(finding.severity))
    rows = [[order[f.severity], f.name, f"{f.evidence}. {f.why}" if f.why else f.evidence, f.command] for f in found]
    headings = ("", "check", "evidence", "what mends it")
    return Panel((Table(headings, rows, (False,) * 4),), healthy=all(f.healthy for f in found))


def provenance(run: Run, count: int, seed: int) -> Panel:
    """Where the run comes from: data, recipe, versions, time."""
    info, training = run.dataset.info, run.resolved.training
    log, made = read(run.path / "metrics.jsonl"), run.provenance
    sizes = ("data", "unet", "mlp")
    options = [(f.name, getattr(run.recipe, f.name), f.default) for f in dataclasses.fields(run.recipe)]
    changed = ", ".join(f"{name} {now}" for name, now, default in options if name not in sizes and now != default)
    rows = f"{info.shape[0]:,} rows of {tuple(info.shape[1:])} {info.dtype}"
    facts = {
        "data": f"{info.source}, {rows}; {info.held_out:,} held out",
        "SHA-256 of the data": ", ".join(f"{name} {digest}" for name, digest in info.sha256.items()),
        "recipe": f"data {run.recipe.data}" + (f", {changed}" if changed else ""),
        "network": f"{run.resolved.network} {getattr(run.recipe, run.resolved.network)}",
        "noise": str(run.noise) if run.recipe.at_all_levels else f"one law, blurred by σ = {run.sigma:g}",
        "training": f"{run.step:,} steps of {training.batch_size}, {training.precision}, seed {training.seed}",
        "seconds of training": f"{log[-1]['training_seconds']:,.0f}" if log else "unknown",
        "hardware": made.get("hardware", "unknown"),
        "versions": ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items()),
    }
    return Panel((Table(("", ""), [[k, v] for k, v in facts.items()], (False, False)),))


def _said(estimate: Any) -> str:
    ends = f" [{estimate.interval[0]:.3g}, {estimate.interval[1]:.3g}]" if estimate.interval is not None else ""
    return f"{estimate.value:.3g}{ends}"


def _smooth(values: list[float], weight: float = 0.98) -> np.ndarray:
    """A running mean that forgets at this rate, without its start's bias."""
    mean, total, out = 0.0, 0.0, []
    for value in values:
        mean, total = weight * mean + (1 - weight) * value, weight * total + 1 - weight
        out.append(mean / total)
    return np.array(out)


def _names(run: Run) -> list[str]:
    return list(run.dataset.info.columns) or [f"x{k + 1}" for k in range(run.dataset.shape[0])]


def _plane(run: Run, x: Tensor) -> tuple[Tensor, str]:
    """Two directions, orthonormal in the scaled data (2, D), and what they are."""
    shape = run.dataset.shape
    if len(shape) == 1:
        basis = torch.zeros(2, shape[0], dtype=torch.float64)
        basis[0, 0] = basis[1, min(1, shape[0] - 1)] = 1
        names = _names(run)
        rest = "" if shape[0] <= 2 else "; the other coordinates stand at their mean"
        return basis, f"Across {names[0]}, up {names[min(1, shape[0] - 1)]}, in standard deviations of the data{rest}."
    basis = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:2]
    return basis, "Across and up: the two leading principal components of the pixels, through the mean image."


def _pairs(x: np.ndarray, drawn: np.ndarray, names: list[str]) -> Any:
    """Training rows and samples in two coordinates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 4.6), dpi=plots.DPI, layout="constrained")
    axes = figure.add_subplot(xlabel=names[0], ylabel=names[1])
    axes.scatter(*x.T, s=6, color=plots.COLOURS[0], alpha=0.35, linewidths=0, label="training rows")
    axes.scatter(*drawn.T, s=16, marker="x", color=plots.COLOURS[1], linewidths=0.8, label="samples")
    axes.legend(frameon=False, fontsize=8.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
