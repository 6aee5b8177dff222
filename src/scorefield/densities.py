r"""Densities whose log-density and score are known exactly, and mixtures blurred exactly by any noise.

A density is any object with `log_density(x) -> (B,)`, `score(x) -> (B, d)` and `sample((n,), generator=...) -> (n, d)`.
Parameters are kept in float64, the mathematics runs in float64, and an answer has the dtype of `x`; samples are
float64. A law on a thin set, such as `Curve`, can be sampled but has no density, hence no `log_density` and no `score`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from scipy.special import roots_legendre
from torch import Tensor
from torch.distributions import Distribution

from scorefield.calculus import Generator, rand_rows, randn_like, score_of
from scorefield.checks import check_between, check_choice, check_count, check_floating, check_positive, check_shape
from scorefield.noise import Noise

Numbers = Tensor | np.ndarray | Sequence
TOYS = ("two-moons", "rings", "gaussian-mixture", "curve")


class Density(Protocol):
    """What has an exact log-density, its score, and samples."""

    def log_density(self, x: Tensor) -> Tensor:
        r"""$\log p(x)$, (B, *D) -> (B,)."""
        ...

    def score(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$, (B, *D) -> (B, *D)."""
        ...

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        """Independent samples, (n,) -> (n, *D)."""
        ...


@dataclass(frozen=True)
class Known:
    """A torch distribution seen as a density; made by `known`."""

    distribution: Distribution

    def log_density(self, x: Tensor) -> Tensor:
        r"""$\log p(x)$, shape (B,); torch refuses points outside the support."""
        check_floating("x", x)
        check_shape("x", x, (len(x), *self.distribution.event_shape), "one sample of the distribution per row")
        dtype = getattr(_a_parameter(self.distribution), "dtype", x.dtype)
        return self.distribution.log_prob(x.to(dtype)).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$ by one backward pass, shape (B, *D)."""
        return score_of(self.log_density)(x)

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        """Samples (n, *D) from `distribution.sample`.

        Torch's distributions draw from the global generator. One that is given here is honoured all the same: it
        gives the seed (with `PerSample`, one seed per row) under which the distribution draws, and the global state
        is put back afterwards.
        """
        n = _count(shape)
        if generator is None:
            return self.distribution.sample(torch.Size((n,)))
        blocks = [n] if isinstance(generator, torch.Generator) else [1] * n
        draws = []
        for block, u in zip(blocks, rand_rows(torch.empty(len(blocks), 1), generator).tolist(), strict=True):
            with _seeded(int(u * 2**53)):
                draws.append(self.distribution.sample(torch.Size((block,))))
        return torch.cat(draws)


def known(distribution: Distribution) -> Known:
    """Turn any continuous torch distribution over vectors or arrays into a density.

    Args:
        distribution: without batch axes, and with an event of at least one axis.

    Returns:
        a density with `log_density`, `score` and `sample`.

    Raises:
        TypeError: not a torch distribution, or a discrete one, which has no score.
        ValueError: batch axes, or scalar events.

    """
    if not isinstance(distribution, Distribution):
        raise TypeError(f"distribution must be a torch.distributions.Distribution, got {type(distribution).__name__}")
    batch, event = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    if batch or not event:
        raise ValueError(
            "distribution must have batch_shape () and an event_shape of at least one axis, got "
            f"{batch} and {event}; wrap it as torch.distributions.Independent(distribution, {max(len(batch), 1)})"
            + ("" if batch else " after expanding it with .expand((d,))")
        )
    if _is_discrete(distribution):
        raise TypeError(f"{type(distribution).__name__} is discrete and has no score; use a continuous distribution")
    return Known(distribution)


@dataclass(frozen=True, eq=False, init=False)
class GaussianMixture:
    r"""A mixture of Gaussians, $p(x) = \sum_k w_k\, N(x;\, m_k, C_k)$, in d dimensions.

    Its score is the sum of the components' scores weighted by their responsibilities, not their plain sum:

    $$ s(x) = -\sum_k r_k(x)\, C_k^{-1}(x - m_k), \qquad r_k(x) = w_k N(x; m_k, C_k) / p(x). $$

    Args:
        weights: K numbers > 0 that sum to 1.
        means: (K, d).
        covariances: (K, d, d), symmetric and positive definite.

    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    _spectra: Spectra = field(repr=False)

    def __init__(self, weights: Numbers, means: Numbers, covariances: Numbers) -> None:
        w, m, c = _float64("weights", weights), _float64("means", means), _float64("covariances", covariances)
        if m.ndim != 2 or not m.numel():
            raise ValueError(f"means must have shape (K, d), got {tuple(m.shape)}")
        check_shape("weights", w, m.shape[:1], "one number per component")
        check_shape("covariances", c, (*m.shape, m.shape[1]), "one d x d matrix per component")
        if not torch.allclose(c, c.mT, rtol=0, atol=1e-6 * c.abs().max().item()):
            raise ValueError("covariances must be symmetric; use (c + c.mT) / 2")
        c = (c + c.mT) / 2
        eigenvalues, axes = torch.linalg.eigh(c)
        if not (eigenvalues > 0).all():
            least = eigenvalues.min().item()
            raise ValueError(
                f"covariances must be positive definite, got an eigenvalue {least:.3g}; add a multiple of I"
            )
        w = _check_weights(w)
        _store(self, weights=w, means=m, covariances=c, _spectra=Spectra(w.log(), m, eigenvalues, axes))

    @property
    def mean(self) -> Tensor:
        r"""The mean of the whole law, $m = \sum_k w_k m_k$, shape (d,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        r"""The covariance of the whole law, $\sum_k w_k (C_k + (m_k - m)(m_k - m)^\top)$, shape (d, d)."""
        apart = self.means - self.mean
        return torch.einsum("k,kij->ij", self.weights, self.covariances + apart[:, :, None] * apart[:, None, :])

    def log_density(self, x: Tensor) -> Tensor:
        r"""$\log p(x)$, shape (B,)."""
        return self._spectra.log_density(x)

    def score(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$, shape (B, d)."""
        return self._spectra.score(x)

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        """Samples (n, d), float64: a component by its weight, then a Gaussian."""
        x = torch.zeros(_count(shape), self.means.shape[1], dtype=torch.float64, device=self.means.device)
        chosen = _choose(self.weights, x, generator)
        z = randn_like(x, generator)
        roots = self._spectra.axes * self._spectra.eigenvalues[:, None, :].sqrt()
        for k, (m, root) in enumerate(zip(self.means, roots, strict=True)):
            x[chosen == k] = m + z[chosen == k] @ root.T
        return x

    def blurred(self, noise: Noise, t: float) -> GaussianMixture:
        r"""The law of $\alpha x_0 + \sigma z$ at t: means $\alpha m_k$, covariances $\alpha^2 C_k + \sigma^2 I$."""
        check_between("t", t, noise.t_min, noise.t_max)
        at = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = noise.alpha(at), noise.sigma(at)
        identity = torch.eye(self.means.shape[1]).to(self.means)
        return GaussianMixture(self.weights, alpha * self.means, alpha**2 * self.covariances + sigma**2 * identity)

    def noisy_score(self, noise: Noise) -> BlurredScore:
        """The exact noise-conditional score (x, t) -> (B, d): row i is the score of `blurred(noise, t[i])`."""
        return BlurredScore(self._spectra, noise)


