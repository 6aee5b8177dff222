"""Normalisation: what it computes, and derivatives beyond those that torch's own kernel gets right."""

import pytest
import torch
from torch import Generator, nn

from scorefield.networks.norms import normalise


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


X, V, W = normal(2, 3, 4), normal(2, 3, 4, seed=1), normal(2, 3, 4, seed=2)
AXES = pytest.mark.parametrize("axes", [1, 2])


def cubed(axes):
    return lambda x: normalise(x, axes) ** 3


def slope(function, step=1e-5):
    """The derivative of a function of x along W, by central differences."""
    return (function(X + step * W) - function(X - step * W)) / (2 * step)


@AXES
def test_it_is_layer_norm_and_each_slice_has_mean_0_and_nearly_variance_1(axes):
    """A slice of variance v has variance v / (v + 1e-5)."""
    n = normalise(X, axes)
    torch.testing.assert_close(n, nn.functional.layer_norm(X, X.shape[-axes:]), rtol=1e-14, atol=1e-14)
    slices = n.flatten(-axes)
    assert slices.mean(-1).abs().max() < 1e-14
    variance = X.flatten(-axes).var(-1, correction=0)
    torch.testing.assert_close(slices.var(-1, correction=0), variance / (variance + 1e-5), rtol=1e-12, atol=0)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_answer_and_its_derivative_have_the_dtype_of_x(mixed):
    """In bf16 as in fp32, inside autocast too."""
    x = X.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        n = normalise(x, 2)
    (slope,) = torch.autograd.grad(n.float().square().sum(), x)
    assert n.dtype == slope.dtype == torch.bfloat16
    torch.testing.assert_close(n.double(), normalise(X, 2), rtol=0.02, atol=0.02)


@AXES
def test_first_derivatives_agree_with_and_without_a_graph(axes):
    """The kernel's derivative, the written one, and torch's."""
    x = X.clone().requires_grad_()
    with_graph, without = (
        torch.autograd.grad((cubed(axes)(x) * V).sum(), x, create_graph=graph)[0] for graph in (True, False)
    )
    (torchs,) = torch.autograd.grad((nn.functional.layer_norm(x, x.shape[-axes:]) ** 3 * V).sum(), x)
    torch.testing.assert_close(with_graph, without, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(without, torchs, rtol=1e-12, atol=1e-12)


def gradient(axes):
    return torch.func.grad(lambda x: (cubed(axes)(x) * V).sum())


def curvature(axes):
    """The gradient's derivative along V, forward over reverse."""
    return lambda x: torch.func.jvp(gradient(axes), (x,), (V,))[1]


def twice_reverse(axes):
    """The same, reverse over reverse."""
    return lambda x: torch.func.vjp(gradient(axes), x)[1](V)[0]


def tangent(axes):
    """The derivative along V, forward."""
    return lambda x: torch.func.jvp(cubed(axes), (x,), (V,))[1]


@AXES
@pytest.mark.parametrize("order", [gradient, tangent, curvature, twice_reverse])
def test_reverse_derivatives_of_derivatives_are_those_of_finite_differences(axes, order):
    """Second and third derivatives, also those that torch's kernel gets wrong."""
    function = order(axes)
    (pulled,) = torch.func.vjp(function, X)[1](V)
    expected = (slope(function) * V).sum()
    assert abs((pulled * W).sum() - expected) < 1e-7 * abs(expected)


@AXES
def test_derivatives_are_batched_over_directions(axes):
    """vmap over forward derivatives gives the symmetric matrix of second derivatives, as reverse mode does."""
    basis = torch.eye(X.numel(), dtype=X.dtype).reshape(-1, *X.shape)
    forward = torch.func.vmap(lambda e: torch.func.jvp(gradient(axes), (X,), (e,))[1])(basis).flatten(1)
    reverse = torch.func.jacrev(gradient(axes))(X).reshape(forward.shape)
    torch.testing.assert_close(forward, reverse, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(forward, forward.T, rtol=1e-11, atol=1e-11)
