r"""`manifold`: pitfall I. Data on a set of lower dimension have no density, so implicit objectives have no minimum.

The same network is trained by sliced score matching on the same rows twice: as they are, and with noise
$N(0, 10^{-4} I)$ that the eye cannot see. Off the set the score is not defined; where it is approached,
$\operatorname{tr} \nabla s$ can fall without bound, and the loss follows it.

Source: Song & Ermon 2019 (arXiv:1907.05600), section 3.2.1 and figure 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield import plots
from scorefield.calculus import Generator
from scorefield.data import Batch
from scorefield.diagnostics import levina_bickel, two_nn
from scorefield.experiments.outcome import Outcome
from scorefield.experiments.trained import stored
from scorefield.fields import ScoreModel
from scorefield.networks import MLP, UNet
from scorefield.objectives import sliced
from scorefield.settings import DataSettings, MLPSize, TrainSettings, UNetSize
from scorefield.training import Diverged, train

VARIANCE, PADDING, ROWS = 1e-4, 32, 10_000
STEPS, BATCH = {2: 1500, 4: 400}, {2: 128, 4: 32}  # for rows (n, D) and images (n, C, H, W)


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """Train with and without noise, and estimate the dimension of the data.

    Args:
        folder: where the data and the picture go.
        root: folder with CIFAR-10, as published; when None the bundled digits, padded into a larger space.
        seed: of the rows, the weights and the noise.
    """
    x, name, pixel = rows(folder, root, seed)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    noisy = x + pixel * VARIANCE**0.5 * z
    curves = {"as they are": losses(x, seed), "with noise N(0, 0.0001)": losses(noisy, seed)}
    shown = max(len(curve) for curve in curves.values())
    steps = np.arange(1, shown + 1)
    padded = {key: np.pad(curve, (0, shown - len(curve)), constant_values=np.nan) for key, curve in curves.items()}
    figure = plots.curves(
        steps,
        padded,
        x_name="step",
        y_name="sliced score matching loss / D",
        title=f"{name}: the loss and unseen noise",
    )
    plots.save(figure, folder / "manifold.png")
    table = []
    for key, data in (("as they are", x.flatten(1)), ("with noise N(0, 0.0001)", noisy.flatten(1))):
        curve = curves[key]
        last, before = curve[-len(curve) // 3 :], curve[len(curve) // 3 : -len(curve) // 3]
        dimension = two_nn(data), levina_bickel(data)
        fall = float(np.median(before) - np.median(last))
        table.append((key, float(np.median(last)), float(np.std(last)), fall, *(d.value for d in dimension)))
    columns = ("data", "loss / D at the end", "its spread", "still falling by", "two nearest: dimension", "ten nearest")
    bare, noised = table
    said = (
        f"{name}: {x[0].numel()} dimensions, of which about {bare[4]:.0f} are the data's own. As they are, the loss "
        f"spreads by {bare[2]:.3g} within the last third and falls by {bare[3]:.3g} from the third before; with noise "
        f"it spreads by {noised[2]:.3g} and falls by {noised[3]:.3g}.",
    )
    alt = "the loss of sliced score matching over the steps, on rows of a thin set with and without a little noise"
    return Outcome({alt: "manifold.png"}, columns, tuple(table), said)


def rows(folder: Path, root: Path | None, seed: int) -> tuple[Tensor, str, float]:
    """A thin set in units of all pixels' spread, its name, and the unit of the noise: rows (n, D) or images.

    As in 2019 the noise is added to images in [0, 1]; to the digits in units of their spread.
    """
    name = "digits" if root is None else "cifar10"
    settings = DataSettings(name, None if root is None else str(root))
    data = stored(settings, folder / f"{name}-data", seed=seed)
    x = data.x_scaled(data.train_rows[:ROWS])
    if root is not None:
        return x, "CIFAR-10", 255 / float(data.info.scaling.scale)
    padded = torch.cat([x.flatten(1), torch.zeros(len(x), PADDING)], 1)
    return padded, f"digits, {PADDING} empty columns beside them", 1.0


def losses(x: Tensor, seed: int) -> np.ndarray:
    """The loss over D at every step, until the last or until training diverged: of an MLP, or a U-Net for images."""
    shape, steps, size = x.shape[1:], STEPS[x.ndim], BATCH[x.ndim]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images = len(shape) > 1
        network = UNet(shape, UNetSize(16, 1, 2)) if images else MLP(shape, MLPSize(width=256, depth=3))
        model = ScoreModel(network, None, "score")
    config = TrainSettings(steps=steps, batch_size=size, learning_rate=1e-3, clip=100.0, decay=0.0, seed=seed)
    curve = []
    try:
        for step in train(model, _sliced, _batches(x, seed), config):
            curve.append(step.loss / x[0].numel())
    except Diverged:
        pass  # what is shown ends there
    return np.array(curve)


def _sliced(model: Any, batch: Batch, generator: Generator) -> Tensor:
    return sliced(model, batch.x, generator=generator)


def _batches(x: Tensor, seed: int) -> Callable[[int], Batch]:
    def batch(step: int) -> Batch:
        chosen = torch.randint(
            len(x), (BATCH[x.ndim],), generator=torch.Generator().manual_seed(1_000_003 * seed + step)
        )
        return Batch(x[chosen], None, chosen)

    return batch
