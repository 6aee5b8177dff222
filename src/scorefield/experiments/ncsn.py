r"""`ncsn`: Song and Ermon's recipe of 2019 as printed, beside today's: Fréchet distance against calls and seconds.

As printed: ten levels from 1 to 0.01 on pixels in [0, 1], the score of all of them by one network with the weight
$\sigma^2$, annealed Langevin from uniform noise with $\epsilon = 2\cdot10^{-5}$ and T = 100 steps per level. Today's:
the network preconditioned (EDM), levels log-normal over a range chosen from the data, Heun on the probability flow.
Both have the same U-Net and the same number of steps of training.

Source: Song & Ermon 2019 (arXiv:1907.05600), algorithm 1 and section 5; Karras et al. 2022 (arXiv:2206.00364).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from scorefield import plots
from scorefield.experiments.outcome import Outcome
from scorefield.experiments.trained import trained
from scorefield.metrics import frechet_distance
from scorefield.runs import Run
from scorefield.runs.restoring import degradation, named_mask, restore
from scorefield.samplers import annealed_langevin
from scorefield.settings import Recipe, UNetSize

NAMES = ("mnist", "fashion-mnist", "cifar10", "celeba")
STEPS = {True: 400, False: 3000}  # of training: on the embedded digits, and on a data set of --root
COUNT, COMPONENTS = 200, 32
PRINTED, TODAY = (1, 5, 20, 100), (3, 5, 9, 18)  # T per level of annealed Langevin; steps of Heun
EPSILON = 2e-5  # for pixels in [0, 1]


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """Train both on each data set, draw by each at several costs, and measure.

    Args:
        folder: where the runs and the pictures go.
        root: folder with the files of a data set, or with several folders named as the data sets; the bundled digits
            when None.
        seed: of the runs and the samples.
    """
    rows, pictures = [], {}
    for name, place in found(root).items():
        today, printed = both(folder, name, place, seed)
        lines = curve(today, printed, seed)
        rows += [(name, *line) for line in lines]
        plots.save(cost(lines, name), folder / f"ncsn-{name}-cost.png")
        plots.save(panels(today, printed, seed), folder / f"ncsn-{name}-samples.png")
        plots.save(inpainted(today, seed), folder / f"ncsn-{name}-inpainted.png")
        pictures |= {
            f"{name}: Fréchet distance against network calls and seconds": f"ncsn-{name}-cost.png",
            f"{name}: samples by class, nearest training images, and the recipe of 2019": f"ncsn-{name}-samples.png",
            f"{name}: half of an image given, the rest drawn": f"ncsn-{name}-inpainted.png",
        }
    best = {recipe: min(row[4] for row in rows if row[1] == recipe) for recipe in ("2019", "today")}
    cheap = min((row[2] for row in rows if row[1] == "today" and row[4] <= best["2019"]), default=None)
    reached = "never reaches that" if cheap is None else f"is as good from {cheap} calls on"
    said = (
        f"With as many steps of training the recipe of 2019 comes to a Fréchet distance of {best['2019']:.3g} at best "
        f"and today's to {best['today']:.3g}; today's {reached}.",
    )
    columns = ("data", "recipe", "calls", "seconds for 100", "Fréchet distance", "of two halves of real data")
    return Outcome(pictures, columns, tuple(rows), said)


def found(root: Path | None) -> dict[str, Path | None]:
    """Data set -> its folder: those of `root` by the names of its folders, `root` itself, or the bundled digits.

    Raises:
        ValueError: nothing in `root` is named as a data set.
    """
    if root is None:
        return {"digits": None}
    inside: dict[str, Path | None] = {name: root / name for name in NAMES if (root / name).is_dir()}
    if not inside and root.name in NAMES:
        return {root.name: root}
    if not inside:
        raise ValueError(f"root must be, or hold, a folder named {', '.join(NAMES)}; got {root}")
    return inside


def both(folder: Path, name: str, place: Path | None, seed: int) -> tuple[Run, Run]:
    """The two runs, today's and the one of 2019; they go on where they stopped."""
    same = {
        "steps": STEPS[place is None],
        "root": None if place is None else str(place),
        "seed": seed,
        "unet": UNetSize(patch=1 if place is None else 2),
    }
    today = trained(Recipe(name, **same), folder / f"{name}-today")
    reach = _reach(today)
    ends = {"sigma_max": reach, "sigma_min": 0.01 * reach, "levels": 10}
    printed = trained(Recipe(name, noise="levels", predicts="score", **ends, **same), folder / f"{name}-2019")
    return today, printed


def _reach(run: Run) -> float:
    """The length of [0, 1], the range of a pixel, in standard deviations of the data."""
    return float(_range(run)[1] / run.dataset.info.scaling.scale)


def _range(run: Run) -> tuple[float, float]:
    """Black and white, in the data's units: 0 and the largest value there is."""
    return 0.0, float(np.max(run.dataset.x))


def annealed(run: Run, n: int, steps: int, seed: int) -> Tensor:
    """Samples as in 2019, (n, C, H, W) scaled: annealed Langevin from uniform noise, T steps at each level."""
    reach, generator = _reach(run), torch.Generator().manual_seed(seed)
    uniform = torch.rand(n, *run.dataset.shape, generator=generator)
    x = uniform * reach - float(run.dataset.info.scaling.mean / run.dataset.info.scaling.scale)
    score, drawn = run.score, []
    for part in x.split(100):
        how = {"epsilon": EPSILON * reach**2, "steps_per_level": steps, "convention": "ncsn"}
        with torch.no_grad():
            drawn.append(annealed_langevin(score, run.noise, part, **how, generator=generator).x)
    return torch.cat(drawn)


