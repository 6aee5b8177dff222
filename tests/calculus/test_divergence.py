"""The exact divergence against closed forms, its gradients chunk by chunk, and what is refused."""

import math

import pytest
import torch
from curved import Curved, close, normal
from torch import Generator, nn

from scorefield.calculus import divergence, score_of

SHAPES = [(5, 3), (2, 2, 3, 4)]
CHUNKS = [None, 1, 2, 3, 100]


def jacobian_trace(field, x):
    """The divergence by one backward pass per coordinate, with a graph."""
    x = x if x.requires_grad else x.clone().requires_grad_()
    s = field(x).flatten(1)
    rows = [torch.autograd.grad(s[:, j].sum(), x, create_graph=True)[0].flatten(1)[:, j] for j in range(s.shape[1])]
    return torch.stack(rows).sum(0)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_exact_divergence_and_its_gradients_are_those_of_the_jacobian_in_chunks_of_any_size(shape, chunk):
    """Value, gradients of a mean and of a weighted sum in every parameter and in x, on vectors and images."""
    x, field, weight = normal(*shape).requires_grad_(), Curved(shape), normal(shape[0], seed=3)
    inputs = [x, *field.parameters()]
    s, div = divergence(field, x, chunk=chunk)
    expected = jacobian_trace(field, x)
    close(s, field(x))
    close(div, expected)
    for w in (torch.full_like(weight, 1 / 7), weight):
        ours = torch.autograd.grad((w * div).sum(), inputs, retain_graph=True)
        for a, b in zip(ours, torch.autograd.grad((w * expected).sum(), inputs, retain_graph=True), strict=True):
            close(a, b, 1e-11)


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
@pytest.mark.parametrize("chunk", [None, 1])
def test_gradients_of_gradients(method, chunk):
    """Finite differences agree with the first and second derivatives in x and in the parameters."""
    x, k = normal(2, 3).requires_grad_(), normal(3, seed=1).requires_grad_()

    def total(x, k):
        score = lambda x: (k * x).sin() * x.sum(1, keepdim=True)  # noqa: E731
        g = Generator().manual_seed(0)
        return divergence(score, x, method=method, probes=2, chunk=chunk, generator=g)[1]

    assert torch.autograd.gradcheck(total, (x, k)) and torch.autograd.gradgradcheck(total, (x, k))


def test_the_divergence_of_a_linear_field_is_the_trace_and_is_not_divided_by_the_dimension():
    """Tr(A) for s(x) = A x; for s(x) = -x in 12 dimensions it is -12."""
    a = normal(4, 4, seed=3)
    close(divergence(lambda x: x @ a.T, normal(7, 4))[1], a.trace().expand(7))
    close(divergence(lambda x: -x, normal(2, 3, 2, 2))[1], torch.full((2,), -12.0, dtype=torch.float64))


@pytest.mark.parametrize("chunk", [None, 2])
def test_the_laplacian_of_a_mixture_and_of_a_quartic_energy(chunk):
    r"""Of N(m_k, v): $\sum_k r_k \|x - m_k\|^2/v^2 - D/v - \|s\|^2$; of $-k(\sum x^2)^2/4$: $-k(D + 2)\sum x^2$."""
    x, means, v = normal(6, 3), normal(4, 3, seed=1), 0.7
    offsets = x[:, None] - means
    r = (-offsets.square().sum(2) / (2 * v)).softmax(1)
    s, div = divergence(
        score_of(lambda x: (-(x[:, None] - means).square().sum(2) / (2 * v)).logsumexp(1)), x, chunk=chunk
    )
    close(s, -(r[:, :, None] * offsets).sum(1) / v)
    close(div, (r * offsets.square().sum(2)).sum(1) / v**2 - 3 / v - s.square().sum(1), 1e-10)
    k = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    _, div = divergence(score_of(lambda x: -k * x.square().sum(1).square() / 4), x, chunk=chunk)
    squares = x.square().sum(1)
    close(div.detach(), -1.5 * 5 * squares)
    close(torch.autograd.grad(div.sum(), k)[0], -5 * squares.sum())


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_parameter_gradient_of_the_divergence_is_that_of_its_formula(method, shape):
    r"""For $s = k x^3$ both methods give $\partial_k = 3\sum x^2$ exactly: the Jacobian is diagonal and $v_i^2 = 1$."""
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = normal(*shape)
    s, div = divergence(lambda x: k * x**3, x, method=method, generator=Generator().manual_seed(1))
    squares = 3 * x.flatten(1).square().sum(1)
    close(s.detach(), 2 * x**3)
    close(div.detach(), 2 * squares)
    close(torch.autograd.grad(div.sum(), k)[0], squares.sum())


