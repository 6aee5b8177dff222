"""The demo: real handwritten digits, trained in about 100 seconds, with pictures that show what was learned."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from scorefield import plots
from scorefield.evaluation import loss_by_level
from scorefield.runs import Run
from scorefield.settings import Recipe

SHOWN = (0.0, 0.15, 0.3, 0.6, 1.0, 1.8, 3.5, 7.0)  # noise levels of the pictures, in standard deviations of the data


def recipe(seconds: float = 100.0) -> Recipe:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels, trained for about this many seconds."""
    return Recipe("digits", seconds=seconds)


def pictures(run: Run) -> dict[str, Path]:
    """Draw the three pictures of the demo into the run folder, or find those of this very step.

    Args:
        run: a finished run on labelled images.

    Returns:
        what each picture shows -> its file.
    """
    folder = run.path / "pictures"
    drawn = {
        "Samples by class": (folder / f"samples-{run.step}.png", _by_class),
        "Noising and the way back": (folder / f"path-{run.step}.png", _there_and_back),
        "Loss by noise level": (folder / f"loss-{run.step}.png", _loss),
    }
    folder.mkdir(exist_ok=True)
    for file, draw in drawn.values():
        if not file.is_file():
            plots.save(draw(run), file)
    return {name: file for name, (file, _) in drawn.items()}


def _limits(run: Run) -> tuple[float, float]:
    x = run.dataset.x
    return float(x.min()), float(x.max())


def _by_class(run: Run) -> Figure:
    """Twelve samples of each class."""
    rows = torch.stack([run.sample(12, seed=k, label=name).x for k, name in enumerate(run.classes)])
    title = "Samples by class (8 × 8 pixels, smoothed for the eye)"
    return plots.image_grid(rows, row_names=run.classes, value_range=_limits(run), smooth=True, title=title)


def _there_and_back(run: Run, count: int = 5) -> Figure:
    """Real images noised through the levels, and samples on their way from noise."""
    data, noise = run.dataset, run.noise
    x = data.x_scaled(data.held_out_rows[:count])
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    there = torch.stack([x + sigma * z for sigma in SHOWN])
    back = run.sample(count, seed=2, path=True).path
    if back is None:
        raise RuntimeError("the sampler kept no path")
    sigma = noise.sigma(noise.rho_times(len(back) - 2))
    wanted = [int((sigma - level).abs().argmin()) for level in reversed(SHOWN[1:])]
    scaling = data.info.scaling
    names = [f"σ = {level:g}" for level in SHOWN]
    panels = {"Noising": torch.from_numpy(scaling.undo(there, "float32")), "The way back": back[[*wanted, -1]]}
    return plots.paths(
        panels, column_names={"Noising": names, "The way back": [*reversed(names[1:]), "sample"]}, smooth=True
    )


def _loss(run: Run) -> Figure:
    """Denoising loss per pixel against the noise level, on training and on held-out images."""
    sigma, curves, bands = _loss_curves(run)
    return plots.curves(
        sigma,
        curves,
        bands=bands,
        log_x=True,
        x_name="noise level σ, in standard deviations of the data",
        y_name="σ²‖s + z/σ‖² per pixel",
        title="Loss by noise level",
    )


def _loss_curves(run: Run) -> tuple[Tensor, dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    curves, bands, sigma = {}, {}, torch.empty(0)
    for name, rows in (("training images", run.dataset.train_rows[:500]), ("held-out", run.dataset.held_out_rows)):
        sigma, mean, error = loss_by_level(run, rows)
        curves[name], bands[name] = mean, (mean - 1.96 * error, mean + 1.96 * error)
    return sigma, curves, bands
