r"""`lyu`: under the same noise two laws approach each other at the speed of half their Fisher divergence, measured.

$$ \frac{d}{dt} KL(p_t \,\|\, q_t) = -\tfrac12\, \mathbb E_{p_t} \|\nabla\log p_t - \nabla\log q_t\|^2 $$

Source: Lyu 2009 (arXiv:1205.2629), theorem 1; there t is the variance of the noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from scorefield import plots
from scorefield.calculus import inner
from scorefield.densities import GaussianMixture
from scorefield.experiments.outcome import Outcome

PARTICLES, VARIANCES, STEP = 400_000, (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2), 0.1  # the step as a share of the variance


def laws() -> tuple[GaussianMixture, GaussianMixture]:
    """Two mixtures in the plane that differ in weights, places and spread."""
    eye = torch.eye(2, dtype=torch.float64)
    p = GaussianMixture([0.3, 0.7], [[-1.5, 0.0], [1.5, 0.5]], torch.stack([0.3 * eye, 0.5 * eye]))
    q = GaussianMixture([0.6, 0.4], [[-1.0, 0.5], [1.8, -0.5]], torch.stack([0.5 * eye, 0.4 * eye]))
    return p, q


def blurred(law: GaussianMixture, variance: float) -> GaussianMixture:
    """The law after noise of this variance."""
    return GaussianMixture(law.weights, law.means, law.covariances + variance * torch.eye(law.means.shape[1]))


def speed(x: Tensor, z: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """Per particle: the central difference of log p_t/q_t along its own path, and half the squared score difference.

    Args:
        x: particles of p, (B, 2).
        z: the noise of each particle's path, which is x + sqrt(t) z, (B, 2).
        variance: t.
    """
    p, q = laws()

    def log_ratio(t: float) -> Tensor:
        x_t = x + t**0.5 * z
        return blurred(p, t).log_density(x_t) - blurred(q, t).log_density(x_t)

    h = STEP * variance / 2
    near, far = (
        log_ratio(variance + h) - log_ratio(variance - h),
        log_ratio(variance + 2 * h) - log_ratio(variance - 2 * h),
    )
    x_t = x + variance**0.5 * z
    apart = blurred(p, variance).score(x_t) - blurred(q, variance).score(x_t)
    return (8 * near - far) / (12 * h), inner(apart, apart) / 2


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """Both sides along one noising path.

    Args:
        folder: where the pictures go.
        root: not used.
        seed: of the particles and their noise.
    """
    generator = torch.Generator().manual_seed(seed)
    x = laws()[0].sample((PARTICLES,), generator=generator)
    z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    rows = []
    for t in VARIANCES:
        left, right = speed(x, z, t)
        error = (left + right).std() / PARTICLES**0.5
        gap = (left.mean() + right.mean()).abs() / right.mean()
        rows.append((t, left.mean().item(), -right.mean().item(), gap.item(), (error / right.mean()).item()))
    columns = ("variance t", "d/dt KL", "−½ D_F", "difference", "standard error")
    at, left, right = (torch.tensor([row[k] for row in rows]) for k in range(3))
    figure = plots.curves(
        at,
        {"d/dt KL": left, "−½ D_F": right},
        log_x=True,
        x_name="variance t of the noise",
        title="Noise hides a difference",
    )
    plots.save(figure, folder / "lyu.png")
    said = (f"The two sides differ by at most {max(row[3] for row in rows):.2%} of their value.",)
    return Outcome({"the two sides along the path": "lyu.png"}, columns, tuple(rows), said)
