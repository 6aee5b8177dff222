r"""Sums of scores: products, powers, quotients and mixtures of laws.

At one law the gradient of a log turns each of these into a linear rule. Blurring does not commute with most of them:

| | at t = 0 | at every t |
|---|---|---|
| `mixture` | exact | exact: blurring is linear in the density |
| `product`, with powers 1 | exact | not: the blurred product is not the product of the blurred, even for Gaussians |
| `product` with any powers (tempering, negation) | exact | not |

Where it is not exact, the rule still says which law is meant at every level, $\pi_t \propto \prod_i p_{i,t}^{w_i}$,
and ends at the right one. A corrector at each level (`LevelKernel(Langevin(h))`, or `LevelKernel(MALA(h))` where all
have log-densities) brings the samples to $\pi_t$ and so, at the end, to what was asked for.

Source: Du et al. 2023 (arXiv:2302.11552).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scorefield.calculus import NoisyScore, expand
from scorefield.guidance.bayes import NoisyLogDensity


class Product:
    """A weighted sum of scores; made by `product`. Carries `log_density` if all of them do."""

    def __init__(self, scores: Sequence[NoisyScore], powers: Sequence[float]) -> None:
        self._scores, self._powers = tuple(scores), tuple(powers)
        if all(hasattr(score, "log_density") for score in scores):
            known: list[NoisyLogDensity] = [score.log_density for score in scores]  # pyright: ignore[reportFunctionMemberAccess]
            self.log_density: NoisyLogDensity = lambda x, t: sum(
                (w * f(x, t) for w, f in zip(self._powers, known, strict=True)), torch.zeros(len(x)).to(x)
            )

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The sum at x (B, *D) and times t, (B,) or ()."""
        total = torch.zeros_like(x)
        for power, score in zip(self._powers, self._scores, strict=True):
            total = total + power * score(x, t)
        return total


def product(scores: Sequence[NoisyScore], powers: Sequence[float] | None = None) -> Product:
    r"""The score of $\prod_i p_i^{w_i}$ up to its constant: $\sum_i w_i s_i$.

    One score with a power tempers it; a negative power divides by a law, which then need not leave one that can be
    normalised. Exact at t = 0; see the page's table for other t, and for the corrector that repairs it.

    Args:
        scores: noise-conditional scores, at least one.
        powers: $w_i$, finite; 1 each when None.

    Raises:
        ValueError: no score, or powers that are not one finite number per score.
    """
    weights = [1.0] * len(scores) if powers is None else [float(w) for w in powers]
    if not scores or len(weights) != len(scores) or not all(abs(w) < float("inf") for w in weights):
        raise ValueError(f"powers must be one finite number per score, got {weights} for {len(scores)} scores")
    return Product(scores, weights)


class Mixture:
    """Scores weighted by responsibilities; made by `mixture`."""

    def __init__(self, scores: Sequence[NoisyScore], weights: Sequence[float]) -> None:
        self._scores, self._logs = tuple(scores), torch.tensor(weights, dtype=torch.float64).log()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The mixture's score at x (B, *D) and times t, (B,) or ()."""
        shares = self._levels(x, t).softmax(0).to(x)
        total = torch.zeros_like(x)
        for share, score in zip(shares, self._scores, strict=True):
            total = total + expand(share, x) * score(x, t)
        return total

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """The log-density of the blurred mixture, (B,)."""
        return self._levels(x, t).logsumexp(0).to(x)

    def _levels(self, x: Tensor, t: Tensor) -> Tensor:
        """log(w_k p_k(x)), (K, B), float64."""
        values = [score.log_density(x, t).double() for score in self._scores]  # pyright: ignore[reportFunctionMemberAccess]
        return torch.stack(values) + self._logs.to(x.device)[:, None]


def mixture(scores: Sequence[NoisyScore], weights: Sequence[float]) -> Mixture:
    r"""The score of $\sum_k w_k p_k$: the scores weighted by $r_k(x) = w_k p_k(x) / \sum_j w_j p_j(x)$.

    Exact at every t, since blurring is linear in the density; it needs *normalised* log-densities, or ones that share
    their constant.

    Args:
        scores: noise-conditional scores that carry `log_density(x, t)`.
        weights: $w_k$ > 0; divided by their sum.

    Raises:
        ValueError: weights that are not one finite number > 0 per score.
        TypeError: a score without a log-density.
    """
    if not scores or len(weights) != len(scores) or not all(0 < w < float("inf") for w in weights):
        raise ValueError(f"weights must be one finite number > 0 per score, got {weights} for {len(scores)} scores")
    for k, score in enumerate(scores):
        if not hasattr(score, "log_density"):
            raise TypeError(
                f"a mixture weighs its scores by their log-densities; score {k} carries no log_density(x, t)"
            )
    total = sum(weights)
    return Mixture(scores, [w / total for w in weights])
