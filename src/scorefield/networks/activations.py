r"""Smooth activations with their first two derivatives, which exact traces and Laplacians need."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.checks import check_choice


@dataclass(frozen=True)
class Activation:
    r"""A smooth function $\varphi$, elementwise, and its series $\varphi, \varphi', \varphi''$, made one by one.

    The three share their work (one sigmoid for all of silu's), which is most of the cost in narrow networks.
    """

    value: Callable[[Tensor], Tensor]
    series: Callable[[Tensor], Iterator[Tensor]]

    def first(self, a: Tensor) -> Tensor:
        r"""$\varphi'(a)$."""
        return self.derivatives(a, 1)[1]

    def second(self, a: Tensor) -> Tensor:
        r"""$\varphi''(a)$."""
        return self.derivatives(a, 2)[2]

    def derivatives(self, a: Tensor, order: int) -> tuple[Tensor, ...]:
        r"""$\varphi(a)$ and its derivatives up to this order, at most 2, in one pass."""
        return tuple(itertools.islice(self.series(a), order + 1))


def _silu(a: Tensor) -> Iterator[Tensor]:
    r"""$a s$, $\varphi' = s + \varphi(1 - s)$, $\varphi'' = (1 - s)(2\varphi' - \varphi)$ for $s = \sigma(a)$."""
    s = torch.sigmoid(a)
    value, rest = a * s, 1 - s
    yield value
    first = torch.addcmul(s, value, rest)
    yield first
    yield rest * (2 * first - value)


def _tanh(a: Tensor) -> Iterator[Tensor]:
    value = torch.tanh(a)
    yield value
    first = 1 - value.square()
    yield first
    yield -2 * value * first


def _softplus(a: Tensor) -> Tensor:
    return -torch.nn.functional.logsigmoid(-a)  # torch's own softplus turns linear beyond 20, and is not smooth there


def _softplus_series(a: Tensor) -> Iterator[Tensor]:
    yield _softplus(a)
    s = torch.sigmoid(a)
    yield s
    yield s * (1 - s)


def _gelu(a: Tensor) -> Iterator[Tensor]:
    r"""$\varphi = a\,\Phi(a)$, $\varphi' = \Phi + a\rho$, $\varphi'' = (2 - a^2)\rho$, $\rho$ the normal density."""
    below = torch.special.ndtr(a)
    yield a * below
    density = torch.exp(-a.square() / 2) / math.sqrt(2 * math.pi)
    yield torch.addcmul(below, a, density)
    yield (2 - a.square()) * density


def _sine(a: Tensor) -> Iterator[Tensor]:
    value = torch.sin(a)
    yield value
    yield torch.cos(a)
    yield -value


ACTIVATIONS = {
    "silu": Activation(torch.nn.functional.silu, _silu),
    "tanh": Activation(torch.tanh, _tanh),
    "softplus": Activation(_softplus, _softplus_series),
    "gelu": Activation(torch.nn.functional.gelu, _gelu),
    "sine": Activation(torch.sin, _sine),
}


def activation(name: str) -> Activation:
    """The activation of this name; ReLU and its kin are refused, since their second derivative is no function."""
    if name in ("relu", "leaky_relu", "elu", "hardswish"):
        raise ValueError(
            f"activation must be smooth, got {name!r}: its second derivative misses the kinks, so that gradients of "
            f"the exact trace are wrong; use one of {', '.join(ACTIVATIONS)}"
        )
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
