"""Laws with a shape: rings, two moons, a curve without a density; and `toy`, the ready-made ones by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from scipy.special import roots_legendre
from torch import Tensor

from scorefield.calculus import Generator, rand_rows, randn_like
from scorefield.checks import check_choice, check_count, check_floating, check_positive, check_shape
from scorefield.densities.known import Density
from scorefield.densities.mixtures import GaussianMixture
from scorefield.densities.parameters import Numbers, check_weights, choose, count, float64, store

TOYS = ("two-moons", "rings", "gaussian-mixture", "curve")


@dataclass(frozen=True, eq=False, init=False)
class Rings:
    r"""Concentric rings in the plane: a uniform angle, and a radius normal around one of the radii, kept > 0.

    $$ p(x) = \frac{1}{2\pi r} \sum_k w_k \frac{\varphi((r - R_k)/\tau)}{\tau\,\Phi(R_k/\tau)}, \qquad r = \|x\| $$

    With $\tau$ the width, the score is $(\sum_k r_k(x) (R_k - r)/\tau^2 - 1/r)\, x/r$; it does not exist at the origin.

    Args:
        radii: K numbers R > 0.
        width: the standard deviation > 0 of a radius around its ring, before it is kept > 0.
        weights: K numbers > 0 that sum to 1; equal when None.
    """

    radii: Tensor
    width: float
    weights: Tensor

    def __init__(self, radii: Numbers, width: float, weights: Numbers | None = None) -> None:
        r = float64("radii", radii)
        if r.ndim != 1 or not len(r) or not (r > 0).all():
            raise ValueError(f"radii must be a row of numbers > 0, got {r.tolist()}")
        check_positive("width", width)
        w = torch.ones_like(r) / len(r) if weights is None else float64("weights", weights)
        check_shape("weights", w, r.shape, "one number per ring")
        store(self, radii=r, width=float(width), weights=check_weights(w))

    def log_density(self, x: Tensor) -> Tensor:
        r"""$\log p(x)$, shape (B,)."""
        r, log_terms, _ = self._terms(x)
        return (log_terms.logsumexp(0) - (2 * math.pi * r).log()).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$, shape (B, 2)."""
        r, log_terms, apart = self._terms(x)
        slope = -(log_terms.softmax(0) * apart).sum(0) / self.width - 1 / r
        return ((slope / r)[:, None] * x.double()).to(x.dtype)

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        """Samples (n, 2), float64: a ring by its weight, a radius by the inverse of its distribution, an angle."""
        x = torch.zeros(count(shape), 2, dtype=torch.float64, device=self.radii.device)
        radius = self.radii[choose(self.weights, x, generator)]
        u = rand_rows(x, generator).clamp_min(2.0**-54)
        r = radius - self.width * torch.special.ndtri(u * torch.special.ndtr(radius / self.width))
        return r[:, None] * _circle(2 * math.pi * rand_rows(x, generator))

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The radius (B,), the log of each ring's weighted density of it (K, B), and its distance in widths (K, B)."""
        _check_plane(x)
        r, radii, weights = x.double().square().sum(1).sqrt(), self.radii.to(x.device), self.weights.to(x.device)
        apart = (r - radii[:, None]) / self.width
        log_scale = weights.log() - torch.special.log_ndtr(radii / self.width) - math.log(self.width)
        return r, log_scale[:, None] - apart**2 / 2 - math.log(2 * math.pi) / 2, apart


