"""Divergence, inner products and seeded noise: closed forms, exact laws of the estimates, streams that never move."""

import itertools

import pytest
import torch
from scipy.stats import kstest
from torch import Generator, nn

from scorefield.calculus import (
    PerSample,
    Share,
    divergence,
    expand,
    inner,
    rademacher_like,
    rand_rows,
    randn_like,
    score_of,
)

SHAPES = [(5, 3), (2, 2, 3, 4)]


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class AllSigns:
    """Draws that give every sign vector of d dimensions once, one per row: the exact law of a Rademacher probe."""

    def __init__(self, d):
        self.rows = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=torch.float64)

    def normal(self, x):
        return self.rows.reshape(x.shape)


def curved(shape):
    """A field with a full, non-symmetric Jacobian on samples of any shape."""
    d = torch.Size(shape[1:]).numel()
    a, b = normal(d, d, seed=1), normal(d, d, seed=2)

    def field(x):
        flat = x.flatten(1)
        return ((flat @ a).tanh() * flat.square() + (flat @ b).sin()).reshape(x.shape)

    return field


def jacobian_trace(field, x):
    """The divergence by one backward pass per coordinate."""
    x = x.clone().requires_grad_()
    s = field(x).flatten(1)
    rows = [torch.autograd.grad(s[:, j].sum(), x, retain_graph=True)[0].flatten(1)[:, j] for j in range(s.shape[1])]
    return torch.stack(rows).sum(0)


