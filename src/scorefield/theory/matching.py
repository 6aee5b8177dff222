r"""Explicit, implicit and sliced score matching: where they agree, where they do not, and what they are least at."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from scorefield.calculus import LogDensity, Score, divergence, inner, score_of
from scorefield.densities import Density, Gaussian, GaussianMixture
from scorefield.objectives import explicit, implicit, sliced
from scorefield.theory.claim import Claim, paired, pointwise
from scorefield.theory.quadrature import ball, interval, sphere


def explicit_implicit(
    law: Density, one: Score, other: Score, *, n: int = 100_000, generator: torch.Generator | None = None
) -> Claim:
    r"""Explicit and implicit score matching differ by a constant that does not depend on the model.

    $$ \tfrac12 \mathbb E_p \|s - \nabla\log p\|^2
       = \mathbb E_p[\tfrac12\|s\|^2 + \operatorname{tr}\nabla s] + \tfrac12 \mathbb E_p \|\nabla\log p\|^2 $$

    when $p\,s \to 0$ at the boundary. The constant drops out of the difference of two models.

    Args:
        law: the data's law p.
        one: the first model's score.
        other: the second model's score.
        n: number of samples.
        generator: source of the samples.

    Returns:
        the difference of the two models under the explicit objective, and under the implicit one, on the same samples.

    Source: Hyvärinen 2005, theorem 1.
    """
    x = law.sample((n,), generator=generator)
    target = law.score(x)
    left = explicit(one, x, target) - explicit(other, x, target)
    return paired(left, implicit(one, x) - implicit(other, x))


def by_parts(law: GaussianMixture, score: Score, low: float, high: float) -> Claim:
    r"""The step of the proof, on the line: integration by parts moves the derivative from log p to the model.

    $$ \int_a^b p\,s\,(\log p)'\,dx = \big[p\,s\big]_a^b - \int_a^b p\,s'\,dx $$

    Args:
        law: p, on the line.
        score: the model's score s.
        low: a.
        high: b.

    Returns:
        both sides by quadrature; to 1e-9.

    Source: Hyvärinen 2005, appendix A.
    """
    x, w = interval(low, high)
    p = w * law.log_density(x).exp()
    s, slope = divergence(score, x)
    return Claim(
        (p @ inner(s, law.score(x))).item(),
        _ends(law.log_density, score, low, high) - (p @ slope).item(),
        tolerance=1e-9,
    )


def bounded_domain(log_density: LogDensity, score: Score, low: float, high: float) -> Claim:
    r"""Where $p\,s$ does not vanish at the boundary the two objectives differ by more than a constant.

    $$ \mathrm{ESM} - \mathrm{ISM} - \tfrac12 \mathbb E_p |(\log p)'|^2 = -\big[p\,s\big]_a^b $$

    The right-hand side depends on the model, so that the minimiser of the implicit objective is biased.

    Args:
        log_density: normalised on [a, b], (B, 1) -> (B,).
        score: the model's score s.
        low: a.
        high: b; far out for a half-line.

    Returns:
        the gap by quadrature, and the boundary term; to 1e-9.

    Source: Hyvärinen 2007 (Computational Statistics & Data Analysis 51).
    """
    x, w = interval(low, high)
    p, target = w * log_density(x).exp(), score_of(log_density)(x)
    gap = explicit(score, x, target) - implicit(score, x) - inner(target, target) / 2
    return Claim((p @ gap).item(), -_ends(log_density, score, low, high), tolerance=1e-9)


def _ends(log_density: LogDensity, score: Score, low: float, high: float) -> float:
    """The product of density and score at b, minus that at a."""
    x = torch.tensor([[low], [high]], dtype=torch.float64)
    at = log_density(x).exp() * score(x)[:, 0]
    return (at[1] - at[0]).item()


def flux(law: GaussianMixture, score: Score, radius: float) -> float:
    r"""The boundary term on a sphere of three-dimensional space, $\oint_{\|x\|=R} p\,s\cdot n\,dA$, by quadrature.

    Args:
        law: p, in three dimensions.
        score: the model's score s.
        radius: R.

    Returns:
        the flux; it tends to 0 as R grows where the theorem holds.
    """
    normal, w = sphere()
    x = radius * normal
    return radius**2 * (w @ (law.log_density(x).exp() * inner(score(x), normal))).item()


def flux_through_sphere(law: GaussianMixture, score: Score, radius: float) -> Claim:
    r"""The proof in three dimensions: what the objectives differ by inside a sphere leaves through its surface.

    $$ \int_{\|x\|<R} p\,[\operatorname{tr}\nabla s + s\cdot\nabla\log p]\,dx = \oint_{\|x\|=R} p\,s\cdot n\,dA $$

    Args:
        law: p, in three dimensions.
        score: the model's score s.
        radius: R.

    Returns:
        the integral over the ball and the flux, both by quadrature; to 1e-9.

    Source: Hyvärinen 2005, appendix A; Gauss's theorem.
    """
    x, w = ball(radius)
    s, trace = divergence(score, x)
    inside = w @ (law.log_density(x).exp() * (trace + inner(s, law.score(x))))
    return Claim(inside.item(), flux(law, score, radius), tolerance=1e-9)


def flux_vanishes(law: GaussianMixture, score: Score, radius: float) -> Claim:
    r"""The boundary condition: $\oint_{\|x\|=R} p\,s\cdot n\,dA \to 0$ as R grows.

    Args:
        law: p, in three dimensions.
        score: the model's score s.
        radius: R, large.

    Returns:
        the size of the flux, and 0; to 1e-9.

    Source: Hyvärinen 2005, theorem 1.
    """
    return Claim(abs(flux(law, score, radius)), 0.0, tolerance=1e-9)


def sliced_implicit(
    law: Density,
    score: Score,
    *,
    probe_law: str = "rademacher",
    variance_reduced: bool = True,
    n: int = 100_000,
    generator: torch.Generator | None = None,
) -> Claim:
    r"""Sliced score matching is implicit score matching in the mean over probes with $\mathbb E[vv^\top] = I$.

    $$ \mathbb E_v[v^\top \nabla s\,v + \tfrac12 (v^\top s)^2] = \operatorname{tr}\nabla s + \tfrac12 \|s\|^2 $$

    The ½ stands on the squared term only. The variance-reduced form has $\tfrac12\|s\|^2$ in its place.

    Args:
        law: the data's law.
        score: the model's score.
        probe_law: the law of the probes, one of `calculus.LAWS`.
        variance_reduced: whether to check the variance-reduced form, or the plain one.
        n: number of samples, each with one probe.
        generator: source of samples and probes.

    Returns:
        the sliced objective and the implicit one, on the same samples.

    Source: Song et al. 2019 (arXiv:1905.07088), equations 7 and 8.
    """
    x = law.sample((n,), generator=generator)
    left = sliced(score, x, law=probe_law, variance_reduced=variance_reduced, generator=generator)
    return paired(left.detach(), implicit(score, x).detach())


def consistency(
    family: Callable[[float], GaussianMixture], truth: float, low: float, high: float, *, reach: float = 12.0
) -> Claim:
    r"""Local consistency: within a family that holds the truth, the implicit objective is least there only.

    $$ J(\theta) = \tfrac12 \mathbb E_p\|\nabla\log p_\theta - \nabla\log p\|^2 = 0
       \iff p_\theta = p, \qquad p = p_{\theta^*} > 0 $$

    Args:
        family: theta -> law on the line; another theta is another law.
        truth: theta*, the data's.
        low: theta runs from here
        high: to here.
        reach: the laws live on [-reach, reach].

    Returns:
        the minimiser of the implicit objective over [low, high], which does not know the truth's score, and theta*.

    Source: Hyvärinen 2005, theorem 2.
    """
    x, w = interval(-reach, reach)
    p = w * family(truth).log_density(x).exp()

    def objective(theta: float) -> float:
        return (p @ implicit(family(theta).score, x)).item()

    grid = torch.linspace(low, high, 41).tolist()
    best = min(range(1, 40), key=lambda i: objective(grid[i]))
    around = (grid[best - 1], grid[best + 1])
    found = minimize_scalar(objective, bounds=around, method="bounded", options={"xatol": 1e-9})
    return Claim(float(found.x), truth, tolerance=1e-5)  # pyright: ignore[reportAttributeAccessIssue]


def gaussian_divergence(p: Gaussian, q: Gaussian) -> float:
    r"""The Fisher divergence of two Gaussians, $D_F = \operatorname{tr}[(Q - P)\,C\,(Q - P)] + \|Q(m - \mu)\|^2$.

    Here $p = N(m, C)$, $P = C^{-1}$, and $\mu$ and $Q$ are the mean and the precision of q. Without ½.
    """
    precision, other = p.covariance.inverse(), q.covariance.inverse()
    apart, shift = other - precision, other @ (p.mean - q.mean)
    return ((apart @ p.covariance @ apart).trace() + shift @ shift).item()


def positive_elsewhere(
    p: Gaussian, q: Gaussian, *, n: int = 100_000, generator: torch.Generator | None = None
) -> Claim:
    r"""Away from the truth the explicit objective is positive, and for Gaussians in closed form.

    $$ \tfrac12 \mathbb E_p\|\nabla\log q - \nabla\log p\|^2
       = \tfrac12 \operatorname{tr}[(Q - P)\,C\,(Q - P)] + \tfrac12 \|Q(m - \mu)\|^2 $$

    Args:
        p: the truth, $N(m, P^{-1})$.
        q: the model, $N(\mu, Q^{-1})$.
        n: number of samples of p.
        generator: source of the samples.

    Returns:
        the mean of the explicit objective, and half of `gaussian_divergence`.

    Source: Hyvärinen 2005, theorem 2.
    """
    x = p.sample((n,), generator=generator)
    loss = explicit(q.score, x, p.score(x))
    return Claim(loss.mean().item(), gaussian_divergence(p, q) / 2, loss.std().item() / math.sqrt(n))


def gaussian_minimiser(x: Tensor) -> Claim:
    r"""For a Gaussian model $s(x) = -M(x - \bar x)$ implicit score matching gives the precision, $\hat M = S^{-1}$.

    $$ \nabla_M\, \tfrac1n \textstyle\sum_i [\tfrac12 \|M u_i\|^2 - \operatorname{tr} M] = M S - I,
       \qquad u_i = x_i - \bar x, \quad S = \tfrac1n \sum_i u_i u_i^\top $$

    S is the outer product, divided by n. (Notes that print $\hat M = S$ take the precision for the covariance.)

    Args:
        x: data, (n, d), float64.

    Returns:
        one entry of the minimiser, found from the gradients of the implicit objective, and of $S^{-1}$; all entries are
        compared, to 1e-9.

    Source: Hyvärinen 2005, section 3.1.
    """
    u, d = x - x.mean(0), x.shape[1]

    def gradient(m: Tensor) -> Tensor:
        m = m.clone().requires_grad_()
        return torch.autograd.grad(implicit(lambda u: -u @ m.T, u).mean(), m)[0].flatten()

    start = gradient(torch.zeros(d, d, dtype=x.dtype))
    basis = torch.eye(d * d, dtype=x.dtype).reshape(-1, d, d)
    hessian = torch.stack([gradient(e) - start for e in basis], 1)
    return pointwise(torch.linalg.solve(hessian, -start).reshape(d, d), (u.T @ u / len(x)).inverse())
