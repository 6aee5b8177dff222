r"""How far one set of samples is from another, or a score from the truth: numbers that carry their uncertainty.

Every metric of two sets takes rows of features or of data, any trailing shape, computes in float64, and answers an
`Estimate`: the value, the number of samples, a standard error where one is known, an interval, and how it was done.
The intervals are at 95 %. Lower is better except for `inception_score` and `class_agreement`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scorefield.calculus import Score, inner
from scorefield.checks import check_count, check_floating, check_positive, check_rows, check_score, check_shape

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point
_BLOCK = 2**24  # pairs handled at once: 128 MiB


@dataclass(frozen=True)
class Estimate:
    """A number and how well it is known.

    Args:
        value: the estimate.
        standard_error: of the value; None where it was not asked for.
        n: the number of samples judged (rows of the first argument).
        interval: the ends of the 95 % interval; None where there is no standard error.
        method: in words, how value and error were found.

    """

    value: float
    standard_error: float | None
    n: int
    interval: tuple[float, float] | None
    method: str

    def __str__(self) -> str:
        """Like `0.0123 ± 0.0045 (n = 898; method)`."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        return f"{self.value:.4g}{error} (n = {self.n}; {self.method})"


def frechet_distance(
    a: Tensor, b: Tensor, *, bootstrap: int = 100, generator: torch.Generator | None = None
) -> Estimate:
    r"""Fréchet distance between the Gaussians that have the moments of two sets of features.

    $$ \|m_a - m_b\|^2 + \operatorname{tr}\bigl(C_a + C_b - 2 (C_a C_b)^{1/2}\bigr) $$

    It is biased upwards by an amount that grows with k and falls with n: compare distances at equal n and k only, best
    beside that of two halves of the real data.

    Args:
        a: features to judge, shape (n, k), n >= 2.
        b: features of the real data, shape (m, k), m >= 2.
        bootstrap: resamples of both sets behind the standard error; 0 for none.
        generator: source of the resamples; the global one when None.

    Returns:
        the distance; its standard error is the spread over the resamples.

    Source: Dowson & Landau 1982; Heusel et al. 2017 (arXiv:1706.08500); computed by torchmetrics.

    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = _two_sets(a, b)
    check_count("bootstrap", bootstrap, least=0)
    centre, given = b.mean(0), torch.nn.Identity()  # the distance does not change with the origin, its rounding does
    given.num_features = b.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(feature=given)

    def distance(a: Tensor, b: Tensor) -> float:
        metric.reset()
        metric.update(b - centre, real=True)
        metric.update(a - centre, real=False)
        return metric.compute().item()

    value, method = distance(a, b), f"Fréchet distance to {len(b)} rows of {b.shape[1]} features"
    if bootstrap < 2:
        return Estimate(value, None, len(a), None, method)
    values = [distance(_resample(a, generator), _resample(b, generator)) for _ in range(bootstrap)]
    return _normal(value, torch.tensor(values).std().item(), len(a), f"{method}, {bootstrap} bootstrap resamples")


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
    a, b = _two_sets(a, b, least=4)
    value, error = _unbiased_mmd2(a, b, lambda x, y: (x @ y.mT / x.shape[1] + 1) ** 3)
    return _normal(value, error, len(a), f"unbiased MMD² to {len(b)} rows, cubic kernel")


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
    a, b = _two_sets(a, b, least=4)
    if bandwidth is None:
        both = torch.cat([_some_rows(a, 1000), _some_rows(b, 1000)])
        bandwidth = torch.nn.functional.pdist(both).median().item()
        if not bandwidth > 0:
            raise ValueError("the median distance between rows is 0; give a bandwidth > 0")
    check_positive("bandwidth", bandwidth)
    value, error = _unbiased_mmd2(a, b, lambda x, y: (_square_distances(x, y) / (-2 * bandwidth**2)).exp())
    return _normal(
        value, error, len(a), f"unbiased MMD² to {len(b)} rows, Gaussian kernel of bandwidth {bandwidth:.4g}"
    )


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
    return _normal(scores.mean().item(), error.item(), n, method)


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
    a, b = _two_sets(a, b, least=folds)
    if len(a) != len(b):
        raise ValueError(f"a and b must have as many rows, got {len(a)} and {len(b)}; drop rows of the longer one")
    rows = torch.cat([a, b]).cpu().numpy()
    labels = torch.arange(2).repeat_interleave(len(a)).numpy()
    order = torch.randperm(len(rows), generator=generator).numpy()
    k = 2 * (math.isqrt(len(rows) * (folds - 1) // folds) // 2) + 1
    classifier = make_pipeline(StandardScaler(), KNeighborsClassifier(n_neighbors=k))
    guesses = cross_val_predict(classifier, rows[order], labels[order], cv=StratifiedKFold(folds))
    right = int(np.count_nonzero(guesses == labels[order]))
    return _proportion(right, len(rows), len(a), f"C2ST accuracy against {len(b)} rows, {k} neighbours, {folds} folds")


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
    _check_least("x", x, 2)
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
    return _normal(squares.mean().item(), error, len(x), "Fisher divergence, mean over samples of p")


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
    a, b = _two_sets(a, b, least=1)
    if exclude_self:
        check_shape("b", b, tuple(a.shape), "the rows of a, for exclude_self")
        _check_least("a", a, 2)
    nearest = []
    for start in range(0, len(a), step := max(1, _BLOCK // len(b))):
        rows = a[start : start + step]
        squares = _square_distances(rows, b)
        if exclude_self:
            squares.diagonal(start).fill_(math.inf)
        nearest.append((rows - b[squares.argmin(1)]).square().sum(1).sqrt())  # exact where a product would cancel
    return torch.cat(nearest).to(dtype)


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
    return _proportion(int(predicted.eq(asked).sum()), len(asked), len(asked), "agreement with the class asked for")


def _normal(value: float, error: float, n: int, method: str) -> Estimate:
    return Estimate(value, error, n, (value - Z95 * error, value + Z95 * error), method)


def _proportion(successes: int, trials: int, n: int, method: str) -> Estimate:
    """A proportion, its binomial standard error and Wilson's 95 % interval."""
    p = successes / trials
    centre = (p + Z95**2 / (2 * trials)) / (1 + Z95**2 / trials)
    half = Z95 * math.sqrt(p * (1 - p) / trials + Z95**2 / (4 * trials**2)) / (1 + Z95**2 / trials)
    interval = (max(0.0, centre - half), min(1.0, centre + half))
    return Estimate(p, math.sqrt(p * (1 - p) / trials), n, interval, f"{method}, Wilson interval")


