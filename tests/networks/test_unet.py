"""The U-Net: any size and channel count, what it depends on, memory layouts, and two derivatives."""

import pytest
import torch
from torch import Generator

from scorefield.networks import UNet
from scorefield.settings import UNetSize


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def built(shape=(2, 9, 8), size=(4, 1, 2, 1), classes=2):
    """A small network in float64 with every parameter away from its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet(shape, UNetSize(*size), classes=classes).double()
    for i, p in enumerate(net.parameters()):
        p.data += 0.1 * normal(*p.shape, seed=i)
    return net


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


X, C, Y = normal(4, 2, 9, 8), torch.linspace(-1, 1, 4, dtype=torch.float64), torch.tensor([0, 1, -1, 1])


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 9, 13), (1, 28, 28), (3, 32, 32), (5, 8, 11)], ids=str)
@pytest.mark.parametrize("size", [(4, 1, 2, 1), (4, 1, 1, 1), (3, 2, 3, 1), (4, 1, 2, 2), (1, 1, 1, 3)], ids=str)
def test_the_output_has_the_shape_and_dtype_of_x(shape, size):
    """Any sides >= 8, even or odd, any channels; one resolution or three, pixel patches or none."""
    net, x = built(shape, size), normal(2, *shape)
    out = net(x, C[:2], Y[:2])
    assert (out.shape, out.dtype) == (x.shape, torch.float64) and out.isfinite().all()
    single = net.float()(x.float(), C[:2].float(), Y[:2])
    assert (single.shape, single.dtype) == (x.shape, torch.float32)


def test_a_fresh_network_answers_its_last_bias_alone():
    """The last convolution starts with weight zero: the answer does not depend on x."""
    net = UNet((2, 9, 8), UNetSize(4, 1, 2)).double()
    out = net(X, C)
    close(out, net.exit[-1].bias.detach()[None, :, None, None].expand_as(out))


@pytest.mark.parametrize("size", [(4, 1, 2, 1), (4, 1, 2, 2), (4, 1, 1, 1)], ids=str)
def test_the_output_depends_on_every_pixel_the_level_and_the_label(size):
    """Moving the level or the label changes every sample; moving any one pixel changes its sample."""
    net = built(size=size)
    out = net(X, C, Y)
    assert ((net(X, C + 0.1, Y) - out).flatten(1).abs().amax(1) > 1e-6).all()
    assert ((net(X, C, 1 - Y.clamp_min(0)) - out).flatten(1).abs().amax(1) > 1e-6).all()
    assert torch.equal(net(X, C), net(X, C, torch.full((4,), -1)))
    x = X[:1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x, C[:1], Y[:1]).square().sum(), x)
    assert slope.abs().min() > 0


def test_attention_carries_every_pixel_to_every_other():
    """The far corner of the output feels a change in the near corner of the input, beyond the convolutions' reach."""
    net = built((1, 32, 32), (4, 1, 2, 1))
    x = normal(1, 1, 32, 32)
    moved = x.clone()
    moved[0, 0, 0, 0] += 1
    assert (net(moved, C[:1], Y[:1]) - net(x, C[:1], Y[:1]))[0, 0, -1, -1].abs() > 1e-12


@pytest.mark.parametrize("size", [(4, 1, 2, 1), (4, 1, 2, 2)], ids=str)
def test_a_sample_does_not_depend_on_the_others_in_its_batch(size):
    """Image i of a batch is the answer to image i alone; the same input gives the same answer twice."""
    net = built(size=size)
    out = net(X, C, Y)
    for i in range(4):
        close(net(X[i : i + 1], C[i : i + 1], Y[i : i + 1]), out[i : i + 1])
    assert torch.equal(net(X, C, Y), out)


@pytest.mark.parametrize("size", [(4, 1, 2, 1), (3, 2, 3, 1), (4, 1, 2, 2), (4, 1, 1, 1)], ids=str)
def test_gradients_reach_every_entry_of_every_weight(size):
    """With the layers that start at zero moved away from it no channel, skip connection or shift is left out."""
    net = built(size=size)
    net(X, C, Y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name
        assert p.ndim < 2 or (p.grad != 0).all(), name


def test_memory_layouts_make_no_difference():
    """Channels-last or contiguous, in the data and in the weights: one answer."""
    net = built()
    out = net(X, C, Y)
    close(net(X.contiguous(memory_format=torch.channels_last), C, Y), out)
    close(net.to(memory_format=torch.contiguous_format)(X, C, Y), out)


@pytest.mark.parametrize("size", [(4, 1, 2, 1), (4, 1, 2, 2)], ids=str)
def test_the_network_can_be_differentiated_twice(size):
    """First and second derivative along a direction equal central differences to 1e-5."""
    net, direction, weights = built(size=size), normal(1, 2, 9, 8, seed=5), normal(1, 2, 9, 8, seed=6)

    def along(r):
        return (net(X[:1] + r * direction, C[:1], Y[:1]) * weights).sum()

    r = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(along(r), r, create_graph=True)
    (second,) = torch.autograd.grad(first, r)
    h = 1e-4
    with torch.no_grad():
        ahead, here, behind = along(h), along(0.0), along(-h)
    close(first.detach(), (ahead - behind) / (2 * h), 1e-5)
    close(second, (ahead - 2 * here + behind) / h**2, 1e-5)


def test_bad_sizes_and_shapes_are_refused():
    """Sizes below 1, images below 8 pixels or without three axes, another shape than it was built for."""
    for name in ("width", "blocks", "resolutions", "patch"):
        with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
            UNet((1, 8, 8), UNetSize(**{name: 0}))
        with pytest.raises(TypeError, match=f"{name} must be an integer, got 1.5"):
            UNet((1, 8, 8), UNetSize(**{name: 1.5}))
    for shape in [(1, 7, 8), (1, 8, 7), (8, 8), (1, 8, 8, 8)]:
        with pytest.raises(ValueError, match="images .C, H, W. with sides >= 8"):
            UNet(shape)
    with pytest.raises(ValueError, match=r"x must have shape \(4, 2, 9, 9\) \(the shape the network was built for\)"):
        built((2, 9, 9))(X, C)
    with pytest.raises(ValueError, match="built with classes=0"):
        built(classes=0)(X, C, Y)
