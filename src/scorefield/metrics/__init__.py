r"""How far one set of samples is from another, or a score from the truth: numbers that carry their uncertainty.

Every metric of two sets takes rows of features or of data, any trailing shape, computes in float64, and answers an
`Estimate`: the value, the number of samples, a standard error where one is known, an interval, and how it was done.
The intervals are at 95 %. Lower is better except for
`inception_score`, `class_agreement`, precision, recall, density and coverage.
"""

from scorefield.metrics.estimate import Z95, Estimate
from scorefield.metrics.features import (
    class_agreement,
    inception_score,
    kernel_distance,
    nearest_distances,
)
from scorefield.metrics.frechet import frechet_distance, frechet_limit
from scorefield.metrics.manifolds import density_coverage, expected_coverage, precision_recall
from scorefield.metrics.memory import Memorisation, memorisation
from scorefield.metrics.vectors import c2st, fisher_divergence, mmd

__all__ = [
    "Estimate",
    "Memorisation",
    "Z95",
    "c2st",
    "class_agreement",
    "density_coverage",
    "expected_coverage",
    "fisher_divergence",
    "frechet_distance",
    "frechet_limit",
    "inception_score",
    "kernel_distance",
    "memorisation",
    "mmd",
    "nearest_distances",
    "precision_recall",
]
