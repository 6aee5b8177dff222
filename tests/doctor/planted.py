"""Models with a known fault, or none: the exact score of the mixture, and what can be wrong with one."""

import torch
from torch import Tensor, nn

from scorefield.densities import GaussianMixture, toy
from scorefield.noise import Noise
from scorefield.runs import Run


def scaled_mixture(run: Run) -> GaussianMixture:
    """The law of the toy mixture in the units that networks see."""
    truth = toy("gaussian-mixture")
    assert isinstance(truth, GaussianMixture)
    mean, scale = (torch.as_tensor(v) for v in (run.dataset.info.scaling.mean, run.dataset.info.scaling.scale))
    return GaussianMixture(
        truth.weights, (truth.means - mean) / scale, truth.covariances / (scale[:, None] * scale[None, :])
    )


class Exact(nn.Module):
    """The exact score at every level of a schedule; of one law with noise `sigma` where there is none."""

    def __init__(self, law: GaussianMixture, noise: Noise | None, sigma: float = 0.0, *, alpha: bool = True) -> None:
        super().__init__()
        self.law, self.noise, self.sigma, self.with_alpha = law, noise, sigma, alpha
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        alpha, sigma = torch.ones(len(x), dtype=x.dtype), torch.full((len(x),), self.sigma, dtype=x.dtype)
        if t is not None and self.noise is not None:
            t = t.double().expand(len(x))
            sigma, alpha = self.noise.sigma(t), self.noise.alpha(t) if self.with_alpha else alpha
        return blurred_score(self.law, x, alpha[:, None], sigma[:, None])


def blurred_score(law: GaussianMixture, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The responsibility-weighted sum of the components' scores, each row at a level of its own."""
    covariances = alpha[..., None, None] ** 2 * law.covariances + sigma[..., None, None] ** 2 * torch.eye(2).to(x)
    away = x[:, None] - alpha[..., None] * law.means
    pull = torch.linalg.solve(covariances, away[..., None])[..., 0]
    log = law.weights.log() - torch.linalg.slogdet(covariances).logabsdet / 2 - (away * pull).sum(2) / 2
    return -(torch.softmax(log, dim=1)[..., None] * pull).sum(1)


class Changed(nn.Module):
    """A model whose score is changed: (s, x, t) -> score."""

    def __init__(self, model: nn.Module, change) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        return self.change(self.model(x, t), x, t)


class Remembered(nn.Module):
    """The score of the training rows themselves: what a network that learned them by heart would say."""

    def __init__(self, rows: Tensor, noise: Noise) -> None:
        super().__init__()
        self.noise, self.one = noise, nn.Parameter(torch.ones((), dtype=torch.float64))
        self.rows = rows.double()

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        alpha, sigma = (v.flatten()[:1].double() for v in (self.noise.alpha(t), self.noise.sigma(t)))
        weights = torch.softmax(-torch.cdist(x, alpha * self.rows).square() / (2 * sigma**2), dim=1)
        return (weights @ (alpha * self.rows) - x) / sigma**2


def without(law: GaussianMixture, component: int) -> GaussianMixture:
    """The mixture with one mode missing."""
    kept = [k for k in range(len(law.weights)) if k != component]
    return GaussianMixture(law.weights[kept] / law.weights[kept].sum(), law.means[kept], law.covariances[kept])
