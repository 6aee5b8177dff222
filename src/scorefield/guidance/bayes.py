r"""Bayes' rule on scores: $\nabla_x \log p_t(x \mid y) = \nabla_x \log p_t(x) + \nabla_x \log p_t(y \mid x)$."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from scorefield.calculus import NoisyScore
from scorefield.checks import check_rows
from scorefield.fields import denoise
from scorefield.noise import Noise

NoisyLogDensity = Callable[[Tensor, Tensor], Tensor]  # x (B, *D), t (B,) or () -> (B,)


class Bayes:
    """A prior's score plus a log-likelihood's gradient; made by `bayes`. Carries `log_density` if the prior does."""

    def __init__(self, prior: NoisyScore, log_likelihood: NoisyLogDensity) -> None:
        self._prior, self._log_likelihood = prior, log_likelihood
        if hasattr(prior, "log_density"):
            known: NoisyLogDensity = prior.log_density  # pyright: ignore[reportFunctionMemberAccess]
            self.log_density: NoisyLogDensity = lambda x, t: known(x, t) + log_likelihood(x, t)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The posterior's score at x (B, *D) and times t, (B,) or ()."""
        return self._prior(x, t) + gradient(lambda at: self._log_likelihood(at, t), x)


def bayes(prior: NoisyScore, log_likelihood: NoisyLogDensity) -> Bayes:
    r"""The score of a posterior, at every noise level.

    Exact when the likelihood is that of y given the *noisy* state, $p(y \mid x_t) = \mathbb E[p(y \mid x_0) \mid x_t]$.
    With $p(y \mid x_0)$ put in its place, x_0 by Tweedie, it is the approximation that `plug_in` is named after.

    Args:
        prior: noise-conditional score.
        log_likelihood: $\log p(y \mid x_t, t)$, (B, *D) and t -> (B,), differentiable in x; up to a constant.

    Returns:
        a noise-conditional score; with the posterior's `log_density(x, t)`, up to a constant, if the prior has one.
    """
    return Bayes(prior, log_likelihood)


def classifier(prior: NoisyScore, network: Callable[[Tensor, Tensor], Tensor], y: Tensor, scale: float = 1.0) -> Bayes:
    r"""Classifier guidance: $s(x, t) + w\,\nabla_x \log p(y \mid x, t)$ with a noise-conditional classifier.

    Args:
        prior: noise-conditional score of all classes.
        network: class scores (logits) at each noise level, (B, *D) and t -> (B, K).
        y: the classes wanted, (B,) whole numbers, for this very batch.
        scale: w >= 0; 1 is Bayes' rule, more sharpens, and is then in general not the score of any one law blurred.

    Raises:
        ValueError: a scale that is not finite or < 0; once called, labels outside the classes or of another batch.

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), section 4.
    """
    check_scale(scale)
    labels = torch.as_tensor(y)

    def log_likelihood(x: Tensor, t: Tensor) -> Tensor:
        logits = network(x, t)
        check_rows("y", labels, x, "one class per sample")
        if labels.min() < 0 or labels.max() >= logits.shape[1]:
            raise ValueError(
                f"y must hold classes 0 to {logits.shape[1] - 1}, got {labels.min().item()} to {labels.max().item()}"
            )
        return scale * logits.log_softmax(1).gather(1, labels.to(x.device)[:, None])[:, 0]

    return bayes(prior, log_likelihood)


class PlugIn:
    """The likelihood at Tweedie's estimate of the data; made by `plug_in`."""

    def __init__(
        self, prior: NoisyScore, noise: Noise, log_likelihood: Callable[[Tensor], Tensor], gradients: bool
    ) -> None:
        self._prior, self._noise, self.log_likelihood, self._gradients = prior, noise, log_likelihood, gradients

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score at x (B, *D) and times t, (B,) or ()."""
        if not self._gradients:
            raise RuntimeError("plug_in(gradients=False) is no score: it weighs the particles of smc alone")
        score, _, pull = self.parts(x, t)
        return score + pull

    def parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The prior's score, the log-likelihood at Tweedie's estimate (B,), and its gradient in x or 0."""
        if not self._gradients:
            score = self._prior(x, t)
            return score, self._value(denoise(lambda *_: score, self._noise, x, t)), torch.zeros_like(x)
        with differentiated(x) as (at, graph):
            score = self._prior(at, t)
            value = self._value(denoise(lambda *_: score, self._noise, at, t))
            (pull,) = torch.autograd.grad(value.sum(), at, create_graph=graph)
        return (score, value, pull) if graph else (score.detach(), value.detach(), pull)

    def _value(self, x: Tensor) -> Tensor:
        value = self.log_likelihood(x)
        check_rows("log_likelihood(x)", value, x)
        return value


def plug_in(
    prior: NoisyScore, noise: Noise, log_likelihood: Callable[[Tensor], Tensor], *, gradients: bool = True
) -> PlugIn:
    r"""Any likelihood of clean data, at Tweedie's estimate: $\log p(y \mid x_t) \approx \log p(y \mid \hat x_0(x_t))$.

    The estimate's own spread is left out, which makes the likelihood too sharp at large noise: a bias that no number of
    steps removes. Particles do: `smc` takes it for its proposal and for its weights. A likelihood that cannot be
    differentiated, or that may not be, takes part by the weights alone.

    Args:
        prior: noise-conditional score.
        noise: its schedule.
        log_likelihood: $\log p(y \mid x_0)$, (B, *D) -> (B,).
        gradients: False never differentiates the likelihood; what is returned then serves `smc` only.

    Returns:
        a noise-conditional score.

    Source: Chung et al. 2023 (arXiv:2209.14687), equation 10, for any likelihood; here without their step size.
    """
    return PlugIn(prior, noise, log_likelihood, gradients)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of a function (B, *D) -> (B,), each row by its own value, whether or not gradients are on."""
    with differentiated(x) as (at, graph):
        value = function(at)
        check_rows("log_likelihood(x, t)", value, x)
        return torch.autograd.grad(value.sum(), at, create_graph=graph)[0]


@contextmanager
def differentiated(x: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """A point to differentiate at, and whether its derivatives need a graph: whether `x` is differentiated outside."""
    graph = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        yield (x if graph else x.detach().requires_grad_()), graph


def check_scale(scale: float, name: str = "scale") -> None:
    """Refuse a guidance scale that is not finite or below zero."""
    if not 0 <= scale < float("inf"):
        raise ValueError(f"{name} must be a finite number >= 0, got {scale!r}")
