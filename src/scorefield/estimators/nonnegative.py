"""Graphical models of non-negative data by generalised score matching: truncated Gaussians and other powers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.checks import check_choice, check_non_negative, check_positive
from scorefield.estimators import linear
from scorefield.estimators.base import Energy, Sampled, ScoreEstimator
from scorefield.estimators.domains import region_of
from scorefield.estimators.gaussian import _check_size
from scorefield.estimators.graphs import NO_ERRORS, Columns, Search, Slots, pattern_of, slots_of
from scorefield.estimators.inference import ON_SINGULAR, Inference, Spread, invert, record
from scorefield.estimators.sampling import draw, say_improper, starts
from scorefield.estimators.statistics import not_definite
from scorefield.estimators.validation import Array, check_fit_data, names_of


class NonNegativeGraphicalModel(Inference, Energy, Sampled, ScoreEstimator):
    r"""A pairwise interaction model on the positive orthant, by generalised (regularised) score matching.

    $$ \log p(x) = -\tfrac1{2a} (x^a)^\top K x^a + \tfrac1b \eta^\top x^b - \log Z, \qquad x \ge 0, $$

    with $x^b/b$ read as $\log x$ for b = 0. a = b = 1 is the Gaussian truncated to the orthant, a = b = 1/2 the
    exponential square-root model, a = 1/2 and b = 0 the gamma graphical model. The objective is weighted by an h that
    vanishes at 0 (see `region_of`) and is a quadratic in $(\eta, K)$. On a given graph without a penalty it is a linear
    system, with standard errors by Godambe's sandwich; otherwise the graph is found along a path of the penalty
    $\lambda \sum_{i \ne j} |K_{ij}|$, $\eta$ unpenalised and profiled out, and there are no standard errors.

    The objective depends on the relative units of the columns, except under the weight `"x2"` without a penalty: divide
    each by its root mean square, say, unless they share a unit. They must not be centred.

    Args:
        pattern: the graph, (d, d), symmetric: True (or other than 0) where K may differ from 0; None is complete.
        penalty: $\lambda \ge 0$, or how it is chosen along a path: `"ebic"` (see `ebic`) or `"cv"`, the held-out
            objective. None is 0 with a pattern and `"ebic"` without one.
        powers: (a, b), a > 0 and 0 <= b < 2a. Rows that touch 0 need a >= 1 and b >= 1, or a weight that vanishes
            there faster than the derivatives grow.
        weight: h, see `region_of`; the default is $h_j = x_j$.
        multiplier: of the diagonals of the quadratic forms in K, $1 + \delta \ge 1$; without it there may be no minimum
            with more columns than rows. None is 1 where n > d or $\lambda = 0$, else that of `diagonal_multiplier`.
        gamma: of eBIC; 0 is BIC.
        folds: of `"cv"`; row i is in fold i mod `folds`.
        count: how many penalties a path has, from the smallest that leaves out all edges, in equal ratios.
        ratio: of the last to the first; None is $\tfrac15\sqrt{\log d / n}$, within 0.001 and 0.2.
        ddof: the covariance of the estimate is multiplied by n / (n - ddof).
        on_singular: with $\lambda = 0$: `"pinv"` or `"raise"`, see `invert`.
        inference: False skips the standard errors.

    Attributes:
        eta_: (d,).
        precision_: K, (d, d); for a = 1 the precision before truncation.
        pattern_: where K differs from 0, or may, if a pattern was given, (d, d).
        penalty_: $\lambda$.
        path_: a `Path`; None without a penalty.
        theta_: $\eta$, then K's upper triangle row by row; with `covariance_` and the others of `Inference` where
            $\lambda = 0$. `objective_` is without the penalty and without the multiplier, which the Hessian has;
            `contributions` have it where $\lambda = 0$.

    The fit is called normalisable where K is strictly copositive for a reason that is quick to see: K is positive
    definite, or remains so when its positive entries off the diagonal are dropped.

    Source: Yu, Drton & Shojaie 2019 (JMLR 20; arXiv:1812.10551), whose h is ours.
    """

    domain = "half-line"

    def __init__(
        self,
        pattern: Any = None,
        penalty: Any = None,
        powers: tuple[float, float] = (1.0, 1.0),
        weight: Any = None,
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
        self.powers = powers
        self.weight = weight
        self.multiplier = multiplier
        self.gamma = gamma
        self.folds = folds
        self.count = count
        self.ratio = ratio
        self.ddof = ddof
        self.on_singular = on_singular
        self.inference = inference

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> NonNegativeGraphicalModel:
        """Estimate eta and K.

        Args:
            X: rows, (n, d), >= 0.
            y: ignored.
            sample_weight: of the rows, >= 0.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights or settings; a column of zeros, or no minimum, with a penalty.

        Warns:
            RankWarning: the linear system of a given graph is singular or nearly so.
            NotNormalisable: the fit is not seen to be a density.
        """
        check_non_negative("ddof", self.ddof)
        check_choice("on_singular", self.on_singular, ON_SINGULAR)
        penalty = ("ebic" if self.pattern is None else 0.0) if self.penalty is None else self.penalty
        search = Search(penalty, self.multiplier, self.gamma, self.folds, self.count, self.ratio)
        pairwise = self._pairwise()
        x, w = check_fit_data(self, X, sample_weight)
        region_of("half-line", self.weight, x.shape[1]).check(x)
        d, columns = x.shape[1], names_of(self, x.shape[1])
        allowed = pattern_of(self.pattern, d)
        moments = pairwise.moments(x, w)
        i, j = np.triu_indices(d)
        names = [f"eta[{name}]" for name in columns]
        names += [f"K[{columns[a]}, {columns[b]}]" for a, b in zip(i, j, strict=True)]
        hessian, covariance, condition = None, None, np.nan
        if penalty == 0:
            self._factor = 1.0 if self.multiplier is None else float(self.multiplier)
            hessian, pull = moments.multiplied(self._factor).system(_slots(np.ones((d, d), dtype=bool)))
            free = np.append(np.full(d, True), allowed[i, j])
            theta = np.zeros(len(free))
            _check_size(len(free), self.inference)
            open_names = [name for name, is_free in zip(names, free, strict=True) if is_free]
            solved = invert(hessian[np.ix_(free, free)], open_names, n=len(x), on_singular=self.on_singular)
            theta[free], condition = solved.inverse @ pull[free], solved.condition
            if self.inference:
                covariance, spread = np.zeros_like(hessian), Spread(int(free.sum()))
                for shares, g in pairwise.estimating(x, w, theta, self._factor):
                    spread.add(g[:, free], shares)
                covariance[np.ix_(free, free)] = solved.inverse @ spread.covariance(self.ddof) @ solved.inverse
            self.penalty_, self.path_, self.pattern_ = 0.0, None, allowed
        else:
            self._factor = 1.0
            K, self.path_ = search.run(pairwise.moments, x, w, allowed)
            self.penalty_ = float(self.path_.penalties[(self.path_.precisions == K).all((1, 2)).argmax()])
            self.pattern_ = allowed if self.pattern is not None else (K != 0) | np.eye(d, dtype=bool)
            theta = np.append(moments.eta(K), K[i, j])
        self.eta_, self.precision_ = theta[:d].copy(), np.zeros((d, d))
        self.precision_[i, j] = self.precision_[j, i] = theta[d:]
        with np.errstate(over="ignore", invalid="ignore"):
            objective = moments.whole.objective(np.vstack([self.precision_, self.eta_]))
        record(
            self,
            theta=theta,
            hessian=hessian,
            covariance=covariance,
            objective=objective,
            condition=condition,
            n_samples=len(x),
            names=names,
            way_out=NO_ERRORS if penalty != 0 else "fit with inference=True",
        )
        self._starts = starts(x, w)
        say_improper(self, self._why_improper())
        return self

    def _contributions(self, x: Array) -> Array:
        region_of("half-line", self.weight, x.shape[1]).check(x)
        parts = self._pairwise().estimating(x, np.ones(len(x)), self.theta_, self._factor)
        return np.concatenate([g for _, g in parts])

    def _rho(self, x: Array) -> Array:
        region_of("half-line", self.weight, x.shape[1]).check(x)
        theta = np.vstack([self.precision_, self.eta_]).T
        parts = []
        for _, found in self._pairwise().features(x, np.ones(len(x))):
            s = np.einsum("njm,jm->nj", found.slope, theta)
            parts.append((found.weight * s**2 / 2).sum(1) + np.einsum("njm,jm->n", found.bend, theta))
        return np.concatenate(parts)

    def _score(self, x: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = self._torch_score(torch.from_numpy(x)).numpy()
        if not np.isfinite(found).all():
            i = int((~np.isfinite(found)).any(1).argmax())
            raise ValueError(f"the score is not finite at row {i} of X; ask for it inside of the orthant")
        return found

    def _log_density(self, x: Array) -> Array:
        return self._torch_log_density(torch.from_numpy(x)).numpy()

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        return draw(self._torch_score, self._torch_log_density, self._starts, count, rng)

    def _torch_score(self, x: Tensor) -> Tensor:
        (a, b), K, eta = self.powers, torch.from_numpy(self.precision_), torch.from_numpy(self.eta_)
        return eta * x ** (b - 1) - x ** (a - 1) * (x**a @ K)

    def _torch_log_density(self, x: Tensor) -> Tensor:
        (a, b), K, eta = self.powers, torch.from_numpy(self.precision_), torch.from_numpy(self.eta_)
        inside = (x >= 0).all(1)
        x = torch.where(inside[:, None], x, 1.0)
        tilt = torch.xlogy(eta, x) if b == 0 else eta * x**b / b
        value = tilt.sum(1) - (x**a * (x**a @ K)).sum(1) / (2 * a)
        return torch.where(inside, value, -torch.inf)

    def _why_improper(self) -> str | None:
        K, b = self.precision_, self.powers[1]
        if b == 0 and not (self.eta_ > -1).all():
            return f"eta is {self.eta_.min():.4g} at its smallest, which must be > -1 for b = 0"
        bare = np.where(np.eye(len(K), dtype=bool), K, K.clip(max=0))
        return not_definite(K) if not_definite(bare) else None

    def _pairwise(self) -> _Pairwise:
        if not isinstance(self.powers, (tuple, list)) or len(self.powers) != 2:
            raise ValueError(f"powers must be two numbers (a, b), got {self.powers!r}")
        a, b = self.powers
        check_positive("the power a", a)
        check_non_negative("the power b", b)
        if not b < 2 * a:
            raise ValueError(f"the power b must be < 2a = {2 * a:g}, got {b!r}")
        return _Pairwise(float(a), float(b), self.weight)


@dataclass(frozen=True)
class _Features:
    r"""Of rows: $h_j$ (n, d), $\partial_j t$ (n, d, d + 1) and $\partial_j (h_j \partial_j t)$, t of column j."""

    weight: Array
    slope: Array
    bend: Array


@dataclass(frozen=True)
class _Moments:
    """Forms in a column of K and its eta, (d, d + 1, d + 1), and where they come from."""

    whole: Columns
    pairwise: _Pairwise
    x: Array
    w: Array

    def multiplied(self, factor: float) -> Columns:
        forms, k = self.whole.forms.copy(), np.arange(self.whole.forms.shape[0])
        forms[:, k, k] *= factor
        return Columns(forms, self.whole.pull)

    def columns(self, multiplier: float) -> Columns:
        """In K alone, at the best eta."""
        forms, pull = self.multiplied(multiplier).forms, self.whole.pull
        cross, own = forms[:, :-1, -1], forms[:, -1, -1]
        if not (own > 0).all():
            raise ValueError(f"column {int((own > 0).argmin())} of X is 0, or too small to be squared; drop or rescale")
        profiled = forms[:, :-1, :-1] - cross[:, :, None] * cross[:, None] / own[:, None, None]
        return Columns(profiled, pull[:, :-1] - cross * (pull[:, -1] / own)[:, None])

    def eta(self, K: Array) -> Array:
        forms, pull = self.whole.forms, self.whole.pull
        return (pull[:, -1] - np.einsum("ji,ji->j", forms[:, :-1, -1], K)) / forms[:, -1, -1]

    def unit(self) -> float:
        d, forms, own = len(self.x.T), self.whole.forms, np.arange(len(self.x.T))
        if d == 1:
            return 1.0  # without a pair there is nothing to compare
        known = np.stack([own, np.full(d, d)], 1)  # the parameters of the empty graph: column j has K_jj and eta_j
        cross = forms[own[:, None], known]  # (j, 2, m)
        inner = np.linalg.pinv(cross[:, :, known][own, :, own], hermitian=True)
        lift = inner @ cross  # what a parameter is worth in those
        theta = np.einsum("jab,jb->ja", inner, self.whole.pull[own[:, None], known])
        bend = np.einsum("jii->ji", forms - cross.transpose(0, 2, 1) @ lift)[:, :d]
        variance = np.zeros((d, d))
        for shares, found in self.pairwise.features(self.x, self.w):
            s = np.einsum("nja,ja->nj", found.slope[:, own[:, None], known], theta)
            g = found.slope * (found.weight * s)[:, :, None] + found.bend
            g = (g - np.einsum("nja,jam->njm", g[:, own[:, None], known], lift))[:, :, :d]
            variance += np.einsum("n,nji->ji", shares, (g + g.transpose(0, 2, 1)) ** 2)
        pair = np.triu_indices(d, 1)
        return float(np.mean(variance[pair] / (bend + bend.T)[pair]))

    def held_out(self, K: Array, test: _Moments) -> float:
        return test.whole.objective(np.vstack([K, self.eta(K)]))


@dataclass(frozen=True)
class _Pairwise:
    """The model's powers and weight, and what follows for rows."""

    a: float
    b: float
    weight: Any

    def moments(self, x: Array, w: Array) -> _Moments:
        d = x.shape[1]
        forms, pull = np.zeros((d, d + 1, d + 1)), np.zeros((d, d + 1))
        for shares, found in self.features(x, w):
            scaled = (found.slope * np.sqrt(found.weight * shares[:, None])[:, :, None]).transpose(1, 0, 2)
            forms += scaled.transpose(0, 2, 1) @ scaled
            pull -= np.einsum("n,njm->jm", shares, found.bend)
        if not (np.isfinite(forms).all() and np.isfinite(pull).all()):
            raise ValueError(
                "the moments of X are not finite: they overflow (rescale its columns), or rows touch 0 with powers < 1 "
                '(drop these rows, or use weight="x2")'
            )
        return _Moments(Columns(forms, pull), self, x, w)

    def estimating(self, x: Array, w: Array, theta: Array, factor: float) -> Iterator[tuple[Array, Array]]:
        """The gradient of each row in eta and K's upper triangle, chunk by chunk, with the shares of its rows."""
        d = x.shape[1]
        slots, K = _slots(np.ones((d, d), dtype=bool)), np.zeros((d, d + 1))
        for c, r in zip(slots.column, slots.row, strict=True):
            K[c, r] = theta
        more = np.append(np.full(d, factor - 1), 0.0)
        for shares, found in self.features(x, w):
            s = np.einsum("njm,jm->nj", found.slope, K)
            pulled = found.slope * (found.weight * s)[:, :, None] + found.bend
            if factor != 1:
                pulled += found.weight[:, :, None] * found.slope**2 * (more * K)
            (first, second), (row, other) = slots.column, slots.row
            yield shares, (pulled[:, first, row] + pulled[:, second, other]) * slots.half

    def features(self, x: Array, w: Array) -> Iterator[tuple[Array, _Features]]:
        """Chunk by chunk, with the shares of its rows."""
        a, b, d = self.a, self.b, x.shape[1]
        region, own = region_of("half-line", self.weight, d), np.arange(d)
        for rows, shares in linear.chunks(x, w, d + 1):
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                power = rows**a
                h, dh = (np.ones_like(rows), np.zeros_like(rows))
                if region.weigh is not None:
                    h, dh = (part.numpy() for part in region.weigh(torch.from_numpy(rows)))
                slope, second = np.empty((len(rows), d, d + 1)), np.empty((len(rows), d, d + 1))
                slope[:, :, :-1] = -(rows ** (a - 1))[:, :, None] * power[:, None]
                second[:, :, :-1] = -_falling(rows, a)[:, :, None] * power[:, None]
                second[:, own, own] = -_falling(rows, 2 * a)
                slope[:, :, -1], second[:, :, -1] = rows ** (b - 1), _falling(rows, b)
                yield shares, _Features(h, slope, dh[:, :, None] * slope + h[:, :, None] * second)


def _falling(x: Array, a: float) -> Array:
    """The derivative of $x^{a-1}$; 0 for a = 1, at 0 too."""
    return (a - 1) * x ** (a - 2) if a != 1 else np.zeros_like(x)


def _slots(allowed: Array) -> Slots:
    """Eta, then the upper triangle of K."""
    d, inner = len(allowed), slots_of(allowed)
    own, last = np.tile(np.arange(d), (2, 1)), np.full((2, d), d, dtype=np.intp)
    column, row = np.hstack([own, inner.column]), np.hstack([last, inner.row])
    return Slots(column, row, np.append(np.full(d, 0.5), inner.half))
