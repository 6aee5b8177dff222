r"""A learned score at a noise level, judged without knowing the true one.

What can be known of the true score s of $x_t = \alpha x + \sigma z$ from samples alone: the denoising loss
$\mathbb E\|\sigma s_\theta + z\|^2$ is $\sigma^2\,\mathbb E\|s_\theta - s\|^2$ above the least possible, so that
whatever denoises better proves a distance from the truth; $\mathbb E\|s\|^2$ lies between two bounds; the Jacobian is
symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from scorefield.calculus import Generator, Score, probe_like, randn_like
from scorefield.calculus.forms import opened, vector_jacobian
from scorefield.diagnostics.rows import evenly
from scorefield.metrics.pairs import rows_at_once, square_distances
from scorefield.noise import Noise

ROWS = 2000
COMPONENTS = 32


@dataclass(frozen=True, eq=False)
class Level:
    """Rows noised to one level, and a score there; flat, float64.

    Attributes:
        alpha: the factor on the data.
        sigma: the noise.
        x_t: noised rows (n, d).
        z: the noise in them, of variance 1, (n, d).
        s: the score at them, (n, d).
    """

    alpha: float
    sigma: float
    x_t: Tensor
    z: Tensor
    s: Tensor

    @property
    def loss(self) -> Tensor:
        r"""$\|\sigma s + z\|^2$ of each row, (n,)."""
        return (self.sigma * self.s + self.z).square().sum(1)

    def loss_of(self, s: Tensor) -> Tensor:
        r"""The same of another score at the same rows, (n, d) -> (n,)."""
        return (self.sigma * s + self.z).square().sum(1)


def at_level(
    score: Callable[..., Tensor],
    noise: Noise,
    x: Tensor,
    t: Tensor,
    *,
    y: Tensor | None = None,
    generator: Generator = None,
) -> Level:
    """Noise rows to the level at time `t` and call the score there.

    Args:
        score: (x, t) or, where labels are given, (x, t, y) -> (B, *D).
        noise: the schedule.
        x: clean rows (n, *D), in the dtype of the score.
        t: the time, ().
        y: labels (n,), or None.
        generator: source of the noise.
    """
    z = randn_like(x, generator)
    x_t = noise.perturb(x, t, z)
    with torch.no_grad():
        times = t.expand(len(x))
        s = torch.cat(
            [
                score(x_t[rows], times[rows]) if y is None else score(x_t[rows], times[rows], y[rows])
                for rows in torch.arange(len(x)).split(500)
            ]
        )
    flat = (v.flatten(1).double() for v in (x_t, z, s))
    return Level(noise.alpha(t).item(), noise.sigma(t).item(), *flat)


class Gaussian:
    r"""The score of the Gaussian with the mean and covariance of rows: $-(\alpha^2 C + \sigma^2 I)^{-1}(x - \alpha m)$.

    Args:
        x: rows (n, *D); the covariance is shrunk to a multiple of the identity by Ledoit and Wolf's rule.
    """

    def __init__(self, x: Tensor) -> None:
        flat = x[evenly(len(x), ROWS)].flatten(1).double()
        self.mean, d = flat.mean(0), flat.shape[1]
        centred = flat - self.mean
        _, singular, self.axes = torch.linalg.svd(centred / math.sqrt(len(flat)), full_matrices=False)
        share = float(ledoit_wolf_shrinkage(centred.numpy())) if d > 1 else 0.0
        typical = centred.square().mean().item()
        self.variances, self.rest = (1 - share) * singular.square() + share * typical, share * typical
        self.dimension = d

    def score(self, level: Level) -> Tensor:
        """Its score at the noised rows, (n, d)."""
        a, v = level.alpha**2, level.sigma**2
        away = level.x_t - level.alpha * self.mean
        along = away @ self.axes.T
        s = -(along / (a * self.variances + v)) @ self.axes
        if len(self.axes) < self.dimension:
            s = s - (away - along @ self.axes) / (a * self.rest + v)
        return s

    def trace(self, level: Level) -> float:
        r"""$\operatorname{tr}(\alpha^2 C + \sigma^2 I)^{-1}$."""
        a, v = level.alpha**2, level.sigma**2
        inside = (1 / (a * self.variances + v)).sum().item()
        outside = self.dimension - len(self.variances)
        return inside + (outside / (a * self.rest + v) if outside else 0.0)


class Lookup:
    r"""The score of rows blurred, $p_t = \frac1n\sum_i N(\alpha x_i, \sigma^2 I)$: the answer looked up.

    Args:
        x: rows (n, *D); at most 2,000 of them are used.
    """

    def __init__(self, x: Tensor) -> None:
        self.rows = x[evenly(len(x), ROWS)].flatten(1).double()

    def score(self, level: Level) -> Tensor:
        """Its score at the noised rows, (n, d)."""
        centres, found = level.alpha * self.rows, []
        for x in level.x_t.split(rows_at_once(len(centres))):
            weights = torch.softmax(-square_distances(x, centres) / (2 * level.sigma**2), dim=1)
            found.append((weights @ centres - x) / level.sigma**2)
        return torch.cat(found)


class Corrected:
    r"""A score with the best affine change of itself, $s_\theta + a\,s_\theta + B(x_t - \alpha m) + b$, fitted on rows.

    The denoising residual $-z/\sigma - s$ of the true score is orthogonal to every function of $x_t$: a change that
    lowers the loss of other rows shows that this one's is not. B and b act on the leading 32 principal directions.

    Args:
        level: where it is fitted, on rows that are not judged.
        frame: the mean and the principal directions.
    """

    def __init__(self, level: Level, frame: Gaussian) -> None:
        self.frame = frame
        self.axes = frame.axes[:COMPONENTS]
        residual = -level.z - level.sigma * level.s
        scaled = level.sigma * level.s
        self.gain = ((residual * scaled).sum() / scaled.square().sum().clamp_min(1e-300)).item()
        rest = (residual - self.gain * scaled) @ self.axes.T
        features = self._features(level)
        ridge = 1e-6 * features.square().sum() / features.shape[1] * torch.eye(features.shape[1], dtype=torch.float64)
        self.weights = torch.linalg.solve(features.T @ features + ridge, features.T @ rest)

    def score(self, level: Level) -> Tensor:
        """The corrected score at the noised rows, (n, d)."""
        change = self._features(level) @ self.weights @ self.axes / level.sigma
        return (1 + self.gain) * level.s + change

    def _features(self, level: Level) -> Tensor:
        along = (level.x_t - level.alpha * self.frame.mean) @ self.axes.T
        spread = (level.alpha**2 * self.frame.variances[:COMPONENTS] + level.sigma**2).sqrt()
        return torch.cat([torch.ones_like(along[:, :1]), along / spread], dim=1)


def energy_bounds(level: Level, frame: Gaussian) -> tuple[float, float]:
    r"""Between which values $\sigma^2\,\mathbb E\|s\|^2$ of the true score of the noised rows lies.

    Above: $s = -\mathbb E[z \mid x_t]/\sigma$, so that $\sigma^2\,\mathbb E\|s\|^2 \le \mathbb E\|z\|^2 = D$. Below:
    for any field $g(x) = -P(x - m)$ Stein's identity gives $\mathbb E\, s\cdot g = \operatorname{tr} P$, and Cauchy
    and Schwarz

    $$ \mathbb E\|s\|^2 \ \ge\ \frac{(\operatorname{tr} P)^2}{\mathbb E\|P(x_t - m)\|^2}
       \ =\ \operatorname{tr}(\alpha^2 C + \sigma^2 I)^{-1} \quad\text{for}\quad P = (\alpha^2 C + \sigma^2 I)^{-1}, $$

    the trace of the Cramér-Rao bound: no law of this covariance has less than the Gaussian. With P from other rows, as
    here, the quotient is still a bound.

    Args:
        level: noised rows, those that are judged.
        frame: the Gaussian of other rows.

    Returns:
        the lower and the upper bound.
    """
    g = frame.score(level)
    lower = level.sigma**2 * frame.trace(level) ** 2 / g.square().sum(1).mean().item()
    return lower, float(level.x_t.shape[1])


def energy_shortfall(level: Level, frame: Gaussian, z_score: float) -> float:
    r"""How far $\sigma^2\mathbb E\|s_\theta\|^2$ lies outside its bounds: the least distance from the true score.

    By the triangle inequality that is at least $(\sqrt{\text{bound}} - \sqrt{\text{measured}})^2$; `z_score` standard
    errors of both are taken off the difference first.
    """
    mine = level.sigma**2 * level.s.square().sum(1)
    root, n = mine.mean().sqrt().item(), len(mine)
    g = frame.score(level).square().sum(1)
    lower, upper = (math.sqrt(v) for v in energy_bounds(level, frame))
    error = mine.std().item() / (2 * max(root, 1e-300) * math.sqrt(n))
    beside = lower * g.std().item() / (2 * g.mean().item() * math.sqrt(n))
    below = lower - root - z_score * math.hypot(error, beside)
    above = root - upper - z_score * error
    return max(0.0, below, above) ** 2


def kernel_density(x: Tensor, rows: Tensor, width: float) -> tuple[Tensor, Tensor]:
    r"""The score of rows blurred by a normal kernel, $(m(x) - x)/h^2$, and its divergence in closed form.

    With weights $w_i \propto e^{-\|x - x_i\|^2/2h^2}$, mean m(x) and covariance V(x) of the rows under them, the
    divergence is $-D/h^2 + \operatorname{tr} V/h^4$.

    Args:
        x: points (n, d).
        rows: rows (m, d).
        width: h > 0.

    Returns:
        the score (n, d) and its divergence (n,).
    """
    s, div = [], []
    for part in x.split(rows_at_once(len(rows))):
        squares = square_distances(part, rows)
        w = torch.softmax(-squares / (2 * width**2), dim=1)
        mean = w @ rows
        spread = (w * squares).sum(1) - (mean - part).square().sum(1)  # about x, less the bias
        s.append((mean - part) / width**2)
        div.append(spread / width**4 - x.shape[1] / width**2)
    return torch.cat(s), torch.cat(div)


def jacobian_parts(
    score: Score, x: Tensor, *, shift: float = 0.0, probes: int = 4, generator: Generator = None
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The antisymmetric and the symmetric part of a Jacobian, and its trace, by random directions.

    With independent u and v, $\mathbb E[uu^\top] = \mathbb E[vv^\top] = I$: $\tfrac14(v^\top Ju - u^\top Jv)^2$ is in
    the mean $\|\tfrac12(J - J^\top)\|_F^2$, and $\tfrac14(v^\top Ju + u^\top Jv)^2$ is $\|\tfrac12(J + J^\top)\|_F^2$.
    A gradient field has no antisymmetric part.

    Args:
        score: differentiable field, (B, *D) -> (B, *D).
        x: points (B, *D).
        shift: a multiple of the identity that is added to the Jacobian first: with $1/\sigma^2$ the symmetric part is
            that of the denoiser, $\mathrm{Cov}(x_0 \mid x_t)\,\alpha^2/\sigma^4$.
        probes: pairs of directions per point.
        generator: source of the directions.

    Returns:
        both squared norms and the trace of the Jacobian itself, each (B,), float64.
    """
    opening = opened(score, x)
    u, v = (torch.stack([probe_like(x, generator=generator) for _ in range(probes)]) for _ in range(2))
    with torch.no_grad():
        ju, jv = vector_jacobian(opening.s, opening.x, torch.cat([u, v])).double().chunk(2)
    u, v = u.double(), v.double()
    forth, back = (ju * v).flatten(2).sum(2), (jv * u).flatten(2).sum(2)
    same = shift * (u * v).flatten(2).sum(2)
    trace = ((ju * u).flatten(2).sum(2) + (jv * v).flatten(2).sum(2)) / 2
    return (forth - back).square().mean(0) / 4, (forth + back + 2 * same).square().mean(0) / 4, trace.mean(0)