def test_inner_sums_over_every_axis_of_a_sample():
    """The inner product is a sum, not a mean: <1, 2> over 3 x 4 numbers is 24."""
    a = torch.ones(2, 3, 4, dtype=torch.float64)
    close(inner(a, 2 * a), torch.tensor([24.0, 24.0], dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_expand_stretches_numbers_per_sample_and_single_ones(shape):
    """A coefficient (B,) multiplies its own sample, one of shape () all of them, in the dtype of x."""
    x, c = normal(*shape), normal(shape[0], seed=1)
    close(expand(c, x) * x, torch.stack([a * row for a, row in zip(c, x, strict=True)]))
    close(expand(c[0], x) * x, c[0] * x)
    assert expand(c, x.float()).dtype == expand(c[0], x.float()).dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_divergence_equals_the_trace_of_the_jacobian(shape):
    """Forward mode over the basis equals one backward pass per coordinate, on vectors and on images."""
    x, field = normal(*shape), curved(shape)
    s, div = divergence(field, x)
    close(s, field(x))
    close(div, jacobian_trace(field, x))


def test_the_divergence_of_a_linear_field_is_the_trace_and_is_not_divided_by_the_dimension():
    """Tr(A) for s(x) = A x; for s(x) = -x in 12 dimensions it is -12."""
    a = normal(4, 4, seed=3)
    close(divergence(lambda x: x @ a.T, normal(7, 4))[1], a.trace().expand(7))
    close(divergence(lambda x: -x, normal(2, 3, 2, 2))[1], torch.full((2,), -12.0, dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_score_of_is_the_gradient_and_its_divergence_the_laplacian(shape):
    r"""For $-\sum x^4/4 + \cos\Sigma$, $\Sigma = \sum x$: $-x^3 - \sin\Sigma$ and $-3\sum x^2 - D\cos\Sigma$."""

    def log_density(x):
        flat = x.flatten(1)
        return -flat.pow(4).sum(1) / 4 + flat.sum(1).cos()

    x, score = normal(*shape), score_of(log_density)
    total = x.flatten(1).sum(1)
    s, div = divergence(score, x)
    close(score(x), -(x**3) - expand(total.sin(), x))
    close(s, score(x))
    close(div, -3 * x.flatten(1).square().sum(1) - x[0].numel() * total.cos())
    close(score.log_density(x), log_density(x))


def test_score_of_can_be_differentiated_in_the_parameters_and_in_x():
    r"""For $\log p = -k\|x\|^2/2$: $d(\sum s)/dk = -\sum x$, and $d(\sum s)/dx = -k$."""
    k = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    x = normal(4, 2).requires_grad_()
    s = score_of(lambda x: -k * x.square().sum(1) / 2)(x)
    by_k, by_x = torch.autograd.grad(s.sum(), (k, x))
    close(by_k, -x.detach().sum())
    close(by_x, torch.full_like(x, -3.0))


def test_score_of_works_where_gradients_are_off():
    """Samplers run under no_grad; the score of a log-density is the same there."""
    x = normal(4, 2)
    with torch.no_grad():
        close(score_of(lambda x: -x.square().sum(1) / 2)(x), -x)


def test_score_of_refuses_a_log_density_that_is_not_one_number_per_sample():
    """A log-density of shape (B, 1) would sum to the same gradient by luck; it is refused."""
    with pytest.raises(ValueError, match=r"log_density\(x\) must have shape \(4,\)"):
        score_of(lambda x: -x.square().sum(1, keepdim=True))(normal(4, 2))


def test_a_score_that_knows_its_divergence_is_asked_for_it():
    """With method "exact" `with_divergence` answers, and the field itself is never called."""

    class Known:
        def __call__(self, x):
            raise AssertionError("the field was called")

        def with_divergence(self, x):
            return -x, torch.full((len(x),), 42.0, dtype=x.dtype)

    x = normal(3, 2)
    s, div = divergence(Known(), x)
    close(s, -x)
    close(div, torch.full((3,), 42.0, dtype=torch.float64))


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


def test_hutchinson_over_every_sign_vector_has_the_exact_mean_and_variance():
    r"""Over all $2^d$ probes the mean is tr A and the variance $2(\|A\|_F^2 - \sum_i a_{ii}^2)$, A symmetric."""
    d = 4
    a = normal(d, d, seed=4)
    a = a + a.T
    x = normal(1, d).expand(2**d, d)
    _, div = divergence(lambda x: x @ a, x, method="hutchinson", generator=AllSigns(d))
    close(div.mean(), a.trace())
    close(div.var(correction=0), 2 * (a.square().sum() - a.diagonal().square().sum()))


def test_hutchinson_with_a_generator_is_unbiased():
    """The mean of 20,000 single-probe estimates is the trace within 4 standard errors (false alarms 6e-5)."""
    a, n = normal(5, 5, seed=5), 20_000
    x = normal(n, 5)
    _, div = divergence(lambda x: x @ a.T, x, method="hutchinson", generator=Generator().manual_seed(6))
    assert abs(div.mean() - a.trace()) < 4 * div.std() / n**0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_several_probes_are_the_mean_of_single_ones(shape):
    """Three probes from one generator are the mean of three calls that continue it."""
    x, field = normal(*shape), curved(shape)
    one, many = Generator().manual_seed(7), Generator().manual_seed(7)
    single = [divergence(field, x, method="hutchinson", generator=one)[1] for _ in range(3)]
    s, mean = divergence(field, x, method="hutchinson", probes=3, generator=many)
    close(mean, sum(single) / 3)
    close(s, field(x))


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_the_divergence_of_a_constant_field_is_zero(method):
    """A field that does not look at x has divergence 0, not an error."""
    weight = nn.Parameter(torch.ones(3, 2, 2, dtype=torch.float64))
    x = normal(3, 2, 2)
    _, div = divergence(lambda x: weight.clone(), x, method=method, generator=Generator().manual_seed(0))
    close(div.detach(), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_the_divergence_of_rows_that_share_memory_is_that_of_copies(method):
    """One point seen as five rows (`expand`) is as good as five copies of it."""
    x, field = normal(4, 3)[1].expand(5, 3), curved((5, 3))
    views, copies = (
        divergence(field, points, method=method, generator=Generator().manual_seed(0))[1] for points in (x, x.clone())
    )
    close(views, copies)


def test_a_bad_field_or_argument_is_refused():
    """Integers, a wrong shape or dtype, an unknown method, no probe and a detached score each have their message."""
    x = normal(3, 2)
    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        divergence(lambda x: x, x.long())
    with pytest.raises(ValueError, match="did you mean 'exact'"):
        divergence(lambda x: x, x, method="exakt")
    with pytest.raises(ValueError, match="probes must be >= 1, got 0"):
        divergence(lambda x: x, x, method="hutchinson", probes=0)
    for method in ("exact", "hutchinson"):
        with pytest.raises(ValueError, match="a score must return the shape of x"):
            divergence(lambda x: x[:, :1], x, method=method)
        with pytest.raises(TypeError, match="a score must return the dtype of x"):
            divergence(lambda x: x.float(), x, method=method)
    with pytest.raises(RuntimeError, match="must not detach"):
        divergence(lambda x: x.detach(), x, method="hutchinson")


def test_rademacher_probes_are_signs_with_identity_covariance():
    """Every entry is -1 or +1; means and products of different entries are 0 within 4.5 s.e. (false alarms 1e-4)."""
    n, d = 20_000, 5
    v = rademacher_like(normal(n, d), Generator().manual_seed(8))
    assert set(v.unique().tolist()) == {-1.0, 1.0}
    products = (v.T @ v / n - torch.eye(d, dtype=torch.float64)).abs()
    assert max(v.mean(0).abs().max(), products.max()) < 4.5 / n**0.5
    assert rademacher_like(torch.zeros(2, 3), Generator().manual_seed(8)).dtype == torch.float32


@pytest.mark.parametrize(
    "draws", [Generator().manual_seed(9), PerSample(9, range(4000))], ids=["generator", "per-sample"]
)
def test_noise_is_standard_normal_and_uniform(draws):
    """Kolmogorov-Smirnov on 12,000 normals and 4,000 uniforms, false alarms 1e-4 each."""
    x = torch.zeros(4000, 3, dtype=torch.float64)
    assert kstest(randn_like(x, draws).flatten().numpy(), "norm").pvalue > 1e-4
    u = rand_rows(x, draws)
    assert u.dtype == torch.float64 and u.shape == (4000,)
    assert kstest(u.numpy(), "uniform").pvalue > 1e-4


def test_noise_has_the_dtype_and_shape_of_x():
    """Float32 data get float32 noise; from one stream per sample it is the float64 noise, rounded."""
    x = torch.zeros(2, 3, 4)
    for draws in (Generator().manual_seed(0), PerSample(0, [0, 1])):
        z = randn_like(x, draws)
        assert (z.dtype, z.shape) == (x.dtype, x.shape)
    assert torch.equal(PerSample(0, [0, 1]).normal(x), PerSample(0, [0, 1]).normal(x.double()).float())


def test_without_a_generator_the_global_one_is_used():
    """None means torch's global generator: seeding it repeats the noise."""
    x = torch.zeros(3, 2, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = randn_like(x), rand_rows(x)
        torch.manual_seed(1)
        second = randn_like(x), rand_rows(x)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_sample_has_the_same_noise_in_any_batch():
    """The n-th draw of sample i is a function of (seed, i, n): alone, in a crowd, in another order."""
    crowd, alone, turned = PerSample(3, range(6)), PerSample(3, [4]), PerSample(3, [5, 4])
    for shape in [(2, 3), (7,), (1,)]:
        whole = crowd.normal(torch.zeros(6, *shape, dtype=torch.float64))
        assert torch.equal(whole[4:5], alone.normal(torch.zeros(1, *shape, dtype=torch.float64)))
        assert torch.equal(whole[[5, 4]], turned.normal(torch.zeros(2, *shape, dtype=torch.float64)))
        u = crowd.uniform(torch.zeros(6, 1))
        assert torch.equal(u[4:5], alone.uniform(torch.zeros(1, 1)))
        assert torch.equal(u[[5, 4]], turned.uniform(torch.zeros(2, 1)))


def test_streams_differ_between_indices_seeds_and_draws():
    """No two of: another index, another seed, the next draw share a number."""
    x = torch.zeros(3, 4, dtype=torch.float64)
    one, other = PerSample(0, [0, 1, 2]), PerSample(1, [0, 1, 2])
    drawn = torch.cat([one.normal(x), one.normal(x), other.normal(x)]).flatten()
    assert len(drawn.unique()) == len(drawn)


def test_streams_of_neighbouring_indices_are_uncorrelated():
    """Correlation between the first 20 draws of samples i and i + 1 over 1,000 samples is 0 within 4 s.e. (6e-5)."""
    z = PerSample(0, range(1000)).normal(torch.zeros(1000, 20, dtype=torch.float64))
    products = (z[1:] * z[:-1]).mean(1)
    assert abs(products.mean()) < 4 * products.std() / 999**0.5


def test_a_batch_of_another_size_than_the_streams_is_refused():
    """Two samples need two indices; a seed is an integer >= 0."""
    with pytest.raises(ValueError, match="a batch of 3 samples needs 3 indices, got 2"):
        PerSample(0, [0, 1]).normal(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="got 2"):
        PerSample(0, [0, 1]).uniform(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        PerSample(-1, [0])


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_the_shares_of_two_processes_make_up_the_whole_batch(shape):
    """Rows 0-4 and 4-10 of two processes are the ten rows that one process draws, draw after draw."""
    one, left, right = (Generator().manual_seed(5) for _ in range(3))
    shares = Share(left, 10, slice(0, 4)), Share(right, 10, slice(4, 10))
    whole = torch.zeros(10, *shape, dtype=torch.float64)
    parts = whole[:4], whole[4:]
    for _ in range(2):
        pieces = [randn_like(x, share) for x, share in zip(parts, shares, strict=True)]
        assert torch.equal(torch.cat(pieces), randn_like(whole, one))
        pieces = [rand_rows(x, share) for x, share in zip(parts, shares, strict=True)]
        assert torch.equal(torch.cat(pieces), rand_rows(whole, one))


def test_streams_of_large_seeds_differ():
    """Keys are 64-bit integers to the last bit: neighbours beyond 2**53 draw different noise; 2**64 is refused."""
    x = torch.zeros(1, 4)
    draws = [PerSample(seed, [0]).normal(x) for seed in (2**63, 2**63 + 1, 2**64 - 1, 0)]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    with pytest.raises(ValueError, match="seed must lie in"):
        PerSample(2**64, [0])
