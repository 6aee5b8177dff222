r"""The theorems of score matching, each as a function that computes both of its sides.

A function here returns a `Claim`: left, right, the standard error of their difference (0 where nothing is random) and
the numerical error allowed. Each takes the laws and models it is about, so that it can be asked about others. `check`
goes through `THEOREMS`, an example of each with its statement in a line; `scorefield check` prints them.
"""

from scorefield.theory.claim import Claim
from scorefield.theory.denoising import autoencoder, denoising_explicit, tweedie, variance_ratio
from scorefield.theory.dynamics import (
    gaussian_kl,
    langevin_bias,
    langevin_order,
    langevin_stationary,
    lyu,
    lyu_at_zero,
    shared_marginal,
)
from scorefield.theory.likelihood import likelihood_bound, weighted_divergence, weighted_objective
from scorefield.theory.matching import (
    bounded_domain,
    by_parts,
    consistency,
    explicit_implicit,
    flux,
    flux_through_sphere,
    flux_vanishes,
    gaussian_divergence,
    gaussian_minimiser,
    positive_elsewhere,
    sliced_implicit,
)
from scorefield.theory.scores import (
    constant_gradient,
    likelihood_gradient,
    log_constant,
    matching_gradient,
    mixture_score,
    score_without_constant,
)
from scorefield.theory.table import THEOREMS, Row, Theorem, check

__all__ = [
    "THEOREMS",
    "Claim",
    "Row",
    "Theorem",
    "autoencoder",
    "bounded_domain",
    "by_parts",
    "check",
    "consistency",
    "constant_gradient",
    "denoising_explicit",
    "explicit_implicit",
    "flux",
    "flux_through_sphere",
    "flux_vanishes",
    "gaussian_divergence",
    "gaussian_kl",
    "gaussian_minimiser",
    "langevin_bias",
    "langevin_order",
    "langevin_stationary",
    "likelihood_bound",
    "likelihood_gradient",
    "log_constant",
    "lyu",
    "lyu_at_zero",
    "matching_gradient",
    "mixture_score",
    "positive_elsewhere",
    "score_without_constant",
    "shared_marginal",
    "sliced_implicit",
    "tweedie",
    "variance_ratio",
    "weighted_divergence",
    "weighted_objective",
]
