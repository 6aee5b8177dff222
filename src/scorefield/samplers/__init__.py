"""Two kinds of move, two drivers: a Kernel stays at one law (`chain`), a Predictor transports one (`reverse`)."""

from scorefield.samplers.annealed import AnnealedStep, annealed_langevin
from scorefield.samplers.langevin import Kernel, Langevin, Samples, chain
from scorefield.samplers.predictors import Ancestral, Corrector, Euler, EulerMaruyama, Heun, Predictor, Rescale
from scorefield.samplers.reverse import reverse

__all__ = [
    "Ancestral",
    "AnnealedStep",
    "Corrector",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Kernel",
    "Langevin",
    "Predictor",
    "Rescale",
    "Samples",
    "annealed_langevin",
    "chain",
    "reverse",
]
