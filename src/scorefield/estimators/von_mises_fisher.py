r"""Directions on the sphere, by score matching along the surface.

On the unit sphere of $\mathbb R^p$ the score is tangential, $s = (I - zz^\top)\nabla f$ for $\log p = f - \log Z$, and
the divergence is the Laplace–Beltrami operator, $\Delta_S f$. The sphere has no boundary: the objective is

$$ \rho(z) = \tfrac12 \|(I - zz^\top)\nabla f\|^2 + \Delta_S f, \qquad
   \Delta_S f = \Delta f - k(k + p - 2) f \;\text{ for } f \text{ homogeneous of degree } k . $$
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln, ive, logsumexp

from scorefield.checks import check_choice, check_non_negative
from scorefield.estimators.base import Energy, Sampled, ScoreEstimator
from scorefield.estimators.inference import Inference, Spread, invert, record
from scorefield.estimators.validation import Array, check_fit_data, names_of

TOLERANCE = 1e-8  # how far the length of a row may be from 1
METHODS = ("full", "hybrid")
_ROUNDING = 1e-14


class VonMisesFisher(Inference, Energy, Sampled, ScoreEstimator):
    r"""The von Mises–Fisher law $p(z) \propto e^{\kappa \mu^\top z}$ on the unit sphere, in closed form.

    With $f = \kappa\mu^\top z$, homogeneous of degree 1, the mean objective is quadratic in $\kappa\mu$, and

    $$ \hat\kappa\hat\mu = (p - 1)\,(I - \overline{zz^\top})^{-1}\,\bar z \qquad\text{(full)}, $$

    $$ \hat\mu = \bar z / \|\bar z\|, \quad
       \hat\kappa = (p - 1)\,\frac{\overline{\mu^\top z}}{1 - \overline{(\mu^\top z)^2}} \qquad\text{(hybrid)}. $$

    The second has the direction of maximum likelihood, and is the better one when the model is true. Standard errors of
    $\kappa$ and of the coordinates of $\mu$ are those of influence functions (for the full estimator: Godambe's
    sandwich and the delta method), and hold for other laws too.

    Rows must be unit vectors to 1e-8; within that they are divided by their length.

    Args:
        method: `"full"` or `"hybrid"`.
        ddof: the covariance of the estimate is multiplied by n / (n - ddof).

    Attributes:
        mu_: the mean direction, (p,).
        kappa_: the concentration, > 0.
        theta_: $(\kappa, \mu)$, 1 + p numbers of which p are free, so that the covariance has rank p; with
            `covariance_` and the others of `Inference`. The Hessian is taken along the sphere of $\mu$. The information
            criterion is that of the full estimator; `contributions` of the hybrid are those of its own equations, in
            the units of the full estimator's: $-H^{-1}$ times one is the row's influence.

    Source: Mardia, Kent & Laha 2016 (arXiv:1604.08470), who call the second one hybrid; its samples are Wood's 1994.
    """

    def __init__(self, method: str = "full", ddof: float = 0.0) -> None:
        self.method = method
        self.ddof = ddof

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> VonMisesFisher:
        """Estimate direction and concentration.

        Args:
            X: unit vectors, (n, p), p >= 2.
            y: ignored.
            sample_weight: of the rows, >= 0.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights or settings; rows that are no unit vectors; rows without a mean
                direction; rows that are all on one line, so that kappa is infinite.
        """
        check_choice("method", self.method, METHODS)
        check_non_negative("ddof", self.ddof)
        x, w = check_fit_data(self, X, sample_weight)
        z = on_sphere(x)
        p = z.shape[1]
        mean = w @ z
        length = float(np.linalg.norm(mean))
        if length < _ROUNDING:
            raise ValueError("the rows balance: their mean is 0 and there is no mean direction; fit a Bingham instead")
        turn = reflection(mean / length)  # in these coordinates the mean is (length, 0, ..., 0)
        rows = _aligned(z @ turn)
        hessian = _hessian(z @ turn, rows, w)
        names = ["the mean direction", *(f"direction {k} across it" for k in range(1, p))]
        solved = invert(hessian, names, n=len(z), on_singular="raise")
        self._find = partial(
            _full if self.method == "full" else _hybrid, length=length, hessian=hessian, inverse=solved.inverse
        )
        kappa, mu, influence = self._find(rows)
        spread = Spread(p + 1)
        spread.add(influence, w)
        back = np.zeros((p + 1, p + 1))
        back[0, 0], back[1:, 1:] = 1.0, turn
        slopes = np.column_stack([mu, kappa * (np.eye(p) - np.outer(mu, mu))])  # of kappa mu in (kappa, mu)
        self.mu_, self.kappa_, self._turn, self._back = turn @ mu, kappa, turn, back
        record(
            self,
            theta=np.append(kappa, self.mu_),
            hessian=back @ slopes.T @ hessian @ slopes @ back.T,
            covariance=back @ spread.covariance(self.ddof) @ back.T,
            objective=kappa**2 * mu @ hessian @ mu / 2 - (p - 1) * kappa * mu[0] * length,
            condition=solved.condition,
            n_samples=len(z),
            names=["kappa", *(f"mu[{name}]" for name in names_of(self, p))],
        )
        self._improper = None
        return self

    def score_samples(self, X: Any) -> Array:
        r"""The log-density of each row with respect to the surface, (n,), normalised.

        $$ \kappa\mu^\top z + (\tfrac p2 - 1)\log\kappa - \tfrac p2\log 2\pi - \log I_{p/2-1}(\kappa) $$
        """
        half = self.n_features_in_ / 2
        return self.log_density(X) - half * np.log(2 * np.pi) - log_bessel(half - 1, self.kappa_)

    def _contributions(self, x: Array) -> Array:
        """Along the sphere; those of the hybrid are what its influence functions are $-H^{-1}$ times of."""
        influence = self._find(_aligned(on_sphere(x) @ self._turn))[2]
        return -influence @ self._back.T @ self.hessian_

    def _rho(self, x: Array) -> Array:
        z = on_sphere(x)
        return np.square(self._score(z)).sum(1) / 2 - (z.shape[1] - 1) * self.kappa_ * (z @ self.mu_)

    def _score(self, x: Array) -> Array:
        """Tangential to the sphere."""
        z = on_sphere(x)
        return self.kappa_ * (self.mu_ - z * (z @ self.mu_)[:, None])

    def _log_density(self, x: Array) -> Array:
        return self.kappa_ * (on_sphere(x) @ self.mu_)

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        """Exact, by Wood's rejection, in v = 1 - mu.z, so that no concentration is too high."""
        p, kappa = len(self.mu_), self.kappa_
        b = (p - 1) / (2 * kappa + np.hypot(2 * kappa, p - 1))
        a = 2 * b / (1 + b)
        kept = np.empty(0)
        while len(kept) < count:
            beta = rng.beta((p - 1) / 2, (p - 1) / 2, size=2 * (count - len(kept)) + 8)
            v = 2 * b * beta / (1 - (1 - b) * beta)
            chance = kappa * (a - v) + (p - 1) * np.log((a + v - a * v) / (a * (2 - a)))
            kept = np.append(kept, v[np.log(rng.uniform(size=len(v))) <= chance])
        v = kept[:count, None]
        side = rng.standard_normal((count, p))
        side -= np.outer(side @ self.mu_, self.mu_)
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        rows = (1 - v) * self.mu_ + np.sqrt(v * (2 - v)) * side
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class _Rows(NamedTuple):
    """In coordinates whose first axis is the mean direction: t (n,), what is across it (n, p - 1), 1 - t^2 (n,)."""

    along: Array
    across: Array
    off: Array


