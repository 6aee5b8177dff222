"""The multilayer perceptron: its own formula, what it depends on, and that it can be differentiated twice."""

import pytest
import torch
from torch import Generator, nn

from scorefield.networks import MLP
from scorefield.settings import MLPSize


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def built(shape=3, size=(8, 2), classes=2):
    """A small network in float64 with every parameter away from its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MLP(shape, MLPSize(*size), classes=classes).double()
    for i, p in enumerate(net.parameters()):
        p.data += 0.2 * normal(*p.shape, seed=i)
    return net


X, C, Y = normal(5, 3), torch.linspace(-1, 1, 5, dtype=torch.float64), torch.tensor([0, 1, -1, 0, 1])


def test_the_network_is_its_formula():
    r"""$h_l = \varphi(W_l h_{l-1} + b_l + U_l \varphi(e(c, y)))$, $F = W h_L + b$, written out by hand."""
    net = built()
    e, h = nn.functional.silu(net.condition(C, Y)), X
    for layer, u in zip(net.layers, net.bias.weight.split(8), strict=True):
        h = nn.functional.silu(h @ layer.weight.T + layer.bias + e @ u.T)
    torch.testing.assert_close(net(X, C, Y), h @ net.head.weight.T + net.head.bias, rtol=1e-12, atol=1e-12)
    assert len(net.layers) == 2


@pytest.mark.parametrize("shape", [1, 7, (3,), (2, 3, 5)])
@pytest.mark.parametrize("size", [(4, 1), (1, 1), (64, 3)])
def test_the_output_has_the_shape_and_dtype_of_x(shape, size):
    """Any trailing shape, flattened inside; float32 and float64."""
    net = built(shape, size)
    full = (5, shape) if isinstance(shape, int) else (5, *shape)
    assert net(normal(*full), C, Y).shape == full
    single = net.float()(normal(*full).float(), C.float(), Y)
    assert (single.shape, single.dtype) == (full, torch.float32)


def test_a_fresh_network_answers_zero():
    """The head starts at zero, so that training starts from the preconditioner alone."""
    net = MLP(3, MLPSize(8, 2)).double()
    assert torch.equal(net(X, C), torch.zeros_like(X))


def test_the_output_depends_on_the_level_and_the_label():
    """Moving either one changes every sample's answer; no label is -1."""
    net = built()
    out = net(X, C, Y)
    assert ((net(X, C + 0.1, Y) - out).abs().amax(1) > 1e-6).all()
    assert ((net(X, C, 1 - Y.clamp_min(0)) - out).abs().amax(1) > 1e-6).all()
    assert torch.equal(net(X, C), net(X, C, torch.full((5,), -1)))


def test_a_sample_does_not_depend_on_the_others_in_its_batch():
    """Row i of a batch is the answer to row i alone, and the same input gives the same answer twice."""
    net = built()
    out = net(X, C, Y)
    for i in range(5):
        torch.testing.assert_close(
            net(X[i : i + 1], C[i : i + 1], Y[i : i + 1]), out[i : i + 1], rtol=1e-12, atol=1e-12
        )
    assert torch.equal(net(X, C, Y), out)


def test_gradients_reach_every_parameter():
    """With the head away from zero no parameter is left out."""
    net = built()
    net(X, C, Y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


def test_the_network_can_be_differentiated_twice():
    """Torch's gradcheck and gradgradcheck in x and c, float64."""
    net = built(2, (4, 2))
    x, c = normal(2, 2).requires_grad_(), C[:2].clone().requires_grad_()

    def f(x, c):
        return net(x, c, Y[:2])

    assert torch.autograd.gradcheck(f, (x, c))
    assert torch.autograd.gradgradcheck(f, (x, c))


def test_bad_sizes_and_shapes_are_refused():
    """Sizes below 1, another shape than it was built for, labels without classes."""
    with pytest.raises(ValueError, match="width must be >= 1, got 0"):
        MLP(3, MLPSize(width=0))
    with pytest.raises(ValueError, match="depth must be >= 1, got 0"):
        MLP(3, MLPSize(depth=0))
    with pytest.raises(
        ValueError, match=r"x must have shape \(5, 4\) \(the shape the network was built for\), got \(5, 3\)"
    ):
        built(4)(X, C)
    with pytest.raises(ValueError, match="built with classes=0"):
        built(classes=0)(X, C, Y)
