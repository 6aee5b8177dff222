r"""A noise-conditional classifier $p(y \mid x_t, t)$: a backbone's features, read out linearly into logits.

The mean of $-\log p(y \mid x_t, t)$ over data, levels and noise is least for Bayes' rule on the blurred classes,

$$ p(y \mid x_t, t) = \frac{w_y\,p_t(x_t \mid y)}{\sum_k w_k\,p_t(x_t \mid k)}, $$

and then $\nabla \log p(y \mid x_t, t)$ is what turns the score of all classes into the score of one: see `classifier`.

Source: Song et al. 2021 (arXiv:2011.13456), appendix I.1; the preconditioned input, Karras et al. 2022
(arXiv:2206.00364), table 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scorefield.calculus import expand
from scorefield.checks import check_count
from scorefield.networks import MLP
from scorefield.noise import Noise


class NoisyClassifier(nn.Module):
    r"""Logits at every noise level, $W F(x_t/c, \tfrac14\log(\sigma/\alpha)) + b$ with $c^2 = \alpha^2 + \sigma^2$.

    Args:
        network: (u, c_noise) -> features, (B, *F), of scaled data (mean 0, spread 1).
        noise: the schedule.
        features: how many numbers F has.
        classes: K >= 2.
    """

    def __init__(self, network: nn.Module, noise: Noise, features: int, classes: int) -> None:
        super().__init__()
        check_count("classes", classes, least=2)
        self.network, self.noise, self.head = network, noise, nn.Linear(features, classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits (B, K) at x (B, *D) and times t, (B,) or (); `log_softmax(1)` makes them log p(y | x, t)."""
        t = t.expand(len(x)) if t.ndim == 0 else t
        alpha, sigma = self.noise.alpha(t).double(), self.noise.sigma(t).double()
        u, c = x * expand(1 / (alpha**2 + sigma**2).sqrt(), x), (torch.log(sigma / alpha) / 4).to(x)
        return self.head(self.network(u, c).flatten(1)).to(x.dtype)


class LastHidden(nn.Module):
    """The last hidden layer of an MLP as features, (u, c) -> (B, width); the MLP's own output is taken away."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        mlp.add_module("head", nn.Identity())
        self.mlp = mlp

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        """The hidden layer at u (B, *D) and c (B,)."""
        return self.mlp.hidden(u, c)[0]
