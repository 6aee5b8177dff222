r"""The Gaussian by score matching, where it is maximum likelihood, and truncated to a domain, where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.linalg import block_diag
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from scorefield.checks import check_choice, check_non_negative
from scorefield.estimators import linear
from scorefield.estimators.base import Energy, Sampled, ScoreEstimator
from scorefield.estimators.domains import region_of
from scorefield.estimators.inference import ON_SINGULAR, Inference, Spread, invert, record
from scorefield.estimators.sampling import draw, say_improper, starts
from scorefield.estimators.statistics import (
    Quadratic,
    Standardised,
    not_definite,
    quadratic_forms,
    quadratic_slopes,
)
from scorefield.estimators.validation import Array, check_fit_data, names_of

_MOST = 20_000  # parameters whose covariance still fits into memory (3 GB)


def _normalised(estimator: Any) -> bool:
    why = getattr(estimator, "_improper", None)
    if why is not None:
        raise AttributeError(f"this fit has no density: {why}")
    return True


class Gaussian(Inference, Energy, Sampled, ScoreEstimator):
    r"""The Gaussian, fitted by score matching in closed form, with standard errors that hold for other laws too.

    $$ \hat\mu = \bar x, \qquad \hat P = S^{-1}, \qquad S = \tfrac1n \sum_i (x_i - \bar x)(x_i - \bar x)^\top $$

    P is the precision, the inverse of the covariance: the objective is $\tfrac12 \operatorname{tr} PSP -
    \operatorname{tr} P$. S is divided by n, not n - 1, as by maximum likelihood, to which the estimate is equal.
    Columns are centred and scaled inside, so that units do not matter.

    Args:
        ddof: the covariance of the estimate is multiplied by n / (n - ddof); S is not.
        on_singular: a singular S, from constant or dependent columns or too few rows: `"pinv"` answers with its
            pseudo-inverse and a `RankWarning`, `"raise"` refuses.
        inference: False skips the covariance of the estimate and the Hessian, which take memory of order $d^4$.

    Attributes:
        mean_: (d,).
        precision_: P, (d, d).
        covariance_matrix_: S, (d, d), of the data; `covariance_` is that of the estimate.
        theta_: the mean, then P's upper triangle row by row; with `covariance_` and the others of `Inference`. The
            condition number is that of the correlation matrix.

    Source: Hyvärinen 2005, section 3.1; the sandwich from the influence functions $z$ and $P - P z z^\top P$.
    """

    def __init__(self, ddof: float = 0.0, on_singular: str = "pinv", inference: bool = True) -> None:
        self.ddof = ddof
        self.on_singular = on_singular
        self.inference = inference

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Gaussian:
        """Estimate mean and precision.

        Args:
            X: rows, (n, d).
            y: ignored.
            sample_weight: of the rows, >= 0.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights or settings; more than 20,000 parameters with `inference`.

        Warns:
            RankWarning: S is singular or nearly so; the columns are named.
        """
        check_non_negative("ddof", self.ddof)
        check_choice("on_singular", self.on_singular, ON_SINGULAR)
        x, w = check_fit_data(self, X, sample_weight)
        d, columns = x.shape[1], names_of(self, x.shape[1])
        _check_size(d + d * (d + 1) // 2, self.inference)
        z, centre, scale = standardise(x, w)
        spread = (z * w[:, None]).T @ z
        solved = invert(spread, columns, n=len(x), on_singular=self.on_singular)
        i, j = np.triu_indices(d)
        unit = np.concatenate([scale, 1 / scale[i] / scale[j]])
        covariance = None
        if self.inference:
            influence = Spread(len(unit))
            for rows, shares in linear.chunks(z, w, len(unit)):
                pulled = rows @ solved.inverse
                influence.add(np.concatenate([rows, solved.inverse[i, j] - pulled[:, i] * pulled[:, j]], 1), shares)
            covariance = influence.covariance(self.ddof) * unit * unit[:, None]
        self.mean_ = centre
        self.precision_ = solved.inverse / scale / scale[:, None]
        self.covariance_matrix_ = spread * scale * scale[:, None]
        record(
            self,
            theta=np.concatenate([centre, self.precision_[i, j]]),
            hessian=gaussian_hessian(self.precision_, self.covariance_matrix_) if self.inference else None,
            covariance=covariance,
            objective=-float(np.trace(self.precision_)) / 2,
            condition=solved.condition,
            n_samples=len(x),
            names=gaussian_names(columns),
        )
        self._improper = None if np.isfinite(solved.condition) else "its covariance matrix is singular"
        self._log_normaliser = -(np.linalg.slogdet(spread)[1] / 2 + np.log(scale).sum() + d * np.log(2 * np.pi) / 2)
        return self

    def _contributions(self, x: Array) -> Array:
        return gaussian_contributions(x - self.mean_, self.precision_)

    @available_if(_normalised)
    def score_samples(self, X: Any) -> Array:
        """The log-density of each row, (n,), normalised; a singular fit lacks this method."""
        return self.log_density(X) + self._log_normaliser

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


class TruncatedGaussian(Inference, Energy, Sampled, ScoreEstimator):
    r"""A Gaussian restricted to a domain, fitted in closed form by weighted score matching.

    $\log p(x) = -\tfrac12 (x - \mu)^\top P (x - \mu) - \log Z$ on the domain, where Z has no closed form: mean and
    precision are those of the law before it was truncated. The linear system is that of `ExponentialFamily` with
    the statistics `Quadratic`, in centred and scaled coordinates; standard errors of mean and precision by the
    delta method.

    Args:
        domain: where the data live, see `region_of`; the half-line $x_j \ge 0$ unless given.
        weight: h, see `region_of`; `"plain"` shows the bias that the weight removes.
        ddof: the covariance of the estimate is multiplied by n / (n - ddof).
        on_singular: `"pinv"` or `"raise"`, see `invert`.
        inference: False skips the standard errors.

    Attributes:
        mean_: of the Gaussian before truncation, (d,).
        precision_: of the same, (d, d).
        theta_: the mean, then P's upper triangle row by row; with `covariance_` and the others of `Inference`. The
            condition number is that of the linear system.

    Source: Hyvärinen 2007 (half-line, x²); Yu, Drton & Shojaie 2019 (min(x, c)); Liu, Kanamori & Williams 2022.
    """

    def __init__(
        self,
        domain: Any = "half-line",
        weight: Any = None,
        ddof: float = 0.0,
        on_singular: str = "pinv",
        inference: bool = True,
    ) -> None:
        self.domain = domain
        self.weight = weight
        self.ddof = ddof
        self.on_singular = on_singular
        self.inference = inference

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> TruncatedGaussian:
        """Estimate mean and precision.

        Args:
            X: rows, (n, d), within the domain.
            y: ignored.
            sample_weight: of the rows, >= 0.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights or settings.

        Warns:
            RankWarning: the linear system is singular or nearly so.
            NotNormalisable: P is not positive definite, and the domain is not bounded.
        """
        check_non_negative("ddof", self.ddof)
        check_choice("on_singular", self.on_singular, ON_SINGULAR)
        x, w = check_fit_data(self, X, sample_weight)
        d, columns = x.shape[1], names_of(self, x.shape[1])
        _check_size(d + d * (d + 1) // 2, self.inference)
        region = region_of(self.domain, self.weight, d)
        region.check(x)
        _, centre, scale = standardise(x, w)
        family, names = Quadratic(), gaussian_names(columns)
        inner = Standardised(family, centre, scale)
        how: Any = {"ddof": self.ddof, "on_singular": self.on_singular, "inference": self.inference}
        found = linear.solve(x, w, inner, region, names, **how)
        eta, precision = family.unpack(found.theta)
        inverse = np.linalg.pinv(precision, hermitian=True)
        mean, i, j = inverse @ eta, *np.triu_indices(d)
        unit, slopes, pairs = np.concatenate([scale, 1 / scale[i] / scale[j]]), quadratic_slopes(mean), np.eye(len(i))
        back = np.block([[inverse, -inverse @ slopes], [0 * slopes.T, pairs]]) * unit[:, None]
        to = np.block([[precision, slopes], [0 * slopes.T, pairs]]) / unit
        self.mean_, self.precision_ = centre + scale * mean, precision / scale / scale[:, None]
        record(
            self,
            theta=np.concatenate([self.mean_, self.precision_[i, j]]),
            hessian=to.T @ found.hessian @ to,
            covariance=None if found.covariance is None else back @ found.covariance @ back.T,
            objective=found.objective,
            condition=found.condition,
            n_samples=len(x),
            names=names,
        )
        self._starts, self._natural = starts(x, w), (inner, found.theta, to)
        say_improper(self, None if region.bounded else not_definite(self.precision_))
        return self

    def _contributions(self, x: Array) -> Array:
        region, (inner, theta, to) = region_of(self.domain, self.weight, self.n_features_in_), self._natural
        region.check(x)
        return linear.contributions(x, theta, inner, region) @ to

    def _rho(self, x: Array) -> Array:
        region = region_of(self.domain, self.weight, self.n_features_in_)
        region.check(x)
        return linear.objective(x, self._natural[1], self._natural[0], region)

    def _score(self, x: Array) -> Array:
        return -(x - self.mean_) @ self.precision_

    def _log_density(self, x: Array) -> Array:
        return self._torch_log_density(torch.from_numpy(x)).numpy()

    def _torch_log_density(self, x: Tensor) -> Tensor:
        z = x - torch.from_numpy(self.mean_)
        value = -(z * (z @ torch.from_numpy(self.precision_))).sum(1) / 2
        distance = region_of(self.domain, self.weight, x.shape[1]).distance
        return value if distance is None else torch.where(distance(x) >= 0, value, -torch.inf)

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        mean, precision = torch.from_numpy(self.mean_), torch.from_numpy(self.precision_)
        return draw(lambda x: (mean - x) @ precision, self._torch_log_density, self._starts, count, rng)


def standardise(x: Array, w: Array) -> tuple[Array, Array, Array]:
    """Rows in coordinates of mean 0 and standard deviation 1, (n, d); the means and standard deviations, (d,).

    A constant column becomes 0, exactly, and its scale 1. Squares neither overflow nor underflow on the way.

    Raises:
        ValueError: columns whose range overflows.
    """
    with np.errstate(over="ignore"):
        z = x - x[0]
        size = np.abs(z).max(0)
    if not np.isfinite(size).all():
        raise ValueError("the range of a column of X overflows in float64; rescale the columns of X")
    size[size == 0] = 1.0
    z = z / size
    shift = w @ z
    z = z - np.where((z == 0).all(0), 0.0, shift)
    deviation = np.sqrt(w @ z**2)
    deviation[deviation == 0] = 1.0
    return z / deviation, x[0] + size * shift, size * deviation


def gaussian_hessian(precision: Array, spread: Array) -> Array:
    r"""Of the mean of $\tfrac12\|P(x - \mu)\|^2 - \operatorname{tr} P$ in the mean and P's upper triangle, (K, K)."""
    return np.asarray(block_diag(precision @ precision, quadratic_forms(spread)), dtype=np.float64)


