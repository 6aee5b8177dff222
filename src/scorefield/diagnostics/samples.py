r"""Samples beside data: the weights of modes, copies of training rows, what finer steps change, how far a step goes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom, chi2
from torch import Tensor

from scorefield.calculus import Score, inner
from scorefield.checks import check_positive
from scorefield.metrics.pairs import check_least, nearest_rows, two_sets


class Modes(NamedTuple):
    """The weights of modes: counts of samples and of data (K,), the chi-square test of equal weights, off by a factor.

    `p_value` is that of equal weights, `p_off` the smallest over the modes that the ratio of the weights lies within
    the factor asked about, times 2 K.
    """

    samples: NDArray[np.intp]
    data: NDArray[np.intp]
    p_value: float
    p_off: float


def mode_weights(samples: NDArray, data: NDArray, *, factor: float = 1.5) -> Modes:
    r"""Compare how often samples and data fall into each of K modes.

    Two tests. All weights equal: $\chi^2$ with K - 1 degrees of freedom. Some weight off by more than a factor f: given
    $n_s + n_d$ of a mode, $n_s$ is binomial with odds $f N_s/N_d$ at the edge, so that the test is exact; Bonferroni
    over the modes and both sides.

    Args:
        samples: the mode of each sample, 0..K-1.
        data: the mode of each row of the data.
        factor: f >= 1.
    """
    check_positive("factor", factor)
    k = int(max(samples.max(), data.max())) + 1
    a, b = (np.bincount(v, minlength=k) for v in (samples, data))
    both = a + b
    share = len(samples) / (len(samples) + len(data))
    seen = both > 0
    expected = both[seen] * share
    statistic = float((np.square(a[seen] - expected) / (expected * (1 - share))).sum())
    odds = share / (1 - share)
    few = binom.cdf(a, both, odds / factor / (1 + odds / factor))
    many = binom.sf(a - 1, both, odds * factor / (1 + odds * factor))
    smallest = float(np.minimum(few, many)[seen].min())
    return Modes(a, b, float(chi2.sf(statistic, max(1, int(seen.sum()) - 1))), min(1.0, 2 * int(seen.sum()) * smallest))


def copied(x: Tensor, train: Tensor, *, ratio: float = 1 / 3) -> Tensor:
    """Which rows lie far nearer to one training row than to the next: by at most `ratio` of the distance.

    In d dimensions a row that has nothing to do with the training rows does so with probability about `ratio` to the
    power d: compare with held-out rows.

    Args:
        x: rows to judge (n, *D).
        train: training rows (m, *D); copies among them are dropped, so that a pair of them does not hide a copy.
        ratio: of the distances to the nearest and the second nearest.

    Returns:
        a mask (n,).

    Source: the criterion of Yoon et al. 2023 (Diffusion probabilistic models generalize when they fail to memorize).
    """
    x, train = two_sets(x, train, least=1, names=("x", "train"))
    train = torch.unique(train, dim=0)
    check_least("train", train, 2)
    first, second = nearest_rows(x, train, 2)[0].T
    return first <= ratio * second


def disagreement(a: Tensor, b: Tensor) -> Tensor:
    """How far samples move when they are drawn again from the same start by finer steps: root mean square over axes.

    Args:
        a: samples (n, *D), in units in which the data have spread 1.
        b: the same samples by finer steps.

    Returns:
        how far a coordinate of each moved, (n,), float64.
    """
    return (a.double() - b.double()).flatten(1).square().mean(1).sqrt()


def signal_to_noise(score: Score, x: Tensor, step_size: float) -> float:
    r"""Of a Langevin step, $\mathbb E\|h s\|^2/\mathbb E\|\sqrt{2h}z\|^2 = h\,\mathbb E\|s\|^2/2D$: drift over noise.

    For a Gaussian of precision $\lambda$ this is $h\lambda/2$, and the stationary variance of the chain is the law's
    times $1/(1 - h\lambda/2)$: at 1 it is infinite.

    Args:
        score: of the law.
        x: rows of the law (n, *D).
        step_size: h > 0.
    """
    check_positive("step_size", step_size)
    with torch.no_grad():
        s = score(x).double()
    return step_size * inner(s, s).mean().item() / (2 * math.prod(x.shape[1:]))
