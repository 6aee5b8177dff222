"""Seeded noise and probes: their laws, their covariances, and streams that never move."""

import pytest
import torch
from scipy.stats import kstest
from torch import Generator

from scorefield.calculus import LAWS, PerSample, Share, probe_like, rand_rows, randn_like


@pytest.mark.parametrize("law", LAWS)
def test_probes_of_every_law_have_mean_zero_and_identity_covariance(law):
    """Means and second moments are those of E[v] = 0, E[vv'] = I within 5 s.e. (false alarms 2e-5 for 25 entries).

    The variance of a product of two entries is at most 2, of Gaussian squares; that of a mean is 1.
    """
    n, d = 20_000, 5
    v = probe_like(torch.zeros(n, d, dtype=torch.float64), law, Generator().manual_seed(8))
    assert v.mean(0).abs().max() < 5 / n**0.5
    assert (v.T @ v / n - torch.eye(d, dtype=torch.float64)).abs().max() < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("shape", [(7, 5), (7, 2, 3, 4)])
def test_probes_are_signs_noise_or_points_at_radius_root_d(shape):
    """Rademacher entries are -1 or +1, Gaussian ones the noise itself, and the sphere has radius sqrt(D)."""
    x = torch.zeros(shape, dtype=torch.float64)
    signs, noise, sphere = (probe_like(x, law, Generator().manual_seed(1)) for law in LAWS)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(noise, randn_like(x, Generator().manual_seed(1))) and torch.equal(signs, noise.sign())
    norms = sphere.flatten(1).square().sum(1)
    torch.testing.assert_close(norms, torch.full_like(norms, x[0].numel()), rtol=1e-12, atol=0)
    torch.testing.assert_close(sphere.sign(), signs)
    for law in LAWS:
        v = probe_like(x.float(), law, PerSample(0, range(7)))
        assert v.dtype == torch.float32 and v.shape == x.shape


def test_an_unknown_law_is_refused():
    """The message lists the laws and offers the nearest."""
    with pytest.raises(ValueError, match="law must be one of rademacher, gaussian, sphere; .*mean 'gaussian'"):
        probe_like(torch.zeros(2, 3), "gauss")


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
