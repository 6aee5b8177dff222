"""The kernel exponential family fitted by score matching."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.checks import check_count, check_positive
from scorefield.estimators.bandwidth import mild
from scorefield.estimators.base import Energy, Sampled
from scorefield.estimators.kernels.bases import read_base
from scorefield.estimators.kernels.estimator import KernelFieldEstimator
from scorefield.estimators.kernels.fields import KernelField
from scorefield.estimators.kernels.filters import (
    Problem,
    conjugate_gradient_tikhonov,
    exact_tikhonov,
    tikhonov,
)
from scorefield.estimators.kernels.rows import Rows, check_near, whole
from scorefield.estimators.kernels.selection import Plan, read_strength
from scorefield.estimators.sampling import draw, starts
from scorefield.estimators.validation import Array

LAMBDAS = tuple(10.0**k for k in np.arange(-6, 0.5, 0.5))


class KernelExponentialFamily(Sampled, Energy, KernelFieldEstimator):
    r"""$\log p(x) = f(x) + b(x) - \log Z$ with f in the Hilbert space H of $k = e^{-\|x - y\|^2/2\ell^2}$.

    Minimises the regularised implicit objective over all of H, in which $\log Z$ does not occur:

    $$ J(f) = \sum_a w_a \left(\tfrac12 \|\nabla f + \nabla b\|^2 + \Delta f + \Delta b\right)(x_a)
              + \tfrac\lambda2 \|f\|_H^2, \qquad \sum_a w_a = 1. $$

    **The finite system.** With $\hat\xi = \sum_a w_a \sum_i (\partial_i b(x_a)\,\partial_i k(x_a, \cdot)
    + \partial_i^2 k(x_a, \cdot))$, derivatives of k in its first argument, the minimiser is

    $$ f = -\tfrac1\lambda \hat\xi + \sum_{a,i} \beta_{ai}\, \partial_i k(x_a, \cdot), \qquad
       (W G + \lambda I)\,\beta = \tfrac1\lambda W h, $$

    with $G_{ai,bj} = \partial_{x_{a,i}} \partial_{x_{b,j}} k(x_a, x_b)$, $h_{ai} = \partial_i \hat\xi(x_a)$ and W the
    weights: nd equations. For equal weights that is theorem 5 of the source, $(G + n\lambda I)\beta = h/\lambda$. It is
    solved in its symmetric form, $\beta = W^{1/2} \gamma$.

    Solvers: `"exact"` (Cholesky, $O(n^3 d^3)$), `"conjugate-gradient"` (memory O(n)), `"nystrom"`: the minimiser of J
    in the span of all $\partial_i k(z, \cdot)$ and $\Delta k(z, \cdot)$ of `landmarks` z, in $O(n d P^2)$ with $P =
    (d + 1)\,$`landmarks`. The Laplacians are added to the span of Sutherland et al., so that it holds the minimiser
    over H when every row is a landmark. `"auto"` is exact up to nd = 2000.

    f is bounded, so that p is normalisable exactly if the base is; log Z remains unknown, and there is no
    `score_samples`. Far from the data the score is that of the base. `sample` runs many Hamiltonian chains from rows of
    the data. Where chains cross between modes, samples have the shares that f gives them, which score matching hardly
    sees; where modes are so far apart that none crosses, the shares of the rows.

    Args:
        bandwidth: $\ell$; half the root-mean-square distance of two rows when None; "held-out" tries 9 around it.
        regularization: $\lambda$, in units of $1/x^2$; $0.05/(\ell^2 \sqrt n)$ when None; "held-out" tries $10^{-6}$
            to 1, over $\ell^2$.
        base: b; the Gaussian with the mean and covariance of the rows when None; "flat" is 0, which leaves no
            density; or a density of `scorefield.densities`.
        solver: "auto", "exact", "conjugate-gradient" or "nystrom".
        landmarks: how many rows span the solution of "nystrom"; 1200 / (d + 1) when None.
        tolerance: relative residual at which conjugate gradients stop.
        max_iterations: after which they give up.
        on_singular: "pinv" takes the pseudo-inverse of a singular covariance for the Gaussian base, with a
            `RankWarning`; "raise" refuses it.
        random_state: source of landmarks and folds.

    Attributes:
        bandwidth_: $\ell$.
        regularization_: $\lambda$.
        held_out_: the objective of every setting tried, a `HeldOut`.

    Source: Sriperumbudur et al. 2017 (arXiv:1312.3516), theorem 5, whose $J$ has the same two ½;
    Sutherland et al. 2018 (arXiv:1705.08360) for the span of landmarks.
    """

    _solvers = ("auto", "exact", "conjugate-gradient", "nystrom")

    def __init__(
        self,
        bandwidth: float | str | None = None,
        regularization: float | str | None = None,
        base: Any = None,
        *,
        solver: str = "auto",
        landmarks: int | None = None,
        tolerance: float = 1e-8,
        max_iterations: int = 2000,
        on_singular: str = "pinv",
        random_state: Any = None,
    ) -> None:
        self.bandwidth = bandwidth
        self.regularization = regularization
        self.base = base
        self.solver = solver
        self.landmarks = landmarks
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.on_singular = on_singular
        self.random_state = random_state

    def _plan(self, rows: Rows) -> Plan:
        check_positive("tolerance", self.tolerance)
        check_count("max_iterations", whole(self.max_iterations))
        asked = read_strength("regularization", self.regularization, check_positive)
        base, self._improper = read_base(self.base, rows, self.on_singular)
        self._starts = starts(rows.x, rows.w)
        usual, spanned = mild(rows.x, rows.w), rows.x.shape[1] + 1
        return Plan("curl-free", base, asked, usual, LAMBDAS, tikhonov, self._exact, spanned, in_data_units=True)

    def _exact(self, problem: Problem, strength: float) -> KernelField:
        if self.solver != "conjugate-gradient":
            return exact_tikhonov(problem, strength)
        settings: dict[str, Any] = {"tolerance": self.tolerance, "max_iterations": self.max_iterations}
        return conjugate_gradient_tikhonov(problem, strength, **settings)

    @property
    def regularization_(self) -> float:
        r"""$\lambda$ of the fit, in units of $1/x^2$."""
        return self.strength_ / self.bandwidth_**2

    def _log_density(self, x: Array) -> Array:
        check_near(x, self.field_.centre, self.bandwidth_)
        return self.field_.potential(x) + self.base_.log_density(x)

    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        """By `sampling.draw`, of the field itself: its chains need no check of how far they are."""

        def score(x: Tensor) -> Tensor:
            return torch.from_numpy(self.field_.score(x.numpy()) + self.base_.score(x.numpy()))

        def log_density(x: Tensor) -> Tensor:
            return torch.from_numpy(self.field_.potential(x.numpy()) + self.base_.log_density(x.numpy()))

        return draw(score, log_density, self._starts, count, rng)
