"""Log-likelihoods with their errors apart: the probability flow's, a bound for ancestral models, log Z of energies."""

from scorefield.likelihood.bits import BitsPerDim, bits_per_dim, dequantise
from scorefield.likelihood.bound import Bound, ancestral_bound
from scorefield.likelihood.flow import Grid, LogLikelihood, log_likelihood
from scorefield.likelihood.partition import LogPartition, annealed_importance

__all__ = [
    "BitsPerDim",
    "Bound",
    "Grid",
    "LogLikelihood",
    "LogPartition",
    "ancestral_bound",
    "annealed_importance",
    "bits_per_dim",
    "dequantise",
    "log_likelihood",
]