def _aligned(z: Array) -> _Rows:
    return _Rows(z[:, 0], z[:, 1:], np.square(z[:, 1:]).sum(1))


def _hessian(z: Array, rows: _Rows, w: Array) -> Array:
    r"""$I - \overline{zz^\top}$, its first entry computed without cancellation."""
    if rows.off.max() < _ROUNDING**2:
        raise ValueError("the rows of X lie on one line through 0: kappa is infinite; give rows that differ")
    hessian = np.eye(z.shape[1]) - (z * w[:, None]).T @ z
    hessian[0, 0] = w @ rows.off
    return hessian


def _full(rows: _Rows, length: float, hessian: Array, inverse: Array) -> tuple[float, Array, Array]:
    """Kappa, mu and the influence of each row on both, (n, 1 + p)."""
    p = len(hessian)
    natural = (p - 1) * length * inverse[0]
    kappa = float(np.linalg.norm(natural))
    mu = natural / kappa
    turned = rows.across @ natural[1:]
    g = np.empty((len(turned), p))
    g[:, 0] = rows.off * natural[0] - rows.along * turned - (p - 1) * rows.along
    g[:, 1:] = natural[1:] - rows.across * (rows.along * natural[0] + turned + p - 1)[:, None]
    moved = -g @ inverse
    return kappa, mu, np.column_stack([moved @ mu, (moved - np.outer(moved @ mu, mu)) / kappa])


def _hybrid(rows: _Rows, length: float, hessian: Array, inverse: Array) -> tuple[float, Array, Array]:
    """The same; the influence on kappa has a part that comes through mu."""
    p, spread = len(hessian), hessian[0, 0]
    kappa = float((p - 1) * length / spread)
    through = 2 * kappa * (rows.across @ hessian[0, 1:]) / length
    own = ((p - 1) * rows.along - kappa * rows.off - through) / spread
    return kappa, np.eye(p)[0], np.column_stack([own, 0 * own, rows.across / length])


def on_sphere(x: Array) -> Array:
    """Rows divided by their length, which must be 1 to 1e-8.

    Raises:
        ValueError: another length; a single column.
    """
    if x.shape[1] < 2:
        raise ValueError("a sphere needs 2 or more columns, got 1 feature(s); angles a become (cos a, sin a)")
    with np.errstate(over="ignore"):
        length = np.linalg.norm(x, axis=1)
    wrong = ~(np.abs(length - 1) <= TOLERANCE)
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"row {i} of X has length {length[i]:.10g}; rows must be unit vectors, to {TOLERANCE:g}; divide each row "
            "by its length, as sklearn.preprocessing.normalize does"
        )
    return x / length[:, None]


def reflection(mu: Array) -> Array:
    """A symmetric orthogonal matrix whose first column is the unit vector mu."""
    v = mu.copy()
    if mu[0] > 0:  # then v = mu + e cancels nothing, and reflects e to -mu
        v[0] += 1
        return 2 * np.outer(v, v) / (v @ v) - np.eye(len(mu))
    v[0] -= 1
    return np.eye(len(mu)) - 2 * np.outer(v, v) / (v @ v)


def log_bessel(order: float, kappa: float) -> float:
    r"""$\log (I_\nu(\kappa) / \kappa^\nu)$, by its series where $I_\nu$ underflows.

    Args:
        order: $\nu \ge 0$.
        kappa: > 0.
    """
    scaled: Any = ive(order, kappa)
    if scaled > 1e-290:
        return float(np.log(scaled) + kappa - order * np.log(kappa))
    peak = (np.hypot(order, kappa) - order) / 2
    m = np.arange(int(peak + 12 * np.sqrt(peak) + 60))
    terms = 2 * m * np.log(kappa / 2) - gammaln(m + 1) - gammaln(m + order + 1)
    total: Any = logsumexp(terms)
    return float(total) - order * float(np.log(2))
