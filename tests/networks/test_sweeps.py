"""The hand-written derivatives of traces and Laplacians: of first and second order, whatever the batch's weights."""

import pytest
import torch
from torch import Tensor

from scorefield.networks import MLP, sweeps, traces
from scorefield.networks.activations import ACTIVATIONS, activation
from scorefield.settings import MLPSize

SIZES = [(2, 5), (4, 5), (7, 4)]  # (D, h): fewer dimensions than units, about as many, more
DEPTHS = [1, 2, 3, 4]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def pieces(depth: int, dimension: int, width: int, samples: int = 3):
    """Bends, slopes, weights and last weight of a network, each a leaf."""
    shapes = [(width, dimension), *[(width, width)] * (depth - 1)]
    weights = [random(*shape, seed=10 + k) for k, shape in enumerate(shapes)]
    bends, slopes = ([random(samples, width, seed=s + k) for k in range(depth)] for s in (20, 30))
    return bends, slopes, weights, random(dimension, width, seed=40)


def trace_of(depth: int, dimension: int, width: int):
    """The trace as a function of its tensors, and the tensors."""
    _, slopes, weights, last = pieces(depth, dimension, width)
    return lambda *t: traces.product_trace(t[:depth], t[depth:-1], t[-1]), (*slopes, *weights, last)


def laplacian_of(depth: int, dimension: int, width: int):
    """The Laplacian as a function of its tensors, and the tensors; the last slope does not enter."""
    bends, slopes, weights, _ = pieces(depth, dimension, width)
    n = 2 * depth - 1
    return lambda *t: traces.laplacian(t[:depth], t[depth:n], t[n:]), (*bends, *slopes[:-1], *weights)


SUMS = pytest.mark.parametrize("build", [trace_of, laplacian_of])


def jacobians(slopes: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """J_l of every sample (B, h, D), written out as products of matrices."""
    found = [weights[0].expand(len(slopes[0]), -1, -1)]
    for slope, weight in zip(slopes, weights[1:], strict=False):
        found.append(weight @ torch.diag_embed(slope) @ found[-1])
    return found


@pytest.mark.parametrize(("dimension", "width"), SIZES)
@pytest.mark.parametrize("depth", DEPTHS)
def test_they_are_the_sums_they_stand_for(depth, dimension, width):
    """The trace of the product of matrices and the weighted squares of its rows, without shortcuts."""
    bends, slopes, weights, last = pieces(depth, dimension, width)
    products = jacobians(slopes, weights)
    whole = last @ torch.diag_embed(slopes[-1]) @ products[-1]
    squares = sum((u * J.square().sum(2)).sum(1) for u, J in zip(bends, products, strict=True))
    trace, laplacian = traces.product_trace(slopes, weights, last), traces.laplacian(bends, slopes[:-1], weights)
    assert torch.allclose(trace, whole.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-12, atol=1e-12)
    assert torch.allclose(laplacian, squares, rtol=1e-12, atol=1e-12)


@SUMS
@pytest.mark.parametrize(("dimension", "width"), SIZES)
@pytest.mark.parametrize("depth", DEPTHS)
def test_first_and_second_derivatives_are_those_of_finite_differences(depth, dimension, width, build):
    """In every slope, weight and bend."""
    f, tensors = build(depth, dimension, width)
    assert torch.autograd.gradcheck(f, tensors)
    assert torch.autograd.gradgradcheck(f, tensors, fast_mode=True)


@SUMS
@pytest.mark.parametrize("weigh", [torch.ones_like, lambda v: torch.arange(1.0, len(v) + 1).to(v)])
@pytest.mark.parametrize(("dimension", "width"), SIZES)
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_samples_in_several_blocks_give_the_gradients_of_the_plain_expression(
    depth, dimension, width, weigh, build, monkeypatch
):
    """Blocks of two samples and of one; samples of equal weight and of unequal; the value unchanged."""
    f, tensors = build(depth, dimension, width)
    whole = f(*tensors)
    monkeypatch.setattr(sweeps, "_blocks", two_at_a_time)
    value = f(*tensors)
    found = torch.autograd.grad(value, tensors, weigh(value), retain_graph=True)
    plain = torch.autograd.grad(value, tensors, weigh(value), create_graph=True)  # what a second derivative starts from
    assert torch.allclose(value, whole, rtol=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(found, plain, strict=True))


def two_at_a_time(like: Tensor, columns: int, count: int):
    for start in range(0, len(like), 2):
        n = min(2, len(like) - start)
        yield slice(start, start + n), list(like.new_full((count, columns, n, like.shape[1]), float("nan")))


def test_a_batch_is_cut_into_blocks_of_bounded_size(monkeypatch):
    """Seven samples of 2 columns and 5 units, 25 numbers at most: blocks of 2, 2, 2 and 1; all samples once."""
    monkeypatch.setattr(sweeps, "CACHED", 1)
    blocks = [(rows, [b.shape for b in found]) for rows, found in sweeps._blocks(torch.zeros(7, 5), 2, 3)]
    assert [(rows.start, rows.stop) for rows, _ in blocks] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert all(shapes == [(2, rows.stop - rows.start, 5)] * 3 for rows, shapes in blocks)


@SUMS
@pytest.mark.parametrize(("dimension", "width"), SIZES)
@pytest.mark.parametrize("depth", [2, 3])
def test_without_gradients_values_are_the_same_and_nothing_is_kept(depth, dimension, width, build):
    f, tensors = build(depth, dimension, width)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda _: None), torch.no_grad():
        value = f(*tensors)
    assert not kept and not value.requires_grad
    assert torch.allclose(value, f(*tensors), rtol=1e-12)


