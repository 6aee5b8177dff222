"""Whether samples are copies of the rows that a model learned from: three tests against rows held out.

All three compare distances to nearest rows, in whatever space the rows are given: pixels find copies, features find
near copies too. Training rows and held-out rows must be a random split of one set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import fisher_exact, norm, rankdata
from torch import Tensor

from scorefield.checks import check_between, check_count
from scorefield.metrics.estimate import Z95, Estimate, proportion
from scorefield.metrics.pairs import check_least, nearest_rows, two_sets

LEAST = 5  # samples and held-out rows in a cell that is looked at
PIECE = 2**20  # ranks drawn at once


@dataclass(frozen=True, eq=False)
class Memorisation:
    """What three tests say about copies; each Estimate of samples has a p-value, small where they were copied.

    Attributes:
        nearer: share of samples whose nearest real row is one of training.
        chance: what that share would be had the model not seen which rows were held out, and its spread.
        shift: data-copying score: below 0 where samples lie nearer to training rows than held-out rows do, above 0
            where they lie farther off. In units of its standard error where there is one cell.
        copied: share of samples with one training row much nearer than any other.
        copied_held_out: the same share of the held-out rows.
        distances: from each sample to its nearest training row, (n,).
        held_out_distances: the same of the held-out rows, at most n of them.
    """

    nearer: Estimate
    chance: Estimate
    shift: Estimate
    copied: Estimate
    copied_held_out: Estimate
    distances: Tensor
    held_out_distances: Tensor


def memorisation(
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    *,
    ratio: float = 1 / 3,
    cells: int = 1,
    permutations: int = 4999,
    generator: torch.Generator | None = None,
) -> Memorisation:
    r"""Test whether samples are copies of training rows.

    *Nearer*: had a model not seen which rows were held out, training rows and held-out rows would be exchangeable for
    its samples, so that the number of samples whose nearest row is a training row has a known law under permutations
    of the rows. The test is exact, and blind to how sharp or blurred samples are.

    *Shift*: in each cell of the space the Mann-Whitney z-score of the samples' distances to their nearest training row
    beside those of held-out rows, averaged by the held-out rows' share of the cells. Samples that are blurred lie near
    everything, so that a small p-value here alone is no proof of copies.

    *Copied*: a row is a copy where its nearest training row is at most `ratio` times as far as the second nearest;
    Fisher's exact test beside the held-out rows. It finds single copies among many good samples.

    Args:
        samples: rows to judge, shape (n, *D).
        train: all rows that were learned from, shape (N, *D): a copy of a row left out here cannot be seen.
        held_out: rows of the same set that were not, in random order, shape (m, *D); all serve the first test, the
            first n the others.
        ratio: of the nearest distance to the second nearest, in (0, 1).
        cells: of the data-copying score: clusters of the training rows by k-means.
        permutations: behind the p-value of the first test.
        generator: source of permutations and clusters; the global one when None.

    Raises:
        ValueError: fewer than 5 samples or held-out rows, in all or in every cell.

    Source: nearer: permutation test on nearest neighbours, after Schilling 1986; shift: Meehan, Chaudhuri & Dasgupta
    2020 (arXiv:2004.05675); copied: the ratio of Yoon et al. 2023.
    """
    check_between("ratio", ratio, 0, 1)
    check_count("cells", cells)
    check_count("permutations", permutations)
    for name, x in (("samples", samples), ("held_out", held_out)):
        check_least(name, x, LEAST)
    dtype = samples.dtype
    _, held_out = two_sets(samples, held_out, names=("samples", "held_out"), dtype=dtype)
    samples, train = two_sets(samples, train, names=("samples", "train"), dtype=dtype)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    to_train, place = nearest_rows(samples, train, 2)
    to_held, held_place = nearest_rows(samples, held_out)
    judged = held_out[: len(samples)]
    held_to_train, _ = nearest_rows(judged, train, 2)
    nearer, chance = _nearer(to_train, place, to_held, held_place, len(train), len(held_out), permutations, seed)
    copies, held_copies = ((d[:, 0] <= ratio * d[:, 1]).sum().item() for d in (to_train, held_to_train))
    n, m = len(samples), len(judged)
    p = np.asarray(fisher_exact([[copies, n - copies], [held_copies, m - held_copies]], alternative="greater"))[1]
    how = f"nearest of {len(train)} training rows within {ratio:.2g} of the second nearest distance"
    share, beside = (proportion(int(k), rows, rows, how) for k, rows in ((copies, n), (held_copies, m)))
    copied = Estimate(share.value, share.standard_error, n, share.interval, share.method, float(p))
    places = _cells(train, samples, judged, cells, seed)
    shift = _shift(to_train[:, 0].cpu().numpy(), held_to_train[:, 0].cpu().numpy(), *places)
    return Memorisation(nearer, chance, shift, copied, beside, to_train[:, 0], held_to_train[:, 0])


def _nearer(
    to_train: Tensor,
    place: Tensor,
    to_held: Tensor,
    held_place: Tensor,
    n_train: int,
    n_held: int,
    draws: int,
    seed: int,
) -> tuple[Estimate, Estimate]:
    """The share of samples nearest to a training row, with the law that permuting the rows gives it."""
    mine = (to_train[:, 0] < to_held[:, 0]).cpu().numpy()
    nearest = np.where(mine, place[:, 0].cpu().numpy(), n_train + held_place[:, 0].cpu().numpy())
    n, total, tied = len(mine), n_train + n_held, (to_train[:, 0] == to_held[:, 0]).cpu().numpy()
    found = mine.sum() + tied.sum() * n_train / total  # a row that is in both sets belongs to neither
    _, weights = np.unique(nearest[~tied], return_counts=True)
    rng = np.random.default_rng(seed)
    kept, permuted = len(weights), np.zeros(draws)
    if kept:
        trained = rng.hypergeometric(n_train, n_held, kept, size=draws)
        for some in np.array_split(np.arange(draws), math.ceil(draws * kept / PIECE)):
            order = rng.random((len(some), kept)).argsort(1)
            permuted[some] = np.where(order < trained[some, None], weights, 0).sum(1)
    permuted = permuted + tied.sum() * n_train / total
    p = (1 + (permuted >= found - 1e-9).sum()) / (1 + draws)
    squares = (weights.astype(float) ** 2).sum() - weights.sum() ** 2 / total
    error = math.sqrt(max(0.0, squares * n_train * n_held / (total * (total - 1)))) / n
    value, expected = float(found / n), n_train / total
    method = f"nearest row among {n_train} of training and {n_held} held out, {draws} permutations"

    def around(centre: float) -> tuple[float, float]:
        return max(0.0, centre - Z95 * error), min(1.0, centre + Z95 * error)

    return (
        Estimate(value, error, n, around(value), method, float(p)),
        Estimate(expected, error, n, around(expected), "by chance, spread over permutations of the rows"),
    )


def _cells(train: Tensor, samples: Tensor, held_out: Tensor, cells: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each sample and of each held-out row."""
    if cells == 1:
        return np.zeros(len(samples), int), np.zeros(len(held_out), int)
    from sklearn.cluster import KMeans

    clusters = KMeans(cells, n_init="auto", random_state=seed).fit(train.cpu().numpy())
    ours, real = (np.asarray(clusters.predict(x.cpu().numpy())) for x in (samples, held_out))
    return ours, real


