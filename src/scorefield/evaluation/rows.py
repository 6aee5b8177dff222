"""The figures of two sets of features, and those of memorisation, each beside the same for real data."""

from __future__ import annotations

import torch
from torch import Tensor

from scorefield.evaluation.row import Row
from scorefield.metrics import (
    Estimate,
    density_coverage,
    expected_coverage,
    frechet_distance,
    frechet_limit,
    memorisation,
    precision_recall,
)

RESAMPLES = 25_600  # bootstrap resamples times features: as many as 100 of 256 features, fewer of more


def distance_rows(
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    name: str,
    generator: torch.Generator,
    *,
    strata: Tensor | None = None,
) -> list[Row]:
    """Fréchet distance at this size and at infinite size.

    Args:
        samples: features of the samples, (n, k).
        train: features of as many training rows, (n, k).
        held_out: features of the rows to judge by, (m, k).
        name: of the distance.
        generator: source of resamples and splits.
        strata: classes of the rows to judge by, (m,), where these were drawn from each class in proportion.
    """
    n, m, k = len(samples), len(held_out), held_out.shape[1]
    how = {"bootstrap": max(10, min(100, RESAMPLES // k)), "generator": generator}
    plain, plain_real = (frechet_distance(x, held_out, **how) for x in (samples, train))
    limit, limit_real = (frechet_limit(x, held_out, strata=strata, generator=generator) for x in (samples, train))
    size = f"{n} rows against {m} held out"
    return [
        Row(name, plain, plain_real, f"{size}; biased upwards: compare at this size only"),
        Row(
            f"{name}, n → ∞",
            limit,
            limit_real,
            "the bias in 1/n taken off; as near 0 as that of real data is perfect",
        ),
    ]


def support_rows(samples: Tensor, train: Tensor, held_out: Tensor, generator: torch.Generator) -> list[Row]:
    """Precision, recall, density and coverage of features, of equally many rows each; as `distance_rows`."""
    size = min(len(samples), len(train), len(held_out))
    samples, train, held_out = samples[:size], train[:size], held_out[:size]
    near, near_real = (precision_recall(x, held_out, generator=generator) for x in (samples, train))
    dense, dense_real = (density_coverage(x, held_out, generator=generator) for x in (samples, train))
    own = "for samples of the data's own law"
    coverage = f"real rows with a sample near; {expected_coverage(size, size):.3f} {own}"
    return [
        Row("precision", near[0], near_real[0], "samples where real rows lie; low: unlike the data"),
        Row("recall", near[1], near_real[1], "real rows where samples lie; low: parts of the data are missing"),
        Row("density", dense[0], dense_real[0], f"real rows around a sample; 1 {own}"),
        Row("coverage", dense[1], dense_real[1], coverage),
    ]


def memory_rows(samples: Tensor, train: Tensor, held_out: Tensor, generator: torch.Generator, what: str) -> list[Row]:
    """Whether samples are copies of training rows, in scaled data.

    Args:
        samples: scaled samples, (n, D).
        train: all training rows, (N, D).
        held_out: rows held out, in random order, (m, D).
        generator: source of permutations.
        what: a row, in words: image or row.
    """
    found = memorisation(samples, train, held_out, generator=generator)
    return [
        Row(
            f"nearest training {what}",
            median(found.distances),
            median(found.held_out_distances),
            "median distance; ratio below 0.8: memorised, above 1.6: blurred",
        ),
        Row(
            f"nearest real {what} is a training {what}",
            found.nearer,
            found.chance,
            f"share, beside that of chance; above: leans towards what was learned (p = {found.nearer.p_value:.2g})",
        ),
        Row(
            "data-copying score",
            found.shift,
            None,
            f"in standard errors; < 0: nearer to training {what}s than held-out ones (p = {found.shift.p_value:.2g})",
        ),
        Row(
            f"copies of training {what}s",
            found.copied,
            found.copied_held_out,
            f"one {what} is nearest by far; above the held-out share: copied (p = {found.copied.p_value:.2g})",
        ),
    ]


def median(distances: Tensor) -> Estimate:
    """The median and its distribution-free 95 % interval from order statistics."""
    ordered, n = distances.sort().values, len(distances)
    half = 0.98 * n**0.5
    low, high = max(0, int(n / 2 - half)), min(n - 1, int(n / 2 + half))
    interval = (ordered[low].item(), ordered[high].item())
    return Estimate(
        distances.median().item(), (interval[1] - interval[0]) / 3.92, n, interval, "median, order statistics"
    )
