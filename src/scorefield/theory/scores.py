r"""The score and the constant Z: what sees it and what does not; the score of a mixture.

A model on the line is an energy $E(x, \theta)$, a function of points (B, 1) and one parameter per point (B,):
$p_\theta = e^{-E}/Z(\theta)$. Z is found by quadrature, which is what cannot be done in many dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.calculus import LogDensity, score_of
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.objectives import explicit, implicit
from scorefield.theory.claim import Claim, pointwise
from scorefield.theory.quadrature import draw_on_line, interval

Energy = Callable[[Tensor, Tensor], Tensor]


def score_without_constant(log_density: LogDensity, x: Tensor, *, log_constant: float) -> Claim:
    r"""The score does not see the constant: $\nabla_x \log(p/Z) = \nabla_x \log p$ at every point of x.

    Args:
        log_density: known up to a constant, (B, *D) -> (B,).
        x: points, (B, *D), float64.
        log_constant: log Z.

    Returns:
        one coordinate of both scores; all coordinates of all points are compared, to 1e-12.

    Source: Hyvärinen 2005, section 2.
    """
    normalised = score_of(lambda x: log_density(x) - log_constant)
    return pointwise(normalised(x), score_of(log_density)(x), tolerance=1e-12)


def log_constant(energy: Energy, theta: float, *, reach: float = 8.0) -> Tensor:
    r"""$\log Z(\theta) = \log \int_{-r}^{r} e^{-E(x, \theta)}\,dx$ by quadrature, shape (), float64."""
    x, w = interval(-reach, reach)
    return (w.log() - energy(x, torch.full((len(x),), theta, dtype=torch.float64))).logsumexp(0)


def constant_gradient(
    energy: Energy, theta: float, *, n: int = 400_000, reach: float = 8.0, generator: torch.Generator | None = None
) -> Claim:
    r"""$\partial_\theta \log Z = -\mathbb E_{p_\theta}[\partial_\theta E]$: the constant asks for samples of the model.

    Args:
        energy: E(x, theta).
        theta: the parameter.
        n: number of samples of the model.
        reach: the law lives on [-reach, reach].
        generator: source of the samples.

    Returns:
        left by quadrature, as a central difference of log Z; right from samples.

    Source: Hinton 2002 (Neural Computation 14).
    """
    draws = draw_on_line(_log_density(energy, theta), n, reach=reach, generator=generator)
    slopes = -_slope(energy, draws, theta)
    left, tolerance = _difference(lambda at: log_constant(energy, at, reach=reach).item(), theta)
    return Claim(left, slopes.mean().item(), slopes.std().item() / math.sqrt(n), tolerance)


def likelihood_gradient(
    energy: Energy,
    theta: float,
    law: GaussianMixture,
    *,
    n: int = 400_000,
    reach: float = 8.0,
    generator: torch.Generator | None = None,
) -> Claim:
    r"""Maximum likelihood sees the constant, and its gradient has two phases.

    $$ \partial_\theta\, \mathbb E_p[-\log p_\theta]
       = \mathbb E_p[\partial_\theta E] - \mathbb E_{p_\theta}[\partial_\theta E] $$

    Args:
        energy: E(x, theta).
        theta: the parameter.
        law: the data's law p, on the line.
        n: number of samples of p, and as many of the model.
        reach: both laws live on [-reach, reach].
        generator: source of the samples.

    Returns:
        left by quadrature, as a central difference; right from data and from samples of the model.

    Source: Hinton 2002 (Neural Computation 14).
    """
    x, w = interval(-reach, reach)
    p = w * law.log_density(x).exp()

    def cost(at: float) -> float:
        return (p @ -_log_density(energy, at)(x) + log_constant(energy, at, reach=reach)).item()

    data = _slope(energy, law.sample((n,), generator=generator), theta)
    model = _slope(energy, draw_on_line(_log_density(energy, theta), n, reach=reach, generator=generator), theta)
    left, tolerance = _difference(cost, theta)
    error = math.sqrt((data.var().item() + model.var().item()) / n)
    return Claim(left, (data.mean() - model.mean()).item(), error, tolerance)


def matching_gradient(
    energy: Energy,
    theta: float,
    law: GaussianMixture,
    *,
    n: int = 400_000,
    reach: float = 8.0,
    generator: torch.Generator | None = None,
) -> Claim:
    r"""Score matching does not see the constant: its gradient needs data alone.

    $$ \partial_\theta\, \tfrac12 D_F(p \,\|\, p_\theta)
       = \mathbb E_p\, \partial_\theta [\tfrac12 \|s_\theta\|^2 + \operatorname{tr} \nabla s_\theta],
       \qquad s_\theta = -\partial_x E $$

    Args:
        energy: E(x, theta).
        theta: the parameter.
        law: the data's law p, on the line.
        n: number of samples of p.
        reach: p lives on [-reach, reach].
        generator: source of the samples.

    Returns:
        left by quadrature from the true score, as a central difference; right from samples of p.

    Source: Hyvärinen 2005, theorem 1.
    """
    x, w = interval(-reach, reach)
    p, truth = w * law.log_density(x).exp(), law.score(x)

    def cost(at: float) -> float:
        return (p @ explicit(score_of(_log_density(energy, at)), x, truth)).item()

    draws = law.sample((n,), generator=generator)
    each = torch.full((n,), theta, dtype=torch.float64, requires_grad=True)
    loss = implicit(score_of(lambda x: -energy(x, each)), draws)
    (slopes,) = torch.autograd.grad(loss.sum(), each)
    left, tolerance = _difference(cost, theta)
    return Claim(left, slopes.mean().item(), slopes.std().item() / math.sqrt(n), tolerance)


def mixture_score(law: GaussianMixture, x: Tensor) -> Claim:
    r"""The score of a mixture is the sum of its components' scores weighted by their responsibilities.

    $$ \nabla_x \log \sum_k w_k p_k = \sum_k r_k \nabla_x \log p_k, \qquad r_k = w_k p_k / \sum_j w_j p_j $$

    The plain sum, or the sum with the weights $w_k$, is right only where one component dominates.

    Args:
        law: the mixture.
        x: points, (B, d), float64.

    Returns:
        one coordinate of both sides, left by automatic differentiation; all are compared, to 1e-9.

    Source: Bishop 2006, section 9.2, for the responsibilities.
    """
    parts = [Gaussian(m, c) for m, c in zip(law.means, law.covariances, strict=True)]
    terms = torch.stack([w.log() + part.log_density(x) for w, part in zip(law.weights, parts, strict=True)])
    scores = torch.stack([part.score(x) for part in parts])
    right = (terms.softmax(0)[:, :, None] * scores).sum(0)
    return pointwise(score_of(law.log_density)(x), right)


def _log_density(energy: Energy, theta: float) -> LogDensity:
    return lambda x: -energy(x, x.new_full((len(x),), theta))


def _slope(energy: Energy, x: Tensor, theta: float) -> Tensor:
    r"""$\partial_\theta E$ at each point, (B,)."""
    each = torch.full((len(x),), theta, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(energy(x, each).sum(), each)
    return slopes


def _difference(cost: Callable[[float], float], theta: float) -> tuple[float, float]:
    """The derivative of a smooth function by its values at theta ± h and ± 2h, and the error allowed for it."""
    h = 1e-3
    near, far = cost(theta + h) - cost(theta - h), cost(theta + 2 * h) - cost(theta - 2 * h)
    return (8 * near - far) / (12 * h), 1e-9
