"""The exact trace and Laplacian of a multilayer perceptron by its structure, against generic differentiation."""

import pytest
import torch
from torch import nn

from scorefield.calculus import divergence, inner
from scorefield.fields import EnergyModel, ScoreModel, at, given
from scorefield.networks import MLP
from scorefield.networks.activations import ACTIVATIONS, activation
from scorefield.noise import VP
from scorefield.objectives import implicit
from scorefield.settings import MLPSize

SHAPES = [2, 9, (2, 2, 2)]


def random_network(shape, depth: int, phi: str = "silu", *, energy: bool = False) -> MLP:
    """A network of width 6 with all weights of order one, labels included, in float64."""
    network = MLP(shape, MLPSize(6, depth, phi), classes=2, energy=energy).double()
    generator = torch.Generator().manual_seed(depth)
    for p in network.parameters():
        with torch.no_grad():
            p.copy_(0.6 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return network


def points(shape, n: int = 5) -> torch.Tensor:
    sides = (shape,) if isinstance(shape, int) else shape
    return torch.randn(n, *sides, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradients(value: torch.Tensor, network: nn.Module) -> list[torch.Tensor]:
    """Of a sum, in every parameter; zeros where it does not enter."""
    parameters = list(network.parameters())
    found = torch.autograd.grad(value.sum(), parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def agree(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=1e-9, atol=1e-9) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("phi", list(ACTIVATIONS))
def test_derivatives_of_the_activations(phi):
    """first and second are the derivatives of value and of first."""
    a = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    f = activation(phi)
    (first,) = torch.autograd.grad(f.value(a).sum(), a)
    (second,) = torch.autograd.grad(f.first(a).sum(), a)
    assert torch.allclose(first, f.first(a), atol=1e-12) and torch.allclose(second, f.second(a), atol=1e-12)


@pytest.mark.parametrize("predicts", ["edm", "score", "noise", "data", "velocity"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_structured_divergence_is_the_generic_one(shape, depth, predicts):
    """Field, divergence and the gradient of the divergence in every parameter, at several times and labels."""
    model = ScoreModel(random_network(shape, depth), VP(), predicts, data_scale=1.3)
    x, y = points(shape), torch.tensor([0, 1, -1, 0, 1])
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    s, trace = divergence(at(given(model, y), t), x)
    plain, expected = divergence(lambda v: model(v, t, y), x)  # a bare function knows nothing of its structure
    assert torch.allclose(s, plain, rtol=1e-12) and torch.allclose(trace, expected, rtol=1e-9)
    assert agree(gradients(trace, model), gradients(expected, model))


@pytest.mark.parametrize("phi", list(ACTIVATIONS))
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_structured_laplacian_is_the_generic_one(shape, depth, phi):
    """For energies: score, Laplacian, and the gradient of the implicit objective in every parameter."""
    model = EnergyModel(random_network(shape, depth, phi, energy=True))
    x = points(shape)
    s, trace = divergence(model, x)
    plain, expected = divergence(lambda v: model(v), x)
    assert torch.allclose(s, plain, rtol=1e-10) and torch.allclose(trace, expected, rtol=1e-8, atol=1e-10)
    assert agree(gradients(trace + inner(s, s) / 2, model), gradients(expected + inner(plain, plain) / 2, model))


def test_the_implicit_objective_uses_it_and_is_differentiable_twice():
    """implicit equals ½‖s‖² + tr for a model with structure, and its value has a gradient in x too."""
    model = ScoreModel(random_network(3, 2), VP())
    x, t = points(3).requires_grad_(), torch.tensor(0.4, dtype=torch.float64)
    fixed = at(given(model, None), t)
    value = implicit(fixed, x)
    s, trace = divergence(lambda v: model(v, t), x)
    assert torch.allclose(value, inner(s, s) / 2 + trace, rtol=1e-10)
    (ours,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
    (generic,) = torch.autograd.grad((inner(s, s) / 2 + trace).sum(), x)
    assert torch.allclose(ours, generic, rtol=1e-8, atol=1e-10)


def test_networks_without_structure_carry_no_divergence():
    """A U-Net or a user's own backbone falls to the generic way; `at` and `given` forward only what is there."""

    class Own(nn.Module):
        def forward(self, x, c, y):
            return torch.tanh(x)

    model = ScoreModel(Own(), VP())
    assert not hasattr(model, "with_divergence") and not hasattr(at(given(model, None), 0.5), "with_divergence")
    assert hasattr(at(given(ScoreModel(random_network(3, 1), VP()), None), 0.5), "with_divergence")


def test_a_rough_activation_is_refused_with_its_reason():
    """ReLU's trace has the right value and the wrong gradient: refused; unknown names offer the nearest."""
    with pytest.raises(ValueError, match="must be smooth, got 'relu'.*misses the kinks"):
        MLP(2, MLPSize(4, 1, "relu"))
    with pytest.raises(ValueError, match="did you mean 'tanh'"):
        MLP(2, MLPSize(4, 1, "tanch"))


def test_each_kind_of_network_has_its_own_exact_quantity():
    """A field has a trace, an energy a Laplacian; asking for the other says which to use."""
    with pytest.raises(ValueError, match="use with_laplacian"):
        random_network(2, 1, energy=True).with_trace(points(2))
    with pytest.raises(ValueError, match="energy=True"):
        random_network(2, 1).with_laplacian(points(2))
