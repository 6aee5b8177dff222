"""The rows that a run is judged by: its own held-out ones, or those of another source; and as many of training."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefield.data import Dataset, prepare
from scorefield.runs import Run
from scorefield.settings import DataSettings

MOST = 10_000  # rows of real data that a classifier or principal components learn from
LEAST = 8  # rows to judge by


@dataclass(frozen=True, eq=False)
class Sets:
    """Rows in the units of the data, each in random order, with their labels as class numbers of the run.

    Attributes:
        samples: of the run, (n, *D).
        asked: classes that the samples were asked to have, (n,); None where there are none.
        held_out: rows to judge by, (m, *D), m <= n.
        held_out_labels: their classes; None where there are none, or others than the run's.
        strata: the same where they are all rows that were held out class by class; None else.
        train: as many training rows as samples, (n', *D), n' <= n.
        learned: training rows to learn a classifier or features from, at most `MOST`.
        learned_labels: their classes.
        against: in words, what `held_out` is.
    """

    samples: np.ndarray
    asked: Tensor | None
    held_out: np.ndarray
    held_out_labels: Tensor | None
    strata: Tensor | None
    train: np.ndarray
    learned: np.ndarray
    learned_labels: Tensor | None
    against: str


def choose_sets(run: Run, samples: Tensor, asked: Tensor | None, against: DataSettings | None, seed: int) -> Sets:
    """The rows to judge a run's samples by.

    Raises:
        ValueError: fewer than 8 rows to judge by, or another source whose rows have another shape.
    """
    data, n = run.dataset, len(samples)
    if against is None:
        if len(data.held_out_rows) < LEAST:
            raise ValueError(
                f"a run is judged by at least {LEAST} held-out rows, got {len(data.held_out_rows)}; hold out more, or "
                "give others (--against)"
            )
        held, held_labels, named = *_some(data, data.held_out_rows, n, seed), "held-out rows"
    else:
        held, held_labels = _other(run, against, n, seed)
        named = f"rows of {against.source}"
    train, _ = _some(data, data.train_rows, n, seed + 1)
    learned, learned_labels = _some(data, data.train_rows, MOST, seed + 2)
    whole = against is None and len(held) == len(data.held_out_rows)  # a part of them is drawn without strata
    strata = held_labels if whole else None
    return Sets(samples.numpy(), asked, held, held_labels, strata, train, learned, learned_labels, named)


def scaled(run: Run, x: np.ndarray) -> Tensor:
    """Rows as the run's network sees them, flat, float32, (n, D)."""
    return run.dataset.info.scaling.apply(x).flatten(1)


def _some(data: Dataset, rows: np.ndarray, most: int, seed: int) -> tuple[np.ndarray, Tensor | None]:
    """At most `most` of these rows, in random order."""
    chosen = np.random.default_rng(seed).permutation(rows)[:most]
    return np.asarray(data.x[chosen]), data.labels(chosen)


def _other(run: Run, against: DataSettings, n: int, seed: int) -> tuple[np.ndarray, Tensor | None]:
    """Rows of another source, with their labels where its classes are the run's."""
    with tempfile.TemporaryDirectory() as folder:
        other = prepare(against, Path(folder))
        if other.shape != run.dataset.shape:
            raise ValueError(
                f"against must hold rows of shape {run.dataset.shape}, as the run's data, {against.source} has "
                f"{other.shape}; give data of that shape"
            )
        if len(other) < LEAST:
            raise ValueError(f"against must hold at least {LEAST} rows, {against.source} has {len(other)}; give more")
        x, y = _some(other, np.arange(len(other)), n, seed)
        known = other.info.classes == run.classes
    return x, y if known and y is not None and len(torch.unique(y)) > 1 else None
