"""Every objective turns a score and data into one number per sample, shape (B,); the caller averages."""

from scorefield.objectives.denoising import denoising, noise_conditional
from scorefield.objectives.plain import explicit, implicit, sliced

__all__ = ["denoising", "explicit", "implicit", "noise_conditional", "sliced"]