class Gaussian(GaussianMixture):
    r"""The Gaussian $N(m, C)$, as a mixture of one: $s(x) = -C^{-1}(x - m)$.

    Args:
        mean: (d,).
        covariance: (d, d), symmetric and positive definite.

    """

    def __init__(self, mean: Numbers, covariance: Numbers) -> None:
        m, c = _float64("mean", mean), _float64("covariance", covariance)
        if m.ndim != 1:
            raise ValueError(f"mean must have shape (d,), got {tuple(m.shape)}")
        check_shape("covariance", c, (len(m), len(m)), "d x d, for a mean of d numbers")
        super().__init__([1.0], m[None], c[None])

    def __repr__(self) -> str:
        return f"Gaussian(mean={self.mean.tolist()}, covariance={self.covariance.tolist()})"


@dataclass(frozen=True, eq=False)
class BlurredScore:
    """The exact score of a mixture blurred by `noise`, (x, t) -> (B, d); made by `GaussianMixture.noisy_score`."""

    spectra: Spectra
    noise: Noise

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        r"""$\nabla_x \log p_t(x)$, shape (B, d); `t` is (B,) or ()."""
        return self.spectra.score(x, *self._blur(x, t))

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        r"""$\log p_t(x)$, shape (B,); `t` is (B,) or ()."""
        return self.spectra.log_density(x, *self._blur(x, t))

    def _blur(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if t.ndim:
            check_shape("t", t, (len(x),), "one time per sample, or a single one of shape ()")
        t = t.to(x.device, torch.float64)
        return self.noise.alpha(t), self.noise.sigma(t)


@dataclass(frozen=True, eq=False)
class Spectra:
    r"""A mixture in the eigenvectors of its covariances, $C_k = U_k \Lambda_k U_k^\top$.

    There $\alpha^2 C_k + \sigma^2 I$ is diagonal for every $(\alpha, \sigma)$ at once, so that each particle may have
    its own. Components come first and particles last, the layout in which the reductions are fast.
    """

    log_weights: Tensor
    means: Tensor
    eigenvalues: Tensor
    axes: Tensor

    def log_density(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """The log-density of the mixture blurred by `alpha` and `sigma`, numbers or (B,)."""
        log_terms, _ = self._terms(x, alpha, sigma)
        return log_terms.logsumexp(0).to(x.dtype)

    def score(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """The score of the mixture blurred by `alpha` and `sigma`, numbers or (B,)."""
        log_terms, pull = self._terms(x, alpha, sigma)
        weighted = log_terms.softmax(0)[:, None, :] * pull  # (K, d, B)
        axes = self.axes.to(x.device).transpose(0, 1).flatten(1)  # (d, K d)
        return -(axes @ weighted.flatten(0, 1)).T.to(x.dtype)

    def _terms(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        r"""$\log w_k N_k(x)$ (K, B) and $\Lambda_k^{-1} U_k^\top (x - m_k)$ (K, d, B) of the blurred components."""
        check_floating("x", x)
        k, d = self.means.shape
        check_shape("x", x, (len(x), d), f"one point of {d} coordinates per row")
        axes, means = self.axes.to(x.device), self.means.to(x.device)
        centre = axes.mT @ means[:, :, None]  # (K, d, 1)
        apart = (axes.mT.flatten(0, 1) @ x.double().T).reshape(k, d, len(x)) - alpha * centre
        variance = alpha**2 * self.eigenvalues.to(x.device)[:, :, None] + sigma**2  # (K, d, 1 or B)
        pull = apart / variance
        log_scale = self.log_weights.to(x.device)[:, None] - (2 * math.pi * variance).log().sum(1) / 2
        return log_scale - (apart * pull).sum(1) / 2, pull


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
        r = _float64("radii", radii)
        if r.ndim != 1 or not len(r) or not (r > 0).all():
            raise ValueError(f"radii must be a row of numbers > 0, got {r.tolist()}")
        check_positive("width", width)
        w = torch.ones_like(r) / len(r) if weights is None else _float64("weights", weights)
        check_shape("weights", w, r.shape, "one number per ring")
        _store(self, radii=r, width=float(width), weights=_check_weights(w))

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
        x = torch.zeros(_count(shape), 2, dtype=torch.float64, device=self.radii.device)
        radius = self.radii[_choose(self.weights, x, generator)]
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
        _store(self, _nodes=torch.cat(moons), _log_weights=(weights / 4).log().repeat(2))

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
        x = torch.zeros(_count(shape), 2, dtype=torch.float64)
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
        rows = torch.zeros(_count(shape), 1, dtype=torch.float64)
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


def _float64(name: str, value: Numbers) -> Tensor:
    """A float64 copy of numbers given as a tensor, an array or nested lists."""
    try:
        x = torch.as_tensor(value, dtype=torch.float64).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be numbers in one rectangular array, got {value!r}") from None
    if not x.isfinite().all():
        raise ValueError(f"{name} must be finite, got {value!r}")
    return x


def _store(law: object, **values: object) -> None:
    """Set the fields of a frozen dataclass while it is being made."""
    for name, value in values.items():
        object.__setattr__(law, name, value)


def _check_weights(weights: Tensor) -> Tensor:
    """Weights that sum to 1 to the last digit; refused where they are not close to it."""
    total = weights.sum().item()
    if not (weights > 0).all() or abs(total - 1) > 1e-6:
        raise ValueError(f"weights must be > 0 and sum to 1, got {weights.tolist()}; divide them by their sum")
    return weights / total


def _check_plane(x: Tensor) -> None:
    check_floating("x", x)
    check_shape("x", x, (len(x), 2), "one point of the plane per row")


def _count(shape: Sequence[int]) -> int:
    """The n of a sample shape (n,)."""
    if not isinstance(shape, Sequence) or len(shape) != 1:
        raise ValueError(f"shape must be (n,), got {shape!r}; for n samples write sample((n,))")
    check_count("n", shape[0], least=0)
    return shape[0]


def _choose(weights: Tensor, x: Tensor, generator: Generator) -> Tensor:
    """One component per row of `x`, by weight, shape (B,)."""
    steps = weights.cumsum(0)[:-1]
    return torch.searchsorted(steps, rand_rows(x, generator), right=True)


def _circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1)


def _moon(angle: Tensor, lower: Tensor) -> Tensor:
    """Points (n, 2) of the upper moon, or of the lower one where `lower`."""
    upper = _circle(angle)
    return torch.where(lower[:, None], torch.tensor([1.0, 0.5]).to(upper) - upper, upper)


def _a_parameter(distribution: Distribution) -> Tensor | None:
    """A tensor in whose dtype the distribution computes, found in its parameters or in what it wraps."""
    for value in vars(distribution).values():
        found = _a_parameter(value) if isinstance(value, Distribution) else value
        if isinstance(found, Tensor) and found.is_floating_point():
            return found
    return None


def _is_discrete(distribution: Distribution) -> bool:
    try:
        return bool(getattr(distribution.support, "is_discrete", False))
    except NotImplementedError:  # a distribution of one's own need not say
        return False


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's global generators seeded, and put back afterwards; a sleeping GPU is not woken."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield
