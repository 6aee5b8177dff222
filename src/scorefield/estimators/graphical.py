"""The Gaussian graphical model by score matching: on a given graph in closed form, or on one found by an l1 path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if

from scorefield.checks import check_choice, check_non_negative
from scorefield.estimators import linear
from scorefield.estimators.base import Energy, Sampled, ScoreEstimator
from scorefield.estimators.gaussian import (
    _check_size,
    _normalised,
    gaussian_contributions,
    gaussian_hessian,
    gaussian_names,
    gaussian_slopes,
    standardise,
)
from scorefield.estimators.graphs import NO_ERRORS, Columns, Path, Search, pattern_of, slots_of
from scorefield.estimators.inference import ON_SINGULAR, Inference, Solved, Spread, invert, record
from scorefield.estimators.sampling import say_improper
from scorefield.estimators.statistics import not_definite
from scorefield.estimators.validation import Array, check_fit_data, names_of


class GaussianGraphicalModel(Inference, Energy, Sampled, ScoreEstimator):
    r"""A Gaussian whose precision K has zeros where its graph has no edge, by (regularised) score matching.

    $$ \hat K = \arg\min_{K = K^\top} \; \tfrac12 \operatorname{tr} KSK - \operatorname{tr} K
       + \lambda \sum_{i \ne j} |K_{ij}|, \qquad S = \tfrac1n \sum_i (x_i - \bar x)(x_i - \bar x)^\top $$

    On a given graph with $\lambda = 0$ it is a linear system, with standard errors by Godambe's sandwich; there it
    is not maximum likelihood, unless the graph is complete. Otherwise the graph is found along a path of $\lambda$, by
    coordinate descent whose result meets the optimality conditions to rounding; such estimates are shrunk and have no
    standard errors. For these, fit the graph found, `pattern=model.pattern_`, to other rows.

    The estimate is symmetric but need not be positive definite; then it is no density, which is said, and it is not
    projected. The objective depends on the relative units of the columns: put a `StandardScaler` before it unless
    they share one. A common unit does not matter, not to the choice of $\lambda$ either.

    Args:
        pattern: the graph, (d, d), symmetric: True (or other than 0) where K may differ from 0; None is complete.
        penalty: $\lambda \ge 0$, or how it is chosen along a path: `"ebic"` (see `ebic`) or `"cv"`, the held-out
            objective. None is 0 with a pattern and `"ebic"` without one.
        multiplier: of the diagonal of S in the quadratic term, $1 + \delta \ge 1$; without it there may be no minimum
            with more columns than rows. None is 1 where n > d or $\lambda = 0$, else that of `diagonal_multiplier`.
        gamma: of eBIC; 0 is BIC.
        folds: of `"cv"`; row i is in fold i mod `folds`.
        count: how many penalties a path has, from the smallest that leaves out all edges, in equal ratios.
        ratio: of the last to the first; None is $\tfrac15\sqrt{\log d / n}$, within 0.001 and 0.2.
        ddof: the covariance of the estimate is multiplied by n / (n - ddof); S is not.
        on_singular: with $\lambda = 0$: `"pinv"` or `"raise"`, see `invert`.
        inference: False skips the standard errors and the Hessian.

    Attributes:
        mean_: (d,).
        precision_: K, (d, d).
        pattern_: where K differs from 0, or may, if a pattern was given, (d, d).
        penalty_: $\lambda$.
        path_: a `Path`; None without a penalty.
        theta_: the mean, then K's upper triangle row by row; with `covariance_` and the others of `Inference` where
            $\lambda = 0$. `objective_` is without the penalty and without the multiplier, which the Hessian has;
            `contributions` have it where $\lambda = 0$. On a complete graph without a multiplier K is $S^{-1}$, as for
            `Gaussian`, and the condition number that of the correlation matrix.

    Source: Forbes & Lauritzen 2015 (arXiv:1304.2741) for a given graph; Lin, Drton & Shojaie 2016 (arXiv:1507.00433)
    for the penalty; Yu, Drton & Shojaie 2019 (arXiv:1812.10551) for the multiplier.
    """

    def __init__(
        self,
        pattern: Any = None,
        penalty: Any = None,
        multiplier: float | None = None,
        gamma: float = 0.5,
        folds: int = 5,
        count: int = 30,
        ratio: float | None = None,
        ddof: float = 0.0,
        on_singular: str = "pinv",
        inference: bool = True,
    ) -> None:
        self.pattern = pattern
        self.penalty = penalty
        self.multiplier = multiplier
        self.gamma = gamma
        self.folds = folds
        self.count = count
        self.ratio = ratio
        self.ddof = ddof
        self.on_singular = on_singular
        self.inference = inference

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianGraphicalModel:
        """Estimate mean and precision.

        Args:
            X: rows, (n, d).
            y: ignored.
            sample_weight: of the rows, >= 0.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights or settings; a constant column, or no minimum, with a penalty.

        Warns:
            RankWarning: the linear system of a given graph is singular or nearly so.
            NotNormalisable: K is not positive definite.
        """
        check_non_negative("ddof", self.ddof)
        check_choice("on_singular", self.on_singular, ON_SINGULAR)
        penalty = ("ebic" if self.pattern is None else 0.0) if self.penalty is None else self.penalty
        search = Search(penalty, self.multiplier, self.gamma, self.folds, self.count, self.ratio)
        x, w = check_fit_data(self, X, sample_weight)
        d, columns = x.shape[1], names_of(self, x.shape[1])
        allowed = pattern_of(self.pattern, d)
        z, self.mean_, scale = standardise(x, w)
        unit = scale.max()  # a common one, which nothing depends on
        z *= scale / unit
        names = gaussian_names(columns)
        covariance, solved = None, Solved(np.zeros((d, d)), np.nan)
        if penalty == 0:
            self._factor = 1.0 if self.multiplier is None else float(self.multiplier)
            K, covariance, solved = self._closed_form(z, w, allowed, columns)
            self.penalty_, self.path_, self.pattern_ = 0.0, None, allowed
        else:
            self._factor = 1.0
            K, path = search.run(_Covariance.of, z, w, allowed)
            self.penalty_ = float(path.penalties[(path.precisions == K).all((1, 2)).argmax()])
            self.path_ = Path(path.penalties, path.precisions / unit / unit, path.edges, path.criterion)
            self.pattern_ = allowed if self.pattern is not None else (K != 0) | np.eye(d, dtype=bool)
        i, j = np.triu_indices(d)
        with np.errstate(over="ignore", invalid="ignore"):
            back = np.append(np.full(d, unit), np.full(len(i), 1 / unit / unit))
            self.precision_ = K / unit / unit
            spread = (z * w[:, None]).T @ z
            square = np.stack([self.precision_ @ self.precision_, spread * unit * unit])
        if not np.isfinite(square).all():
            raise ValueError("K or its square overflows in float64; rescale the columns of X")
        hessian = None
        if covariance is not None:
            covariance = covariance * back * back[:, None]
            own = np.diag(spread) * unit * unit
            hessian = gaussian_hessian(self.precision_, spread * unit * unit)
            hessian[d:, d:] += (self._factor - 1) * np.diag(np.where(i == j, own[i], own[i] + own[j]))
        record(
            self,
            theta=np.append(self.mean_, self.precision_[i, j]),
            hessian=hessian,
            covariance=covariance,
            objective=(np.sum(K * (spread @ K)) / 2 - np.trace(K)) / unit / unit,
            condition=solved.condition,
            n_samples=len(x),
            names=names,
            way_out=NO_ERRORS if penalty != 0 else "fit with inference=True",
        )
        say_improper(self, not_definite(self.precision_))
        if self._improper is None:
            self._log_normaliser = (np.linalg.slogdet(K)[1] / 2 - d * np.log(unit)) - d * np.log(2 * np.pi) / 2
        return self

    @available_if(_normalised)
    def score_samples(self, X: Any) -> Array:
        """The log-density of each row, (n,), normalised; a fit that is not positive definite lacks this method."""
        return self.log_density(X) + self._log_normaliser

    def _closed_form(
        self, z: Array, w: Array, allowed: Array, columns: list[str]
    ) -> tuple[Array, Array | None, Solved]:
        """K on a graph, and the covariance of the mean and of its upper triangle; S^-1 where the graph is complete."""
        d, factor, names = z.shape[1], self._factor, gaussian_names(columns)
        how: Any = {"n": len(z), "on_singular": self.on_singular}
        moments, slots = _Covariance.of(z, w), slots_of(allowed)
        whole = bool(allowed.all()) and factor == 1
        (j, _), (i, _) = slots.column, slots.row
        place = {pair: k for k, pair in enumerate(zip(*np.triu_indices(d), strict=True))}
        free = np.append(np.arange(d), [d + place[pair] for pair in zip(i, j, strict=True)])
        if whole:
            solved = invert(moments.spread, columns, **how)
            K = solved.inverse
        else:
            hessian, pull = moments.columns(factor).system(slots)
            solved, K = invert(hessian, [names[k] for k in free[d:]], **how), np.zeros((d, d))
            K[i, j] = K[j, i] = solved.inverse @ pull
        if not self.inference:
            return K, None, solved
        _check_size(len(names), inference=True)
        spread = Spread(len(free))
        for rows, shares in linear.chunks(z, w, len(free)):
            if whole:
                pulled = rows @ K
                influence = K[i, j] - pulled[:, i] * pulled[:, j]
            else:
                influence = -gaussian_slopes(rows, K, i, j, multiplier=factor) @ solved.inverse
            spread.add(np.concatenate([rows, influence], axis=1), shares)
        covariance = np.zeros((len(names), len(names)))
        covariance[np.ix_(free, free)] = spread.covariance(self.ddof)
        return K, covariance, solved

    def _contributions(self, x: Array) -> Array:
        return gaussian_contributions(x - self.mean_, self.precision_, self._factor)

    def _rho(self, x: Array) -> Array:
        return np.square(self._score(x)).sum(1) / 2 - np.trace(self.precision_)

    def _score(self, x: Array) -> Array:
        return -(x - self.mean_) @ self.precision_

    def _log_density(self, x: Array) -> Array:
        return np.sum((x - self.mean_) * self._score(x), axis=1) / 2

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        root = np.linalg.cholesky(self.precision_)
        z = rng.standard_normal((count, len(self.mean_)))
        return self.mean_ + np.linalg.solve(root.T, z.T).T


@dataclass(frozen=True)
class _Covariance:
    """Mean and covariance of some rows."""

    mean: Array
    spread: Array

    @classmethod
    def of(cls, x: Array, w: Array) -> _Covariance:
        mean = w @ x
        centred = x - mean
        return cls(mean, (centred * w[:, None]).T @ centred)

    def columns(self, multiplier: float) -> Columns:
        d = len(self.mean)
        spread = self.spread + (multiplier - 1) * np.diag(np.diag(self.spread))
        return Columns(np.broadcast_to(spread, (d, d, d)), np.eye(d))

    def unit(self) -> float:
        return 2 * float(np.mean(1 / np.diag(self.spread)))  # 1/S_ii + 1/S_jj, if the columns are independent Gaussians

    def held_out(self, K: Array, test: _Covariance) -> float:
        gap = test.mean - self.mean
        return float(np.sum(K * ((test.spread + np.outer(gap, gap)) @ K)) / 2 - np.trace(K))
