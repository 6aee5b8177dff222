"""Two kinds of move, two drivers: a Kernel stays at one law (`chain`), a Predictor transports one (`reverse`)."""

from scorefield.samplers.adaptive import AdaptiveODE, AdaptiveSDE
from scorefield.samplers.annealed import AnnealedStep, Consistent, annealed_langevin, consistent_annealed
from scorefield.samplers.correctors import LevelKernel, SignalToNoise
from scorefield.samplers.fitting import Fitted, fit_solver
from scorefield.samplers.grids import time_grid
from scorefield.samplers.hamiltonian import HMC
from scorefield.samplers.langevin import Ascent, Kernel, Langevin, Samples, chain
from scorefield.samplers.metropolis import MALA, circulation, line_integral
from scorefield.samplers.multistep import DPMSolver, SDEDPMSolver, UniPC
from scorefield.samplers.ncsnv2 import AnnealedSettings, annealed_settings
from scorefield.samplers.predictors import Corrector, Euler, Heun, Predictor, Rescale
from scorefield.samplers.reverse import NonFinite, encode, reverse
from scorefield.samplers.stochastic import DDIM, DDPM, Ancestral, ChurnedHeun, EulerMaruyama, StochasticHeun
from scorefield.samplers.tempering import Tempered
from scorefield.samplers.underdamped import Underdamped
from scorefield.samplers.warmup import DualAveraging, warm_up

__all__ = [
    "AdaptiveODE",
    "AdaptiveSDE",
    "Ancestral",
    "AnnealedSettings",
    "AnnealedStep",
    "Ascent",
    "ChurnedHeun",
    "Consistent",
    "Corrector",
    "DDIM",
    "DDPM",
    "DPMSolver",
    "DualAveraging",
    "Euler",
    "EulerMaruyama",
    "Fitted",
    "HMC",
    "Heun",
    "Kernel",
    "Langevin",
    "LevelKernel",
    "MALA",
    "NonFinite",
    "Predictor",
    "Rescale",
    "SDEDPMSolver",
    "Samples",
    "SignalToNoise",
    "StochasticHeun",
    "Tempered",
    "Underdamped",
    "UniPC",
    "annealed_langevin",
    "annealed_settings",
    "chain",
    "circulation",
    "consistent_annealed",
    "encode",
    "fit_solver",
    "line_integral",
    "reverse",
    "time_grid",
    "warm_up",
]