def test_a_score_that_knows_its_divergence_is_asked_for_it():
    """With method "exact" `with_divergence` answers, and the field itself is never called; its shapes are checked."""

    class Known:
        def __call__(self, x):
            raise AssertionError("the field was called")

        def with_divergence(self, x):
            return -x, torch.full((len(x),), 42.0, dtype=x.dtype)

    x = normal(3, 2)
    s, div, how = divergence(Known(), x, explain=True)
    close(s, -x)
    close(div, torch.full((3,), 42.0, dtype=torch.float64))
    assert how.way.startswith("structured") and how.products == 0
    Known.with_divergence = lambda self, x: (-x, x)
    with pytest.raises(ValueError, match="the divergence must have shape"):
        divergence(Known(), x)


@pytest.mark.parametrize("method", ["exact", "hutchinson", "hutch++"])
@pytest.mark.parametrize("chunk", [None, 1])
def test_the_score_is_called_once(method, chunk):
    """A score that changes at each call: the divergence belongs to the very values that are returned."""
    calls, x = [], normal(4, 3)

    def score(x):
        calls.append(len(calls) + 2.0)
        return calls[-1] * x

    s, div = divergence(score, x, method=method, probes=9, chunk=chunk)  # a sketch of rank 3 is all
    assert len(calls) == 1
    close(s, 2 * x)
    close(div, torch.full_like(div, 6.0))


@pytest.mark.parametrize("method", ["exact", "hutchinson", "hutch++"])
def test_where_gradients_are_off_values_are_the_same_and_carry_no_graph(method):
    """Nor do they where neither x nor a parameter requires a gradient."""
    x, field = normal(5, 3), Curved((5, 3))
    seeds = [Generator().manual_seed(1) for _ in range(3)]
    with_graph = divergence(field, x, method=method, probes=3, chunk=1, generator=seeds[0])
    with torch.no_grad():
        without = divergence(field, x, method=method, probes=3, chunk=1, generator=seeds[1])
    fixed = divergence(field.requires_grad_(False), x, method=method, probes=3, generator=seeds[2])
    for a, b, c in zip(with_graph, without, fixed, strict=True):
        assert a.requires_grad and not b.requires_grad and not c.requires_grad
        close(a.detach(), b)
        close(a.detach(), c)


def size_of_graph(value):
    """How many nodes autograd keeps behind a tensor."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return len(seen)


def test_the_graph_of_many_chunks_is_that_of_none():
    """What is kept for the gradient does not grow with the number of chunks."""
    field = Curved((5, 24))
    sizes = [size_of_graph(divergence(field, normal(5, 24), chunk=chunk)[1]) for chunk in (1, 6, 24)]
    assert sizes[0] == sizes[1] < sizes[2]


def test_parameters_with_hooks_or_behind_x_get_their_gradients_once():
    """A hook that halves sees the whole gradient; x made from the score's own parameters adds its path, not twice."""
    w = normal(3, 3, seed=1).requires_grad_()
    score = lambda x: (x @ w).tanh()  # noqa: E731

    def gradient(chunk):
        x = (normal(5, 3) @ w).sin()
        return torch.autograd.grad(divergence(score, x, chunk=chunk)[1].square().sum(), w)[0]

    close(gradient(1), gradient(None))
    x = normal(5, 3)
    plain = torch.autograd.grad(divergence(score, x, chunk=1)[1].sum(), w)[0]
    w.register_hook(lambda g: g / 2)
    close(torch.autograd.grad(divergence(score, x, chunk=1)[1].sum(), w)[0], plain / 2)


