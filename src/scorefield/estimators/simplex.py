r"""Compositions by score matching: pairwise interactions with powers, on a simplex whose boundary may hold data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import helmert
from scipy.special import xlogy
from torch import Tensor

from scorefield.checks import check_choice, check_non_negative, check_positive
from scorefield.estimators import linear
from scorefield.estimators.base import Energy, Sampled, ScoreEstimator
from scorefield.estimators.domains import region_of
from scorefield.estimators.inference import ON_SINGULAR, Inference, record
from scorefield.estimators.sampling import draw, say_improper, starts
from scorefield.estimators.statistics import Derivatives
from scorefield.estimators.validation import Array, check_fit_data, names_of

TOLERANCE = 1e-8  # how far the sum of a row may be from 1, and an entry below 0
WEIGHTS = ("min", "product")


class TiltedPairwiseInteraction(Inference, Energy, Sampled, ScoreEstimator):
    r"""The polynomially tilted pairwise interaction model (PPI) of compositions, in closed form; zeros are allowed.

    $$ p(u) \propto \prod_{j=1}^p u_j^{\beta_j} \, \exp(u_L^\top A\, u_L + b^\top u_L), \qquad
       u_j \ge 0, \; \sum_j u_j = 1, \qquad u_L = (u_1, \dots, u_{p-1}) . $$

    It contains the Dirichlet law (A = 0, b = 0, $\beta = \alpha - 1$). The last component is left out of $u_L$ because
    the sum is 1; which one it is changes the parameters and not the law. Score matching works on the positive part of
    the sphere, at $z = \sqrt u$, with a weight h that vanishes where a component does,

    $$ \rho = \tfrac12 h \|s\|^2 + h\,\Delta_S \log p_z + \nabla_S h \cdot s, \qquad
       p_z(z) = p(z^2) \prod_j z_j, $$

    s the tangential score and $\Delta_S$ the Laplace–Beltrami operator. h multiplies the squared score; Scealy & Wood
    write it h². Every term has a finite limit where a component is 0, and the limit is used, with components that
    vanish together taken as equal.

    Rows must sum to 1 to 1e-8, with entries >= -1e-8; those below 0 are then set to 0 and rows divided by their sum.

    Args:
        tilt: $\beta$ where it is known, one number or p, > -1; None estimates it. Rows with zeros, from rounding or
            from counts, pull an estimated $\beta$ towards -1: give it where there are many.
        linear: False holds b at 0, as is usual: it and A are told apart by large samples only.
        weight: `"min"`, $h = \min_j u_j$, or `"product"`, $h = \prod_j u_j$, which is smooth; with a cap,
            `("min", c)` or `("product", c)`, no larger than c, which is Scealy & Wood's $a_c^2$.
        ddof: the covariance of the estimate is multiplied by n / (n - ddof).
        on_singular: `"pinv"` or `"raise"`, see `invert`.
        inference: False skips the standard errors.

    Attributes:
        interaction_: A, symmetric, (p - 1, p - 1).
        linear_: b, (p - 1,).
        tilt_: $\beta$, (p,).
        theta_: A's upper triangle row by row, b, $\beta$; with `covariance_` and the others of `Inference`.

    Source: Scealy & Wood 2023 (JASA 118; arXiv:2012.12461), equations 3 and 16 to 19.
    """

    def __init__(
        self,
        tilt: Any = None,
        linear: bool = True,
        weight: Any = "min",
        ddof: float = 0.0,
        on_singular: str = "pinv",
        inference: bool = True,
    ) -> None:
        self.tilt = tilt
        self.linear = linear
        self.weight = weight
        self.ddof = ddof
        self.on_singular = on_singular
        self.inference = inference

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> TiltedPairwiseInteraction:
        """Estimate A, b and beta.

        Args:
            X: compositions, (n, p), p >= 2.
            y: ignored.
            sample_weight: of the rows, >= 0.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights or settings; rows off the simplex.

        Warns:
            RankWarning: the linear system is singular or nearly so.
            NotNormalisable: an estimate of beta is not > -1.
        """
        check_non_negative("ddof", self.ddof)
        check_choice("on_singular", self.on_singular, ON_SINGULAR)
        x, w = check_fit_data(self, X, sample_weight)
        u = on_simplex(x)
        p, columns = u.shape[1], names_of(self, u.shape[1])
        i, j = np.triu_indices(p - 1)
        names = [f"A[{columns[a]}, {columns[c]}]" for a, c in zip(i, j, strict=True)]
        names += [f"b[{name}]" for name in columns[:-1]] + [f"beta[{name}]" for name in columns]
        known = np.full(len(names) + 1, np.nan)
        known[-1] = 1.0  # of the surface
        known[-p - 1 : -1] = np.nan if self.tilt is None else _tilts(self.tilt, p)
        if not self.linear:
            known[len(i) : len(i) + p - 1] = 0.0
        how: Any = {"ddof": self.ddof, "on_singular": self.on_singular, "inference": self.inference}
        plain = region_of("real", None, p)
        found = linear.solve(u, w, _statistic(self.weight), plain, [*names, "surface"], fixed=known, **how)
        self._coefficients = found.theta
        theta = found.theta[:-1]
        self.interaction_ = np.zeros((p - 1, p - 1))
        self.interaction_[i, j] = self.interaction_[j, i] = theta[: len(i)]
        self.linear_, self.tilt_ = theta[len(i) : -p].copy(), theta[-p:].copy()
        record(
            self,
            theta=theta,
            hessian=found.hessian[:-1, :-1],
            covariance=None if found.covariance is None else found.covariance[:-1, :-1],
            objective=found.objective,
            condition=found.condition,
            n_samples=len(u),
            names=names,
        )
        self._starts = starts(u, w)
        low = int(self.tilt_.argmin())
        fine = self.tilt_[low] > -1
        say_improper(self, None if fine else f"{names[low - p]} is {self.tilt_[low]:.4g}, which must be > -1")
        return self

    def _contributions(self, x: Array) -> Array:
        plain = region_of("real", None, x.shape[1])
        return linear.contributions(on_simplex(x), self._coefficients, _statistic(self.weight), plain)[:, :-1]

    def _rho(self, x: Array) -> Array:
        plain = region_of("real", None, x.shape[1])
        return linear.objective(on_simplex(x), self._coefficients, _statistic(self.weight), plain)

    def _score(self, x: Array) -> Array:
        """In the plane of the simplex: the entries of a row sum to 0."""
        u = on_simplex(x)
        infinite = ((u == 0) & (self.tilt_ != 0)).any(1)
        if infinite.any():
            raise ValueError(
                f"the score is infinite at row {int(infinite.argmax())} of X, where a component with a tilt other than "
                "0 vanishes; ask for it inside of the simplex"
            )
        slope = np.divide(self.tilt_, u, out=np.zeros_like(u), where=self.tilt_ != 0)
        slope[:, :-1] += 2 * u[:, :-1] @ self.interaction_ + self.linear_
        return slope - slope.mean(1, keepdims=True)

    def _log_density(self, x: Array) -> Array:
        u = on_simplex(x)
        inner = u[:, :-1]
        return xlogy(self.tilt_, u).sum(1) + ((inner @ self.interaction_) * inner).sum(1) + inner @ self.linear_

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        """By Hamiltonian Monte Carlo in isometric log-ratios, where the law has all of space."""
        basis = torch.from_numpy(helmert(len(self.tilt_)).T.copy())
        power, b = torch.from_numpy(self.tilt_ + 1), torch.from_numpy(self.linear_)
        matrix = torch.from_numpy(self.interaction_)

        def log_density(y: Tensor) -> Tensor:
            log_u = (y @ basis.T).log_softmax(1)
            inner = log_u[:, :-1].exp()
            return log_u @ power + ((inner @ matrix) * inner).sum(1) + inner @ b

        def score(y: Tensor) -> Tensor:
            u = (y @ basis.T).softmax(1)
            slope = torch.nn.functional.pad(2 * u[:, :-1] @ matrix + b, (0, 1))
            return (power - u * power.sum() + u * (slope - (u * slope).sum(1, keepdim=True))) @ basis

        start = np.log(np.maximum(self._starts, 1e-3))
        y = draw(score, log_density, start @ basis.numpy(), count, rng)
        return torch.from_numpy(y @ basis.numpy().T).softmax(1).numpy()


def on_simplex(x: Array) -> Array:
    """Rows divided by their sum, which must be 1 to 1e-8; entries must be >= 0 to 1e-8.

    Raises:
        ValueError: another sum, a negative entry; a single column.
    """
    if x.shape[1] < 2:
        raise ValueError("a composition needs 2 or more columns, got 1 feature(s); give the rest to the sum of 1 too")
    with np.errstate(over="ignore"):
        total = x.sum(1)
    wrong = ~((np.abs(total - 1) <= TOLERANCE) & (x >= -TOLERANCE).all(1))
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"row {i} of X has the sum {total[i]:.10g} and the smallest entry {x[i].min():.4g}; rows must be >= 0 and "
            f"sum to 1, to {TOLERANCE:g}; divide each row by its sum"
        )
    u = x.clip(min=0)
    return u / u.sum(1, keepdims=True)


@dataclass(frozen=True)
class Weight:
    """A weight h of compositions: `"min"` or `"product"` of the components, at most `cap`."""

    name: str
    cap: float = np.inf

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""A weight (B,), $h / u_j$ (B, p) with its limit where $u_j = 0$, and $\partial h / \partial u_j$ (B, p)."""
        if self.name == "min":
            h = u.amin(1)
            least = u == h[:, None]
            ratio = torch.where(least, 1.0, h[:, None] / torch.where(u > 0, u, 1.0))
            slope = least.to(u.dtype) / least.sum(1, keepdim=True)
        else:
            ahead, behind = torch.ones_like(u), torch.ones_like(u)
            ahead[:, 1:] = u[:, :-1].cumprod(1)
            behind[:, :-1] = u[:, 1:].flip(1).cumprod(1).flip(1)
            ratio = slope = ahead * behind  # of the others
            h = u.prod(1)
        over = (h >= self.cap)[:, None]
        if not bool(over.any()):
            return h, ratio, slope
        held = self.cap / torch.where(over, u, 1.0)
        return h.clamp(max=self.cap), torch.where(over, held, ratio), torch.where(over, 0.0, slope)


