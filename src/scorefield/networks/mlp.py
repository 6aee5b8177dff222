r"""A multilayer perceptron for vectors, conditioned on the noise level and the class.

$$ h_0 = x, \qquad h_l = \varphi(W_l h_{l-1} + U_l e(c, y)), \qquad F = W_{L+1} h_L + b $$

The condition e enters every layer as a bias only, so that the Jacobian in x is a product of the $W_l$ and diagonals.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scorefield.checks import check_count, check_shape
from scorefield.networks.condition import Condition
from scorefield.settings import MLPSize


class MLP(nn.Module):
    """Multilayer perceptron with smooth (SiLU) units: (x, c, y) -> (B, *D), any trailing shape, flattened inside.

    Args:
        shape: shape (*D) of one sample, or its dimension.
        size: width and number of hidden layers.
        classes: number of classes; 0 for none.
    """

    def __init__(self, shape: int | Sequence[int], size: MLPSize | None = None, *, classes: int = 0) -> None:
        super().__init__()
        size = size or MLPSize()
        check_count("width", size.width)
        check_count("depth", size.depth)
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dimension = int(torch.Size(self.shape).numel())
        self.condition = Condition(max(32, size.width // 2), classes)
        widths = [dimension] + [size.width] * size.depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.bias = nn.Linear(self.condition.width, size.depth * size.width, bias=False)  # all U_l in one product
        self.head = nn.Linear(widths[-1], dimension)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
        """F(x, c, y), shaped like x."""
        check_shape("x", x, (len(x), *self.shape), "the shape the network was built for")
        biases = self.bias(nn.functional.silu(self.condition(c, y)).to(x.dtype)).chunk(len(self.layers), dim=1)
        h = x.flatten(1)
        for layer, bias in zip(self.layers, biases, strict=True):
            h = nn.functional.silu(layer(h) + bias)
        return self.head(h).reshape(x.shape)