def test_a_parameter_that_is_itself_computed_passes_its_gradient_on():
    """s = exp(k) x^3 with the exponential taken outside: d/dk of a weighted sum of divergences, chunk by chunk."""
    k = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x, weight = normal(4, 3), normal(4, seed=1)
    rate = k.exp()
    s, div = divergence(lambda x: rate * x**3, x, chunk=1)
    got = torch.autograd.grad((weight * div).sum() + s.sum(), k)[0]
    close(got, rate.detach() * ((weight * 3 * x.square().sum(1)).sum() + (x**3).sum()))


@pytest.mark.parametrize("method", ["exact", "hutchinson", "hutch++"])
def test_the_divergence_of_a_constant_field_is_zero(method):
    """A field that does not look at x has divergence 0, not an error, with or without parameters."""
    weight = nn.Parameter(torch.ones(3, 2, 2, dtype=torch.float64))
    x = normal(3, 2, 2)
    for field in (lambda x: weight.clone(), torch.zeros_like):
        s, div = divergence(field, x, method=method, probes=3, chunk=1, generator=Generator().manual_seed(0))
        close(div.detach(), torch.zeros(3, dtype=torch.float64))
        close(s.detach(), field(x).detach())


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_the_divergence_of_rows_that_share_memory_is_that_of_copies(method):
    """One point seen as five rows (`expand`) is as good as five copies of it."""
    x, field = normal(4, 3)[1].expand(5, 3), Curved((5, 3))
    views, copies = (
        divergence(field, points, method=method, generator=Generator().manual_seed(0))[1] for points in (x, x.clone())
    )
    close(views, copies)


@pytest.mark.parametrize("method", ["exact", "hutchinson", "hutch++"])
def test_a_score_that_loses_its_graph_is_refused(method):
    """Detached, under no_grad, through numpy, or with a graph to its parameters alone: never a silent zero."""
    x, k = normal(3, 2), torch.ones(2, dtype=torch.float64, requires_grad=True)
    for broken in (
        lambda x: x.detach(),
        lambda x: torch.no_grad()(torch.sin)(x),
        lambda x: torch.from_numpy(x.detach().numpy() ** 2),
        lambda x: k * x.detach(),
    ):
        with pytest.raises(RuntimeError, match="must not detach"):
            divergence(broken, x, method=method, probes=3)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use torch.no_grad"):
        divergence(lambda x: -x, x, method=method, probes=3)


def test_a_bad_field_or_argument_is_refused():
    """Integers, a wrong shape or dtype, an unknown method or law, too few probes, no chunk: each has its message."""
    x = normal(3, 2)
    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        divergence(lambda x: x, x.long())
    with pytest.raises(ValueError, match="did you mean 'exact'"):
        divergence(lambda x: x, x, method="exakt")
    with pytest.raises(ValueError, match="did you mean 'sphere'"):
        divergence(lambda x: x, x, method="hutchinson", law="spherical")
    with pytest.raises(ValueError, match="probes must be >= 1, got 0"):
        divergence(lambda x: x, x, method="hutchinson", probes=0)
    with pytest.raises(ValueError, match="probes must be >= 3, got 1"):
        divergence(lambda x: x, x, method="hutch++")
    with pytest.raises(ValueError, match="chunk must be >= 1, got 0"):
        divergence(lambda x: x, x, chunk=0)
    for method in ("exact", "hutchinson"):
        with pytest.raises(ValueError, match="a score must return the shape of x"):
            divergence(lambda x: x[:, :1], x, method=method)
        with pytest.raises(TypeError, match="a score must return the dtype of x"):
            divergence(lambda x: x.float(), x, method=method)


class Cube(torch.autograd.Function):
    """x^3 with a derivative that looks at a number, which no batch of derivatives can."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g if math.isfinite(float(g.sum())) else g


def test_a_score_whose_derivative_cannot_be_batched_is_taken_direction_by_direction():
    """The error of the batch names chunk=1, which gives the value."""
    x = normal(4, 3)
    with pytest.raises(RuntimeError, match="3 directions in one batch: .* chunk=1 takes them one by one"):
        divergence(Cube.apply, x)
    close(divergence(Cube.apply, x, chunk=1)[1], 3 * x.square().sum(1))
