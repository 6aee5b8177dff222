r"""`low-density`: pitfall II, a learned score is wrong where there are no data, and that is where a sampler starts.

The objective is an average over the data, $\tfrac12 \mathbb E_p \|s - \nabla\log p\|^2$ and a constant: where p is
nearly nothing it does not see what s does.

Source: Song & Ermon 2019 (arXiv:1907.05600), section 3.2.1 and figure 2.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from scorefield import plots
from scorefield.calculus import Score
from scorefield.densities import GaussianMixture
from scorefield.experiments.outcome import Outcome
from scorefield.experiments.trained import in_data_units, rows_of, trained
from scorefield.settings import MLPSize, Recipe

BOX = (-8.0, 8.0, -8.0, 8.0)
ROWS, STEPS, POINTS = 20_000, 3000, 40_000
MASSES = (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)  # the regions, each with the points less dense than those before it


def law() -> GaussianMixture:
    """Song and Ermon's mixture: one part in five at (-5, -5), four at (5, 5)."""
    return GaussianMixture([0.2, 0.8], [[-5.0, -5.0], [5.0, 5.0]], torch.eye(2).repeat(2, 1, 1))


def recipe(data: str, seed: int) -> Recipe:
    """Sliced score matching of a score network on one law."""
    return Recipe(
        data, steps=STEPS, objective="sliced", mlp=MLPSize(128, 3), batch_size=256, precision="fp32", seed=seed
    )


def relative_error(learned: Score, x: Tensor) -> Tensor:
    r"""$\|s - \nabla\log p\| / \|\nabla\log p\|$, (B,)."""
    true = law().score(x)
    return (learned(x) - true).norm(dim=1) / true.norm(dim=1)


def regions(learned: Score, *, seed: int) -> list[tuple[str, float, float, float, float]]:
    """By how dense a place is: its share of the data and of the box, and how wrong the learned score is there.

    Args:
        learned: the score to judge.
        seed: of the points, which are uniform over the box.
    """
    density, generator = law(), torch.Generator().manual_seed(seed)
    data = density.log_density(density.sample((POINTS,), generator=generator)).sort(descending=True).values
    x = BOX[0] + (BOX[1] - BOX[0]) * torch.rand(POINTS, 2, generator=generator, dtype=torch.float64)
    height, true, s = density.log_density(x), density.score(x), learned(x)
    error = (s - true).norm(dim=1) / true.norm(dim=1)
    away = torch.nn.functional.cosine_similarity(s, true) < 0.5**0.5
    edges = [float("inf"), *(data[int(mass * POINTS) - 1].item() for mass in MASSES[1:-1]), -float("inf")]
    rows = []
    for k, (dense, thin) in enumerate(zip(edges, edges[1:], strict=False)):
        inside = (height <= dense) & (height > thin)
        name = f"the densest {MASSES[1]:.0%}" if k == 0 else f"{MASSES[k]:.4g} to {MASSES[k + 1]:.4g} of the mass"
        share = MASSES[k + 1] - MASSES[k]
        rows.append(
            (
                name,
                share,
                inside.double().mean().item(),
                error[inside].median().item(),
                away[inside].double().mean().item(),
            )
        )
    return rows


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """One network, judged all over the box.

    Args:
        folder: where the pictures, the data and the run go.
        root: not used.
        seed: of the data, the training and the points of the comparison.
    """
    density = law()
    data = rows_of(density, folder / "data.npy", count=ROWS, seed=seed)
    learned = in_data_units(trained(recipe(data, seed), folder / "sliced"))
    rows = regions(learned, seed=seed + 1)
    panels = [
        plots.Plane(
            "∇ log p, and data",
            points=density.sample((400,), generator=torch.Generator().manual_seed(2)),
            score=density.score,
        ),
        plots.Plane("learned by sliced score matching", score=learned),
        plots.Plane("where it is wrong", colour=lambda x: relative_error(learned, x), score=learned),
    ]
    figure = plots.planes([panels], boxes=[BOX], colour_name="‖s − ∇ log p‖ / ‖∇ log p‖")
    plots.save(figure, folder / "low-density.png")
    dense, empty = rows[0], rows[-1]
    columns = (
        "region, densest first",
        "share of the data",
        "share of the box",
        "relative error, median",
        "arrows off by over 45°",
    )
    said = (
        f"Where half of the data lie the score is off by {dense[3]:.1%}; in the {empty[2]:.0%} of the box that hold "
        f"one sample in a thousand it is off by {empty[3]:.0%}, and {empty[4]:.0%} of the arrows point more than 45° "
        "away.",
        "A sampler that starts anywhere in the box starts there.",
    )
    alt = (
        "Arrows of the true score with two clusters of data, arrows of the learned score, and the learned arrows over "
        "a map of their relative error: pale around the clusters, dark between them"
    )
    return Outcome({alt: "low-density.png"}, columns, tuple(rows), said)