def curve(today: Run, printed: Run, seed: int) -> list[tuple[str, int, float, float, float]]:
    """For each recipe and cost: its name, network calls, seconds for 100 samples, Fréchet distance, that of halves."""
    lines, real = [], halves(today, seed)
    for steps in PRINTED:
        started = time.perf_counter()
        x = annealed(printed, COUNT, steps, seed)
        seconds = (time.perf_counter() - started) * 100 / COUNT
        lines.append(("2019", 10 * steps, seconds, distance(printed, x, seed), real))
    for steps in TODAY:
        started = time.perf_counter()
        drawn = today.sample(COUNT, seed=seed, steps=steps)
        seconds = (time.perf_counter() - started) * 100 / COUNT
        x = today.dataset.info.scaling.apply(drawn.x.numpy())
        lines.append(("today", drawn.evaluations, seconds, distance(today, x, seed), real))
    return lines


def distance(run: Run, x: Tensor, seed: int) -> float:
    """Fréchet distance to as many real rows, on principal components of the pixels; infinite for what has diverged."""
    real, basis = _principal(run, seed)
    if not torch.isfinite(x).all():
        return float("inf")
    return frechet_distance(x.flatten(1).double() @ basis, real[: len(x)] @ basis, bootstrap=0).value


def halves(run: Run, seed: int) -> float:
    """The same between two disjoint sets of real rows: the floor at this number of rows."""
    real, basis = _principal(run, seed)
    return frechet_distance(real[COUNT : 2 * COUNT] @ basis, real[:COUNT] @ basis, bootstrap=0).value


def _principal(run: Run, seed: int) -> tuple[Tensor, Tensor]:
    """Twice as many real rows as samples, (2n, D), and the leading principal directions, (D, k)."""
    rows = np.random.default_rng(seed).permutation(len(run.dataset))[: 2 * COUNT]
    real = run.dataset.x_scaled(rows).flatten(1).double()
    return real, torch.linalg.svd(real - real.mean(0), full_matrices=False).Vh[:COMPONENTS].T


def cost(lines: list[tuple[str, int, float, float, float]], name: str) -> Figure:
    """Fréchet distance against calls, and against seconds."""
    figure = Figure(figsize=(7.6, 3.2), dpi=plots.DPI, layout="constrained")
    for axes, column, label in zip(
        figure.subplots(1, 2, sharey=True), (1, 2), ("network calls", "seconds for 100 samples"), strict=True
    ):
        for recipe, colour, mark in (("2019", plots.COLOURS[1], "s"), ("today", plots.COLOURS[0], "o")):
            points = sorted((line[column], line[3]) for line in lines if line[0] == recipe and np.isfinite(line[3]))
            axes.plot(*zip(*points, strict=True), color=colour, marker=mark, markersize=4, linewidth=1.4, label=recipe)
        axes.axhline(lines[0][4], color="#868c96", linewidth=1, linestyle=":", label="two halves of real data")
        axes.set(xscale="log", yscale="log", xlabel=label)
        plots.dress(axes, None)
    figure.axes[0].set_ylabel("Fréchet distance", fontsize=9)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{name}: the recipe of 2019 and today's", x=0.01, ha="left", fontsize=10)
    return figure


def panels(today: Run, printed: Run, seed: int, across: int = 10) -> Figure:
    """Today's samples of five classes with their nearest training images beneath, and samples of the recipe of 2019."""
    classes = today.classes[: min(5, len(today.classes))]
    by_class = [today.sample(across, seed=seed + k, label=name).x for k, name in enumerate(classes)]
    last = by_class[-1] if by_class else today.sample(across, seed=seed).x
    rows = today.dataset.train_rows
    train = today.dataset.x_scaled(rows[:20_000]).flatten(1)
    nearest = torch.cdist(today.dataset.info.scaling.apply(last.numpy()).flatten(1), train).argmin(1).numpy()
    beneath = torch.from_numpy(np.asarray(today.dataset.x[rows[nearest]], np.float32))
    old = annealed(printed, across, PRINTED[-1], seed)
    old = torch.from_numpy(printed.dataset.info.scaling.undo(old, "float32"))
    names = [*(str(name) for name in classes), "nearest to these", "2019"]
    return plots.image_grid(
        torch.stack([*by_class, beneath, old]),
        row_names=names,
        value_range=_range(today),
        smooth=today.dataset.shape[1] < 16,
    )


def inpainted(run: Run, seed: int, images: int = 3, draws: int = 5) -> Figure:
    """Held-out images of which the left half is missing: what was given, draws, and the truth."""
    shape = run.dataset.shape
    known = named_mask("left", shape)
    operator = degradation("inpaint", shape, known=known, width=1.0, factor=1)
    columns = []
    for row in run.dataset.held_out_rows[:images]:
        truth = np.asarray(run.dataset.x[row], dtype=np.float64)
        found = restore(run, truth, operator, n=draws, degrade=True, seed=seed)
        columns.append(np.stack([np.where(known, truth, np.mean(_range(run))), *found.draws, truth]))
    names = ["given", *(f"draw {k + 1}" for k in range(draws)), "truth"]
    panel = {"": np.stack(columns, axis=1)}
    return plots.paths(panel, column_names={"": names}, value_range=_range(run), smooth=shape[1] < 16)
