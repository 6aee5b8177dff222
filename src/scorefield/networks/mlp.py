r"""A multilayer perceptron for vectors, conditioned on the noise level and the class, that knows its exact trace.

$$ h_0 = x, \qquad a_l = W_l h_{l-1} + U_l e(c, y), \qquad h_l = \varphi(a_l), \qquad F = W_{L+1} h_L + b $$

The condition e enters every layer as a bias only, so that with $D_l = \operatorname{diag} \varphi'(a_l)$ the Jacobian
in x is $W_{L+1} D_L W_L \cdots D_1 W_1$. By the cyclic property its trace needs no loop over the D dimensions:

$$ \operatorname{tr}(W_3 D_2 W_2 D_1 W_1) = d_2^\top \bigl[W_2 \circ (W_1 W_3)^\top\bigr]\, d_1 . $$
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scorefield.checks import check_count, check_shape
from scorefield.networks.activations import activation
from scorefield.networks.condition import Condition
from scorefield.networks.traces import laplacian, product_trace
from scorefield.settings import MLPSize


class MLP(nn.Module):
    """Multilayer perceptron with smooth units: (x, c, y) -> (B, *D), any trailing shape, flattened inside.

    Args:
        shape: shape (*D) of one sample, or its dimension.
        size: width, number of hidden layers and activation.
        classes: number of classes; 0 for none.
        energy: one number per sample instead of a field, for `fields.EnergyModel`.

    Raises:
        ValueError: a size < 1, or an activation that is unknown or not smooth.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        size: MLPSize | None = None,
        *,
        classes: int = 0,
        energy: bool = False,
    ) -> None:
        super().__init__()
        size = size or MLPSize()
        check_count("width", size.width)
        check_count("depth", size.depth)
        self.phi = activation(size.activation)
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.energy = energy
        dimension = int(torch.Size(self.shape).numel())
        check_count("the dimension of shape", dimension)
        self.condition = Condition(max(32, size.width // 2), classes)
        widths = [dimension] + [size.width] * size.depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.bias = nn.Linear(self.condition.width, size.depth * size.width, bias=False)  # all U_l in one product
        self.head = nn.Linear(widths[-1], 1 if energy else dimension)
        if not energy:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, c: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """F(x, c, y), shaped like x; the energy (B,) of an energy network. Without c there is one noise level."""
        h, _ = self.hidden(x, c, y)
        out = self.head(h)
        return out[:, 0] if self.energy else out.reshape(x.shape)

    def with_trace(self, x: Tensor, c: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""F (B, *D) and the exact trace of its Jacobian in x, (B,); differentiable in all parameters and in x.

        One or two hidden layers cost one (B, h) x (h, h) product whatever D; deeper ones carry min(D, h) columns.
        """
        if self.energy:
            raise ValueError("an energy network has one output and no trace; use with_laplacian")
        _, units = self._run(x, c, y, 1)
        trace = product_trace([u[1] for u in units], self._weights(), self.head.weight)
        return self.head(units[-1][0]).reshape(x.shape), trace

    def with_laplacian(
        self, x: Tensor, c: Tensor | None = None, y: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""An energy network's E (B,), its gradient (B, *D) and Laplacian (B,), in one pass up and one down.

        $$ \Delta E = \sum_l \sum_j \frac{\partial E}{\partial h_{l,j}}\, \varphi''(a_{l,j})\, \|\nabla_x a_{l,j}\|^2 $$
        """
        if not self.energy:
            raise ValueError("a field has no Laplacian; build the network with energy=True, or use with_trace")
        _, units = self._run(x, c, y, 2)
        weights, up, bends = self._weights(), self.head.weight.expand(len(x), -1), []
        for (_, first, second), weight in reversed(list(zip(units, weights, strict=True))):
            bends.append(up * second)
            up = (up * first) @ weight
        total = laplacian(bends[::-1], [u[1] for u in units[:-1]], weights)
        return self.head(units[-1][0])[:, 0], up.reshape(x.shape), total

    def hidden(self, x: Tensor, c: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The last hidden layer (B, h) and what enters the activation of each, (B, h), from the first to the last."""
        inputs, units = self._run(x, c, y, 0)
        return units[-1][0], inputs

    def _weights(self) -> list[Tensor]:
        return [layer.get_parameter("weight") for layer in self.layers]

    def _run(
        self, x: Tensor, c: Tensor | None, y: Tensor | None, order: int
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
        """Layer by layer what enters the activation and the activation with its derivatives up to an order, (B, h)."""
        check_shape("x", x, (len(x), *self.shape), "the shape the network was built for")
        if c is None:
            c = x.new_zeros(1 if y is None else len(x))  # one noise level: one row of biases serves all samples
        biases = self.bias(nn.functional.silu(self.condition(c, y)).to(x.dtype)).chunk(len(self.layers), dim=1)
        h, inputs, units = x.flatten(1), [], []
        for layer, bias in zip(self.layers, biases, strict=True):
            inputs.append(layer(h) + bias)
            units.append(self.phi.derivatives(inputs[-1], order) if order else (self.phi.value(inputs[-1]),))
            h = units[-1][0]
        return inputs, units
