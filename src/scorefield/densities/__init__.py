r"""Densities whose log-density and score are known exactly, and mixtures blurred exactly by any noise.

A density is any object with `log_density(x) -> (B,)`, `score(x) -> (B, d)` and `sample((n,), generator=...) -> (n, d)`.
Parameters are kept in float64, the mathematics runs in float64, and an answer has the dtype of `x`; samples are
float64. A law on a thin set, such as `Curve`, can be sampled but has no density, hence no `log_density` and no `score`.
"""

from scorefield.densities.funnel import Funnel
from scorefield.densities.known import Density, Known, known
from scorefield.densities.mixtures import BlurredScore, Gaussian, GaussianMixture, Spectra
from scorefield.densities.parameters import Numbers
from scorefield.densities.prepared import MixtureScore
from scorefield.densities.shapes import TOYS, Curve, Rings, TwoMoons, toy

__all__ = [
    "BlurredScore",
    "Curve",
    "Density",
    "Funnel",
    "Gaussian",
    "GaussianMixture",
    "Known",
    "MixtureScore",
    "Numbers",
    "Rings",
    "Spectra",
    "TOYS",
    "TwoMoons",
    "known",
    "toy",
]