def _shift(ours: np.ndarray, real: np.ndarray, cell: np.ndarray, real_cell: np.ndarray) -> Estimate:
    """The data-copying score: z-scores of the cells, averaged by their share of the held-out rows."""
    scores, shares = [], []
    for k in np.unique(real_cell):
        x, y = ours[cell == k], real[real_cell == k]
        if len(x) >= LEAST and len(y) >= LEAST:
            scores.append(_mann_whitney(x, y))
            shares.append(len(y))
    if not scores:
        raise ValueError(f"no cell holds {LEAST} samples and {LEAST} held-out rows; use fewer cells")
    weights = np.array(shares) / sum(shares)
    value, error = float(weights @ np.array(scores)), float(np.sqrt((weights**2).sum()))
    method = f"data-copying score beside {len(real)} held-out rows, {len(scores)} cells"
    return Estimate(
        value, error, len(ours), (value - Z95 * error, value + Z95 * error), method, float(norm.cdf(value / error))
    )


def _mann_whitney(x: np.ndarray, y: np.ndarray) -> float:
    """The z-score of U, the number of pairs with x > y, with its variance corrected for ties."""
    n, m = len(x), len(y)
    ranks = rankdata(np.concatenate([x, y]))
    u = ranks[:n].sum() - n * (n + 1) / 2
    _, ties = np.unique(ranks, return_counts=True)
    total = n + m
    variance = n * m / 12 * (total + 1 - float((ties.astype(float) ** 3 - ties).sum()) / (total * (total - 1)))
    return float((u - n * m / 2) / math.sqrt(variance)) if variance > 0 else 0.0
