r"""`lyu`: under the same noise two laws approach each other at the speed of half their Fisher divergence, measured.

$$ \frac{d}{dt} KL(p_t \,\|\, q_t) = -\tfrac12\, \mathbb E_{p_t} \|\nabla\log p_t - \nabla\log q_t\|^2 $$

So score matching chooses the model for which the divergence changes least when data and model are both blurred. That is
not yet an estimate that moves least when only the data are: how far either estimate moves is the second part.

Source: Lyu 2009 (arXiv:1205.2629), theorem 1; there t is the variance of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.optimize import minimize_scalar
from scipy.special import roots_hermitenorm
from torch import Tensor
from torch.nn.functional import softplus

from scorefield import plots
from scorefield.calculus import inner, score_of
from scorefield.densities import GaussianMixture
from scorefield.experiments.outcome import Outcome
from scorefield.objectives import implicit

PARTICLES, VARIANCES, STEP = 400_000, (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2), 0.1  # the step as a share of the variance
BLURS, SHOWN = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4), 0.1  # variances of the noise on the data alone; that of the table


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


@dataclass(frozen=True)
class Family:
    """Laws on the line with one unknown.

    Attributes:
        name: of the unknown, and where the truth is.
        log_density: (points (B, 1), unknown) -> (B,).
        truth: its value for the data before they are blurred.
    """

    name: str
    log_density: Callable[[Tensor, float], Tensor]
    truth: float


def families() -> list[Family]:
    """What is estimated: places and weights of modes, and scales of laws with light and with heavy tails."""
    return [
        Family("modes ±m, m = 2", lambda x, m: _two(x, 0.5, -m, m), 2.0),
        Family("modes ±m, m = 1.2", lambda x, m: _two(x, 0.5, -m, m), 1.2),
        Family("mode at m = 1.2, another at 0", lambda x, m: _two(x, 0.5, 0.0, m), 1.2),
        Family("weight of two modes", lambda x, w: _two(x, w, -1.5, 1.5), 0.3),
        Family("variance of a normal law", lambda x, v: -(x[:, 0] ** 2) / (2 * v) - math.log(v) / 2, 1.0),
        Family("scale of a logistic law", lambda x, c: -x[:, 0] / c - 2 * softplus(-x[:, 0] / c) - math.log(c), 1.0),
        Family("scale of Student's law", lambda x, c: -2.5 * (1 + (x[:, 0] / c) ** 2 / 4).log() - math.log(c), 1.0),
    ]


def _two(x: Tensor, weight: float, left: float, right: float) -> Tensor:
    logs = torch.cat([math.log(weight) - (x - left) ** 2 / 2, math.log(1 - weight) - (x - right) ** 2 / 2], 1)
    return logs.logsumexp(1)


def shifts(family: Family, variance: float) -> tuple[float, float]:
    r"""How far each estimate moves when the data, not the model, are blurred: $\hat\theta(p * N(0, t)) - \theta$.

    The estimates are those of infinitely many data: the expectations are sums over a grid in $x = \sinh u$, which
    reaches into heavy tails, and over Gauss and Hermite's nodes of the noise.

    Args:
        family: a law with one unknown; it holds the truth, so that neither estimate moves without noise.
        variance: t.

    Returns:
        the shift of maximum likelihood, and of score matching.
    """
    u = torch.linspace(-8, 8, 801, dtype=torch.float64)
    z, z_weight = (torch.from_numpy(v) for v in roots_hermitenorm(16))
    clean = u.sinh()[:, None]
    weight = family.log_density(clean, family.truth).exp() * u.cosh()
    weight = (weight[:, None] * z_weight).flatten()
    x = (clean + math.sqrt(variance) * z).reshape(-1, 1)
    x, weight = x[weight > 1e-14 * weight.max()], weight[weight > 1e-14 * weight.max()]

    def likelihood(unknown: float) -> float:
        return -(weight @ family.log_density(x, unknown)).item() / weight.sum().item()

    def matching(unknown: float) -> float:
        score = score_of(lambda at: family.log_density(at, unknown))
        return (weight @ implicit(score, x).detach()).item() / weight.sum().item()

    bounds = {"method": "bounded", "bounds": (family.truth / 2, 1.8 * family.truth), "options": {"xatol": 1e-9}}
    first, second = (minimize_scalar(f, **bounds).x - family.truth for f in (likelihood, matching))
    return float(first), float(second)


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """Both sides along one noising path; then what noise on the data does to two estimates.

    Args:
        folder: where the pictures go.
        root: not used.
        seed: of the particles and their noise.
    """
    sides, stable = _sides(seed), _stability()
    t, left, right = (torch.tensor([row[k] for row in sides]) for k in (1, 2, 3))
    curves = {"d/dt KL": left, "−½ D_F": right}
    how = {"log_x": True, "x_name": "variance t of the noise"}
    plots.save(plots.curves(t, curves, **how, title="Noise hides a difference"), folder / "lyu.png")
    t = torch.tensor(BLURS)
    ratios = {name: torch.tensor([abs(row[3] / row[2]) for row in rows]) for name, rows in stable.items()}
    name = "size of the shift by score matching\nover that by maximum likelihood"
    figure = plots.curves(t, ratios, **how, y_name=name, title="Which estimate noise moves more")
    plots.save(figure, folder / "lyu-stability.png")
    shown = {name: rows[BLURS.index(SHOWN)] for name, rows in stable.items()}
    worst = max(abs(row[4] / row[3]) for row in sides)
    better = [name for name, row in shown.items() if abs(row[3]) < 0.99 * abs(row[2])]
    worse = [name for name, row in shown.items() if abs(row[3]) > 1.01 * abs(row[2])]
    said = (
        f"d/dt KL and −½ D_F differ by at most {worst:.2%} of their value.",
        f"Noise of variance {SHOWN:g} on the data alone moves score matching less than maximum likelihood "
        f"for {'; '.join(better)}, and more for {'; '.join(worse)}.",
    )
    second_alt = (
        "The shift of score matching over that of maximum likelihood, against the variance of the noise: below one for "
        "the distance and the weight of two modes, one for the variance of a normal law, above one for a mode beside a "
        "known one and for the scales of heavy tails"
    )
    pictures = {
        "The derivative of the divergence and minus half the Fisher divergence over the noise's variance: one curve, "
        "which rises to zero": "lyu.png",
        second_alt: "lyu-stability.png",
    }
    columns = (
        *("measured", "variance t", "d/dt KL, or likelihood", "−½ D_F, or matching"),
        "difference",
        "standard error",
    )
    return Outcome(pictures, columns, (*sides, *shown.values()), said)


def _sides(seed: int) -> list[tuple[str, float, float, float, float, float]]:
    generator = torch.Generator().manual_seed(seed)
    x = laws()[0].sample((PARTICLES,), generator=generator)
    z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    rows = []
    for t in VARIANCES:
        left, half = speed(x, z, t)
        gap = -left - half
        first, second = left.mean().item(), -half.mean().item()
        rows.append(("the two sides", t, first, second, second - first, gap.std().item() / PARTICLES**0.5))
    return rows


def _stability() -> dict[str, list[tuple[str, float, float, float, float, str]]]:
    rows = {}
    for family in families():
        pairs = [shifts(family, t) for t in BLURS]
        what = f"shift of the {family.name}"
        rows[family.name] = [(what, t, a, b, b - a, "quadrature") for t, (a, b) in zip(BLURS, pairs, strict=True)]
    return rows
