r"""What a fitted run answers in the units of the data, beside samples and log-densities: its score, and by Tweedie.

With $u = R\,\operatorname{diag}(c)^{-1}(x - m)$ the coordinates of the network and s its score there,

$$ \nabla_x \log p(x) = \operatorname{diag}(c)^{-1} R^\top s(u), \qquad
   \Sigma = \operatorname{diag}(c) R^{-1} R^{-\top} \operatorname{diag}(c), $$

$\Sigma$ the covariance of noise of level 1. All is computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.calculus import NoisyScore, divergence
from scorefield.checks import check_between
from scorefield.data import Scaling
from scorefield.estimators.validation import Array
from scorefield.fields import at
from scorefield.fields import denoise as tweedie
from scorefield.noise import Noise
from scorefield.runs import Run

PROBES = 32  # of the divergence of images


def at_level(run: Run, model: NoisyScore, x: Tensor, sigma: float | None = None) -> Tensor:
    """The score at a noise level, differentiable in x (B, *D), all in the units of the data.

    Raises:
        ValueError: sigma outside of the run's noise levels; None is the smallest.
    """
    scaling, t = run.dataset.info.scaling, torch.tensor(run.noise.t_min, dtype=torch.float64)
    if sigma is not None:
        t = _time_at(run.noise, sigma)
    s = at(model, t)(_coordinates(scaling, x))
    return (s if scaling.root is None else s @ torch.from_numpy(scaling.root)) / torch.as_tensor(scaling.scale)


def score(run: Run, model: NoisyScore, x: np.ndarray, sigma: float | None = None) -> Array:
    """The score at a noise level, (n, *D); None is the smallest.

    Raises:
        ValueError: sigma outside of the run's noise levels, or a score that overflows.
    """
    with torch.no_grad():
        s = at_level(run, model, torch.from_numpy(x.astype(np.float64)), sigma).numpy()
    if not np.isfinite(s).all():
        raise ValueError("the score overflows in float64; rescale the columns of X")
    return s


def objective(run: Run, model: NoisyScore, x: np.ndarray, w: Array) -> float:
    r"""The mean of $\tfrac12\|s\|^2 + \operatorname{tr}\nabla s$ over rows of shares w, at the smallest noise level.

    The trace is exact for vectors, and by 32 probes of a fixed seed for images.

    Raises:
        ValueError: it overflows.
    """
    how: dict[str, Any] = {}
    if x.ndim > 2:
        how = {"method": "hutchinson", "probes": PROBES, "generator": torch.Generator().manual_seed(0)}
    s, trace = divergence(lambda x: at_level(run, model, x), torch.from_numpy(x.astype(np.float64)), **how)
    rho = (s.flatten(1).square().sum(1) / 2 + trace).detach().numpy()
    if not np.isfinite(rho).all():
        raise ValueError("the objective overflows in float64; rescale the columns of X")
    return float(w @ rho)


def denoised(run: Run, model: NoisyScore, x: np.ndarray, sigma: float) -> Array:
    r"""Tweedie's posterior mean $x + \sigma^2\Sigma\,s(x, \sigma)$ of rows (n, *D) with noise of level sigma.

    Raises:
        ValueError: sigma outside of the run's noise levels.
    """
    scaling, t = run.dataset.info.scaling, _time_at(run.noise, sigma)
    with torch.no_grad():
        clean = tweedie(model, run.noise, _coordinates(scaling, torch.from_numpy(x.astype(np.float64))), t)
    return scaling.undo(clean, "float64")


def _coordinates(scaling: Scaling, x: Tensor) -> Tensor:
    """The network's coordinates u of rows in the units of the data, (B, *D), float64."""
    u = (x - torch.as_tensor(scaling.mean)) / torch.as_tensor(scaling.scale)
    return u if scaling.root is None else u @ torch.from_numpy(scaling.root).T


def _time_at(noise: Noise, sigma: float) -> Tensor:
    """When the noise has a level, ()."""
    check_between("sigma", sigma, *noise_range(noise))
    return noise.time_at(torch.tensor(sigma, dtype=torch.float64))


def noise_range(noise: Noise) -> tuple[float, float]:
    """The smallest and the largest noise level."""
    low, high = noise.sigma(torch.tensor([noise.t_min, noise.t_max], dtype=torch.float64)).tolist()
    return low, high


def noise_covariance(scaling: Scaling) -> Array:
    r"""$\Sigma$, (d, d); for images the variance $c^2$, ()."""
    if scaling.scale.ndim == 0:
        return scaling.scale**2
    spread = scaling.differences(torch.eye(len(scaling.scale), dtype=torch.float64)).numpy()  # rows: u = e_j
    return spread.T @ spread