def gaussian_contributions(z: Array, precision: Array, multiplier: float = 1.0) -> Array:
    r"""The gradient of $\tfrac12\|Pz\|^2 - \operatorname{tr} P$, z = x - mean, in mean and P's triangle, (n, K)."""
    pairs = gaussian_slopes(z, precision, *np.triu_indices(len(precision)), multiplier=multiplier)
    return np.concatenate([-z @ precision @ precision, pairs], axis=1)


def gaussian_slopes(z: Array, precision: Array, i: Any, j: Any, *, multiplier: float = 1.0) -> Array:
    r"""The same in the entries (i, j), i <= j, of P, with the diagonal of $zz^\top$ multiplied, (n, len(i))."""
    q, more = z @ precision, (multiplier - 1) * precision[i, j]
    both = q[:, i] * z[:, j] + q[:, j] * z[:, i] + more * (z[:, i] ** 2 + z[:, j] ** 2)
    return both * np.where(i == j, 0.5, 1.0) - (i == j)


def gaussian_names(columns: list[str]) -> list[str]:
    """`mean[a]`, then `P[a, b]` along the upper triangle of the precision."""
    i, j = np.triu_indices(len(columns))
    pairs = [f"P[{columns[a]}, {columns[b]}]" for a, b in zip(i, j, strict=True)]
    return [f"mean[{name}]" for name in columns] + pairs


def _check_size(count: int, inference: bool) -> None:
    if inference and count > _MOST:
        raise ValueError(
            f"standard errors of {count} parameters need {8 * count**2 / 1e9:.0f} GB; use inference=False for so many"
        )
