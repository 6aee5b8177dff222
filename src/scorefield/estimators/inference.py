r"""What every parametric estimator knows about its parameters after a fit: one object for all of them.

With $\rho(x; \theta) = \tfrac12\|s\|^2 + \operatorname{tr}\nabla s$ (or its weighted form), $g = \nabla_\theta \rho$
and $H = \mathbb E\,\nabla_\theta g$, the minimiser of the mean of $\rho$ is an M-estimator, and

$$ \sqrt n\,(\hat\theta - \theta) \to N(0, H^{-1} \operatorname{Var}(g) H^{-1}) $$

whether or not the model is true (Godambe's sandwich; then $\theta$ is the minimiser in the population). Estimators call
`record` at the end of `fit`; `Inference` reads what it stored.

Weights are those of a sample: they change the law, not the amount of information. Doubling all of them changes
nothing, a row of weight 2 is one observation, and rows that were really seen twice belong into X twice.

Source: Godambe 1960; Hyvärinen 2005 and Forbes & Lauritzen 2015 (arXiv:1304.2741) for score matching.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.exceptions import RankWarning
from scipy.linalg import cho_factor, cho_solve
from scipy.stats import chi2, norm
from sklearn.utils.validation import check_is_fitted

from scorefield.checks import check_choice
from scorefield.estimators.summary import Row, Summary
from scorefield.estimators.validation import Array, check_rows_of

ILL_CONDITIONED = 1e10  # above this a fit warns
ON_SINGULAR = ("pinv", "raise")


class Inference(ABC):
    """The methods that read a fit: a mixin for estimators whose `fit` ends with `record`; defines `_contributions`.

    Attributes:
        theta_: the estimate, (K,).
        covariance_: of the estimate, (K, K); zero for parameters that were held fixed.
        standard_error_: its roots, (K,).
        hessian_: of the mean objective at the estimate, (K, K).
        objective_: the mean objective there; negative, and lower is better.
        condition_number_: of the Hessian with its diagonal scaled to 1; inf where it is singular. It tells whether the
            data tell parameters apart, in any units; one that they hardly determine by itself shows in its standard
            error alone.
        n_samples_: how many rows of weight > 0 were seen.
        parameter_names_: K words.
    """

    theta_: Array
    covariance_: Array
    standard_error_: Array
    hessian_: Array
    objective_: float
    condition_number_: float
    n_samples_: int
    parameter_names_: list[str]
    _way_out: str

    def confidence_interval(self, level: float = 0.95) -> Array:
        r"""Normal intervals $\hat\theta \pm z\,\mathrm{s.e.}$ of every parameter, (K, 2).

        Args:
            level: in (0, 1).

        Raises:
            ValueError: a level outside (0, 1).
            RuntimeError: the fit was made with `inference=False`.
        """
        self._check_inference()
        z = _quantile(level)
        return np.stack([self.theta_ - z * self.standard_error_, self.theta_ + z * self.standard_error_], axis=1)

    def summary(self, level: float = 0.95) -> Summary:
        """A table of the parameters: estimate, standard error, z, two-sided p-value of zero, interval.

        Args:
            level: of the intervals, in (0, 1).

        Raises:
            ValueError: a level outside (0, 1).
            RuntimeError: the fit was made with `inference=False`.
        """
        bounds = self.confidence_interval(level)
        rows = []
        for name, value, error, (low, high) in zip(
            self.parameter_names_, self.theta_, self.standard_error_, bounds, strict=True
        ):
            z = float(value / error) if error > 0 else math.nan
            rows.append(Row(name, float(value), float(error), z, float(2 * norm.sf(abs(z))), float(low), float(high)))
        return Summary(
            type(self).__name__, tuple(rows), level, self.n_samples_, self.objective_, self.condition_number_
        )

    def wald_test(self, R: Any, q: Any = 0.0) -> WaldTest:
        r"""Wald's test of $R\theta = q$.

        $$ (R\hat\theta - q)^\top (R\,C R^\top)^{-1} (R\hat\theta - q) \to \chi^2_m $$

        Args:
            R: m linear forms of the parameters, (m, K), or one, (K,); of full rank.
            q: what they are said to be, m numbers or one.

        Returns:
            the statistic, its degrees of freedom m and the p-value.

        Raises:
            ValueError: another shape, or forms whose estimates have a singular covariance.
            RuntimeError: the fit was made with `inference=False`.
        """
        self._check_inference()
        forms = np.atleast_2d(np.asarray(R, dtype=np.float64))
        if forms.ndim != 2 or forms.shape[1] != len(self.theta_):
            raise ValueError(f"R must have shape (m, {len(self.theta_)}), one column per parameter, got {np.shape(R)}")
        if np.shape(q) not in ((), (len(forms),)):
            raise ValueError(f"q must be one number or {len(forms)}, one per row of R, got shape {np.shape(q)}")
        gap = forms @ self.theta_ - np.asarray(q, dtype=np.float64)
        spread = forms @ self.covariance_ @ forms.T
        scale = np.sqrt(np.diag(spread))
        if not (scale > 0).all() or np.linalg.matrix_rank(spread / np.outer(scale, scale), hermitian=True) < len(gap):
            raise ValueError("the forms in R have a singular covariance; drop rows that others, or fixed values, imply")
        value = float(gap @ np.linalg.solve(spread, gap))
        return WaldTest(value, len(gap), float(chi2.sf(value, len(gap))))

    def information_criterion(self) -> float:
        r"""Information criterion of score matching: lower is better, on the same data, domain and weight.

        $$ \mathrm{SMIC} = \tfrac1n \sum_i \rho(x_i; \hat\theta) + \tfrac1n \operatorname{tr}(J H^{-1}),
           \qquad J = \operatorname{Var} g $$

        It estimates the objective on new data, as Takeuchi's criterion estimates the log-likelihood. The paper's is n
        times this.

        Raises:
            RuntimeError: the fit was made with `inference=False`.

        Source: Matsuda, Uehara & Hyvärinen 2021 (JMLR 22), theorem 2.
        """
        self._check_inference()
        return self.objective_ + float(np.sum(self.hessian_ * self.covariance_))

    def contributions(self, X: Any) -> Array:
        r"""What each row adds to the estimating equations: $\nabla_\theta \rho(x_i; \hat\theta)$, (n, K).

        On the data of the fit, with its weights, their mean is zero for what is free, but for a ridge or a penalty. A
        row's influence on the estimate is $-H^{-1}$ times its contribution, so that `covariance_` is $H^{-1} V H^{-1}
        / n$ with V their covariance (pseudo-inverses where $\theta$ is bound to a surface, along which derivatives are
        then taken).

        Args:
            X: rows, (n, d), within the domain.

        Raises:
            ValueError, TypeError: rows that `score` would refuse.
        """
        check_is_fitted(self)
        return self._contributions(check_rows_of(self, X, fitting=False))  # pyright: ignore[reportArgumentType]

    @abstractmethod
    def _contributions(self, x: Array) -> Array:
        """Of checked rows."""

    def _check_inference(self) -> None:
        check_is_fitted(self)
        if not hasattr(self, "covariance_"):
            raise RuntimeError(f"this fit has no standard errors; {self._way_out}")


def record(
    estimator: Inference,
    *,
    theta: Array,
    hessian: Array | None,
    covariance: Array | None,
    objective: float,
    condition: float,
    n_samples: int,
    names: Sequence[str],
    way_out: str = "fit with inference=True",
) -> None:
    """Store a fit on its estimator, under the names that `Inference` reads; what is None is left out.

    `way_out` says how to come by standard errors where there are none.

    Raises:
        ValueError: an estimate or covariance that is not finite, or a covariance that underflows.
    """
    if not all(np.isfinite(part).all() for part in (theta, hessian, covariance) if part is not None):
        raise ValueError("the fit overflows in float64; rescale the columns of X (StandardScaler, or another unit)")
    if covariance is not None and ((theta != 0) & (np.abs(theta) < 1e-140) & (np.diag(covariance) < 1e-300)).any():
        raise ValueError(
            "standard errors underflow in float64; rescale the columns of X (StandardScaler, another unit)"
        )
    estimator.theta_, estimator.objective_ = theta, float(objective)
    estimator.condition_number_, estimator.n_samples_ = float(condition), int(n_samples)
    estimator.parameter_names_, estimator._way_out = list(names), way_out
    for name in ("hessian_", "covariance_", "standard_error_"):
        if hasattr(estimator, name):
            delattr(estimator, name)
    if hessian is not None:
        estimator.hessian_ = hessian
    if covariance is not None:
        estimator.covariance_ = covariance
        estimator.standard_error_ = np.sqrt(np.diag(covariance).clip(min=0))


class Solved(NamedTuple):
    """The inverse of a Hessian, or its pseudo-inverse, and its condition number (inf where singular)."""

    inverse: Array
    condition: float


def invert(hessian: Array, names: Sequence[str], *, n: int, on_singular: str = "pinv") -> Solved:
    r"""$H^{-1}$ by the eigenvalues of H with its diagonal scaled to 1, so that units of the parameters do not matter.

    Args:
        hessian: symmetric, (K, K); positive semi-definite for closed forms.
        names: of the K parameters, for messages.
        n: rows seen, for messages.
        on_singular: `"pinv"` answers a singular H with its pseudo-inverse and a `RankWarning`, `"raise"` refuses it.

    Returns:
        the inverse and the condition number.

    Warns:
        RankWarning: H is singular, or its condition number is above 1e10; the parameters involved are named.

    Raises:
        ValueError: H is not finite, or singular with `"raise"`.
    """
    check_choice("on_singular", on_singular, ON_SINGULAR)
    if not np.isfinite(hessian).all():
        bad = [name for name, row in zip(names, hessian, strict=True) if not np.isfinite(row).all()]
        raise ValueError(f"the statistics of {_listed(bad)} overflow in float64; rescale the columns of X")
    size = np.sqrt(np.abs(np.diag(hessian)))
    size[size == 0] = 1.0
    values, vectors = np.linalg.eigh(hessian / size / size[:, None])
    magnitude = np.abs(values)
    largest = magnitude.max(initial=0.0)
    kept = magnitude > 100 * len(values) * np.finfo(float).eps * largest
    condition = float(largest / magnitude.min()) if len(values) and kept.all() else math.inf
    if not len(values):
        return Solved(hessian.copy(), 1.0)
    if condition > ILL_CONDITIONED:
        weak = ~kept if not kept.all() else magnitude == magnitude.min()
        share = np.linalg.norm(vectors[:, weak], axis=1)
        involved = _listed([name for name, part in zip(names, share, strict=True) if part > 0.1 * share.max()])
        if kept.all():
            what = f"the fit is ill-conditioned (condition number {condition:.1e} > 1e10): the data hardly tell apart"
            warnings.warn(f"{what} {involved}; centre and scale X, or drop one of them", RankWarning, stacklevel=3)
        else:
            what = (
                f"the {len(values)} statistics have rank {int(kept.sum())} on these {n} rows: the data do not "
                f"determine {involved}; drop constant or duplicate columns, add rows, or give a ridge"
            )
            if on_singular == "raise":
                raise ValueError(what)
            warnings.warn(f"{what}. The pseudo-inverse is used", RankWarning, stacklevel=3)
    if kept.all() and values[0] > 0:  # unlike the eigenvectors, Cholesky's factor keeps small entries to full precision
        inverted = cho_solve(cho_factor(hessian / size / size[:, None], lower=True), np.eye(len(values)))
    else:
        inverted = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    return Solved(inverted / size / size[:, None], condition)


class Spread:
    r"""The weighted covariance of estimating functions g (n, K), gathered in chunks of rows.

    With shares w it holds $\sum w^2 g g^\top$, $\sum w^2 g$, $\sum w g$ and $\sum w^2$, and
    $V = \sum_i w_i^2 (g_i - \bar g)(g_i - \bar g)^\top$ is the covariance of $\bar g = \sum_i w_i g_i$: for equal
    weights $\operatorname{Var}(g)/n$ with the divisor n, or n - `ddof`.
    """

    def __init__(self, count: int) -> None:
        self._square, self._twice = np.zeros((count, count)), np.zeros(count)
        self._mean, self._weight = np.zeros(count), 0.0

    def add(self, g: Array, w: Array) -> None:
        """Take in rows g (B, K) with their shares w (B,)."""
        weighted = g * w[:, None]
        self._square += weighted.T @ weighted
        self._twice += w @ weighted
        self._mean += weighted.sum(0)
        self._weight += float(w @ w)

    def covariance(self, ddof: float = 0.0) -> Array:
        r"""$V$, times $m/(m - \mathrm{ddof})$ with $m = 1/\sum w^2$ the effective number of rows.

        Raises:
            ValueError: no more effective rows than `ddof`.
        """
        m = 1 / self._weight
        if not m > ddof:
            raise ValueError(f"ddof must be below the effective number of rows, {m:g}, got {ddof}")
        across = np.outer(self._twice, self._mean)
        centred = self._square - across - across.T + self._weight * np.outer(self._mean, self._mean)
        return centred * (m / (m - ddof))


class WaldTest(NamedTuple):
    """A Wald test: its statistic, degrees of freedom and p-value."""

    statistic: float
    df: int
    p_value: float


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), like 0.95, got {level!r}")
    return float(norm.ppf(0.5 + level / 2))


def _listed(names: Sequence[str], most: int = 6) -> str:
    """A few names in words."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
