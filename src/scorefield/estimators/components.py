r"""Independent components by score matching: complete, and overcomplete, where the normaliser has no closed form.

$$ \log p(z) = \sum_{k=1}^m \alpha_k\, G(w_k^\top z) - \log Z, \qquad G(u) = -\log\cosh u, \quad \|w_k\| = 1 $$

on whitened z in d dimensions, $m \ge d$. With $u_k = w_k^\top z$ and $g = G' = -\tanh$ score matching needs no Z:

$$ J = \sum_k \alpha_k\, \overline{g'(u_k)}
     + \tfrac12 \sum_{jk} \alpha_j \alpha_k\, w_j^\top w_k\, \overline{g(u_j)\, g(u_k)} . $$
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.exceptions import RankWarning
from scipy.optimize import minimize
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from scorefield.checks import check_count, check_positive
from scorefield.estimators.base import Energy, Sampled, ScoreEstimator
from scorefield.estimators.gaussian import standardise
from scorefield.estimators.sampling import draw, say_improper, starts
from scorefield.estimators.validation import Array, check_fit_data, check_rows_of

_FLAT = 1e-10  # an eigenvalue of the correlations below this share of the largest is no direction of the data
_NUMBERS = 2**22  # of one chunk of responses


class IndependentComponents(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Energy, Sampled, ScoreEstimator):
    r"""Independent component analysis by score matching, with as many components as dimensions, or more.

    The data are whitened; the filters are then unit vectors and need not be orthogonal, and each $\alpha_k$ says how
    strongly its component is heavy-tailed. **The components must be heavier-tailed than the normal law**, as those of
    photographs and sound are; normal data have no independent components to find. With more components than dimensions
    this is a product of experts, whose filters are not the directions that a sum of as many sources is made from; with
    as many they are, by `mixing_`. J is minimised in whitened coordinates, where the units of the data do not matter;
    `score` is in the units of the data.

    Args:
        n_components: m; None for the rank. More make it overcomplete, fewer keep as many principal directions.
        rank: how many leading principal directions are kept; None for all that the data have.
        max_iter: iterations of L-BFGS.
        tol: the largest entry of the gradient at which it stops.
        restarts: random starts; the lowest objective is kept.
        random_state: seed of the starts.

    Attributes:
        filters_: rows $f_k$ with $u_k = f_k \cdot (x - m)$, (m, d); their order and signs mean nothing.
        alphas_: $\alpha_k$, (m,).
        mixing_: the columns that the components add up from, the pseudo-inverse of the filters, (d, m).
        mean_: m, (d,).
        rank_: dimension of the whitened data.
        objective_: J at the estimate.
        n_iter_: iterations made.

    Source: Hyvärinen 2005 (JMLR 6), sections 3.2 and 3.3; $\alpha$ as in its overcomplete model.
    """

    def __init__(
        self,
        n_components: int | None = None,
        rank: int | None = None,
        max_iter: int = 500,
        tol: float = 1e-5,
        restarts: int = 1,
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.rank = rank
        self.max_iter = max_iter
        self.tol = tol
        self.restarts = restarts
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> IndependentComponents:
        """Find the filters.

        Args:
            X: rows, (n, d).
            y: ignored.
            sample_weight: of the rows, >= 0.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights or settings; a rank that the data do not have.

        Warns:
            ConvergenceWarning: max_iter was not enough.
            RankWarning: the columns depend on each other, and no `rank` says that it is known.
            NotNormalisable: some alpha is not positive.
        """
        for name in ("max_iter", "restarts"):
            check_count(name, getattr(self, name))
        for name in ("rank", "n_components"):
            value = getattr(self, name)
            check_count(name, 1 if value is None else value)
        check_positive("tol", self.tol)
        x, w = check_fit_data(self, X, sample_weight)
        z, self.mean_, scale = standardise(x, w)
        whitening = whitened(z, w, self.rank)
        if self.rank is None and len(whitening) < x.shape[1]:
            warnings.warn(
                f"the {x.shape[1]} columns have rank {len(whitening)} on these {len(x)} rows, and so have the "
                "components; drop constant or duplicate columns, add rows, or give that rank",
                RankWarning,
                stacklevel=2,
            )
        count = len(whitening) if self.n_components is None else self.n_components
        whitening = whitening[-count:]
        self.rank_ = len(whitening)
        z, rng = z @ whitening.T, check_random_state(self.random_state)
        found = min((self._minimised(z, w, count, rng) for _ in range(self.restarts)), key=lambda f: f.fun)
        self.objective_, self.n_iter_ = float(found.fun), int(found.nit)
        if found.nit >= self.max_iter:
            warnings.warn(
                f"IndependentComponents has not converged in {self.max_iter} iterations; raise max_iter, or tol",
                ConvergenceWarning,
                stacklevel=2,
            )
        filters, self.alphas_ = split(found.x, count)
        with np.errstate(over="ignore"):
            self.filters_ = filters @ whitening / scale
        if not np.isfinite(self.filters_).all():
            raise ValueError("the filters overflow in float64; rescale the columns of X")
        self.mixing_ = scale[:, None] * np.linalg.pinv(filters @ whitening)
        self._unwhitened, self._directions = scale[:, None] * np.linalg.pinv(whitening), filters
        self._starts, self._n_features_out = starts(z, w), count
        low = int(self.alphas_.argmin())
        flat = self.alphas_[low] <= 0
        say_improper(self, f"alpha[{low}] is {self.alphas_[low]:.3g}, and must be > 0" if flat else None)
        return self

    def transform(self, X: Any) -> Array:
        """The components $u_k$ of the rows, (n, m)."""
        check_is_fitted(self)
        return self._responses(check_rows_of(self, X, fitting=False))

    def _minimised(self, z: Array, w: Array, count: int, rng: np.random.RandomState) -> Any:
        directions = rng.normal(size=(count, z.shape[1]))
        if count == z.shape[1]:
            directions = np.linalg.qr(directions)[0]
        first = np.append(directions, np.ones(count))
        options = {"maxiter": self.max_iter, "maxfun": 4 * self.max_iter, "gtol": self.tol, "ftol": 1e-12}
        return minimize(
            lambda at: value_and_gradient(at, z, w, count), first, jac=True, method="L-BFGS-B", options=options
        )

    def _responses(self, x: Array) -> Array:
        return (x - self.mean_) @ self.filters_.T

    def _rho(self, x: Array) -> Array:
        t = np.tanh(self._responses(x))
        s = (t * self.alphas_) @ self.filters_
        return (s**2).sum(1) / 2 - (1 - t**2) @ (self.alphas_ * (self.filters_**2).sum(1))

    def _score(self, x: Array) -> Array:
        return -(np.tanh(self._responses(x)) * self.alphas_) @ self.filters_

    def _log_density(self, x: Array) -> Array:
        u = np.abs(self._responses(x))
        return -(u + np.log1p(np.exp(-2 * u)) - np.log(2)) @ self.alphas_

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        filters, alphas = torch.from_numpy(self._directions), torch.from_numpy(self.alphas_)

        def log_density(z: Tensor) -> Tensor:
            u = (z @ filters.T).abs()
            return -(u + torch.log1p(torch.exp(-2 * u))) @ alphas

        def score(z: Tensor) -> Tensor:
            return -(torch.tanh(z @ filters.T) * alphas) @ filters

        return self.mean_ + draw(score, log_density, self._starts, count, rng) @ self._unwhitened.T


def whitened(z: Array, w: Array, rank: int | None) -> Array:
    """The map (rank, d) from standardised rows to uncorrelated ones of variance 1, along the leading directions.

    Raises:
        ValueError: a rank that the data do not have.
    """
    values, vectors = np.linalg.eigh((z * w[:, None]).T @ z)
    there = int((values > _FLAT * values[-1]).sum()) if values[-1] > 0 else 0
    if there == 0:
        raise ValueError("all columns of X are constant; give data that vary")
    if rank is not None and rank > there:
        raise ValueError(f"rank must be at most {there}, that of the data, got {rank}")
    kept = slice(len(values) - (rank or there), None)
    return (vectors[:, kept] / np.sqrt(values[kept])).T


def split(theta: Array, count: int) -> tuple[Array, Array]:
    """Unit filters (m, d) and alphas (m,) of free parameters: rows of any length, then the alphas."""
    rows = theta[:-count].reshape(count, -1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), theta[-count:]


def value_and_gradient(theta: Array, z: Array, w: Array, count: int) -> tuple[float, Array]:
    """J and its gradient in the free parameters, (m (d + 1),), chunk by chunk of whitened rows z with shares w."""
    filters, alphas = split(theta, count)
    bend, products = np.zeros(count), np.zeros((count, count))
    first, second = np.zeros_like(filters), np.zeros_like(filters)
    pairs = np.outer(alphas, alphas) * (filters @ filters.T)
    step = max(1, _NUMBERS // count)
    for k in range(0, len(z), step):
        rows, shares = z[k : k + step], w[k : k + step, None]
        t = np.tanh(rows @ filters.T)
        slope = 1 - t**2
        weighted = shares * t
        bend -= (shares * slope).sum(0)
        products += t.T @ weighted
        first += (2 * weighted * slope).T @ rows  # of the mean of g'
        second += ((weighted @ pairs) * slope).T @ rows  # of the mean of g g, through u
    quadratic = (filters @ filters.T) * products
    value = float(alphas @ bend + alphas @ quadratic @ alphas / 2)
    gradient = alphas[:, None] * first + second + np.outer(alphas, alphas) * products @ filters
    norms = np.linalg.norm(theta[:-count].reshape(count, -1), axis=1, keepdims=True)
    tangent = (gradient - (gradient * filters).sum(1, keepdims=True) * filters) / norms
    return value, np.append(tangent, bend + quadratic @ alphas)
