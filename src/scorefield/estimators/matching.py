r"""Score matching of any model with parameters, by an iterative solver, with the inference of an M-estimator."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from torch import Tensor

from scorefield.calculus import probe_like, randn_like
from scorefield.checks import check_choice, check_count, check_non_negative, check_positive
from scorefield.estimators.base import Energy, Sampled, ScoreEstimator
from scorefield.estimators.domains import Region, region_of
from scorefield.estimators.family import growth
from scorefield.estimators.inference import ON_SINGULAR, Inference, invert, record
from scorefield.estimators.minimising import Problem, adam, lbfgs, newton, polished
from scorefield.estimators.models import Model, denoising, implicit
from scorefield.estimators.sampling import draw, say_improper, starts
from scorefield.estimators.statistics import Quadratic
from scorefield.estimators.validation import Array, check_fit_data, names_of

OBJECTIVES = ("implicit", "sliced", "denoising")
SOLVERS = ("lbfgs", "newton", "sgd")
NOT_CONVERGED = "the solver did not reach a minimum: raise max_iter, rescale X or start elsewhere"
_FEW = 100  # parameters up to which standard errors come without being asked for


class ScoreMatching(Inference, Energy, Sampled, ScoreEstimator):
    r"""Any model with parameters, fitted by minimising the mean of $\rho(x; \theta)$ over the data.

    `"implicit"` is $\tfrac12\|s\|^2 + \operatorname{tr}\nabla s$, weighted on a domain with a boundary;
    `"sliced"` estimates the trace with one Rademacher probe per row, drawn once; `"denoising"` regresses on the noise
    of $x + \sigma z$, drawn once per row. The first two estimate the law of the data. **Denoising targets the blurred
    law**, that of $x + \sigma z$: so do its estimate and its intervals. Probes and noise are part of a row, so that
    standard errors include what they add.

    **Score matching hardly sees the shares of modes that lie far apart** (Wenliang & Kanagawa 2020, arXiv:2008.10087):
    no data lie where the score would tell them. A mixture's weight is then a flat direction, and its estimate may be
    off by many of its own standard errors; no condition number tells.

    Args:
        model: an `nn.Module` that returns a log-density (B,), or has a method `log_density`, or returns a score (B, d);
            or a callable log_density(x, theta) -> (B,) in torch; None is the Gaussian energy with the parameters of
            `Quadratic`. A module is copied, and computes in float64; parameters with requires_grad=False stay.
        start: first values of theta, for a callable.
        objective: `"implicit"`, `"sliced"` or `"denoising"`.
        solver: `"lbfgs"`; `"newton"`, damped, for few parameters; `"sgd"`, Adam on mini-batches with a rate that
            falls to zero. Where the Hessian is computed, Newton steps make lbfgs exact.
        domain: where the data live, see `region_of`.
        weight: h, see `region_of`.
        sigma: standard deviation of the noise of denoising, > 0, in the units of X.
        max_iter: iterations of lbfgs or newton, or steps of sgd.
        tol: the largest entry of the mean gradient at which a solver stops.
        batch_size: rows of a step of sgd.
        learning_rate: first rate of sgd.
        ddof: the covariance is multiplied by n / (n - ddof).
        on_singular: `"pinv"` or `"raise"`, see `invert`.
        inference: True, False, or `"auto"`: with at most 100 parameters, and not after sgd, whose last iterate is not
            the minimum. Where lbfgs or newton do not converge there are no standard errors.
        random_state: seed of probes, noise and mini-batches.

    Attributes:
        model_: the fitted copy of a module; None otherwise.
        theta_, objective_, n_samples_, parameter_names_ and, with inference, covariance_, standard_error_, hessian_,
            condition_number_: see `Inference`.
        n_iter_: iterations made.

    Source: Hyvärinen 2005; Song et al. 2019 (sliced); Vincent 2011 (denoising).
    """

    def __init__(
        self,
        model: Any = None,
        start: Any = None,
        objective: str = "implicit",
        solver: str = "lbfgs",
        domain: Any = "real",
        weight: Any = None,
        sigma: float = 0.1,
        max_iter: int = 300,
        tol: float = 1e-6,
        batch_size: int = 256,
        learning_rate: float = 0.01,
        ddof: float = 0.0,
        on_singular: str = "pinv",
        inference: bool | str = "auto",
        random_state: Any = 0,
    ) -> None:
        self.model = model
        self.start = start
        self.objective = objective
        self.solver = solver
        self.domain = domain
        self.weight = weight
        self.sigma = sigma
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.ddof = ddof
        self.on_singular = on_singular
        self.inference = inference
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> ScoreMatching:
        """Minimise the objective, from where the model stands.

        Args:
            X: rows, (n, d), within the domain.
            y: ignored.
            sample_weight: of the rows, >= 0; see `scorefield.estimators.inference`.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights, settings or model; an objective that is not finite at the start.

        Warns:
            ConvergenceWarning: the solver stopped before the gradient was as small as `tol`.
            RankWarning: the Hessian is singular or nearly so; the parameters are named.
            NotNormalisable: the fit is no density.
        """
        self._check_settings()
        x, w = check_fit_data(self, X, sample_weight)
        region = region_of(self.domain, self.weight, x.shape[1])
        region.check(x)
        largest = np.abs(x).max()
        if largest > 0 and not 1e-100 < largest < 1e100:
            raise ValueError(f"the largest entry of X is {largest:.2g} in size; rescale the columns of X")
        if self.objective == "denoising" and not region.whole:
            raise ValueError('denoising blurs data over the boundary of a domain; use objective="implicit" there')
        model = Model(self.model, self.start, names_of(self, x.shape[1]), x[:1])
        problem = self._problem(model, x, w)
        if not np.isfinite(problem.value_and_gradient(model.start)[0]):
            raise ValueError("the objective is not finite where the model starts; start elsewhere, or rescale X")
        few = self.inference is True or (self.inference == "auto" and len(model.start) <= _FEW and self.solver != "sgd")
        theta, self.n_iter_ = self._solve(problem, model.start, polish=few)
        value, slope = problem.value_and_gradient(theta)
        if not np.isfinite(value):
            raise ValueError(
                "the objective diverges to -inf or is not finite: the model can concentrate on the data; restrict it, "
                "rescale X or start elsewhere"
            )
        if model.log_density is not None and not bool(model.log_density(theta, torch.from_numpy(x)).isfinite().all()):
            raise ValueError("the log-density is not finite at every row of X; give the domain that the model has")
        worst = float(slope.abs().max())
        lost = worst > self.tol and self.solver != "sgd"
        if lost:
            warnings.warn(
                f"{self.solver} stopped after {self.n_iter_} iterations with a gradient of {worst:.2g} > tol = "
                f"{self.tol:g}, so that there are no standard errors; raise max_iter, rescale X or start elsewhere",
                ConvergenceWarning,
                stacklevel=2,
            )
        hessian, covariance, condition = None, None, np.nan
        if few and not lost:
            hessian = problem.hessian(theta)
            solved = invert(hessian, model.names, n=len(x), on_singular=self.on_singular)
            spread = problem.spread(theta).covariance(self.ddof)
            covariance, condition = solved.inverse @ spread @ solved.inverse, solved.condition
        record(
            self,
            theta=theta.numpy().copy(),
            hessian=hessian,
            covariance=covariance,
            objective=value,
            condition=condition,
            n_samples=len(x),
            names=model.names,
            way_out=NOT_CONVERGED if lost else "fit with inference=True",
        )
        model.load(theta)
        self.model_, self._scores_only, self._starts = model.module, model.log_density is None, starts(x, w)
        say_improper(self, self._why_improper(model, region))
        return self

    def _contributions(self, x: Array) -> Array:
        """With probes and noise as in `fit`."""
        region_of(self.domain, self.weight, x.shape[1]).check(x)
        return self._problem(self._fitted(), x).contributions(torch.from_numpy(self.theta_)).numpy()

    def _rho(self, x: Array) -> Array:
        region_of(self.domain, self.weight, x.shape[1]).check(x)
        return self._problem(self._fitted(), x).values(torch.from_numpy(self.theta_)).numpy()

    def _score(self, x: Array) -> Array:
        return self._fitted().score(torch.from_numpy(self.theta_), torch.from_numpy(x)).detach().numpy()

    def _log_density(self, x: Array) -> Array:
        region = region_of(self.domain, self.weight, x.shape[1])
        return self._energy(self._fitted(), region)(torch.from_numpy(x)).numpy()

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        model, theta = self._fitted(), torch.from_numpy(self.theta_)
        energy = self._energy(model, region_of(self.domain, self.weight, self.n_features_in_))
        return draw(lambda x: model.score(theta, x).detach(), energy, self._starts, count, rng)

    def _fitted(self) -> Model:
        """The model at the estimate."""
        names = names_of(self, self.n_features_in_)
        module = self.model if self.model_ is None else self.model_
        return Model(module, self.theta_, names, self._starts[:1])

    def _energy(self, model: Model, region: Region) -> Callable[[Tensor], Tensor]:
        called, theta = model.log_density, torch.from_numpy(self.theta_)
        assert called is not None

        def log_density(x: Tensor) -> Tensor:
            value = called(theta, x).detach()
            return value if region.distance is None else torch.where(region.distance(x) >= 0, value, -torch.inf)

        return log_density

    def _problem(self, model: Model, x: Array, w: Array | None = None) -> Problem:
        """The mean objective over rows, with what is random about them drawn from `random_state`."""
        rows, weigh = torch.from_numpy(x), region_of(self.domain, self.weight, x.shape[1]).weigh
        shares = torch.full((len(rows),), 1 / len(rows), dtype=rows.dtype) if w is None else torch.tensor(w)
        if self.objective == "denoising":
            z, sigma = randn_like(rows, self._generator()), self.sigma
            return Problem(lambda theta, at, z: denoising(model.score, theta, at, z, sigma), shares, rows, z)
        beside = [torch.ones_like(rows), torch.zeros_like(rows)] if weigh is None else list(weigh(rows))
        if self.objective == "sliced":
            beside.append(probe_like(rows, "rademacher", self._generator()))
        return Problem(lambda theta, *at: implicit(model.score, theta, *at), shares, rows, *beside)

    def _generator(self) -> torch.Generator:
        state = self.random_state
        return torch.Generator().manual_seed(int(check_random_state(state).randint(2**31 - 1)))

    def _solve(self, problem: Problem, start: Tensor, *, polish: bool) -> tuple[Tensor, int]:
        if self.solver == "sgd":
            how: Any = {"batch_size": self.batch_size, "learning_rate": self.learning_rate}
            return adam(problem, start, max_iter=self.max_iter, generator=self._generator(), **how)
        if self.solver == "newton":
            found, count = newton(problem.both, problem.bend, start.numpy(), max_iter=self.max_iter, tol=self.tol)
            return torch.from_numpy(found), count
        found, count = lbfgs(problem.both, start.numpy(), max_iter=self.max_iter, tol=self.tol)
        theta = torch.from_numpy(found)
        return (polished(problem, theta) if polish else theta), count

    def _why_improper(self, model: Model, region: Region) -> str | None:
        if model.log_density is None or region.bounded:
            return None
        if self.model is None:
            return Quadratic().improper(self.theta_, region)
        return growth(self._energy(model, region), self._starts, region)

    def _check_settings(self) -> None:
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("solver", self.solver, SOLVERS)
        check_choice("on_singular", self.on_singular, ON_SINGULAR)
        check_positive("sigma", self.sigma)
        check_positive("tol", self.tol)
        check_positive("learning_rate", self.learning_rate)
        check_count("max_iter", self.max_iter)
        check_count("batch_size", self.batch_size)
        check_non_negative("ddof", self.ddof)