@dataclass(frozen=True, eq=False)
class TwoMoons:
    r"""Two half circles of radius 1 in scikit-learn's positions, blurred by $N(0, \tau^2 I)$ with $\tau$ the width.

    $$ p(x) = \tfrac12 \sum_{i=1}^{2} \frac1\pi \int_0^\pi N(x;\, c_i(\theta), \tau^2 I)\, d\theta, \qquad
       c_1 = (\cos\theta, \sin\theta), \quad c_2 = (1 - \cos\theta, \tfrac12 - \sin\theta). $$

    The integral is a Gauss-Legendre sum, that is, a fine mixture of Gaussians on the moons. Seen from a point at
    distance $\rho$ from a centre, the integrand is a bump of standard deviation $\tau/\sqrt\rho$ in $\theta$, and
    N nodes are at most $h = \pi^2/2N$ apart: a relative error of about $2 e^{-2\pi^2 \tau^2/(\rho h^2)}$. With
    $N = \lceil 20/\tau \rceil$ nodes per moon that is below rounding at $\rho = 10$ and about $10^{-9}$ at $\rho = 15$.

    Args:
        width: $\tau > 0$.
    """

    width: float = 0.1
    _nodes: Tensor = field(init=False, repr=False)
    _log_weights: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Place the nodes; refuse a width that is not > 0."""
        check_positive("width", self.width)
        nodes, weights = (torch.from_numpy(v) for v in roots_legendre(max(64, math.ceil(20 / self.width))))
        moons = [_moon(math.pi / 2 * (nodes + 1), torch.full_like(nodes, i, dtype=torch.bool)) for i in (0, 1)]
        store(self, _nodes=torch.cat(moons), _log_weights=(weights / 4).log().repeat(2))

    def log_density(self, x: Tensor) -> Tensor:
        r"""$\log p(x)$, shape (B,)."""
        offset = x.double().square().sum(1) / (2 * self.width**2) + math.log(2 * math.pi * self.width**2)
        return (self._log_terms(x).logsumexp(0) - offset).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x) = (\mathbb E[c \mid x] - x)/\tau^2$, shape (B, 2)."""
        centre = (self._nodes.to(x.device).T @ self._log_terms(x).softmax(0)).T
        return ((centre - x.double()) / self.width**2).to(x.dtype)

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        """Samples (n, 2), float64: a moon, an angle, and Gaussian noise."""
        x = torch.zeros(count(shape), 2, dtype=torch.float64)
        lower = rand_rows(x, generator) < 0.5
        return _moon(math.pi * rand_rows(x, generator), lower) + self.width * randn_like(x, generator)

    def _log_terms(self, x: Tensor) -> Tensor:
        r"""$\log w_j - (\|c_j\|^2 - 2 c_j^\top x)/2\tau^2$ for every node j, shape (2N, B)."""
        _check_plane(x)
        nodes = self._nodes.to(x.device)
        offset = self._log_weights.to(x.device) - nodes.square().sum(1) / (2 * self.width**2)
        return torch.addmm(offset[:, None], nodes / self.width**2, x.double().T)


@dataclass(frozen=True)
class Curve:
    r"""A closed curve in $\mathbb R^D$, sampled at a uniform angle: a law on a manifold of dimension one.

    Coordinates come in pairs $(\cos k\theta, \sin k\theta)/k$, k = 1, 2, …; the last cosine stands alone when D is odd.
    It is the circle for D = 2; for even D the speed is constant, so that samples are uniform along the curve.

    It has no density with respect to volume, hence no `log_density` and no `score`: the pitfall it is here to show.
    The attributes do not exist. Blurred by any noise, the law has both.

    Args:
        dimension: D >= 2.
    """

    dimension: int = 3

    def __post_init__(self) -> None:
        """Refuse fewer than two dimensions."""
        check_count("dimension", self.dimension, least=2)

    def points(self, angle: Tensor) -> Tensor:
        """The curve at angles (n,): points (n, D)."""
        k = torch.arange(1, self.dimension // 2 + 2).to(angle)
        pairs = torch.stack([(angle[:, None] * k).cos(), (angle[:, None] * k).sin()], 2) / k[:, None]
        return pairs.flatten(1)[:, : self.dimension]

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        """Samples (n, D), float64, exactly on the curve."""
        rows = torch.zeros(count(shape), 1, dtype=torch.float64)
        return self.points(2 * math.pi * rand_rows(rows, generator))


def toy(name: str) -> Density | Curve:
    """A ready-made law for examples and tests.

    Args:
        name: `"two-moons"`, `"rings"`, `"gaussian-mixture"` (three components, off-centre, with unequal weights and
            covariances) or `"curve"` (in three dimensions; samples only).

    Returns:
        the density; new each time, the same law each time.

    Raises:
        ValueError: an unknown name.
    """
    check_choice("name", name, TOYS)
    match name:
        case "two-moons":
            return TwoMoons(0.1)
        case "rings":
            return Rings([1.0, 2.0, 3.0], 0.12)
        case "gaussian-mixture":
            means = [[2.5, 1.0], [-1.0, 2.0], [1.0, -2.0]]
            covariances = [[[0.5, 0.2], [0.2, 0.3]], [[0.3, -0.2], [-0.2, 0.6]], [[0.8, 0.0], [0.0, 0.15]]]
            return GaussianMixture([0.5, 0.3, 0.2], means, covariances)
        case _:
            return Curve(3)


def _check_plane(x: Tensor) -> None:
    check_floating("x", x)
    check_shape("x", x, (len(x), 2), "one point of the plane per row")


def _circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1)


def _moon(angle: Tensor, lower: Tensor) -> Tensor:
    """Points (n, 2) of the upper moon, or of the lower one where `lower`."""
    upper = _circle(angle)
    return torch.where(lower[:, None], torch.tensor([1.0, 0.5]).to(upper) - upper, upper)
