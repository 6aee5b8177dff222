r"""Smooth activations with their first two derivatives, which exact traces and Laplacians need."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.checks import check_choice


@dataclass(frozen=True)
class Activation:
    r"""A smooth function $\varphi$ with $\varphi'$ and $\varphi''$, each elementwise."""

    value: Callable[[Tensor], Tensor]
    first: Callable[[Tensor], Tensor]
    second: Callable[[Tensor], Tensor]


def _silu_first(a: Tensor) -> Tensor:
    s = torch.sigmoid(a)
    return s * (1 + a * (1 - s))


def _silu_second(a: Tensor) -> Tensor:
    s = torch.sigmoid(a)
    return s * (1 - s) * (2 + a * (1 - 2 * s))


def _tanh_first(a: Tensor) -> Tensor:
    return 1 - torch.tanh(a) ** 2


def _tanh_second(a: Tensor) -> Tensor:
    h = torch.tanh(a)
    return -2 * h * (1 - h**2)


def _softplus(a: Tensor) -> Tensor:
    return -torch.nn.functional.logsigmoid(-a)  # torch's own softplus turns linear beyond 20, and is not smooth there


def _softplus_second(a: Tensor) -> Tensor:
    s = torch.sigmoid(a)
    return s * (1 - s)


def _density(a: Tensor) -> Tensor:
    return torch.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)


def _gelu_first(a: Tensor) -> Tensor:
    return torch.special.ndtr(a) + a * _density(a)


def _gelu_second(a: Tensor) -> Tensor:
    return (2 - a**2) * _density(a)


ACTIVATIONS = {
    "silu": Activation(torch.nn.functional.silu, _silu_first, _silu_second),
    "tanh": Activation(torch.tanh, _tanh_first, _tanh_second),
    "softplus": Activation(_softplus, torch.sigmoid, _softplus_second),
    "gelu": Activation(torch.nn.functional.gelu, _gelu_first, _gelu_second),
    "sine": Activation(torch.sin, torch.cos, lambda a: -torch.sin(a)),
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