@pytest.mark.parametrize(("dimension", "depth"), [(3, 3), (3, 2), (40, 2), (40, 3)])
def test_training_keeps_no_columns_of_samples(dimension, depth):
    """What waits for the gradient is of the size of a weight or of (B, h), never (B, h, min(D, h))."""
    network, x = MLP(dimension, MLPSize(16, depth), energy=True), torch.randn(50, dimension)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        network.with_laplacian(x)
    assert 0 < max(kept) <= max(50 * 40, 16 * 40)


@SUMS
@pytest.mark.parametrize(("depth", "dimension", "width"), [(2, 2, 5), (2, 7, 4), (3, 2, 5), (3, 7, 4)])
def test_function_transforms_see_the_same_derivatives(depth, dimension, width, build):
    """Forward mode, and one gradient per sample by vmap of grad."""
    f, tensors = build(depth, dimension, width)
    fixed, linear = tuple(t.detach() for t in tensors), 1 if build is trace_of else depth  # linear in so many of them
    value, tangent = torch.func.jvp(lambda *t: f(*t, *fixed[linear:]), fixed[:linear], fixed[:linear])
    assert torch.allclose(value, f(*tensors)) and torch.allclose(tangent, value)
    dims = tuple(0 if len(t) == 3 else None for t in fixed)

    def one(*t: Tensor) -> Tensor:
        return f(*(v if d is None else v[None] for v, d in zip(t, dims, strict=True)))[0]

    each = torch.func.vmap(torch.func.grad(one), dims)(*fixed)
    assert torch.allclose(each, torch.autograd.grad(f(*tensors).sum(), tensors[0])[0], rtol=1e-10)


def test_forward_mode_goes_on_to_the_parameters():
    """The derivative of a Laplacian along x has a gradient in the weights: that of reverse mode."""
    network = MLP(2, MLPSize(5, 3, "tanh"), energy=True).double()
    x, v = random(3, 2, seed=1), random(3, 2, seed=2).detach()
    _, along = torch.func.jvp(lambda at: network.with_laplacian(at)[2], (x.detach(),), (v,))
    (gradient,) = torch.autograd.grad(network.with_laplacian(x)[2].sum(), x, create_graph=True)
    weights = network.layers[1].weight
    assert torch.allclose(along, (gradient * v).sum(1), rtol=1e-10)
    ours, theirs = (torch.autograd.grad(d.sum(), weights)[0] for d in (along, (gradient * v).sum(1)))
    assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("phi", list(ACTIVATIONS))
