r"""What a score is, the score of a log-density, and sums over a sample's own axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scorefield.checks import check_floating, check_rows

Score = Callable[[Tensor], Tensor]
NoisyScore = Callable[[Tensor, Tensor], Tensor]
LogDensity = Callable[[Tensor], Tensor]


def inner(a: Tensor, b: Tensor) -> Tensor:
    r"""Inner product over each sample's own axes: $\langle a, b \rangle$, shape (B,)."""
    return (a * b).flatten(1).sum(1)


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """View a coefficient (B,) or () so that it multiplies `x` (B, *D) sample by sample, in the dtype of `x`."""
    if coefficient.ndim == 0:
        return coefficient.to(x.dtype)
    return coefficient.to(x).reshape(-1, *(1,) * (x.ndim - 1))


class ScoreOf:
    """The score of a log-density by automatic differentiation; carries `.log_density`, and `.modules` of a network."""

    def __init__(self, log_density: LogDensity) -> None:
        self.log_density = log_density
        owner = getattr(log_density, "__self__", log_density)
        if isinstance(owner, nn.Module):
            self.modules = owner.modules
        check_smooth(self, derivatives=0)

    def __call__(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$, differentiable again in x and in the parameters."""
        check_floating("x", x)
        graphs = []

        def total(at: Tensor) -> Tensor:
            value = self.log_density(at)
            column = getattr(value, "shape", ()) == (len(at), 1)
            check_rows("log_density(x)", value, at, "one number per sample" + "; take [:, 0] of it" * column)
            graphs.append(value.requires_grad)
            return value.sum()

        score = torch.func.grad(total)(x)
        if not graphs[0]:
            check_constant(self.log_density, x, self.log_density(x))
        return score


def score_of(log_density: LogDensity) -> ScoreOf:
    r"""Turn a log-density into its score $s(x) = \nabla_x \log p(x)$.

    Args:
        log_density: (B, *D) -> (B,), known up to a constant, differentiable; of a network, with smooth activations.

    Returns:
        a score (B, *D) -> (B, *D) that carries `.log_density`.

    Raises:
        ValueError: a network with activations that have kinks (see `check_smooth`); and, once the score is called,
            values that are not (B,).
        RuntimeError: once the score is called, values that change with x but have no graph.
    """
    return ScoreOf(log_density)


def check_constant(function: Callable[[Tensor], Tensor], x: Tensor, value: Tensor) -> None:
    """Refuse a function whose value has no graph to `x`, unless it is the same elsewhere: then its derivative is 0."""
    with torch.no_grad():
        elsewhere = function(0.5 * x + 0.49 * x.roll(1, 0))  # towards the neighbours and the origin
        if not torch.equal(elsewhere, value):
            raise RuntimeError(
                "the score or log-density changes with x, but its graph does not lead to x; it must not detach, run "
                "under no_grad or leave torch"
            )


_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softshrink, nn.SELU)
# How many derivatives of a module's function are continuous, where not all are; ReLU6 is a Hardtanh.
_CONTINUOUS = {-1: (nn.Threshold, nn.Hardshrink), 0: (*_KINKED, *_POOLS), 1: (nn.ELU, nn.CELU, nn.Softsign)}


def check_smooth(score: object, *, derivatives: int = 1) -> None:
    r"""Refuse a network with kinks where an objective that differentiates its score in x would be wrong.

    The derivative of a kink is a step, and that of a step is lost to automatic differentiation. For $s(x) =
    -(x - b)_+$ the value of $\mathbb E\,s'(x) = -P(x > b)$ is right, but its gradient $p(b)$ in b comes out as 0. With
    k derivatives of a network in x, values need k - 1 continuous derivatives of its activations, and gradients in the
    parameters k: ReLU will do for the likelihood of a score network, not for training it by `implicit` or `sliced`,
    and for no energy. Denoising and finite-difference sliced score matching take no derivative of the score.

    Asks for the latter where gradients are enabled, for the former elsewhere. Sees what `score.modules()` lists;
    functions cannot be seen into.

    Args:
        score: a network or a wrapper that carries its `modules`; with `log_density` it is an energy's, and k counts one
            more.
        derivatives: how often the objective differentiates the score in x.

    Raises:
        ValueError: an activation has too few continuous derivatives.
    """
    k = derivatives + hasattr(score, "log_density") - (not torch.is_grad_enabled())
    for module in getattr(score, "modules", tuple)():
        if _continuous(module) < k:
            raise ValueError(
                f"{type(module).__name__} is not smooth enough: here activations must have at least {k} continuous "
                "derivatives, or what is computed misses the kinks; use SiLU, GELU, Tanh or Softplus, or train a "
                "score network by denoising"
            )


def _continuous(module: nn.Module) -> float:
    if isinstance(module, nn.ELU) and module.alpha != 1:
        return 0
    return next((order for order, kinds in _CONTINUOUS.items() if isinstance(module, kinds)), float("inf"))
