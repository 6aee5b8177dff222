"""Metrics of samples in the space of the data, and of a score against the truth."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from scorefield.calculus import Score, inner
from scorefield.checks import check_count, check_floating, check_positive, check_score
from scorefield.metrics.estimate import Estimate, normal, proportion
from scorefield.metrics.pairs import check_least, square_distances, two_sets, unbiased_mmd2


def mmd(a: Tensor, b: Tensor, *, bandwidth: float | None = None) -> Estimate:
    r"""Unbiased $\mathrm{MMD}^2$ under the Gaussian kernel $e^{-\|x-y\|^2/2h^2}$; about 0, or negative, for equal laws.

    The standard error estimates both terms of the U-statistic's variance,

    $$ \tfrac4n \operatorname{Var} f(X) + \tfrac4m \operatorname{Var} f(Y)
       + \tfrac2{n(n-1)} \|\Sigma_a\|^2 + \tfrac2{m(m-1)} \|\Sigma_b\|^2
       + \tfrac4{nm} \langle \Sigma_a, \Sigma_b \rangle, $$

    with f the witness function and $\Sigma$ the kernel's covariance operators. For equal laws the first two vanish;
    their estimates are kept >= 0, so that the error is then about a quarter too large. The interval is a normal
    approximation.

    Args:
        a: samples to judge, shape (n, *D), n >= 4.
        b: samples of the other law, shape (m, *D), m >= 4.
        bandwidth: h > 0; the median distance between rows of both sets (at most 1,000 of each) when None.

    Returns:
        the squared discrepancy.

    Source: Gretton et al. 2012 (JMLR 13), lemma 6; the variance by Hoeffding's decomposition as in Sutherland & Deka
    2019 (arXiv:1906.02104).
    """
    a, b = two_sets(a, b, least=4)
    if bandwidth is None:
        both = torch.cat([_some_rows(a, 1000), _some_rows(b, 1000)])
        bandwidth = torch.nn.functional.pdist(both).median().item()
        if not bandwidth > 0:
            raise ValueError("the median distance between rows is 0; give a bandwidth > 0")
    check_positive("bandwidth", bandwidth)
    value, error = unbiased_mmd2(a, b, lambda x, y: (square_distances(x, y) / (-2 * bandwidth**2)).exp())
    return normal(value, error, len(a), f"unbiased MMD² to {len(b)} rows, Gaussian kernel of bandwidth {bandwidth:.4g}")


def c2st(a: Tensor, b: Tensor, *, folds: int = 5, generator: torch.Generator | None = None) -> Estimate:
    r"""Classifier two-sample test: the accuracy with which a classifier tells two sets apart; 1/2 for equal laws.

    The classifier is k nearest neighbours on standardised coordinates with k the odd number next to
    $\sqrt{n_{train}}$: it sees any difference of two laws given enough rows, has nothing to tune and no randomness
    of its own. It is weak in hundreds of dimensions: give features then.

    Args:
        a: samples to judge, shape (n, *D).
        b: samples of the other law, as many rows, so that 1/2 is chance.
        folds: parts of the cross-validation, >= 2.
        generator: source of the folds; the global one when None.

    Returns:
        the cross-validated accuracy; the standard error is binomial in the 2 n decisions.

    Source: Lopez-Paz & Oquab 2017 (arXiv:1610.06545).
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check_count("folds", folds, least=2)
    a, b = two_sets(a, b, least=folds)
    if len(a) != len(b):
        raise ValueError(f"a and b must have as many rows, got {len(a)} and {len(b)}; drop rows of the longer one")
    rows = torch.cat([a, b]).cpu().numpy()
    labels = torch.arange(2).repeat_interleave(len(a)).numpy()
    order = torch.randperm(len(rows), generator=generator).numpy()
    k = 2 * (math.isqrt(len(rows) * (folds - 1) // folds) // 2) + 1
    classifier = make_pipeline(StandardScaler(), KNeighborsClassifier(n_neighbors=k))
    guesses = cross_val_predict(classifier, rows[order], labels[order], cv=StratifiedKFold(folds))
    right = int(np.count_nonzero(guesses == labels[order]))
    return proportion(right, len(rows), len(a), f"C2ST accuracy against {len(b)} rows, {k} neighbours, {folds} folds")


def fisher_divergence(score: Score, truth: Score, x: Tensor) -> Estimate:
    r"""Fisher divergence $D_F = \mathbb E_p \|s(x) - \nabla \log p(x)\|^2$, without ½, where the truth is known.

    Args:
        score: the field to judge, (n, *D) -> (n, *D).
        truth: the true score $\nabla \log p$.
        x: independent samples of p, shape (n, *D), n >= 2.

    Returns:
        the mean over the samples and its standard error.

    Raises:
        ValueError: a score that returns another shape, or what is not finite.
    """
    check_floating("x", x)
    check_least("x", x, 2)
    with torch.no_grad():
        s, true = score(x), truth(x)
    check_score(s, x)
    check_score(true, x)
    apart = s.double() - true.double()
    squares = inner(apart, apart)
    bad = len(x) - int(squares.isfinite().sum())
    if bad:
        raise ValueError(f"the scores must be finite, got {bad} of {len(x)} rows that are not; look at these points")
    error = squares.std().item() / math.sqrt(len(x))
    return normal(squares.mean().item(), error, len(x), "Fisher divergence, mean over samples of p")


def _some_rows(x: Tensor, count: int) -> Tensor:
    """At most `count` evenly spaced rows."""
    return x[torch.linspace(0, len(x) - 1, min(len(x), count)).round().long().to(x.device)]
