"""The samples of a run: the label of each, the chunks they are drawn in, the file they are written to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from scorefield.calculus import Generator, PerSample, randn_like
from scorefield.checks import nearest
from scorefield.noise import Noise
from scorefield.samplers import Samples
from scorefield.training import Diverged, Engine

CHUNK = 100  # samples per call of a sampler; fixed, so that no sample depends on the number of processes

Way = Callable[[Tensor, Tensor | None, PerSample], Samples]  # (like, labels, noise) -> the samples of one chunk


def choose_labels(
    n: int, seed: int, label: str | int | None, classes: Sequence[str], frequencies: np.ndarray
) -> Tensor | None:
    """Class numbers (n,): the label asked for, or classes by their frequency; None where no labels were learned.

    Raises:
        ValueError: an unknown label, or a label where there are none.
    """
    if not classes:
        if label is not None:
            raise ValueError(f"label must not be given for a run without labels, got {label!r}; leave it out")
        return None
    if label is None:
        u = PerSample(seed, range(2**62, 2**62 + n)).uniform(torch.empty(n, 1))
        cumulative = torch.from_numpy(np.cumsum(frequencies))
        return torch.searchsorted(cumulative / cumulative[-1], u, right=True).clamp(max=len(classes) - 1)
    if str(label) not in classes:
        known = ", ".join(classes[:20])
        raise ValueError(f"label must be one of {known}; got {label!r}{nearest(str(label), classes)}")
    return torch.full((n,), list(classes).index(str(label)), dtype=torch.long)


def prior_of(noise: Noise, shape: Sequence[int]) -> Distribution:
    """The law at t_max of scaled data (mean 0, variance 1): what samples start from and likelihoods end at."""
    return noise.prior(shape, mean=0.0, variance=1.0)


def start_like(noise: Noise, like: Tensor, generator: Generator) -> Tensor:
    """Draws of `prior_of`, one per row of `like` (B, *D)."""
    prior = prior_of(noise, like.shape[1:])
    return prior.mean.to(like) + prior.stddev.to(like) * randn_like(like, generator)


def in_chunks(way: Way, like: Tensor, y: Tensor | None, seed: int, engine: Engine) -> Samples:
    """Draw one sample per row of `like`, in chunks that the processes share, with one stream of noise per sample.

    Args:
        way: how one chunk is drawn.
        like: gives shape and dtype, (n, *D).
        y: labels (n,), or None.
        seed: of the samples.
        engine: the processes.

    Raises:
        Diverged: samples that are not finite.
    """
    n, whole, paths, evaluations = len(like), torch.zeros_like(like), [], 0
    for k, first in enumerate(range(0, n, CHUNK)):
        rows = slice(first, min(first + CHUNK, n))
        if k % engine.world != engine.rank:
            continue
        labels = None if y is None else y[rows].to(engine.device)
        drawn = way(like[rows].to(engine.device), labels, PerSample(seed, range(rows.start, rows.stop)))
        whole[rows], evaluations = drawn.x.cpu(), drawn.evaluations
        paths += [] if drawn.path is None else [drawn.path.cpu()]
    whole = engine.sum(whole)
    bad = int((~whole.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise Diverged(f"{bad} of {n} samples are not finite; the training diverged: train anew, more slowly")
    return Samples(whole, torch.cat(paths, dim=1) if paths else None, {} if y is None else {"y": y}, evaluations)


def write(path: Path, samples: Samples, classes: Sequence[str], columns: Sequence[str] = ()) -> Path:
    """Write an .npz, whole or not at all: `x`, for vectors `columns`, and for labelled samples `y`, class names.

    Raises:
        ValueError: the file is not named .npz.
    """
    if path.suffix != ".npz":
        raise ValueError(f"samples are written as .npz, got the output {path}; name it {path.with_suffix('.npz')}")
    arrays = {"x": samples.x.numpy(), **({"columns": np.array(columns)} if columns else {})}
    if "y" in samples.info:
        names = np.array(classes)
        whole = all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name) for name in classes)
        arrays["y"] = (names.astype(np.int64) if whole else names)[samples.info["y"].numpy()]
    return write_whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def write_whole(path: Path, fill: Callable[[IO[bytes]], object]) -> Path:
    """Write a file beside its place by `fill` and rename it into place: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        fill(file)
    return partial.replace(path)