@dataclass(frozen=True)
class Tilted:
    r"""Statistics of the model, $u_i^2$ and $2 u_i u_j$, $u_i$, $\log u_j$, and of the surface, $\tfrac12\sum\log u_j$.

    `derivatives` gives what the linear engine needs on the sphere: $\sqrt h$ times the tangential gradient in
    $z = \sqrt u$, and $h \Delta_S t + \nabla_S h \cdot \nabla_S t$.
    """

    weight: Weight

    def __call__(self, u: Tensor) -> Tensor:
        """The statistics, (B, K + 1)."""
        i, j = torch.triu_indices(u.shape[1] - 1, u.shape[1] - 1).unbind()
        double = torch.where(i == j, 1.0, 2.0)
        return torch.cat([double * u[:, i] * u[:, j], u[:, :-1], u.log(), u.log().sum(1, keepdim=True) / 2], dim=1)

    def derivatives(self, u: Tensor) -> Derivatives:
        """Weighted, along the surface; homogeneous parts of degree 4 and 2 in z, and logarithms."""
        p, z = u.shape[1], u.sqrt()
        h, ratio, slope = self.weight(u)
        root = h.sqrt()[:, None]
        pull = slope - (slope * u).sum(1, keepdim=True)
        i, j = torch.triu_indices(p - 1, p - 1).unbind()
        pairs, own, double = torch.arange(len(i)), torch.arange(p), torch.where(i == j, 1.0, 2.0).to(u.dtype)
        quartic = double * u[:, i] * u[:, j]
        gradient = u.new_zeros(len(u), len(i) + 2 * p, p)
        gradient[:, pairs, i] += 2 * double * z[:, i] * u[:, j]
        gradient[:, pairs, j] += 2 * double * z[:, j] * u[:, i]
        gradient[:, len(i) + own[:-1], own[:-1]] = 2 * z[:, :-1]
        radial = torch.cat([4 * quartic, 2 * u[:, :-1], u.new_zeros(len(u), p + 1)], dim=1)
        gradient = (gradient - radial[:, :, None] * z[:, None]) * root[:, :, None]
        logs = slice(len(i) + p - 1, -1)
        gradient[:, logs] = 2 * (ratio.sqrt().diag_embed() - (root * z)[:, None])
        gradient[:, -1] = gradient[:, logs].sum(1) / 2
        flat = torch.where(i == j, 12 * u[:, i], 4 * (u[:, i] + u[:, j])) - 4 * (p + 2) * quartic
        fourth = h[:, None] * flat + 4 * quartic * (pull[:, i] + pull[:, j])
        second = h[:, None] * (2 - 2 * p * u[:, :-1]) + 4 * u[:, :-1] * pull[:, :-1]
        logarithm = -2 * ratio - 2 * (p - 2) * h[:, None] + 4 * pull
        return Derivatives(gradient, torch.cat([fourth, second, logarithm, logarithm.sum(1, keepdim=True) / 2], dim=1))


def _statistic(weight: Any) -> Tilted:
    name, *cap = weight if isinstance(weight, (tuple, list)) and len(weight) == 2 else (weight,)
    check_choice("weight", name, WEIGHTS)
    if cap:
        check_positive("the cap of a weight", cap[0])
    return Tilted(Weight(str(name), float(cap[0]) if cap else np.inf))


def _tilts(tilt: Any, p: int) -> Array:
    known = np.asarray(tilt, dtype=np.float64)
    if known.shape not in ((), (p,)) or not (np.isfinite(known) & (known > -1)).all():
        raise ValueError(f"tilt must be one number > -1 or {p}, one per column, got {tilt!r}")
    return known
