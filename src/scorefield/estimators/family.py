r"""Exponential families by score matching: a linear system instead of a normalising constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.checks import check_choice, check_non_negative
from scorefield.estimators import linear
from scorefield.estimators.base import Energy, Sampled, ScoreEstimator
from scorefield.estimators.domains import Region, region_of
from scorefield.estimators.inference import ON_SINGULAR, Inference, record
from scorefield.estimators.linear import Stack
from scorefield.estimators.sampling import draw, say_improper, starts
from scorefield.estimators.statistics import Given, derivatives, statistic_of
from scorefield.estimators.validation import Array, check_fit_data, check_rows_of, names_of


class ExponentialFamily(Inference, Energy, Sampled, ScoreEstimator):
    r"""An exponential family, fitted by score matching in closed form, with standard errors.

    $$ \log p(x; \theta) = \theta \cdot t(x) + b(x) - \log Z(\theta), \qquad \hat\theta = W^{-1} d $$

    with W and d as in `scorefield.estimators.linear`; Z is never needed. On a domain with a boundary the objective is
    weighted (see `region_of`). The covariance is Godambe's sandwich (see `scorefield.estimators.inference`). Time is
    $O(n K^2 d)$ and memory $O(K^2)$ beside the data, in two passes.

    Args:
        statistic: t, by name: `"quadratic"` (the default: the Gaussian family in its natural parameters, see
            `Quadratic`), `"quartic"` (powers 1 to 4 of every column), `"exponential"`, `"gamma"`; or a torch callable
            (B, d) -> (B, K), differentiated by autodiff; or (t, gradient, second), callables that return (B, K),
            $\partial_j t_k$ (B, K, d) and $\partial_j^2 t_k$ (B, K, d), or the Laplacians (B, K) where the objective
            has no weight.
        base: b, a torch callable (B, d) -> (B,) or such a triple with K = 1; None is 0.
        domain: where the data may lie: `"real"`, `"half-line"`, `("interval", a, b)`, `("box", low, high)`,
            `("ball", centre, radius)`, `("polygon", vertices)`, or a callable distance to the boundary.
        weight: h, by name or callable; None is the domain's own. See `region_of`, also for how papers differ.
        fixed: known parameters, a mapping from their name or index to their value; None leaves all free.
        ridge: $\lambda \ge 0$ in $(W + \lambda I)^{-1} d$; the covariance is then that of the shrunk estimate.
        ddof: the covariance is multiplied by n / (n - ddof); 0 divides by n.
        on_singular: `"pinv"` or `"raise"`, see `invert`.
        inference: False skips the second pass, and with it the standard errors.

    Attributes:
        theta_, covariance_, standard_error_, hessian_, objective_, condition_number_, n_samples_, parameter_names_: see
            `Inference`.

    Source: Hyvärinen 2005 and 2007; the sandwich after Godambe 1960.
    """

    def __init__(
        self,
        statistic: Any = "quadratic",
        base: Any = None,
        domain: Any = "real",
        weight: Any = None,
        fixed: Mapping[str | int, float] | None = None,
        ridge: float = 0.0,
        ddof: float = 0.0,
        on_singular: str = "pinv",
        inference: bool = True,
    ) -> None:
        self.statistic = statistic
        self.base = base
        self.domain = domain
        self.weight = weight
        self.fixed = fixed
        self.ridge = ridge
        self.ddof = ddof
        self.on_singular = on_singular
        self.inference = inference

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> ExponentialFamily:
        """Estimate the parameters.

        Args:
            X: rows, (n, d), within the domain.
            y: ignored.
            sample_weight: of the rows, >= 0; see `scorefield.estimators.inference` for what they mean.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights or settings; each says what to do.

        Warns:
            RankWarning: the statistics are linearly dependent on the data, or nearly so; they are named.
            NotNormalisable: the fit is no density.
        """
        check_non_negative("ridge", self.ridge)
        check_non_negative("ddof", self.ddof)
        check_choice("on_singular", self.on_singular, ON_SINGULAR)
        x, w = check_fit_data(self, X, sample_weight)
        region = region_of(self.domain, self.weight, x.shape[1])
        region.check(x)
        statistic, base = statistic_of(self.statistic), _base_of(self.base)
        count = _count(statistic, x)
        if not (isinstance(statistic, Given) or hasattr(statistic, "moments")):  # whose values a fit does not use
            _check_values(statistic, x, count)
        names = _names(statistic, names_of(self, x.shape[1]), count)
        known = _known(self.fixed, names)
        found = linear.solve(
            x,
            w,
            statistic if base is None else Stack((statistic, base)),
            region,
            names if base is None else [*names, "base"],
            fixed=known if base is None else np.append(known, 1.0),
            ridge=self.ridge,
            ddof=self.ddof,
            on_singular=self.on_singular,
            inference=self.inference,
        )
        record(
            self,
            theta=found.theta[:count],
            hessian=found.hessian[:count, :count],
            covariance=None if found.covariance is None else found.covariance[:count, :count],
            objective=found.objective,
            condition=found.condition,
            n_samples=len(x),
            names=names,
        )
        self._starts = starts(x, w)
        say_improper(self, self._why_improper(statistic, region))
        return self

    def _contributions(self, x: Array) -> Array:
        statistic, theta, region = self._law()
        region.check(x)
        return linear.contributions(x, theta, statistic, region)[:, : len(self.theta_)]

    def _rho(self, x: Array) -> Array:
        statistic, theta, region = self._law()
        region.check(x)
        return linear.objective(x, theta, statistic, region)

    def _score(self, x: Array) -> Array:
        statistic, theta, _ = self._law()
        return linear.score(x, theta, statistic)

    def _log_density(self, x: Array) -> Array:
        return self._torch_log_density()(torch.from_numpy(x)).numpy()

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        statistic, theta, _ = self._law()
        coefficients = torch.from_numpy(theta)

        def score(x: Tensor) -> Tensor:
            return coefficients @ derivatives(statistic, x).gradient

        return draw(score, self._torch_log_density(), self._starts, count, rng)

    def _law(self) -> tuple[Any, Array, Region]:
        """The statistics with the base among them, all coefficients, the domain."""
        statistic, base = statistic_of(self.statistic), _base_of(self.base)
        region = region_of(self.domain, self.weight, self.n_features_in_)
        if base is None:
            return statistic, self.theta_, region
        return Stack((statistic, base)), np.append(self.theta_, 1.0), region

    def _ready(self, X: Any) -> tuple[Array, tuple[Any, Array, Region]]:
        x, law = check_rows_of(self, X, fitting=False), self._law()
        law[2].check(x)
        return x, law

    def _torch_log_density(self) -> Callable[[Tensor], Tensor]:
        statistic, theta, region = self._law()
        coefficients = torch.from_numpy(theta)

        def log_density(x: Tensor) -> Tensor:
            value = statistic(x) @ coefficients
            if region.distance is None:
                return value
            return torch.where(region.distance(x) >= 0, value, -torch.inf)

        return log_density

    def _why_improper(self, statistic: Any, region: Region) -> str | None:
        if self.base is None and hasattr(statistic, "improper"):
            return statistic.improper(self.theta_, region)
        return None if region.bounded else growth(self._torch_log_density(), self._starts, region)


def growth(log_density: Callable[[Tensor], Tensor], x: Array, region: Region) -> str | None:
    """A sentence when a log-density still grows far out along an open direction of the domain, else None.

    A look at the axes and diagonals, at 100 and 200 standard deviations: it finds what grows, and proves nothing.
    """
    centre, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    d = x.shape[1]
    signs = np.concatenate([np.eye(d), -np.eye(d), np.ones((1, d)), -np.ones((1, d))])
    open_ends = ((signs <= 0) | np.isinf(region.high)).all(1) & ((signs >= 0) | np.isinf(region.low)).all(1)
    rays = signs[open_ends] * scale
    if not len(rays):
        return None
    with np.errstate(all="ignore"), torch.no_grad():
        near, far = (log_density(torch.from_numpy(centre + r * rays)) for r in (100.0, 200.0))
        middle = log_density(torch.from_numpy(centre[None]))
    grows = ((far >= near) & (far >= middle)).numpy()
    if not grows.any():
        return None
    direction = ", ".join(f"{v:.3g}" for v in rays[int(grows.argmax())][:4])
    return f"the log-density does not fall along the direction ({direction}{', …' if d > 4 else ''})"


def _base_of(base: Any) -> Any:
    if base is None:
        return None
    if callable(base):
        given: Any = base
        return lambda x: given(x).reshape(len(x), 1)
    if isinstance(base, (tuple, list)):
        return Given(base)
    raise TypeError(f"base must be a callable (B, d) -> (B,), a triple (b, gradient, second) or None, got {base!r}")


def _count(statistic: Any, x: Array) -> int:
    value = statistic(torch.from_numpy(x[:1]))
    if getattr(value, "ndim", 0) != 2 or len(value) != 1:
        got = tuple(getattr(value, "shape", ())) or type(value).__name__
        raise ValueError(f"a statistic must return one row of K numbers per row, here (1, K), got {got}")
    return value.shape[1]


def _check_values(statistic: Any, x: Array, count: int) -> None:
    """Refuse rows where a statistic itself is not finite: the derivative of log x is, for x < 0."""
    first = 0
    for rows, _ in linear.chunks(x, x[:, 0], count):
        broken = ~statistic(torch.from_numpy(rows)).isfinite().all(1)
        if bool(broken.any()):
            i = first + int(broken.nonzero()[0])
            raise ValueError(f"the statistic is not finite at row {i} of X; drop that row, or rescale or shift X")
        first += len(rows)


def _names(statistic: Any, columns: list[str], count: int) -> list[str]:
    if hasattr(statistic, "names"):
        return statistic.names(columns)
    return [f"theta[{k}]" for k in range(count)]


def _known(fixed: Mapping[str | int, float] | None, names: list[str]) -> Array:
    """Values of the parameters that are fixed, nan for the others."""
    known = np.full(len(names), np.nan)
    for key, value in (fixed or {}).items():
        if isinstance(key, str):
            check_choice("a fixed parameter", key, names)
        place = names.index(key) if isinstance(key, str) else int(key)
        if not -len(names) <= place < len(names):
            raise ValueError(f"a fixed parameter must be one of {len(names)}, got index {key}")
        if not np.isfinite(value):
            raise ValueError(f"a fixed parameter must be finite, got {value!r} for {key!r}")
        known[place] = float(value)
    return known
