"""Score matching as statistics: scikit-learn estimators of models known up to a constant, with standard errors."""

from scorefield.estimators.bingham import Bingham
from scorefield.estimators.components import IndependentComponents
from scorefield.estimators.discrete import PseudoLikelihood, RatioMatching
from scorefield.estimators.domains import Region, region_of
from scorefield.estimators.empirical_bayes import tweedie
from scorefield.estimators.family import ExponentialFamily
from scorefield.estimators.gaussian import Gaussian, TruncatedGaussian
from scorefield.estimators.goodness import KernelSteinTest, kernel_stein_test, stein_discrepancy, stein_thinning
from scorefield.estimators.graphical import GaussianGraphicalModel
from scorefield.estimators.graphs import Path
from scorefield.estimators.inference import Inference, WaldTest
from scorefield.estimators.kernels import (
    HeldOut,
    KernelExponentialFamily,
    KernelScore,
    NuMethodScore,
    SpectralScore,
    SteinScore,
)
from scorefield.estimators.matching import ScoreMatching
from scorefield.estimators.names import named
from scorefield.estimators.nonnegative import NonNegativeGraphicalModel
from scorefield.estimators.sampling import NotNormalisable
from scorefield.estimators.simplex import TiltedPairwiseInteraction
from scorefield.estimators.statistics import Gamma, Powers, Quadratic
from scorefield.estimators.summary import Summary
from scorefield.estimators.von_mises_fisher import VonMisesFisher

__all__ = [
    "Bingham",
    "ExponentialFamily",
    "Gamma",
    "Gaussian",
    "GaussianGraphicalModel",
    "HeldOut",
    "IndependentComponents",
    "Inference",
    "KernelExponentialFamily",
    "KernelScore",
    "KernelSteinTest",
    "NonNegativeGraphicalModel",
    "NotNormalisable",
    "NuMethodScore",
    "Path",
    "Powers",
    "PseudoLikelihood",
    "Quadratic",
    "RatioMatching",
    "Region",
    "ScoreMatching",
    "SpectralScore",
    "SteinScore",
    "Summary",
    "TiltedPairwiseInteraction",
    "TruncatedGaussian",
    "VonMisesFisher",
    "WaldTest",
    "kernel_stein_test",
    "named",
    "region_of",
    "stein_discrepancy",
    "stein_thinning",
    "tweedie",
]
