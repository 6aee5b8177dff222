r"""`objectives`: the two terms of implicit score matching during training, and what each of them does alone.

$$ J(s) = \mathbb E\big[\tfrac12\|s(x)\|^2\big] + \mathbb E\big[\operatorname{tr}\nabla_x s(x)\big] $$

At the minimum $s = \nabla\log p$ and, by parts, $\mathbb E\operatorname{tr}\nabla s = -\mathbb E\|s\|^2$: the half
square stands at $\tfrac12 \mathbb E\|\nabla\log p\|^2$ and the trace at minus twice that. Alone, the square is least
for no score at all, and the trace has no least value.

Source: Hyvärinen 2005, theorem 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from scorefield import plots
from scorefield.densities import GaussianMixture
from scorefield.experiments.outcome import Outcome
from scorefield.fields import ScoreModel
from scorefield.networks import MLP
from scorefield.objectives import explicit, implicit_terms
from scorefield.settings import MLPSize, TrainSettings
from scorefield.training import train

STEPS, BATCH = 1500, 256
PARTS = {"both terms": (1.0, 1.0), "½‖s‖² alone": (1.0, 0.0), "tr ∇s alone": (0.0, 1.0)}


class Batch(NamedTuple):
    """Fresh rows of the law for one step."""

    x: Tensor
    y: Tensor | None
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]


def law() -> GaussianMixture:
    """Two components of different shape around the origin."""
    return GaussianMixture(
        [0.4, 0.6], [[-1.5, 0.5], [1.0, -0.4]], [[[0.4, 0.1], [0.1, 0.3]], [[0.5, -0.2], [-0.2, 0.6]]]
    )


def course(parts: tuple[float, float], *, steps: int, seed: int) -> tuple[list[tuple[float, float]], ScoreModel]:
    """Train on a half squares and b traces; both terms at every step, whatever was trained on, and the model.

    Args:
        parts: a and b.
        steps: how many.
        seed: of the weights and the rows.
    """
    density, generator, seen = law(), torch.Generator().manual_seed(seed), []

    def batches(step: int) -> Batch:
        x = density.sample((BATCH,), generator=generator).float()
        return Batch(x, None, torch.arange(BATCH))

    def objective(model: Any, batch: Batch, generator: Any) -> Tensor:
        half_square, trace = implicit_terms(model, batch.x)
        seen.append((half_square.mean().item(), trace.mean().item()))
        return parts[0] * half_square + parts[1] * trace

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ScoreModel(MLP(2, MLPSize(64, 2)), None)
    for _ in train(
        model, objective, batches, TrainSettings(steps=steps, batch_size=BATCH, learning_rate=2e-3, seed=seed)
    ):
        pass
    return seen, model


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """The same network trained three times.

    Args:
        folder: where the pictures go.
        root: not used.
        seed: of the weights and the data.
    """
    density = law()
    x = density.sample((20_000,), generator=torch.Generator().manual_seed(seed + 1))
    true = density.score(x)
    power = true.square().sum(1).mean().item()
    rows, courses = [("∇ log p itself", power / 2, -power, -power / 2, 0.0)], {}
    for name, parts in PARTS.items():
        seen, model = course(parts, steps=STEPS, seed=seed)
        courses[name] = torch.tensor(seen, dtype=torch.float64)
        at = x.float()
        half_square, trace = (term.detach().mean().item() for term in implicit_terms(model, at))
        error = explicit(model, at, true.float()).detach().mean().item()
        rows.append((name, half_square, trace, half_square + trace, error))
    plots.save(_both(courses["both terms"], power), folder / "objectives.png")
    plots.save(_alone(courses, power), folder / "objectives-alone.png")
    columns = ("trained on", "½E‖s‖²", "E tr ∇s", "their sum", "½E‖s − ∇ log p‖²")
    said = (
        f"Together the terms settle where the theory puts them: ½E‖s‖² at {rows[1][1]:.2f} of {power / 2:.2f}, E tr ∇s "
        f"at {rows[1][2]:.2f} of {-power:.2f}.",
        f"½‖s‖² alone is content with no score at all, {rows[2][1]:.1g}; tr ∇s alone falls without end, to "
        f"{rows[3][2]:.3g} after {STEPS} steps, and takes ‖s‖² with it.",
    )
    pictures = {
        "Half the squared score and the trace over the steps of training: each runs to its own dashed line, the value "
        "of the true score": "objectives.png",
        "The half square over the steps on a logarithmic axis: with both terms it settles, alone it falls to nothing, "
        "with the trace alone it grows without end": "objectives-alone.png",
    }
    return Outcome(pictures, columns, tuple(rows), said)


def _smooth(values: Tensor, window: int = 25) -> Tensor:
    """A running mean over the steps, for the eye."""
    padded = torch.nn.functional.pad(values[None, None], (window // 2, window // 2), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, window, stride=1)[0, 0]


def _both(seen: Tensor, power: float) -> Figure:
    steps = torch.arange(1, len(seen) + 1, dtype=torch.float64)
    series = {
        "½‖s‖²": _smooth(seen[:, 0]),
        "tr ∇s": _smooth(seen[:, 1]),
        "their sum, the objective": _smooth(seen.sum(1)),
    }
    levels = {"½E‖∇ log p‖²": power / 2, "−E‖∇ log p‖²": -power, "−½E‖∇ log p‖²": -power / 2}
    return plots.curves(
        steps,
        series,
        marks=levels,
        x_name="step",
        y_name="mean of a batch (running mean of 25)",
        title="Two terms that pay for each other",
    )


def _alone(courses: dict[str, Tensor], power: float) -> Figure:
    steps = torch.arange(1, STEPS + 1, dtype=torch.float64)
    series = {name: 10 ** _smooth(seen[:, 0].clamp_min(1e-12).log10()) for name, seen in courses.items()}
    return plots.curves(
        steps,
        series,
        marks={"½E‖∇ log p‖²": power / 2},
        log_y=True,
        x_name="step",
        y_name="½‖s‖²",
        title="What each term does alone",
    )
