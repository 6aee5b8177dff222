r"""`mixing`: pitfall III, Langevin keeps the weights of its start, and annealing finds those of the law.

Where the modes of $\pi p_1 + (1 - \pi) p_2$ are apart, $\nabla\log p$ is that of one of them and holds no $\pi$.
Blurred by a large noise the modes touch, and the score knows the weights; annealed Langevin carries them down.

Source: Song & Ermon 2019 (arXiv:1907.05600), sections 3.2.2 and 4.3, figure 3.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from scorefield import plots
from scorefield.calculus import NoisyScore
from scorefield.experiments.low_density import BOX, law
from scorefield.experiments.outcome import Cell, Outcome
from scorefield.experiments.trained import rows_of, trained
from scorefield.metrics import Estimate
from scorefield.metrics.estimate import proportion
from scorefield.noise import Levels, Noise
from scorefield.runs import Run
from scorefield.samplers import Langevin, annealed_langevin, chain
from scorefield.settings import MLPSize, Recipe

COUNT = 4000  # particles of each way
SIGMAS, LEVELS, STEPS, RATE = (15.0, 0.1), 20, 100, 0.2  # sigma_1 and sigma_L, L, T; h = RATE sigma^2
WALK, STEP = 2000, 0.05  # of plain Langevin: as many steps as the annealing takes
COLUMNS = ("way", "levels L", "steps T", "particles n", "share at (5, 5)", "from", "to")
TRAINED = 6000  # steps of the network
OTHERS = ((20, 1), (20, 5), (20, 20), (20, 400), (10, 200), (40, 50))  # L and T of the table's lower half


def recipe(data: str, seed: int) -> Recipe:
    """Denoising score matching at all levels."""
    return Recipe(
        data, steps=TRAINED, mlp=MLPSize(128, 3), batch_size=512, precision="fp32", learning_rate=3e-3, seed=seed
    )


def start(seed: int) -> Tensor:
    """Uniform over the box."""
    generator = torch.Generator().manual_seed(seed)
    return BOX[0] + (BOX[1] - BOX[0]) * torch.rand(COUNT, 2, generator=generator, dtype=torch.float64)


def share(x: Tensor) -> Estimate:
    """The part of the particles in the heavy mode, at (5, 5)."""
    return proportion(int((x.sum(1) > 0).sum()), len(x), len(x), "share in the mode at (5, 5)")


def anneal(
    score: NoisyScore, noise: Noise, x: Tensor, *, sigmas: tuple[float, float], levels: int, steps: int, seed: int
) -> Tensor:
    """Particles (B, d) after T Langevin steps of size RATE sigma² at each of L levels.

    Args:
        score: noise-conditional.
        noise: the schedule.
        x: where the particles start, (B, d).
        sigmas: the first level's and the last's, geometric between them.
        levels: L.
        steps: T.
        seed: of the noise.
    """
    high, low = sigmas
    times = noise.time_at(torch.logspace(math.log10(high), math.log10(low), levels, dtype=torch.float64))
    epsilon, generator = RATE * noise.sigma(times[-1]).item() ** 2, torch.Generator().manual_seed(seed)
    return annealed_langevin(
        score, noise, x, epsilon=epsilon, steps_per_level=steps, levels=times, convention="ncsnv2", generator=generator
    ).x


def annealed_by(run: Run, x: Tensor, *, levels: int, steps: int, seed: int) -> Tensor:
    """The same with a trained network, in the units it sees; the particles in the units of the data."""
    scaling = run.dataset.info.scaling
    high, low = (sigma / float(scaling.scale.mean()) for sigma in SIGMAS)
    moved = anneal(
        run.score, run.noise, scaling.apply(x.numpy()), sigmas=(high, low), levels=levels, steps=steps, seed=seed
    )
    return torch.from_numpy(scaling.undo(moved, "float64"))


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """Exact draws, Langevin, and annealed Langevin by exact and by learned scores.

    Args:
        folder: where the pictures, the data and the run go.
        root: not used.
        seed: of the data, the training and the particles.
    """
    density, noise = law(), Levels(*SIGMAS, LEVELS)
    exact, x = density.noisy_score(noise), start(seed)
    run = trained(recipe(rows_of(density, folder / "data.npy", count=20_000, seed=seed), seed), folder / "levels")
    generator, how = torch.Generator().manual_seed(seed), {"levels": LEVELS, "steps": STEPS, "seed": seed}
    drawn = {
        "exact draws": density.sample((COUNT,), generator=generator),
        "Langevin from uniform": chain(Langevin(STEP), density.prepared(), x, steps=WALK, generator=generator).x,
        "annealed, exact scores": anneal(exact, noise, x, sigmas=SIGMAS, **how),
        "annealed, learned scores": annealed_by(run, x, **how),
    }
    settings = {"exact draws": ("", ""), "Langevin from uniform": ("", WALK)}
    rows = [_row(name, settings.get(name, (LEVELS, STEPS)), ends) for name, ends in drawn.items()]
    for levels, steps in OTHERS:
        ends = anneal(exact, noise, x, sigmas=SIGMAS, levels=levels, steps=steps, seed=seed)
        rows.append(_row("annealed, exact scores", (levels, steps), ends))
    ends = annealed_by(run, x, levels=LEVELS, steps=STEPS // 5, seed=seed)
    rows.append(_row("annealed, learned scores", (LEVELS, STEPS // 5), ends))
    return Outcome(_pictures(folder, drawn, rows), COLUMNS, tuple(rows), _said(rows))


def _row(name: str, settings: tuple[Cell, Cell], x: Tensor) -> tuple[Cell, ...]:
    found = share(x)
    return (name, *settings, float(found.n), found.value, *(found.interval or ()))


def _pictures(folder: Path, drawn: dict[str, Tensor], rows: list[tuple[Cell, ...]]) -> dict[str, str]:
    panels = [plots.Plane(f"{name}: {share(x).value:.2f}", points=x[:1200]) for name, x in drawn.items()]
    plots.save(plots.planes([panels[:2], panels[2:]], boxes=[BOX, BOX]), folder / "mixing.png")
    names = [f"{row[0]}, L = {row[1]}, T = {row[2]}" if row[1] else str(row[0]) for row in rows]
    value, low, high = ([float(row[k]) for row in rows] for k in (4, 5, 6))
    name = f"share of {COUNT:,} particles in the mode at (5, 5), 95 % interval"
    plots.save(plots.intervals(names, value, low, high, truth=0.8, x_name=name), folder / "mixing-weights.png")
    return {
        "Particles of four ways in the plane: exact draws, four in five at the upper right; Langevin from a uniform "
        "start, half and half; annealed Langevin by exact and by learned scores, four in five again": "mixing.png",
        "The share in the heavy mode with its interval: at 0.8 for exact draws and slow annealing, at one half for "
        "Langevin, in between for annealing with few steps": "mixing-weights.png",
    }


def _said(rows: list[tuple[Cell, ...]]) -> tuple[str, ...]:
    _, walk, slow, learned, fast, *_ = (f"{row[4]:.3f} ({row[5]:.3f} to {row[6]:.3f})" for row in rows)
    return (
        f"The weight is 0.8. Langevin finds {walk}; annealed Langevin with L = {LEVELS}, T = {STEPS}, n = {COUNT:,} "
        f"finds {slow} with exact scores and {learned} with those of a network.",
        f"The answer depends on T: with T = 1 it is {fast}. Annealing is right in the limit of slow cooling only, and "
        "the levels at which the modes part are those that must be slow.",
    )
