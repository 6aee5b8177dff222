"""Gaussians and their mixtures, and the same blurred exactly by any noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scorefield.calculus import Generator, randn_like
from scorefield.checks import check_between, check_floating, check_shape
from scorefield.densities.parameters import Numbers, check_weights, choose, count, float64, store
from scorefield.densities.prepared import MixtureScore
from scorefield.noise import Noise


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
        w, m, c = float64("weights", weights), float64("means", means), float64("covariances", covariances)
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
        w = check_weights(w)
        store(self, weights=w, means=m, covariances=c, _spectra=Spectra(w.log(), m, eigenvalues, axes))

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

    def with_log_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The score (B, d) and the log-density (B,), from the same terms."""
        return self._spectra.with_log_density(x)

    def with_divergence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""The score (B, d) and its divergence $\operatorname{tr} \nabla s$ (B,), in closed form."""
        return self._spectra.with_divergence(x)

    def prepared(self, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> MixtureScore:
        """The same score for many calls, as in a chain: in one precision on one device, with shorter ways.

        Args:
            dtype: the precision of its mathematics; float32 is about twice as fast, see `MixtureScore` on its error.
            device: where its parameters lie; None leaves them where they are.
        """
        device = self.means.device if device is None else torch.device(device)
        return MixtureScore(self.weights, self.means, self.covariances, dtype=dtype, device=device)

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        """Samples (n, d), float64: a component by its weight, then a Gaussian."""
        x = torch.zeros(count(shape), self.means.shape[1], dtype=torch.float64, device=self.means.device)
        chosen = choose(self.weights, x, generator)
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
        m, c = float64("mean", mean), float64("covariance", covariance)
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

    def with_divergence(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""The score (B, d) and its divergence (B,) in closed form; `t` is (B,) or ()."""
        return self.spectra.with_divergence(x, *self._blur(x, t))

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
        log_terms, _, _ = self._terms(x, alpha, sigma)
        return log_terms.logsumexp(0).to(x.dtype)

    def score(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """The score of the mixture blurred by `alpha` and `sigma`, numbers or (B,)."""
        log_terms, pull, _ = self._terms(x, alpha, sigma)
        return self._score(log_terms.softmax(0), pull).to(x.dtype)

    def with_log_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The score and the log-density of the mixture itself."""
        log_terms, pull, _ = self._terms(x, 1.0, 0.0)
        return self._score(log_terms.softmax(0), pull).to(x.dtype), log_terms.logsumexp(0).to(x.dtype)

    def with_divergence(
        self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0
    ) -> tuple[Tensor, Tensor]:
        r"""The score of the blurred mixture and $\operatorname{tr} \nabla s$.

        With $s_k = -P_k (x - \alpha m_k)$ the score of a component, $P_k = (\alpha^2 C_k + \sigma^2 I)^{-1}$,

        $$ \operatorname{tr} \nabla s = \sum_k r_k \big(\|s_k\|^2 - \operatorname{tr} P_k\big) - \|s\|^2 . $$
        """
        log_terms, pull, variance = self._terms(x, alpha, sigma)
        r = log_terms.softmax(0)
        s = self._score(r, pull)
        own = pull.square().sum(1) - variance.reciprocal().sum(1)  # (K, B): the Laplacian of N_k over N_k
        return s.to(x.dtype), ((r * own).sum(0) - s.square().sum(1)).to(x.dtype)

    def _score(self, r: Tensor, pull: Tensor) -> Tensor:
        weighted = r[:, None, :] * pull  # (K, d, B)
        axes = self.axes.to(pull.device).transpose(0, 1).flatten(1)  # (d, K d)
        return -(axes @ weighted.flatten(0, 1)).T

    def _terms(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        r"""Of each blurred component: $\log w_k N_k(x)$, $V_k^{-1} U_k^\top (x - \alpha m_k)$ (K, d, B), and $V_k$.

        $V_k = \alpha^2 \Lambda_k + \sigma^2$ is (K, d, 1), or (K, d, B) where each particle has its own blur.
        """
        check_floating("x", x)
        k, d = self.means.shape
        check_shape("x", x, (len(x), d), f"one point of {d} coordinates per row")
        axes, means = self.axes.to(x.device), self.means.to(x.device)
        centre = axes.mT @ means[:, :, None]  # (K, d, 1)
        apart = (axes.mT.flatten(0, 1) @ x.double().T).reshape(k, d, len(x)) - alpha * centre
        variance = alpha**2 * self.eigenvalues.to(x.device)[:, :, None] + sigma**2  # (K, d, 1 or B)
        pull = apart / variance
        log_scale = self.log_weights.to(x.device)[:, None] - (2 * math.pi * variance).log().sum(1) / 2
        return log_scale - (apart * pull).sum(1) / 2, pull, variance
