"""A run judged: its samples beside held-out data, each figure with its error and the same figure for real data.

Images: agreement of a classifier (RBF support vectors on the real training images) with the class asked for, the
Fréchet and kernel distances on principal components of the pixels beside those of two halves of the real data, and
the distance to the nearest training image beside that between real images (far below: memorised; far above: blurred).
Vectors: maximum mean discrepancy and a two-sample test beside held-out data, and the Fisher divergence where the truth
is known. A run that learned one law also shows its objective on held-out rows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.svm import SVC
from torch import Tensor

from scorefield.checks import check_count
from scorefield.data import Batch
from scorefield.densities import TOYS, Curve, Density, GaussianMixture, toy
from scorefield.fields import at
from scorefield.metrics import (
    Estimate,
    c2st,
    class_agreement,
    fisher_divergence,
    frechet_distance,
    kernel_distance,
    mmd,
    nearest_distances,
)
from scorefield.metrics.estimate import normal
from scorefield.objectives import noise_conditional
from scorefield.runs import Run

NO_VALUE = ("contrastive-divergence", "persistent")  # objectives of which only the gradient has a meaning
COMPONENTS = 32
HALVES = 10
MOST = 10_000  # rows of real data that a metric looks at


@dataclass(frozen=True)
class Row:
    """One figure of an evaluation.

    Attributes:
        name: what was measured.
        samples: its value on the run's samples.
        real: the same figure for real data; None where there is none.
        reading: how to read it.
    """

    name: str
    samples: Estimate
    real: Estimate | None
    reading: str

    @property
    def ratio(self) -> float | None:
        """The samples' value over the real data's."""
        return self.samples.value / self.real.value if self.real is not None and self.real.value else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self) | {"ratio": self.ratio}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Row:
        """The row that `to_json` wrote."""
        samples, real = content["samples"], content["real"]
        return cls(content["name"], Estimate(**samples), None if real is None else Estimate(**real), content["reading"])


def evaluate(run: Run, *, count: int = 1000, seed: int = 0) -> list[Row]:
    """Judge `count` samples of a run.

    Args:
        run: a run with a checkpoint.
        count: how many samples to draw, >= 100.
        seed: seed of the samples and of the splits of the real data.

    Returns:
        the figures, each with its standard error or interval and the number of samples.

    Raises:
        ValueError: count < 100.
        RuntimeError: there is no checkpoint yet.
    """
    check_count("count", count, least=100)
    drawn = run.sample(count, seed=seed)
    x = _scaled(run, drawn.x)
    image = run.dataset.info.kind == "image"
    rows = _image_rows(run, x, drawn.info.get("y"), seed) if image else _vector_rows(run, x, seed)
    return rows + _objective_rows(run, seed)


def _scaled(run: Run, x: Tensor) -> Tensor:
    return run.dataset.info.scaling.apply(x.numpy()).flatten(1).double()


def _real(run: Run, rows: np.ndarray, seed: int) -> tuple[Tensor, Tensor | None]:
    """At most `MOST` of these rows, at random, scaled and flat, with their labels."""
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST])
    return run.dataset.x_scaled(chosen).flatten(1).double(), run.dataset.labels(chosen)


def _image_rows(run: Run, x: Tensor, asked: Tensor | None, seed: int) -> list[Row]:
    data = run.dataset
    train, train_y = _real(run, data.train_rows, seed)
    held, held_y = _real(run, data.held_out_rows, seed)
    rows = []
    if asked is not None and train_y is not None and held_y is not None and len(train_y.unique()) > 1:
        classifier = SVC(C=10.0, gamma="scale").fit(train.numpy(), train_y.numpy())
        agreement = class_agreement(torch.from_numpy(classifier.predict(x.numpy())), asked)
        real = class_agreement(torch.from_numpy(classifier.predict(held.numpy())), held_y) if len(held) else None
        rows.append(Row("class agreement", agreement, real, "a classifier sees the class asked for"))
    everything, _ = _real(run, np.arange(len(data)), seed)
    pca = PCA(min(COMPONENTS, x.shape[1], len(everything) - 1), random_state=0).fit(everything.numpy())
    features, real_features = (torch.from_numpy(pca.transform(v.numpy())) for v in (x, everything))
    size = min(len(features), len(real_features) // 2)
    features_named = f"{pca.n_components_} principal components"
    ours = _over_splits(features[:size], real_features, size, seed)
    halves = _over_splits(None, real_features, size, seed)
    rows.append(Row("Fréchet distance", ours, halves, f"{features_named}; real: two halves"))
    split = torch.randperm(len(real_features), generator=torch.Generator().manual_seed(seed))
    kernel = kernel_distance(features[:size], real_features[split[:size]])
    between = kernel_distance(real_features[split[size : 2 * size]], real_features[split[:size]])
    rows.append(Row("kernel distance", kernel, between, f"{features_named}; 0 within its error is perfect"))
    rows.append(
        Row(
            "nearest training image",
            _median(nearest_distances(x[:size], train)),
            _median(nearest_distances(train, train, exclude_self=True)),
            "median distance; ratio below 0.8: memorised, above 1.6: blurred",
        )
    )
    return rows


def _over_splits(x: Tensor | None, real: Tensor, size: int, seed: int) -> Estimate:
    """Fréchet distance to a random subset of the real rows, or between two disjoint ones, over several splits."""
    values = []
    for k in range(HALVES):
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(1000 * seed + k))
        other = real[order[size : 2 * size]] if x is None else x
        values.append(frechet_distance(other, real[order[:size]], bootstrap=0).value)
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1))
    interval = (mean - 1.96 * error, mean + 1.96 * error)
    return Estimate(mean, error, size, interval, f"mean over {HALVES} random subsets of the real data, their spread")


def _median(distances: Tensor) -> Estimate:
    """The median and its distribution-free 95 % interval from order statistics."""
    ordered, n = distances.sort().values, len(distances)
    half = 0.98 * n**0.5
    low, high = max(0, int(n / 2 - half)), min(n - 1, int(n / 2 + half))
    interval = (ordered[low].item(), ordered[high].item())
    return Estimate(
        distances.median().item(), (interval[1] - interval[0]) / 3.92, n, interval, "median, order statistics"
    )


def _vector_rows(run: Run, x: Tensor, seed: int) -> list[Row]:
    data = run.dataset
    if len(data.held_out_rows) < 8:
        raise ValueError(f"a run is judged by at least 8 held-out rows, got {len(data.held_out_rows)}; hold out more")
    held, _ = _real(run, data.held_out_rows, seed)
    train, _ = _real(run, data.train_rows, seed)
    size = min(len(x), len(held), len(train))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:size]
    pairs = {"samples": (x[:size], held[:size]), "real": (train[order], held[:size])}
    generator = torch.Generator().manual_seed(seed)
    discrepancy = {k: mmd(a, b) for k, (a, b) in pairs.items()}
    test = {k: c2st(a, b, generator=generator) for k, (a, b) in pairs.items()}
    rows = [
        Row("MMD²", discrepancy["samples"], discrepancy["real"], "0 within its error is perfect"),
        Row("two-sample test", test["samples"], test["real"], "accuracy; 0.5 cannot be told from held-out data"),
    ]
    row = _fisher_row(run, toy(run.recipe.data), seed) if run.recipe.data in TOYS else None
    return rows if row is None else [*rows, row]


@dataclass(frozen=True)
class _Scaled:
    """A density seen in scaled units, u = (x - m) / c."""

    law: Density
    mean: Tensor
    scale: Tensor

    def score(self, u: Tensor) -> Tensor:
        return self.scale * self.law.score(self.mean + self.scale * u)

    def sample(self, shape: tuple[int], *, generator: torch.Generator) -> Tensor:
        return (self.law.sample(shape, generator=generator) - self.mean) / self.scale


def _fisher_row(run: Run, truth: Density | Curve, seed: int, sigma: float = 0.1) -> Row | None:
    """The learned score of scaled data against the exact one: at this noise level, or at the one law of the run.

    A mixture's is known under any blur, that of other densities only without; None where it is not known.
    """
    mean, scale = (torch.as_tensor(v) for v in (run.dataset.info.scaling.mean, run.dataset.info.scaling.scale))
    levels, exact = run.recipe.at_all_levels, None
    sigma = sigma if levels else run.sigma
    if isinstance(truth, GaussianMixture):
        covariances = truth.covariances / (scale[:, None] * scale[None, :])
        blur = 0.0 if levels else sigma**2 * torch.eye(len(scale), dtype=torch.float64)
        exact = GaussianMixture(truth.weights, (truth.means - mean) / scale, covariances + blur)
    elif not isinstance(truth, Curve) and not levels and sigma == 0:
        exact = _Scaled(truth, mean, scale)
    if exact is None:
        return None
    score = run.score
    if levels and isinstance(exact, GaussianMixture):
        t = run.noise.time_at(torch.tensor(sigma, dtype=torch.float64))
        exact, score = exact.blurred(run.noise, t.item()), at(run.score, t)
    x = exact.sample((2000,), generator=torch.Generator().manual_seed(seed))
    error = fisher_divergence(lambda x: score(x.float()).double(), exact.score, x)
    energy = fisher_divergence(torch.zeros_like, exact.score, x)
    return Row("Fisher divergence", error, energy, f"to the true score at noise {sigma:.3g}; real: E‖score‖²")


def _objective_rows(run: Run, seed: int) -> list[Row]:
    """The objective of one law on held-out rows, with its value on training rows: far above that, it was overfitted."""
    if run.recipe.at_all_levels or run.recipe.objective in NO_VALUE or not len(run.dataset.held_out_rows):
        return []
    held, train = (_objective(run, rows, seed) for rows in (run.dataset.held_out_rows, run.dataset.train_rows))
    beside = f"{train.value:.4g} ± {train.standard_error:.1g} on training rows"
    return [Row("objective, held out", held, None, f"{run.recipe.objective}; {beside}; far above that: overfitted")]


def _objective(run: Run, rows: np.ndarray, seed: int) -> Estimate:
    """The mean of a run's objective over at most 1,000 of these rows."""
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:1000])
    model = run.load_model()
    x = run.dataset.x_scaled(chosen).to(next(model.parameters()).dtype)
    batch = Batch(x, run.dataset.labels(chosen), torch.from_numpy(chosen))
    loss = run.objective()(model, batch, torch.Generator().manual_seed(seed)).detach().double()
    return normal(loss.mean().item(), (loss.std() / len(loss) ** 0.5).item(), len(loss), "mean over rows")


def loss_by_level(run: Run, rows: np.ndarray, *, levels: int = 24, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    r"""The denoising loss per dimension, $\sigma^2\|s(x_t, t) + z/\sigma\|^2 / D$, at levels from t_min to t_max.

    1 is what a field of zeros reaches; labels are given where there are any.

    Args:
        run: a run with a checkpoint.
        rows: which rows of its data to use.
        levels: how many noise levels.
        seed: seed of the noise, the same at every level.

    Returns:
        the levels' sigma, the mean loss and its standard error, each (levels,).
    """
    model, noise = run.load_model(), run.noise
    x, y = run.dataset.x_scaled(rows), run.dataset.labels(rows)
    times, means, errors = noise.times(levels - 1).flip(0), [], []
    for t in times:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            at_t = t.expand(len(x))
            loss = noise_conditional(model, x, noise=noise, y=y, t=at_t, generator=generator)
        per_dimension = 2 * loss.double() / x[0].numel()
        means.append(per_dimension.mean())
        errors.append(per_dimension.std() / len(x) ** 0.5)
    return noise.sigma(times), torch.stack(means), torch.stack(errors)
