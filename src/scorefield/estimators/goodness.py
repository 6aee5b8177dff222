r"""Goodness of fit by kernel Stein discrepancies: does a sample come from the law with a given score? And thinning.

The Stein kernel of a score s and a kernel k has mean 0 under the law of s, and no other law has it for these kernels:

$$ u(x, y) = s(x)^\top s(y)\,k + s(x)^\top \nabla_y k + s(y)^\top \nabla_x k + \nabla_x \cdot \nabla_y k . $$

The normalising constant of the law plays no part. Two kernels of $q = \|x - y\|^2$ with the width $\ell$: Gaussian,
$e^{-q/2\ell^2}$, and inverse multiquadric, $(1 + q/\ell^2)^{-1/2}$, which also controls convergence in the tails
(Gorham & Mackey 2017).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state

from scorefield.checks import check_between, check_choice, check_count, check_positive
from scorefield.estimators.bandwidth import half_distance
from scorefield.estimators.kernels.fields import blocks, square_distances
from scorefield.estimators.kernels.rows import LARGEST, SMALLEST, check_scale
from scorefield.estimators.validation import Array, check_rows_of, check_weights

STEIN_KERNELS = ("imq", "gaussian")
BOOTSTRAPS = ("wild", "multinomial", "parametric")


@dataclass(frozen=True, eq=False)
class KernelSteinTest:
    r"""What `kernel_stein_test` found.

    Args:
        statistic: the squared discrepancy that was tested, `u_statistic` or `v_statistic`.
        p_value: $(1 + \#\{\text{replicates} \ge \text{statistic}\}) / (1 + R)$.
        u_statistic: the mean of the Stein kernel over pairs of different rows; unbiased, may be negative.
        v_statistic: the mean over all pairs; >= 0, biased upwards by the mean diagonal over n.
        replicates: the statistic under the null by the bootstrap, (R,).
        n: rows judged.
        kernel: "gaussian" or "imq".
        bandwidth: its $\ell$.
        bootstrap: how the replicates were made.
    """

    statistic: float
    p_value: float
    u_statistic: float
    v_statistic: float
    replicates: Array
    n: int
    kernel: str
    bandwidth: float
    bootstrap: str

    def __str__(self) -> str:
        """Like `KSD² = 0.0123, p = 0.001 (n = 200; imq kernel of width 1.41, 999 wild replicates)`."""
        how = f"{self.kernel} kernel of width {self.bandwidth:.3g}, {len(self.replicates)} {self.bootstrap} replicates"
        return f"KSD² = {self.statistic:.4g}, p = {self.p_value:.3g} (n = {self.n}; {how})"


def kernel_stein_test(
    score: Any,
    X: Any,
    *,
    kernel: str = "imq",
    bandwidth: float | None = None,
    statistic: str = "u",
    bootstrap: str = "wild",
    replicates: int = 999,
    flip: float = 0.5,
    random_state: Any = None,
) -> KernelSteinTest:
    r"""Test whether rows come from the law with a score, by its kernel Stein discrepancy.

    With the matrix U of the Stein kernel (its diagonal left out for `statistic="u"`), replicates of the null are
    $\tfrac{1}{n^2} \varepsilon^\top U \varepsilon$, $\varepsilon$ random signs (`"wild"`), or $\varepsilon_i = m_i - 1$
    of multinomial counts m (`"multinomial"`); n(n - 1) in the place of n² for the U statistic. Both hold their level
    as n grows for a law that was given beforehand. A law fitted to these very rows fits them too well, and then both
    reject too rarely: `"parametric"` draws samples of the fitted law, fits it to each anew, and tests these.

    Args:
        score: the law's score, a function of tensors (n, d) -> (n, d); a density of `scorefield.densities`; or a
            fitted estimator with `score_function`.
        X: rows, (n, d), n >= 2, independent unless `flip` says otherwise.
        kernel: "imq" or "gaussian".
        bandwidth: $\ell$ > 0; half the root-mean-square distance of two rows when None.
        statistic: "u" or "v".
        bootstrap: "wild", "multinomial" or "parametric"; the last needs an estimator with `fit` and `sample`.
        replicates: R >= 19.
        flip: the chance, in (0, 0.5], that a sign of the wild bootstrap differs from the one before: 0.5 for
            independent rows, less for rows in the order of a Markov chain.
        random_state: source of the bootstrap.

    Returns:
        the statistics, the p-value and the replicates.

    Raises:
        ValueError: data or settings out of their range; a score that is not finite at some row.
        TypeError: what has no score; "parametric" for what cannot be fitted and sampled.

    Source: Liu, Lee & Jordan 2016 (arXiv:1602.03253), multinomial; Chwialkowski, Strathmann & Gretton 2016
    (arXiv:1602.02964), wild; Key et al. 2021 (arXiv:2111.10275), parametric.
    """
    check_choice("kernel", kernel, STEIN_KERNELS)
    check_choice("statistic", statistic, ("u", "v"))
    check_choice("bootstrap", bootstrap, BOOTSTRAPS)
    check_count("replicates", replicates, least=19)
    if not 0 < flip <= 0.5:
        raise ValueError(f"flip must lie in (0, 0.5], got {flip!r}; 0.5 is for independent rows")
    x, random = _rows(X, "kernel_stein_test"), check_random_state(random_state)
    width = _width(bandwidth, x)
    problem = _SteinProblem(x, _scores(score, x, X), kernel, width)
    if bootstrap == "parametric":
        u, v = _statistics(problem)
        null = _parametric(score, len(x), replicates, random, lambda law, rows: _judge(law, rows, kernel, width))
        drawn = null[:, 0] if statistic == "u" else null[:, 1]
    else:
        signs = _signs(len(x), replicates, flip, random) if bootstrap == "wild" else _counts(len(x), replicates, random)
        u, v, drawn = _bootstrapped(problem, signs, statistic)
    found = u if statistic == "u" else v
    _check_finite([u, v, *drawn], width)
    p_value = (1 + int((drawn >= found).sum())) / (1 + len(drawn))
    return KernelSteinTest(found, p_value, u, v, drawn, len(x), kernel, width, bootstrap)


def stein_discrepancy(
    score: Any,
    X: Any,
    *,
    kernel: str = "imq",
    bandwidth: float | None = None,
    statistic: str = "v",
    sample_weight: Any = None,
) -> float:
    r"""The squared kernel Stein discrepancy of weighted rows from the law with a score, $\mathrm{KSD}^2$.

    $w^\top U w$ for "v"; for "u" the diagonal is left out and the rest divided by $1 - \|w\|^2$.

    Args:
        score: as for `kernel_stein_test`.
        X: rows, (n, d), n >= 2.
        kernel: "imq" or "gaussian".
        bandwidth: $\ell$ > 0; half the root-mean-square distance of two rows when None.
        statistic: "v" or "u".
        sample_weight: (n,), >= 0; equal when None.

    Returns:
        the discrepancy, not its root; for "u" it may be negative.
    """
    check_choice("kernel", kernel, STEIN_KERNELS)
    check_choice("statistic", statistic, ("u", "v"))
    x = _rows(X, "stein_discrepancy")
    problem = _SteinProblem(x, _scores(score, x, X), kernel, _width(bandwidth, x))
    u, v = _statistics(problem, check_weights(sample_weight, len(x)))
    _check_finite(v, problem.width)
    if statistic == "u" and math.isnan(u):
        raise ValueError('statistic="u" needs two rows of weight > 0, got one; give more, or use "v"')
    return u if statistic == "u" else v


def stein_thinning(
    score: Any, X: Any, n_points: int, *, kernel: str = "imq", bandwidth: float | None = None
) -> NDArray[np.intp]:
    r"""Choose rows, one after the other, so that those chosen are as close as possible to the law with a score.

    $$ i_t = \arg\min_i \ \tfrac12 u(x_i, x_i) + \sum_{t' < t} u(x_{i_{t'}}, x_i) $$

    A row may be chosen more than once. In $O(n\,m\,d)$ for m points, with memory O(n).

    Args:
        score: as for `kernel_stein_test`.
        X: rows, (n, d): a chain's path with its start, its bias and its copies.
        n_points: how many to choose, >= 1.
        kernel: "imq", which controls convergence, or "gaussian".
        bandwidth: $\ell$ > 0; half the root-mean-square distance of two rows when None.

    Returns:
        the indices of the rows, in the order in which they were chosen, (n_points,).

    Source: Riabiz et al. 2022 (arXiv:2005.03952), algorithm 1.
    """
    check_choice("kernel", kernel, STEIN_KERNELS)
    check_count("n_points", n_points)
    x = _rows(X, "stein_thinning")
    problem = _SteinProblem(x, _scores(score, x, X), kernel, _width(bandwidth, x))
    cost, chosen = problem.diagonal() / 2, np.empty(n_points, dtype=np.intp)
    for t in range(n_points):
        chosen[t] = i = int(cost.argmin())
        cost = cost + problem.rows(slice(i, i + 1))[0]
        _check_finite(cost, problem.width)
    return chosen


@dataclass(frozen=True, eq=False)
class _SteinProblem:
    """Rows, scores at the rows, and a kernel, in coordinates divided by its width."""

    x: Array
    s: Array
    kernel: str
    width: float

    def rows(self, part: slice) -> Array:
        """Rows of the matrix of the Stein kernel, in units of the data, (b, n)."""
        z, s = (self.x - self.x.mean(0)) / self.width, self.s * self.width
        q = square_distances(z[part], z)
        f0, f1, f2 = _radial(self.kernel, q)  # k = f(q) with its first two derivatives
        forth = np.einsum("bd,bd->b", s[part], z[part])[:, None] - s[part] @ z.T  # s(x) . (x - y)
        back = z[part] @ s.T - np.einsum("nd,nd->n", s, z)  # s(y) . (x - y)
        drift = 2 * f1 * (back - forth)
        return (s[part] @ s.T * f0 + drift - 2 * z.shape[1] * f1 - 4 * q * f2) / self.width**2

    def diagonal(self) -> Array:
        """Its diagonal, (n,)."""
        f0, f1, _ = _radial(self.kernel, np.zeros(1))
        return np.square(self.s).sum(1) * f0 - 2 * self.x.shape[1] * f1 / self.width**2

    def by_blocks(self) -> Iterator[tuple[slice, Array]]:
        """The whole matrix, some rows at a time."""
        for part in blocks(len(self.x), len(self.x)):
            yield part, self.rows(part)


def _radial(kernel: str, q: Array) -> tuple[Array, Array, Array]:
    """A kernel of the squared distance q over the squared width, and its first two derivatives in q."""
    if kernel == "gaussian":
        k = np.exp(-q / 2)
        return k, -k / 2, k / 4
    k = 1 / np.sqrt(1 + q)
    return k, -(k**3) / 2, 0.75 * k**5


def _statistics(problem: _SteinProblem, w: Array | None = None) -> tuple[float, float]:
    """The U and the V statistic; the first is not a number where one row has all the weight."""
    n = len(problem.x)
    w = np.full(n, 1 / n) if w is None else w
    v = math.fsum(w[part] @ u @ w for part, u in problem.by_blocks())
    squares, pairs = np.square(w), 1 - float(w @ w)
    return (v - float(squares @ problem.diagonal())) / pairs if pairs > 0 else math.nan, v


def _bootstrapped(problem: _SteinProblem, signs: Array, statistic: str) -> tuple[float, float, Array]:
    """The U and V statistics, and the quadratic forms of the rows of `signs` (R, n) for one of them."""
    n, total, forms = len(problem.x), 0.0, np.zeros(len(signs))
    for part, u in problem.by_blocks():
        total += float(u.sum())
        forms += np.einsum("rb,rb->r", signs[:, part], signs @ u.T)
    diagonal = problem.diagonal()
    u_statistic = (total - float(diagonal.sum())) / (n * (n - 1))
    if statistic == "v":
        return u_statistic, total / n**2, forms / n**2
    return u_statistic, total / n**2, (forms - np.square(signs) @ diagonal) / (n * (n - 1))


def _signs(n: int, count: int, flip: float, random: np.random.RandomState) -> Array:
    changes = np.where(random.random_sample((count, n)) < flip, -1.0, 1.0)
    changes[:, 0] = np.where(random.random_sample(count) < 0.5, -1.0, 1.0)
    return np.asarray(np.cumprod(changes, axis=1), dtype=np.float64)


def _counts(n: int, count: int, random: np.random.RandomState) -> Array:
    return np.asarray(random.multinomial(n, np.full(n, 1 / n), size=count), dtype=np.float64) - 1


def _judge(law: Any, x: Array, kernel: str, width: float) -> tuple[float, float]:
    return _statistics(_SteinProblem(x, _scores(law, x, x), kernel, width))


def _parametric(
    law: Any, n: int, count: int, random: np.random.RandomState, judge: Callable[[Any, Array], tuple[float, float]]
) -> Array:
    """U and V statistics of refits to samples of the fitted law, (R, 2)."""
    missing = [name for name in ("fit", "sample", "score_function") if not hasattr(law, name)]
    if missing:
        raise TypeError(
            f'bootstrap="parametric" needs an estimator with fit, sample and score_function; {type(law).__name__} '
            f"lacks {', '.join(missing)}"
        )
    drawn = np.asarray(law.sample(n * count, random_state=random)).reshape(count, n, -1)
    return np.array([judge(_fresh(law).fit(rows), rows) for rows in drawn])


def _fresh(law: Any) -> Any:
    return clone(law) if isinstance(law, BaseEstimator) else copy.deepcopy(law)


def _rows(X: Any, caller: str) -> Array:
    x = check_rows_of(BaseEstimator(), X, fitting=True, caller=caller)
    check_scale(x)
    return x


def _width(bandwidth: float | None, x: Array) -> float:
    if bandwidth is None:
        bandwidth = half_distance(x, np.full(len(x), 1 / len(x)))
        if not bandwidth > 0:
            raise ValueError(
                "all rows of X are equal, or so near that squared distances are 0, which leaves no default bandwidth; "
                "give a bandwidth > 0, or multiply X by a number"
            )
    check_positive("bandwidth", bandwidth)
    check_between("bandwidth", bandwidth, SMALLEST, LARGEST)
    return float(bandwidth)


def _check_finite(values: Any, width: float) -> None:
    """Refuse statistics that overflowed: no replicate is larger than one that is no number."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"the discrepancy overflows in float64 with the bandwidth {width:.3g}; give another, or rescale X and score"
        )


def _scores(score: Any, x: Array, given: Any) -> Array:
    """The score at rows, whatever it is given as; what was fitted to names of columns sees X as it was given."""
    if hasattr(score, "score_function"):
        rows = given if hasattr(score, "feature_names_in_") else x
        s = np.asarray(score.score_function(rows), dtype=np.float64)
    else:
        function = score if callable(score) else getattr(score, "score", None)
        if function is None:
            raise TypeError(
                "score must be a function (n, d) -> (n, d), a density with .score or an estimator with "
                f".score_function, got {type(score).__name__}"
            )
        value = function(torch.from_numpy(x.copy()))
        s = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, dtype=np.float64)
    if s.shape != x.shape:
        raise ValueError(f"the score must return the shape of X, {x.shape}, got {s.shape}")
    if not np.isfinite(s).all():
        i = int((~np.isfinite(s)).any(1).argmax())
        raise ValueError(f"the score must be finite, but it is {s[i]} at row {i} of X; look at this point")
    if np.abs(s).max() > LARGEST:
        raise ValueError(
            f"the score must lie in [-1e100, 1e100] on X, got {np.abs(s).max():.3g}; multiply X by a number"
        )
    return s
