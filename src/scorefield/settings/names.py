"""What may be chosen by name: schedules, networks, objectives, samplers, families of models."""

from __future__ import annotations

NOISES = ("ve", "vp", "subvp", "cosine", "levels")
NETWORKS = ("unet", "mlp")
PRECISIONS = ("fp32", "bf16", "fp64")
MODELS = ("score", "energy")
AT_ALL_LEVELS = ("noise-conditional", "noise-conditional-sliced")
CONTRASTIVE = ("noise-contrastive", "contrastive-divergence", "persistent")
OBJECTIVES = (*AT_ALL_LEVELS, "implicit", "sliced", "finite-difference", "denoising", *CONTRASTIVE)
KERNELS = ("langevin", "underdamped", "mala", "hmc")
FLOWS = ("heun", "euler", "unipc", "dpm-solver", "ddim", "adaptive-ode")
DIFFUSIONS = (
    *("ddpm", "ancestral", "churned-heun", "sde-dpm-solver", "stochastic-heun", "euler-maruyama"),
    *("predictor-corrector", "adaptive-sde", "annealed-langevin"),
)
FAMILIES = (
    *("gaussian", "truncated-gaussian", "exponential", "gamma", "quartic", "graphical", "non-negative-graphical"),
    *("von-mises-fisher", "bingham", "simplex", "boltzmann"),
)
SAMPLERS = (*FLOWS, *DIFFUSIONS, *KERNELS)
EXPERIMENTS = (
    *("fields", "objectives", "manifold", "low-density", "mixing", "annealing", "sde", "ddpm", "optimisation", "lyu"),
    "ncsn",
)
