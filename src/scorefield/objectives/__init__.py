"""Every objective turns a score and data into one number per sample, shape (B,); the caller averages."""

from scorefield.objectives.contrastive import (
    Replay,
    contrastive_divergence,
    noise_contrastive,
    persistent_contrastive_divergence,
)
from scorefield.objectives.curvature import approximate_backpropagation, curvature_propagation
from scorefield.objectives.denoising import denoising
from scorefield.objectives.kernels import Gaussian, Laplace, NoiseKernel, OwnKernel, Student, noise_kernel
from scorefield.objectives.levels import (
    draw_times,
    level_weight,
    min_snr,
    noise_conditional,
    noise_conditional_sliced,
    uniform_times,
)
from scorefield.objectives.plain import explicit, implicit, implicit_terms
from scorefield.objectives.sliced import finite_difference_sliced, sliced, sliced_terms

__all__ = [
    "Gaussian",
    "Laplace",
    "NoiseKernel",
    "OwnKernel",
    "Replay",
    "Student",
    "approximate_backpropagation",
    "contrastive_divergence",
    "curvature_propagation",
    "denoising",
    "draw_times",
    "explicit",
    "finite_difference_sliced",
    "implicit",
    "implicit_terms",
    "level_weight",
    "min_snr",
    "noise_conditional",
    "noise_conditional_sliced",
    "noise_contrastive",
    "noise_kernel",
    "persistent_contrastive_divergence",
    "sliced",
    "sliced_terms",
    "uniform_times",
]
