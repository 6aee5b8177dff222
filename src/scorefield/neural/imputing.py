r"""Missing values drawn given the known ones, $p(x_M \mid x_K)$, in coordinates that mix the columns.

The network sees $u = R\,\operatorname{diag}(c)^{-1}(x - m)$. A known column j is one linear observation of u, by the
row j of $R^{-1}$; with Q an orthonormal basis of the known rows they are together $P u = y$, $P = Q Q^\top$, without
noise. The score of the posterior is that of `guidance.linear` by moments: with Tweedie's mean $\hat u(u_t)$ and the
covariance $V = \tfrac{\sigma_t^2}{\alpha_t} \nabla \hat u$,

$$ \nabla \log p_t(u_t \mid y) \approx s(u_t, t) + \tfrac{\alpha_t}{\sigma_t^2} V P\,(P V P)^{+} (y - P \hat u), $$

exact for Gaussian laws. A learned Jacobian is neither symmetric nor positive, and conjugate gradients with it diverge.
Tables are narrow, so that here V is a matrix: its symmetric part, with eigenvalues no less than `FLOOR` of
$r_t^2 = \sigma_t^2/(\alpha_t^2 + \sigma_t^2)$, what noise leaves unknown of a column of variance 1.

Sources: Boys et al. 2023 (arXiv:2310.06721); Rozet et al. 2024 (arXiv:2405.13712); the floor as in `runs.restoring`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scorefield.calculus import NoisyScore, PerSample
from scorefield.data import Scaling
from scorefield.estimators.validation import Array
from scorefield.guidance import posterior
from scorefield.noise import Noise
from scorefield.runs.restoring import LEARNED
from scorefield.runs.samples import start_like
from scorefield.samplers import SDEDPMSolver, reverse, time_grid

FLOOR = 0.1  # of r_t²; on exact scores of correlated normal laws it is not felt
STEPS = 50
MOST = 2**21  # numbers in the Jacobians of the rows that are filled at once


def impute(score: NoisyScore, noise: Noise, scaling: Scaling, x: Array, *, seed: int) -> Array:
    """Fill in what is NaN, each row by one draw of its own; what was known stays as it was.

    Args:
        score: noise-conditional score of scaled rows, float64, differentiable.
        noise: its schedule.
        scaling: from the rows' units to those of the score.
        x: rows (n, *D); each knows some values and misses others.
        seed: of the draws; row i has stream i.
    """
    count, parts = max(1, MOST // x[0].size ** (2 if x.ndim == 2 else 1)), []
    for first in range(0, len(x), count):
        rows = x[first : first + count]
        known, draws = ~np.isnan(rows), PerSample(seed, range(first, first + len(rows)))
        z = np.where(known, (rows - scaling.mean) / scaling.scale, 0.0)
        if rows.ndim == 2:
            y, projectors = observation(scaling, z, known)
            guide: NoisyScore = Conditional(score, noise, y, projectors)
            u = _drawn(guide, noise, y, draws)
            u = u + y - _times(projectors, u)
        else:
            u = _drawn(_of_pixels(score, noise, z, known), noise, torch.from_numpy(z), draws)
        parts.append(np.where(known, rows, scaling.undo(u, "float64")))
    return np.concatenate(parts)


def observation(scaling: Scaling, z: Array, known: np.ndarray) -> tuple[Tensor, Tensor]:
    r"""What rows know, as $y = P u$ (B, d), and the projector P of each row, (B, d, d).

    Args:
        scaling: of the rows.
        z: $(x - m)/c$, anything where it is not known, (B, d).
        known: where it is, (B, d).
    """
    inverse = np.eye(z.shape[1]) if scaling.root is None else np.linalg.inv(scaling.root)
    y, projectors = np.zeros_like(z), np.zeros((*z.shape, z.shape[1]))
    masks, which = np.unique(known, axis=0, return_inverse=True)
    for k, seen in enumerate(masks):
        rows, (basis, triangle) = which.ravel() == k, np.linalg.qr(inverse[seen].T)
        y[rows] = np.linalg.solve(triangle.T, z[rows][:, seen].T).T @ basis.T
        projectors[rows] = basis @ basis.T
    return torch.from_numpy(y), torch.from_numpy(projectors)


class Conditional:
    """The score of u given P u = y, see the page.

    Args:
        score: noise-conditional score, (B, d).
        noise: its schedule.
        y: the observations, (B, d), of this very batch.
        projectors: their P, (B, d, d).
    """

    def __init__(self, score: NoisyScore, noise: Noise, y: Tensor, projectors: Tensor) -> None:
        self._score, self._noise, self._y, self._projectors = score, noise, y, projectors

    def __call__(self, u: Tensor, t: Tensor) -> Tensor:
        """The posterior's score at u (B, d) and one time t, ()."""
        alpha, sigma, d = self._noise.alpha(t).item(), self._noise.sigma(t).item(), u.shape[1]
        eye = torch.eye(d, dtype=u.dtype, device=u.device)
        with torch.enable_grad():
            at = u.detach().requires_grad_()
            score = self._score(at, t)
            mean = (at + sigma**2 * score) / alpha
            jacobian, *_ = torch.autograd.grad(mean, at, eye[:, None].expand(d, *u.shape), is_grads_batched=True)
        spread = sigma**2 / alpha * jacobian.transpose(0, 1)
        values, vectors = torch.linalg.eigh((spread + spread.mT) / 2)
        values = values.clamp(min=FLOOR * sigma**2 / (alpha**2 + sigma**2))
        covariance, p = (vectors * values[:, None]) @ vectors.mT, self._projectors
        solved = torch.linalg.solve(p @ covariance @ p + eye - p, self._y - _times(p, mean.detach()))
        return score.detach() + alpha / sigma**2 * _times(covariance, solved)


def _of_pixels(score: NoisyScore, noise: Noise, z: Array, known: np.ndarray) -> NoisyScore:
    """The same for images (B, *D), by conjugate gradients: each has a mask of its own."""
    masks = torch.from_numpy(np.concatenate([known, known[:1]]))  # an operator is tried on two samples
    how = {"sigma": 0.0, "shape": z.shape[1:], **LEARNED}
    return posterior(score, noise, lambda u: u * masks[: len(u)].to(u), torch.from_numpy(z), **how)


def _drawn(guide: NoisyScore, noise: Noise, like: Tensor, draws: PerSample) -> Tensor:
    predictor = SDEDPMSolver(predicts="velocity")
    times = time_grid(noise, STEPS, predictor)
    start = start_like(noise, like, draws)
    return reverse(guide, noise, start, times=times, predictor=predictor, denoise=True, generator=draws).x


def _times(matrices: Tensor, rows: Tensor) -> Tensor:
    return (matrices @ rows[..., None])[..., 0]
