"""Batches as a pure function of (seed, step), so that a resumed run sees what an unbroken one would have seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scorefield.checks import check_count
from scorefield.data.store import Dataset

IN_MEMORY = 64 * 2**20  # bytes of scaled float32 training rows up to which they are kept in memory


class Batch(NamedTuple):
    """What one training step sees.

    Args:
        x: scaled samples, (B, *D), float32.
        y: labels (B,), int64; None for unlabelled data.
        index: rows of the data set, (B,), int64.
    """

    x: Tensor
    y: Tensor | None
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]


class Batches:
    """Batch `step` holds places step * size to (step + 1) * size - 1 of the training rows' permutations in a row.

    Every epoch is a permutation of its own, of the generator seeded [seed, epoch]: each training row once. Batches are
    always full: they run over the end of an epoch into the next.

    Args:
        dataset: where the samples are.
        size: of a batch, >= 1; may be larger than the data set.
        seed: >= 0.
    """

    def __init__(self, dataset: Dataset, size: int, seed: int) -> None:
        check_count("size", size)
        check_count("seed", seed, least=0)
        self._dataset, self._size, self._seed = dataset, size, seed
        self._rows = torch.from_numpy(dataset.train_rows)
        self._orders: dict[int, Tensor] = {}
        small = 4 * len(self._rows) * int(np.prod(dataset.shape)) <= IN_MEMORY
        self._x = dataset.x_scaled(dataset.train_rows) if small else None
        self._y = dataset.labels(dataset.train_rows)

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counted from 0; a function of (seed, step) alone."""
        places = self._places(step * self._size)
        index = self._rows[places]
        x = self._dataset.x_scaled(index.numpy()) if self._x is None else self._x[places]
        return Batch(x, None if self._y is None else self._y[places], index)

    def _places(self, start: int) -> Tensor:
        """Which training rows (as places in `train_rows`) come at start, …, start + size - 1."""
        epoch, offset = divmod(start, len(self._rows))
        parts = [self._order(epoch)[offset : offset + self._size]]
        missing = self._size - len(parts[0])
        while missing:
            epoch += 1
            parts.append(self._order(epoch)[:missing])
            missing -= len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        """The permutation of an epoch; the last two are kept."""
        if epoch not in self._orders:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))
            self._orders = {**dict(list(self._orders.items())[-1:]), epoch: torch.from_numpy(order)}
        return self._orders[epoch]