@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize(("depth", "dimension"), [(2, 2), (3, 2), (2, 6), (3, 6)])
def test_the_networks_quantity_is_differentiable_twice_in_x(depth, dimension, energy, phi):
    """With noise levels and labels, through every activation; the gradient is the same with and without a graph."""
    torch.manual_seed(0)
    network = MLP(dimension, MLPSize(4, depth, phi), classes=2, energy=energy).double()
    torch.nn.init.normal_(network.head.weight)
    c, y = torch.tensor([-0.5, 1.0], dtype=torch.float64), torch.tensor([0, -1])
    quantity = network.with_laplacian if energy else network.with_trace
    x = random(2, dimension, seed=3)
    assert torch.autograd.gradcheck(lambda at: quantity(at, c, y)[-1], (x,))
    assert torch.autograd.gradgradcheck(lambda at: quantity(at, c, y)[-1], (x,))
    first, again = (torch.autograd.grad(quantity(x, c, y)[-1].sum(), x, create_graph=k)[0] for k in (False, True))
    assert torch.allclose(first, again, rtol=1e-10, atol=1e-14)


def test_rows_that_depend_on_each_other_keep_their_gradient():
    """Where D > h the columns are those of a basis of the rows' span; it may be smaller than h."""
    f, tensors = laplacian_of(3, 7, 4)
    first = tensors[5].detach().clone()
    first[2] = first[1]
    tensors = (*tensors[:5], first.requires_grad_(), *tensors[6:])
    assert torch.autograd.gradcheck(f, tensors)


@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("depth", [2, 3])
def test_dtypes_stay_and_low_precision_goes_by_the_plain_expression(depth, energy):
    """float32 to rounding, bfloat16 and autocast to a few per cent; an empty batch has an empty trace."""
    torch.manual_seed(0)
    network, x = MLP(3, MLPSize(8, depth), energy=energy), torch.randn(5, 3)
    torch.nn.init.normal_(network.head.weight)
    quantity = network.with_laplacian if energy else network.with_trace
    single = quantity(x)[-1]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = quantity(x)[-1]
    half = network.bfloat16() and quantity(x.bfloat16())[-1]
    double = network.float().double() and quantity(x.double())[-1]
    assert (single.dtype, half.dtype, double.dtype) == (torch.float32, torch.bfloat16, torch.float64)
    scale = double.abs().max()
    assert (mixed - double).abs().max() < 0.05 * scale and (half - double).abs().max() < 0.05 * scale
    assert quantity(x[:0].double())[-1].shape == (0,)
    quantity(x[:0].double())[-1].sum().backward()


def test_the_sweep_makes_gradients_only_where_they_are_asked_for(monkeypatch):
    """Not without a graph; and it is left to the plain expression in low precision, whose sums it would blur."""
    asked: list[bool] = []

    def recorded(*groups: list[Tensor], gradients: bool):
        asked.append(gradients)
        return sweeps.laplacian_sweep(*groups, gradients=gradients)

    monkeypatch.setattr(traces, "laplacian_sweep", recorded)
    network, x = MLP(3, MLPSize(8, 3), energy=True), torch.randn(5, 3)
    network.with_laplacian(x)
    with torch.no_grad():
        network.with_laplacian(x)
    network.requires_grad_(False).with_laplacian(x)
    with torch.autocast("cpu", torch.bfloat16):
        network.with_laplacian(x)
    network.bfloat16().with_laplacian(x.bfloat16())
    assert asked == [True, False, False]


@pytest.mark.parametrize("phi", list(ACTIVATIONS))
def test_one_pass_gives_the_activation_and_its_derivatives(phi):
    """As many as asked for, equal to one by one; finite, with their gradients, far from zero in single precision."""
    a, f = torch.tensor([-200.0, -30.0, -1.0, 0.0, 1.0, 30.0, 200.0], requires_grad=True), activation(phi)
    value, first, second = f.derivatives(a, 2)
    assert len(f.derivatives(a, 1)) == 2
    assert torch.allclose(value, f.value(a), rtol=1e-5, atol=1e-7)
    assert torch.equal(first, f.first(a)) and torch.equal(second, f.second(a))
    (third,) = torch.autograd.grad(second.sum(), a)
    assert all(torch.isfinite(v).all() for v in (value, first, second, third))
