r"""Linear inverse problems $y = A x_0 + \sigma_y n$: the score of $p_t(x \mid y)$ by three estimates of a covariance.

Tweedie gives the mean $\hat x_0$ of the data given $x_t$. With a covariance V beside it,

$$ p(y \mid x_t) \approx N(y;\, A \hat x_0(x_t),\, \sigma_y^2 I + A V A^\top), \qquad
   \nabla_{x_t} \log p(y \mid x_t) \approx \nabla \hat x_0^\top A^\top
   (\sigma_y^2 I + A V A^\top)^{-1} (y - A \hat x_0), $$

where the derivative of V is left out. The methods differ in V alone:

| `method` | V | exact for |
|---|---|---|
| `"dps"` | 0 | no prior at positive noise: too sharp |
| `"pigdm"` | $r_t^2 I$, $r_t^2 = v\,\sigma_t^2/(\alpha_t^2 v + \sigma_t^2)$ | the prior $N(m, vI)$ |
| `"moments"` | $\frac{\sigma_t^2}{\alpha_t} \nabla \hat x_0$, Tweedie's second moment | every Gaussian prior |

Sources: Chung et al. 2023 (arXiv:2209.14687), here with the likelihood's own weight $1/\sigma_y^2$ in place of their
step size; Song et al. 2023 (Pseudoinverse-guided diffusion models, ICLR), equations 7 to 9; Boys et al. 2023
(arXiv:2310.06721) and Rozet et al. 2024 (arXiv:2405.13712), algorithm 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.calculus import NoisyScore, expand, inner
from scorefield.checks import check_choice, check_count, check_non_negative, check_positive
from scorefield.fields import denoise
from scorefield.guidance.bayes import differentiated
from scorefield.guidance.operators import Operator
from scorefield.noise import Noise

METHODS = ("dps", "pigdm", "moments")


class Posterior:
    """The score of a posterior given a linear observation; made by `posterior`."""

    def __init__(
        self,
        prior: NoisyScore,
        noise: Noise,
        operator: Operator,
        y: Tensor,
        sigma: float,
        method: str,
        variance: float,
        floor: float,
        iterations: int,
    ) -> None:
        self._prior, self._noise, self._a, self._y = prior, noise, operator, y
        self._sigma2, self._method, self._variance, self._floor = sigma**2, method, variance, floor
        self._iterations = iterations

    @property
    def per_row(self) -> bool:
        """Whether each sample of the batch has an observation of its own."""
        return self._y.ndim > len(self._a.observed)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The posterior's score at x (B, *D) and times t, (B,) or ()."""
        if self.per_row and len(self._y) != len(x):
            raise ValueError(f"y must be one observation per sample, {len(x)}, got {len(self._y)}; or one for all")
        score, _, pull = self.parts(x, t)
        return score + pull

    def parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""The prior's score, $-\tfrac12 r^\top (\sigma_y^2 I + AVA^\top)^{-1} r$ (B,), and the likelihood's score."""
        alpha, sigma = self._noise.alpha(t), self._noise.sigma(t)
        with differentiated(x) as (at, graph):
            score = self._prior(at, t)
            mean = denoise(lambda *_: score, self._noise, at, t)
            residual = self._y.to(x) - self._a(mean)

            def jacobian(v: Tensor) -> Tensor:
                return torch.autograd.grad(mean, at, v, retain_graph=True, create_graph=graph)[0]

            solved = self._solve(residual if graph else residual.detach(), alpha, sigma, jacobian)
            pull = jacobian(self._a.adjoint(solved))
        value = -inner(residual, solved) / 2
        return (score, value, pull) if graph else (score.detach(), value.detach(), pull)

    def log_likelihood(self, x: Tensor) -> Tensor:
        r"""$\log N(y; A x, \sigma_y^2 I)$ of clean samples (B, *D), normalised, (B,)."""
        if not self._sigma2:
            raise ValueError("sigma must be > 0 for a likelihood with a density, got 0; give the observation's noise")
        residual = (self._y.to(x) - self._a(x)).flatten(1)
        count = residual.shape[1]
        return -(residual**2).sum(1) / (2 * self._sigma2) - count / 2 * math.log(2 * math.pi * self._sigma2)

    def _solve(self, residual: Tensor, alpha: Tensor, sigma: Tensor, jacobian: Callable[[Tensor], Tensor]) -> Tensor:
        r"""$(\sigma_y^2 I + A V A^\top)^{-1} r$."""
        if self._method == "dps":
            return residual / self._sigma2
        white = self._variance * sigma**2 / (alpha**2 * self._variance + sigma**2)  # r_t²
        gain = sigma**2 / alpha

        def covariance(v: Tensor) -> Tensor:
            if self._method == "pigdm":
                return expand(white, v) * v
            spread = expand(gain, v) * jacobian(v)
            return spread + self._floor * expand(white, v) * v if self._floor else spread

        def matrix(u: Tensor) -> Tensor:
            return self._sigma2 * u + self._a(covariance(self._a.adjoint(u)))

        return conjugate_gradients(matrix, residual, self._iterations)


def posterior(
    prior: NoisyScore,
    noise: Noise,
    a: Operator | Tensor | Callable[[Tensor], Tensor],
    y: Tensor,
    *,
    sigma: float,
    shape: tuple[int, ...] | None = None,
    method: str = "moments",
    variance: float = 1.0,
    floor: float = 0.0,
    iterations: int = 30,
) -> Posterior:
    r"""The score of $p_t(x \mid y)$ for $y = A x_0 + \sigma_y n$, by `method`; see the page for what each assumes.

    Args:
        prior: noise-conditional score.
        noise: its schedule.
        a: A, an `Operator`, a matrix (M, D) or a torch function (B, *D) -> (B, *M).
        y: what was observed, (*M) for all samples, or (B, *M) for each of this very batch its own.
        sigma: $\sigma_y$ >= 0; > 0 for `"dps"`.
        shape: shape (*D) of one sample; needed where `a` is a matrix of images or a function.
        method: `"dps"`, `"pigdm"` or `"moments"`.
        variance: v of $r_t^2$, the data's, > 0.
        floor: of `"moments"`, adds this part of $r_t^2 I$ to V, >= 0: 0 is right for an exact score. A learned one has
            directions in which it claims next to no spread and errs by more; without a floor they blow up.
        iterations: of the conjugate gradients, at most; each costs `"moments"` one product with the denoiser's Jacobian
            and `"pigdm"` one with A.

    Returns:
        a noise-conditional score; `smc` takes it too.

    Raises:
        ValueError: A not linear (with its defect), y of another shape, sigma < 0, an unknown method, variance or
            iterations not > 0.
    """
    check_choice("method", method, METHODS)
    check_non_negative("sigma", sigma)
    check_positive("variance", variance)
    check_non_negative("floor", floor)
    check_count("iterations", iterations)
    if method == "dps" and sigma == 0:
        raise ValueError("sigma must be > 0 for method dps, got 0; take moments, or give the observation's noise")
    if not isinstance(a, Operator):
        if shape is None:
            if not isinstance(a, Tensor):
                raise ValueError("shape must be given with a function: the shape (*D) of one sample")
            shape = (a.shape[-1],)
        a = Operator(a, shape, like=y)
    observed = a.observed
    if tuple(y.shape) != observed and tuple(y.shape[1:]) != observed:
        raise ValueError(f"y must have shape {observed} or (B, {', '.join(map(str, observed))}), got {tuple(y.shape)}")
    if not y.isfinite().all():
        raise ValueError("y must be finite, got nan or infinity; mask what was not observed")
    return Posterior(prior, noise, a, y, float(sigma), method, float(variance), float(floor), iterations)


def conjugate_gradients(matrix: Callable[[Tensor], Tensor], right: Tensor, iterations: int) -> Tensor:
    """Solve M u = r sample by sample, for M symmetric and not negative, (B, *M); a sample stops by itself.

    A sample also stops where the curvature along its direction is not positive, as with a learned score's Jacobian that
    is not symmetric: what was reached is kept.
    """
    solution, rest = torch.zeros_like(right), right
    direction, size = rest, inner(rest, rest)
    goal = size.detach() * torch.finfo(right.dtype).eps ** 1.5  # of the squared residual: a bit above rounding
    for _ in range(iterations):
        going = size.detach() > goal
        if not going.any():
            break
        image = matrix(direction)
        curvature = inner(direction, image)
        going = going & (curvature.detach() > 0)
        step = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        solution = solution + expand(step, right) * direction
        rest = rest - expand(step, right) * image
        smaller = inner(rest, rest)
        ratio = torch.where(going, smaller / torch.where(going, size, 1.0), 0.0)
        direction = rest + expand(ratio, right) * direction
        size = torch.where(going, smaller, 0.0)
    return solution
