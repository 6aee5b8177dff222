r"""`fields`: the score of the data, the one a network learned without ever seeing it, and their difference.

$$ \ell(x) = \tfrac12 \|s(x)\|^2 + \operatorname{tr} \nabla_x s(x), \qquad
   D_F = \mathbb E_p \|s(x) - \nabla_x \log p(x)\|^2 $$

Source: Hyvärinen 2005; the picture is the first of most lectures on the subject.
"""

from __future__ import annotations

from pathlib import Path

import torch

from scorefield import plots
from scorefield.calculus import Score
from scorefield.densities import Density, GaussianMixture, Rings, TwoMoons
from scorefield.experiments.outcome import Outcome
from scorefield.experiments.trained import in_data_units, rows_of, trained
from scorefield.metrics import fisher_divergence
from scorefield.settings import MLPSize, Recipe

BOXES = {"mixture": (-4.0, 5.0, -4.5, 4.5), "two-moons": (-1.6, 2.6, -1.5, 2.0), "rings": (-3.8, 3.8, -3.8, 3.8)}
STEPS, ROWS, JUDGED = 2500, 20_000, 5000


def law(name: str) -> Density:
    """A density in the plane whose score is known."""
    match name:
        case "mixture":
            means = [[2.5, 1.0], [-1.0, 2.0], [1.0, -2.0]]
            covariances = [[[0.5, 0.2], [0.2, 0.3]], [[0.3, -0.2], [-0.2, 0.6]], [[0.8, 0.0], [0.0, 0.15]]]
            return GaussianMixture([0.5, 0.3, 0.2], means, covariances)
        case "two-moons":
            return TwoMoons(0.1)
        case _:
            return Rings([1.0, 2.5], 0.22)


def recipe(data: str, seed: int) -> Recipe:
    """Implicit score matching of a score network on one law."""
    return Recipe(
        data, steps=STEPS, objective="implicit", mlp=MLPSize(128, 3), batch_size=256, precision="fp32", seed=seed
    )


def gap(learned: Score, law: Density) -> Score:
    """What the learned score is beside the true one."""
    return lambda x: learned(x) - law.score(x)


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """Three densities whose score is known, a network for each.

    Args:
        folder: where the pictures and the runs go.
        root: not used.
        seed: of the data, the training and the points of the comparison.
    """
    rows, panels = [], []
    for name in BOXES:
        density = law(name)
        data = rows_of(density, folder / f"{name}.npy", count=ROWS, seed=seed)
        learned = in_data_units(trained(recipe(data, seed), folder / name))
        x = density.sample((JUDGED,), generator=torch.Generator().manual_seed(seed + 1))
        error, power = (fisher_divergence(s, density.score, x) for s in (learned, torch.zeros_like))
        rows.append((name, power.value, error.value, error.standard_error or 0.0, error.value / power.value))
        panels.append(
            [
                plots.Plane(f"{name}: ∇ log p", density=density.log_density, score=density.score),
                plots.Plane("learned from samples", density=density.log_density, score=learned),
                plots.Plane("learned − ∇ log p", density=density.log_density, score=gap(learned, density)),
            ]
        )
    plots.save(plots.planes(panels, boxes=list(BOXES.values()), n=17), folder / "fields.png")
    columns = ("density", "E‖∇ log p‖²", "D_F of the learned score", "standard error", "share")
    worst, best = (pick(rows, key=lambda row: row[4]) for pick in (max, min))
    said = (
        f"Of E‖∇ log p‖² the network misses {best[4]:.1%} on {best[0]} and {worst[4]:.1%} on {worst[0]}, having seen "
        "samples alone.",
        "The difference is small on the data and large outside: the objective is an average over the data and asks "
        "nothing elsewhere (experiment low-density).",
    )
    alt = (
        "For three densities in the plane, arrows of the true score, of the score a network learned, and of their "
        "difference; the difference vanishes on the level sets of the density and is long outside them"
    )
    return Outcome({alt: "fields.png"}, columns, tuple(rows), said)
