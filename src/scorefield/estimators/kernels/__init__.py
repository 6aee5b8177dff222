"""Non-parametric scores: the gradient of a density estimate, and fields in the Hilbert spaces of two kernels."""

from scorefield.estimators.kernels.family import KernelExponentialFamily
from scorefield.estimators.kernels.kde import KernelScore
from scorefield.estimators.kernels.nu import NuMethodScore
from scorefield.estimators.kernels.selection import HeldOut
from scorefield.estimators.kernels.spectral import SpectralScore
from scorefield.estimators.kernels.stein import SteinScore

__all__ = ["HeldOut", "KernelExponentialFamily", "KernelScore", "NuMethodScore", "SpectralScore", "SteinScore"]
