r"""Two older ways to the curvature of an energy network, for comparison with its exact Laplacian.

Both go back once through $E = w^\top h_L + b$, $h_l = \varphi(a_l)$, $a_l = W_l h_{l-1} + b_l$, and carry, beside the
gradient, something about the Hessian. What each unit adds to it is

$$ m_{l,j} = \frac{\partial E}{\partial h_{l,j}}\, \varphi''(a_{l,j}), \qquad
   \nabla_x^2 E = \sum_{l,j} m_{l,j}\, \nabla_x a_{l,j} \nabla_x a_{l,j}^\top . $$
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scorefield.calculus import Generator, inner, probe_like
from scorefield.checks import check_count, check_floating
from scorefield.fields import EnergyModel
from scorefield.networks import MLP


def approximate_backpropagation(model: EnergyModel, x: Tensor) -> Tensor:
    r"""Implicit score matching with the Hessian's diagonal carried alone, as if the Hessian of each layer had no more.

    $$ q_{L} = m_L, \qquad q_{l-1} = m_{l-1} + \varphi'(a_{l-1})^2 \circ (W_l \circ W_l)^\top q_l, \qquad
       \ell(x) = \tfrac12 \|\nabla_x E\|^2 - \sum_i \bigl[(W_1 \circ W_1)^\top q_1\bigr]_i . $$

    Exact for one hidden layer. Deeper, $\|\nabla_x a_{l,j}\|^2$ is replaced by a sum over paths of squared weights and
    slopes, and the objective is biased.

    Args:
        model: an energy without noise levels, `EnergyModel(MLP(..., energy=True))`.
        x: data, shape (B, *D), floating point.

    Returns:
        loss per sample, shape (B,); may be negative.

    Raises:
        TypeError: `x` is not floating point, or the network is no energy MLP.
        ValueError: the energy depends on a noise level.

    Source: Kingma & LeCun 2010; the recursion is that of Becker & LeCun 1988.
    """

    def laplacian(steps: Sequence[_Step]) -> Tensor:
        q = steps[0].m.new_zeros(())
        for slope, m, weight in steps:
            q = (slope.square() * q + m) @ weight.square()
        return q.sum(1)

    check_floating("x", x)
    return _implicit(model, x, laplacian)


def curvature_propagation(model: EnergyModel, x: Tensor, *, probes: int = 1, generator: Generator = None) -> Tensor:
    r"""Implicit score matching with an unbiased estimate of the Hessian's trace, from noise put in at every unit.

    $$ t_{l-1} = W_l^\top (\varphi'(a_l) \circ t_l + \alpha_l \circ v_l), \qquad
       u_{l-1} = W_l^\top (\varphi'(a_l) \circ u_l + \beta_l \circ v_l), \qquad
       \alpha_l \circ \beta_l = m_l, $$

    $$ \ell(x) = \tfrac12 \|\nabla_x E\|^2 - t_0^\top u_0, \qquad \mathbb E[t_0 u_0^\top] = \nabla_x^2 E, $$

    with signs $v_{l,j} = \pm 1$. Two real vectors stand for the one complex vector that $\sqrt{m}$ would need where
    $m < 0$. Any factors $\alpha \circ \beta = m$ are unbiased; $|\alpha| = |\beta|$ has the least variance but no
    gradient where $m = 0$, hence $\alpha^4 = m^2 + \overline{m^2}/100$, with the mean over the layer's units.

    Args:
        model: an energy without noise levels, `EnergyModel(MLP(..., energy=True))`.
        x: data, shape (B, *D), floating point.
        probes: number of estimates per sample, averaged.
        generator: source of the signs; the global one when None.

    Returns:
        loss per sample, shape (B,); may be negative.

    Raises:
        TypeError: `x` is not floating point, or the network is no energy MLP.
        ValueError: no probe, or the energy depends on a noise level.

    Source: Martens, Sutskever & Swersky 2012 (arXiv:1206.6464), the variant in real arithmetic.
    """

    def laplacian(steps: Sequence[_Step]) -> Tensor:
        total = steps[0].m.new_zeros(())
        for _ in range(probes):
            t, u = total.new_zeros(()), total.new_zeros(())
            for slope, m, weight in steps:
                v, alpha = probe_like(m, generator=generator), _root(m)
                t, u = (slope * t + alpha * v) @ weight, (slope * u + m / alpha * v) @ weight
            total = total + inner(t, u) / probes
        return total

    check_floating("x", x)
    check_count("probes", probes)
    return _implicit(model, x, laplacian)


def _root(m: Tensor) -> Tensor:
    """Nearly the root of |m|, smooth and > 0 also where m = 0."""
    square = m.square()
    return (square + square.mean(1, keepdim=True).detach() / 100 + torch.finfo(m.dtype).tiny).pow(0.25)


class _Step(NamedTuple):
    """One layer on the way down: its slopes and what each of its units adds, (B, h), and its weight."""

    slope: Tensor
    m: Tensor
    weight: Tensor


class _Estimated(nn.Module):
    """An energy network with an estimate in the place of its exact Laplacian."""

    def __init__(self, network: MLP, laplacian: Callable[[Sequence[_Step]], Tensor]) -> None:
        super().__init__()
        self.network, self.laplacian = network, laplacian

    def with_laplacian(self, x: Tensor, c: None, y: None) -> tuple[Tensor, Tensor, Tensor]:
        """The energy, its gradient and the estimate, by one pass up and one down."""
        last, inputs = self.network.hidden(x)
        g, steps = self.network.head.weight.expand(len(x), -1), []
        for a, layer in reversed(list(zip(inputs, self.network.layers, strict=True))):
            slope, weight = self.network.phi.first(a), layer.get_parameter("weight")
            steps.append(_Step(slope, g * self.network.phi.second(a), weight))
            g = (g * slope) @ weight
        return self.network.head(last)[:, 0], g.reshape(x.shape), self.laplacian(steps)


def _implicit(model: EnergyModel, x: Tensor, laplacian: Callable[[Sequence[_Step]], Tensor]) -> Tensor:
    """The implicit objective of the model with this Laplacian; refused where the recursions do not hold."""
    network = getattr(model, "network", None)
    if not (isinstance(model, EnergyModel) and isinstance(network, MLP) and network.energy):
        raise TypeError(
            "curvature is carried back through EnergyModel(MLP(..., energy=True)) alone, got "
            f"{type(model).__name__}({type(network).__name__}); use implicit or sliced"
        )
    if model.noise is not None:
        raise ValueError(
            "the energy must not depend on a noise level, got a model with a noise; use implicit or sliced"
        )
    estimated = EnergyModel(_Estimated(network, laplacian), None, model.predicts, model.data_scale)
    s, trace = estimated.with_divergence(x)
    return inner(s, s) / 2 + trace
