r"""Derivatives of scores, inner products over a sample's axes, and seeded noise.

A **score** is a function $s(x) = \nabla_x \log p(x)$, (B, *D) -> (B, *D). Everything in this room works on any
trailing shape `*D`: sums over a sample are `inner`, coefficients per sample are stretched by `expand`.
"""

from scorefield.calculus.divergence import Explanation, divergence
from scorefield.calculus.draws import (
    LAWS,
    Draws,
    Generator,
    PerSample,
    Share,
    probe_like,
    rand_rows,
    randn_like,
)
from scorefield.calculus.forms import quadratic_forms, vector_jacobian
from scorefield.calculus.scores import (
    LogDensity,
    NoisyScore,
    Score,
    ScoreOf,
    check_smooth,
    expand,
    inner,
    score_of,
)

__all__ = [
    "LAWS",
    "Draws",
    "Explanation",
    "Generator",
    "LogDensity",
    "NoisyScore",
    "PerSample",
    "Score",
    "ScoreOf",
    "Share",
    "check_smooth",
    "divergence",
    "expand",
    "inner",
    "probe_like",
    "quadratic_forms",
    "rand_rows",
    "randn_like",
    "score_of",
    "vector_jacobian",
]
