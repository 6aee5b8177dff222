"""The gradient of a kernel density estimate."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Self

import numpy as np
from scipy.special import logsumexp
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from scorefield.estimators.bandwidth import normal_reference
from scorefield.estimators.base import Sampled, ScoreEstimator
from scorefield.estimators.kernels.fields import blocks, square_distances
from scorefield.estimators.kernels.rows import Rows, check_near, read_rows
from scorefield.estimators.kernels.selection import read_bandwidth, search
from scorefield.estimators.validation import Array, check_rows_of


class KernelScore(Sampled, ScoreEstimator):
    r"""The score of a Gaussian kernel density estimate, that is, of the data blurred by $N(0, h^2 I)$.

    $$ p(x) = \sum_a w_a\, N(x; x_a, h^2 I), \qquad s(x) = \frac1{h^2} \Big(\sum_a r_a(x)\, x_a - x\Big), \qquad
       r_a(x) = \frac{w_a N(x; x_a, h^2 I)}{p(x)} $$

    Normalised, so that `score_samples` is a log-density. Far from the data the score is $(x_a - x)/h^2$ of the nearest
    row, however wide the true law.

    Args:
        bandwidth: h > 0; when None the normal reference rule for gradients, `estimators.bandwidth.normal_reference`;
            "held-out" tries 9 around it and keeps the one of the least implicit objective on rows left out.
        random_state: source of the folds.

    Attributes:
        bandwidth_: h.
        held_out_: the objective of every bandwidth tried, a `HeldOut`.

    Source: Parzen 1962; the score as mean shift by Fukunaga & Hostetler 1975; Chacón, Duong & Wand 2011 for h.
    """

    def __init__(self, bandwidth: float | str | None = None, *, random_state: Any = None) -> None:
        self.bandwidth = bandwidth
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Keep the rows and choose the bandwidth.

        Args:
            X: (n, d), finite, n >= 2; columns that differ from each other and are not constant.
            y: ignored.
            sample_weight: (n,), >= 0; integer weights count like repeated rows.

        Returns:
            self.

        Raises:
            ValueError: data or a bandwidth out of their range; the message names the way out.
        """
        rows = read_rows(self, X, sample_weight)
        widths = read_bandwidth(self.bandwidth, normal_reference(rows.x, rows.w), rows.unit)
        self.bandwidth_ = widths[0]
        if len(widths) > 1:
            random, none = check_random_state(self.random_state), np.zeros((len(widths), 1))
            self.held_out_ = search(rows, widths, none, lambda part, h: lambda _: partial(_objective, part, h), random)
            self.bandwidth_ = self.held_out_.best[0]
        self.rows_, self._improper = rows, None
        return self

    def score_samples(self, X: Any) -> Array:
        r"""$\log p$ at the rows of X, normalised, (n, d) -> (n,)."""
        check_is_fitted(self)
        x = check_rows_of(self, X, fitting=False)
        check_near(x, self.rows_.mean, self.bandwidth_)
        return _evaluate(self.rows_, self.bandwidth_, x)[0]

    def _score(self, x: Array) -> Array:
        check_near(x, self.rows_.mean, self.bandwidth_)
        return _evaluate(self.rows_, self.bandwidth_, x)[1]

    def _rho(self, x: Array) -> Array:
        check_near(x, self.rows_.mean, self.bandwidth_)
        return _objective(self.rows_, self.bandwidth_, x)

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        """A row by its weight, and blurred: exact."""
        chosen = rng.choice(len(self.rows_.x), count, p=self.rows_.w)
        return self.rows_.x[chosen] + self.bandwidth_ * rng.standard_normal((count, self.rows_.x.shape[1]))


def _evaluate(rows: Rows, h: float, x: Array) -> tuple[Array, Array, Array]:
    """The log-density (n,), the score (n, d) and its divergence (n,) at x."""
    d = x.shape[1]
    points, z = (rows.x - rows.mean) / h, (x - rows.mean) / h
    constant, log_w = d / 2 * math.log(2 * math.pi) + d * math.log(h), np.log(rows.w)
    log_density, score, divergence = np.empty(len(z)), np.empty_like(z), np.empty(len(z))
    for part in blocks(len(z), len(points)):
        q = square_distances(z[part], points)
        terms = log_w - q / 2
        total = np.asarray(logsumexp(terms, axis=1))
        shares = np.exp(terms - total[:, None])
        shift = shares @ points - z[part]
        log_density[part], score[part] = total - constant, shift / h
        divergence[part] = ((shares * q).sum(1) - np.square(shift).sum(1) - d) / h**2
    return log_density, score, divergence


def _objective(rows: Rows, h: float, x: Array) -> Array:
    _, s, divergence = _evaluate(rows, h, x)
    return np.square(s).sum(1) / 2 + divergence
