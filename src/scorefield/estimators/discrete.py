r"""Boltzmann machines on $\{-1, 1\}^d$, fitted without their normaliser: by ratio matching, and by pseudo-likelihood.

$$ \log p(x) = \tfrac12 x^\top W x + b^\top x - \log Z, \qquad W = W^\top, \quad W_{ii} = 0 $$

Z, a sum over $2^d$ states, cancels from the ratio of x to its neighbour $x^{(i)}$, where coordinate i is flipped:

$$ m_i = \log \frac{p(x)}{p(x^{(i)})} = 2 x_i h_i, \qquad h = W x + b . $$

Both estimators minimise a mean of $\sum_i \ell(m_i)$, and differ in $\ell$ alone.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.exceptions import RankWarning
from scipy.special import expit

from scorefield.checks import check_choice, check_count, check_non_negative
from scorefield.estimators.base import Energy, Sampled, ScoreEstimator
from scorefield.estimators.inference import ON_SINGULAR, Inference, Spread, invert, record
from scorefield.estimators.minimising import lbfgs, newton
from scorefield.estimators.sampling import starts
from scorefield.estimators.validation import Array, check_fit_data, names_of

_FEW = 200  # parameters up to which Newton's method is used, and L-BFGS beyond
_FAR = 8.0  # a parameter beyond this is on its way to infinity: it multiplies odds by more than exp(16)
GRADIENT = 1e-13  # where the minimisation ends, in the units of the objective, which is of order 1
_NUMBERS = 2**22  # of one chunk of estimating functions


class _Boltzmann(Inference, Energy, Sampled, ScoreEstimator):
    """What both estimators share: everything but the loss of a log-ratio."""

    weights_: Array
    bias_: Array
    coding_: tuple[int, int]

    def __init__(
        self,
        ridge: float = 0.0,
        ddof: float = 0.0,
        on_singular: str = "pinv",
        inference: bool = True,
        max_iter: int = 200,
        sweeps: int = 200,
    ) -> None:
        self.ridge = ridge
        self.ddof = ddof
        self.on_singular = on_singular
        self.inference = inference
        self.max_iter = max_iter
        self.sweeps = sweeps

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> _Boltzmann:
        """Estimate the weights and the bias.

        Args:
            X: rows of -1 and 1, or of 0 and 1, (n, d).
            y: ignored.
            sample_weight: of the rows, >= 0; see `scorefield.estimators.inference` for what they mean.

        Returns:
            self.

        Raises:
            ValueError, TypeError: other values, bad weights or settings.

        Warns:
            RankWarning: parameters that the data do not determine, or drive to infinity; they are named.
        """
        check_non_negative("ridge", self.ridge)
        check_non_negative("ddof", self.ddof)
        check_choice("on_singular", self.on_singular, ON_SINGULAR)
        check_count("max_iter", self.max_iter)
        check_count("sweeps", self.sweeps)
        x, w = check_fit_data(self, X, sample_weight)
        self.coding_ = (0, 1) if (x == 0).any() else (-1, 1)
        x, d = self._signs(x), x.shape[1]
        theta = self._minimised(x, w)
        names = parameter_names(names_of(self, d))
        slopes, bends = self._derivatives(x, theta)[1:]
        hessian = assembled_hessian(x, w, bends) + self.ridge * np.eye(len(theta))
        far = np.abs(theta) > _FAR
        if far.any():
            named = ", ".join(name for name, out in zip(names, far, strict=True) if out)
            warnings.warn(
                f"the data drive {named[:200]} to infinity: some pattern of columns never occurs. They stand where the "
                "gradient vanished; give a ridge, or more data",
                RankWarning,
                stacklevel=2,
            )
        solved = invert(hessian, names, n=len(x), on_singular=self.on_singular)
        covariance = None
        if self.inference:
            spread, rows = Spread(len(theta)), max(1, _NUMBERS // len(theta))
            for k in range(0, len(x), rows):
                part = slice(k, k + rows)
                spread.add(estimating(x[part], slopes[part]) + self.ridge * theta, w[part])
            covariance = solved.inverse @ spread.covariance(self.ddof) @ solved.inverse
        record(
            self,
            theta=theta,
            hessian=hessian,
            covariance=covariance,
            objective=float(w @ self._derivatives(x, theta)[0].sum(1)),
            condition=solved.condition,
            n_samples=len(x),
            names=names,
        )
        self.weights_, self.bias_ = unpacked(theta, d)
        self._starts, self._improper = starts(x, w), None
        return self

    @abstractmethod
    def _loss(self, m: Array) -> tuple[Array, Array, Array]:
        """The loss of each log-ratio and its first two derivatives, (n, d) each."""

    def _first(self, x: Array, w: Array) -> Array:
        """Where the minimisation starts, (K,)."""
        return np.zeros(x.shape[1] * (x.shape[1] + 1) // 2)

    def _minimised(self, x: Array, w: Array) -> Array:
        def value(theta: Array) -> tuple[float, Array]:
            loss, slopes, _ = self._derivatives(x, theta)
            gradient = assembled_gradient(x, w, slopes)
            return float(w @ loss.sum(1) + self.ridge * theta @ theta / 2), gradient + self.ridge * theta

        def hessian(theta: Array) -> Array:
            return assembled_hessian(x, w, self._derivatives(x, theta)[2]) + self.ridge * np.eye(len(theta))

        first = self._first(x, w)
        if len(first) <= _FEW:
            return newton(value, hessian, first, max_iter=self.max_iter, tol=GRADIENT)[0]
        return lbfgs(value, first, max_iter=self.max_iter, tol=1e-7)[0]

    def _derivatives(self, x: Array, theta: Array) -> tuple[Array, Array, Array]:
        """The loss of each coordinate, and its derivatives in h_i, (n, d) each."""
        weights, bias = unpacked(theta, x.shape[1])
        loss, slope, bend = self._loss(2 * x * (x @ weights + bias))
        return loss, 2 * x * slope, 4 * bend

    def _signs(self, x: Array) -> Array:
        low, high = self.coding_
        wrong = (x != low) & (x != high)
        if wrong.any():
            i, j = np.argwhere(wrong)[0]
            raise ValueError(
                f"X must hold -1 and 1, or 0 and 1, alike in fit and later (here {low} and {high}), got {x[i, j]:g} in "
                f"row {i}, column {j}; threshold numbers, and one-hot encode categories"
            )
        return 2 * (x - low) / (high - low) - 1

    def _contributions(self, x: Array) -> Array:
        x = self._signs(x)
        return estimating(x, self._derivatives(x, self.theta_)[1])

    def _rho(self, x: Array) -> Array:
        return self._derivatives(self._signs(x), self.theta_)[0].sum(1)

    def _score(self, x: Array) -> Array:
        return self._signs(x) @ self.weights_ + self.bias_

    def _log_density(self, x: Array) -> Array:
        x = self._signs(x)
        return (x * (x @ self.weights_ / 2 + self.bias_)).sum(1)

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        """Gibbs sampling, one chain per row, each from a row of the data."""
        x = self._starts[rng.randint(len(self._starts), size=count)].copy()
        for _ in range(self.sweeps):
            for i in range(x.shape[1]):
                up = expit(2 * (x @ self.weights_[i] + self.bias_[i]))
                x[:, i] = np.where(rng.uniform(size=count) < up, 1.0, -1.0)
        low, high = self.coding_
        return low + (high - low) * (x + 1) / 2


class PseudoLikelihood(_Boltzmann):
    r"""A Boltzmann machine by maximum pseudo-likelihood: the product of all conditional laws, a convex problem.

    $$ \rho(x) = -\sum_i \log p(x_i \mid x_{-i}) = \sum_i \log(1 + e^{-m_i}), \qquad m_i = 2 x_i (W x + b)_i $$

    Rows of 0 and 1 are taken as $x = 2u - 1$: `weights_` and `bias_` are those of ±1 rows, `coding_` says which came,
    and `sample` answers in it. In `score` and `objective_` $\rho$ stands in the place of the implicit objective, and
    `score_function` is $Wx + b$, half the log-odds of $x_i = 1$ given the others.

    Args:
        ridge: $\lambda \ge 0$ of the penalty $\tfrac{\lambda}{2}\|\theta\|^2$; 0 for none.
        ddof: the covariance is multiplied by n / (n - ddof).
        on_singular: `"pinv"` or `"raise"`, see `invert`.
        inference: False for no standard errors.
        max_iter: iterations of the minimisation: Newton's up to 200 parameters, those of L-BFGS beyond.
        sweeps: of Gibbs sampling over all coordinates, in `sample`.

    Attributes:
        weights_: W, symmetric with a zero diagonal, (d, d).
        bias_: b, (d,).
        coding_: the two values of the data, (-1, 1) or (0, 1).
        theta_: the upper triangle of W row by row, then b; with covariance_ and the rest of `Inference`.

    Source: Besag 1975; Hyvärinen 2006 (Neural Computation 18) for Boltzmann machines.
    """

    def _loss(self, m: Array) -> tuple[Array, Array, Array]:
        miss = expit(-m)
        return np.logaddexp(0, -m), -miss, miss * (1 - miss)


class RatioMatching(_Boltzmann):
    r"""A Boltzmann machine by ratio matching, the score matching of binary data.

    $$ \rho(x) = \sum_i g(p(x)/p(x^{(i)}))^2 = \sum_i (1 + e^{m_i})^{-2}, \qquad g(u) = \frac{1}{1 + u} $$

    without the ½, as in the paper. Its mean is, up to a constant, the squared distance of the model's transformed
    ratios to those of the data. It is smooth and **not convex**: each term is concave where the model gives the flipped
    row odds above 2. So the minimisation starts at the pseudo-likelihood's, which is consistent. Arguments, attributes,
    codings and `score` are as for `PseudoLikelihood`.

    Source: Hyvärinen 2007 (Some extensions of score matching), section 3, equation 17.
    """

    def _loss(self, m: Array) -> tuple[Array, Array, Array]:
        miss = expit(-m)
        slope = -2 * miss**2 * (1 - miss)
        return miss**2, slope, 2 * miss**2 * (1 - miss) * (2 - 3 * miss)

    def _first(self, x: Array, w: Array) -> Array:
        return PseudoLikelihood(ridge=self.ridge, max_iter=self.max_iter)._minimised(x, w)


def parameter_names(columns: list[str]) -> list[str]:
    """`W[a, b]` along the upper triangle, then `b[a]`."""
    i, j = np.triu_indices(len(columns), 1)
    return [f"W[{columns[a]}, {columns[b]}]" for a, b in zip(i, j, strict=True)] + [f"b[{name}]" for name in columns]


def places(d: int) -> np.ndarray:
    """Where parameters stand in theta: that of $W_{ij}$ at (i, j), that of $b_i$ on the diagonal, (d, d)."""
    where = np.zeros((d, d), dtype=np.intp)
    i, j = np.triu_indices(d, 1)
    where[i, j] = where[j, i] = np.arange(len(i))
    where[np.arange(d), np.arange(d)] = len(i) + np.arange(d)
    return where


def unpacked(theta: Array, d: int) -> tuple[Array, Array]:
    """W (d, d) and b (d,)."""
    weights = theta[places(d)]
    np.fill_diagonal(weights, 0)
    return weights, theta[-d:]


def assembled_gradient(x: Array, w: Array, slopes: Array) -> Array:
    r"""Of the mean objective, (K,), from $\partial\rho/\partial h_i$ (n, d): $\partial h_i$ is $x_j$ for $W_{ij}$."""
    d = x.shape[1]
    pairs = (slopes * w[:, None]).T @ x
    pairs = pairs + pairs.T
    return np.concatenate([pairs[np.triu_indices(d, 1)], w @ slopes])


def assembled_hessian(x: Array, w: Array, bends: Array) -> Array:
    r"""Of the mean objective, (K, K), from $\partial^2\rho/\partial h_i^2$ (n, d): a d × d block per coordinate i."""
    d = x.shape[1]
    where, total = places(d), np.zeros((d * (d + 1) // 2,) * 2)
    for i in range(d):
        z = x.copy()
        z[:, i] = 1.0  # the derivative of h_i in b_i
        total[np.ix_(where[i], where[i])] += z.T @ (z * (w * bends[:, i])[:, None])
    return total


def estimating(x: Array, slopes: Array) -> Array:
    r"""$\nabla_\theta \rho$ of each row, (n, K)."""
    i, j = np.triu_indices(x.shape[1], 1)
    return np.concatenate([slopes[:, i] * x[:, j] + slopes[:, j] * x[:, i], slopes], axis=1)
