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
        h, _ = self._run(x, c, y)
        out = self.head(h)
        return out[:, 0] if self.energy else out.reshape(x.shape)

    def with_trace(self, x: Tensor, c: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""F (B, *D) and the exact trace of its Jacobian in x, (B,); differentiable in all parameters and in x.

        One or two hidden layers cost one (B, h) x (h, h) product whatever D; deeper ones carry min(D, h) columns.
        """
        if self.energy:
            raise ValueError("an energy network has one output and no trace; use with_laplacian")
        h, inputs = self._run(x, c, y)
        slopes = [self.phi.first(a) for a in inputs]
        weights = [layer.get_parameter("weight") for layer in self.layers]
        return self.head(h).reshape(x.shape), product_trace(slopes, weights, self.head.weight)

    def with_laplacian(
        self, x: Tensor, c: Tensor | None = None, y: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""An energy network's E (B,), its gradient (B, *D) and Laplacian (B,), in one pass up and one down.

        $$ \Delta E = \sum_l \sum_j \frac{\partial E}{\partial h_{l,j}}\, \varphi''(a_{l,j})\, \|\nabla_x a_{l,j}\|^2 $$
        """
        if not self.energy:
            raise ValueError("a field has no Laplacian; build the network with energy=True, or use with_trace")
        h, inputs = self._run(x, c, y)
        weights = [layer.get_parameter("weight") for layer in self.layers]
        slopes = [self.phi.first(a) for a in inputs]
        norms = gradient_norms(slopes, weights)
        up, total = self.head.weight.expand(len(x), -1), x.new_zeros(len(x))
        for a, slope, weight, norm in reversed(list(zip(inputs, slopes, weights, norms, strict=True))):
            total = total + (up * self.phi.second(a) * norm).sum(1)
            up = (up * slope) @ weight
        return self.head(h)[:, 0], up.reshape(x.shape), total

    def _run(self, x: Tensor, c: Tensor | None, y: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The last hidden layer (B, h) and what enters the activation of each, (B, h)."""
        check_shape("x", x, (len(x), *self.shape), "the shape the network was built for")
        if c is None:
            c = x.new_zeros(1 if y is None else len(x))  # one noise level: one row of biases serves all samples
        biases = self.bias(nn.functional.silu(self.condition(c, y)).to(x.dtype)).chunk(len(self.layers), dim=1)
        h, inputs = x.flatten(1), []
        for layer, bias in zip(self.layers, biases, strict=True):
            inputs.append(layer(h) + bias)
            h = self.phi.value(inputs[-1])
        return h, inputs


def product_trace(slopes: Sequence[Tensor], weights: Sequence[Tensor], last: Tensor) -> Tensor:
    r"""$\operatorname{tr}(W_{L+1} D_L W_L \cdots D_1 W_1)$ per sample, (B,), from the slopes $d_l$, each (B, h).

    With three or more layers the product is carried as columns, all samples in one matrix product per layer: the D of
    $W_1$, or, where that is less work, the h of $W_1 W_{L+1}$ moved to the front by the cyclic property.

    Args:
        slopes: $\varphi'(a_l)$ of the L hidden layers.
        weights: $W_1, \dots, W_L$.
        last: $W_{L+1}$.
    """
    first, width, dimension = weights[0], weights[0].shape[0], last.shape[0]
    if len(slopes) == 1:
        return slopes[0] @ (first * last.T).sum(1)
    if len(slopes) == 2:
        return ((slopes[0] @ (weights[1] * (first @ last).T).T) * slopes[1]).sum(1)
    hidden = len(slopes)
    if (hidden - 1) * dimension <= (hidden - 2) * width:
        columns = _carry(slopes[:-1], [first, *weights[1:-1]])  # (h, B, D): D_{L-1} W_{L-1} ... D_1 W_1
        closing = (weights[-1] @ columns.flatten(1)).reshape(width, len(slopes[0]), dimension)
        return torch.einsum("hbd,bh,dh->b", closing, slopes[-1], last)
    columns = _carry(slopes[:-1], [first @ last, *weights[1:-1]])  # (h, B, h), closed by W_L without a product
    return torch.einsum("kbh,hk,bh->b", columns, weights[-1], slopes[-1])


def _carry(slopes: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """D_k W_k ... D_1 W_1 of every sample, (h, B, columns): the batch lies beside the columns in one product."""
    columns = slopes[0].T[:, :, None] * weights[0][:, None, :]
    for slope, weight in zip(slopes[1:], weights[1:], strict=True):
        columns = (weight @ columns.flatten(1)).reshape(columns.shape) * slope.T[:, :, None]
    return columns


def gradient_norms(slopes: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    r"""$\|\nabla_x a_{l,j}\|^2$ of every unit, each (B, h); the first layer's are the row norms of $W_1$."""
    first = weights[0]
    norms = [first.square().sum(1).expand(len(slopes[0]), -1)]
    if len(slopes) == 1:
        return norms
    width, dimension = first.shape
    columns, gram = first[:, None, :].expand(-1, len(slopes[0]), -1), None
    if dimension > width:  # carry W_1's h columns of the identity and close them with its Gram matrix
        columns, gram = torch.eye(width, dtype=first.dtype, device=first.device)[:, None, :], first @ first.T
        columns = columns.expand(-1, len(slopes[0]), -1)
    for slope, weight in zip(slopes[:-1], weights[1:], strict=True):
        columns = (weight @ (columns * slope.T[:, :, None]).flatten(1)).reshape(columns.shape)
        closed = columns if gram is None else (columns.reshape(-1, width) @ gram).reshape(columns.shape)
        norms.append((columns * closed).sum(2).T)
    return norms