def _check_least(name: str, x: Tensor, least: int) -> None:
    if len(x) < least:
        raise ValueError(f"{name} must have at least {least} rows, got {len(x)}; give more samples")


def _two_sets(a: Tensor, b: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both sets as float64 rows (n, k), (m, k); refused where they do not fit or are not finite."""
    for name, x in (("a", a), ("b", b)):
        check_floating(name, x)
        _check_least(name, x, least)
        bad = len(x) - int(x.isfinite().flatten(1).all(1).sum())
        if bad:
            raise ValueError(f"{name} must be finite, got {bad} of {len(x)} rows with nan or infinity; drop them")
    check_shape("b", b, (len(b), *a.shape[1:]), "rows like those of a")
    return a.detach().flatten(1).double(), b.detach().flatten(1).to(a.device, torch.float64)


def _resample(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return x[torch.randint(len(x), (len(x),), generator=generator).to(x.device)]


def _some_rows(x: Tensor, count: int) -> Tensor:
    """At most `count` evenly spaced rows."""
    return x[torch.linspace(0, len(x) - 1, min(len(x), count)).round().long().to(x.device)]


def _square_distances(x: Tensor, y: Tensor) -> Tensor:
    r"""$\|x_i - y_j\|^2$ by one matrix product about a common origin, shape (n, m)."""
    origin = y.mean(0)
    x, y = x - origin, y - origin
    return torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.mT, alpha=-2).clamp_min_(0)


def _unbiased_mmd2(a: Tensor, b: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Unbiased squared discrepancy and its standard error; see `mmd`."""
    n, m = len(a), len(b)
    aa, squares_a = _row_means(a, a, kernel, same=True)
    bb, squares_b = _row_means(b, b, kernel, same=True)
    ab, squares_ab = _row_means(a, b, kernel, same=False)
    ba, _ = _row_means(b, a, kernel, same=False)
    norm_a = _centred_square(aa, squares_a)
    norm_b = _centred_square(bb, squares_b)
    both = max(0.0, squares_ab - ab.square().mean().item() - ba.square().mean().item() + ab.mean().item() ** 2)
    # the spread of the estimated witness f holds that of its own error, which is taken off again
    first_a = max(0.0, (aa - ab).var().item() - norm_a / (n - 1) - both / m)
    first_b = max(0.0, (bb - ba).var().item() - norm_b / (m - 1) - both / n)
    second = 2 * norm_a / (n * (n - 1)) + 2 * norm_b / (m * (m - 1)) + 4 * both / (n * m)
    value = (aa.mean() + bb.mean() - 2 * ab.mean()).item()
    return value, math.sqrt(4 * first_a / n + 4 * first_b / m + second)


def _row_means(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor], *, same: bool) -> tuple[Tensor, float]:
    """Mean of each row of the kernel matrix, and the mean of its squares; without the diagonal for the same set."""
    sums, squares, count = [], 0.0, len(y) - same
    for start in range(0, len(x), step := max(1, _BLOCK // len(y))):
        block = kernel(x[start : start + step], y)
        if same:
            block.diagonal(start).fill_(0)
        sums.append(block.sum(1))
        squares += block.square().sum().item()
    return torch.cat(sums) / count, squares / (len(x) * count)


def _centred_square(row_means: Tensor, mean_square: float) -> float:
    r"""Mean of $(k_{ij} - c_i - c_j)^2$ over i ≠ j: the kernel centred at its mean, $c_i = \bar k_i - \bar k/2$."""
    n, c = len(row_means), row_means - row_means.mean() / 2
    pairs = (2 * (n - 2) * c.square().sum() + 2 * c.sum().square()) / (n * (n - 1))
    return max(0.0, (mean_square - 4 * (c * row_means).mean() + pairs).item())
