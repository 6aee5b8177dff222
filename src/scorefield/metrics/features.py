"""Metrics of what a classifier or a feature network sees in two sets of samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scorefield.checks import check_count, check_floating, check_rows, check_shape
from scorefield.metrics.estimate import Estimate, normal, proportion
from scorefield.metrics.pairs import check_least, nearest_rows, two_sets, unbiased_mmd2


def kernel_distance(a: Tensor, b: Tensor) -> Estimate:
    r"""Kernel (inception) distance: unbiased $\mathrm{MMD}^2$ under the kernel $(x^\top y/k + 1)^3$; may be negative.

    All rows are used at once in place of random subsets, so that the value has no randomness of its own and the
    error is one of the estimate (a spread over subsets is not).

    Args:
        a: features to judge, shape (n, k), n >= 4.
        b: features of the real data, shape (m, k), m >= 4.

    Returns:
        the squared distance, with the standard error of `mmd`.

    Source: Bińkowski et al. 2018 (arXiv:1801.01401).
    """
    a, b = two_sets(a, b, least=4)
    value, error = unbiased_mmd2(a, b, lambda x, y: (x @ y.mT / x.shape[1] + 1) ** 3)
    return normal(value, error, len(a), f"unbiased MMD² to {len(b)} rows, cubic kernel")


def inception_score(probabilities: Tensor, *, splits: int = 10, generator: torch.Generator | None = None) -> Estimate:
    r"""Inception score $\exp \mathbb E_x \mathrm{KL}(p(y \mid x) \,\|\, p(y))$, between 1 and the number of classes.

    Args:
        probabilities: a classifier's p(y | x), shape (n, classes), rows that sum to 1.
        splits: the rows are split at random into so many parts; the value is the mean of their scores and the
            standard error follows from their spread, or for one part from that of its Kullback-Leibler terms.
        generator: source of the split; the global one when None.

    Returns:
        the score; higher is better.

    Source: Salimans et al. 2016 (arXiv:1606.03498).
    """
    check_floating("probabilities", probabilities)
    check_count("splits", splits)
    p = probabilities.double()
    n = len(p)
    if p.ndim != 2 or not (p >= 0).all() or not torch.allclose(p.sum(1), torch.ones(n).to(p), atol=1e-4):
        raise ValueError("probabilities must be (n, classes), >= 0, with rows that sum to 1; apply softmax to logits")
    if n < 2 * splits:
        raise ValueError(f"splits must leave two rows each, got {splits} for {n} rows; use fewer splits")
    divergences = []
    for part in p[torch.randperm(n, generator=generator).to(p.device)].tensor_split(splits):
        divergences.append((torch.special.xlogy(part, part) - torch.special.xlogy(part, part.mean(0))).sum(1))
    scores = torch.stack([kl.mean().exp() for kl in divergences])
    error = scores.std() / math.sqrt(splits) if splits > 1 else scores[0] * divergences[0].std() / math.sqrt(n)
    method = f"inception score over {p.shape[1]} classes, {splits} splits"
    return normal(scores.mean().item(), error.item(), n, method)


def nearest_distances(a: Tensor, b: Tensor, *, exclude_self: bool = False) -> Tensor:
    """Euclidean distance of each row of `a` to its nearest row in `b`: near 0 where a sample was memorised.

    Args:
        a: rows, shape (n, *D), floating point.
        b: rows, shape (m, *D).
        exclude_self: `a` and `b` are the same rows in the same order, and a row is not its own neighbour.

    Returns:
        distances, shape (n,), in the dtype of `a`.
    """
    dtype = a.dtype
    a, b = two_sets(a, b, least=1)
    if exclude_self:
        check_shape("b", b, tuple(a.shape), "the rows of a, for exclude_self")
        check_least("a", a, 2)
    distances, _ = nearest_rows(a, b, exclude_self=exclude_self)
    return distances[:, 0].to(dtype)


def class_agreement(predicted: Tensor, asked: Tensor) -> Estimate:
    """How often a classifier sees the class that was asked for, with Wilson's interval.

    Args:
        predicted: classes that a classifier found in the samples, shape (n,).
        asked: classes that the samples were asked to have, shape (n,).

    Returns:
        the fraction that agree; higher is better.

    Source: Wilson 1927.
    """
    if predicted.ndim != 1 or not len(predicted):
        raise ValueError(f"predicted must have shape (n,) with n >= 1, got {tuple(predicted.shape)}")
    check_rows("asked", asked, predicted, "one class per prediction")
    return proportion(int(predicted.eq(asked).sum()), len(asked), len(asked), "agreement with the class asked for")
