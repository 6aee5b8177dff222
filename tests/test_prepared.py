"""Densities made for samplers: the prepared score of a mixture, and Neal's funnel."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Generator

from scorefield.calculus import PerSample, divergence, score_of
from scorefield.densities import Funnel, Gaussian, GaussianMixture


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def laws(d=4):
    """One mixture for each way: any covariances, one for all, one multiple of I, diagonal ones; and a Gaussian."""
    roots = normal(3, d, d)
    dense = roots @ roots.mT + 0.3 * torch.eye(d)
    diagonal = torch.diag_embed(normal(3, d, seed=1).abs() + 0.2)
    identity = torch.eye(d, dtype=torch.float64)
    covariances = (dense, dense[:1].expand(3, d, d), 0.4 * identity.expand(3, d, d), diagonal)
    means = 2 * normal(3, d, seed=2) + 1
    return [*(GaussianMixture([0.5, 0.3, 0.2], means, c) for c in covariances), Gaussian(means[0], dense[0])]


@pytest.mark.parametrize("law", laws(), ids=["any", "shared", "isotropic", "diagonal", "gaussian"])
def test_a_prepared_score_is_the_mixtures(law):
    """Score and log-density, apart and together, to 1e-11; in float32 to 1e-4, with answers in the dtype of x."""
    x, score = 2 * normal(50, 4, seed=3), law.prepared()
    close(score(x), law.score(x), 1e-11)
    close(score.log_density(x), law.log_density(x), 1e-11)
    for both in (score.with_log_density(x), law.with_log_density(x)):
        close(both[0], law.score(x), 1e-11)
        close(both[1], law.log_density(x), 1e-11)
    fast = law.prepared(torch.float32)
    torch.testing.assert_close(fast(x), law.score(x), rtol=1e-4, atol=1e-4)
    assert fast(x).dtype == torch.float64 and fast(x.float()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"x must have shape \(50, 4\) \(one point of 4 coordinates per row\)"):
        score(x[:, :3])


@pytest.mark.parametrize("d", [1, 2, 3, 20])
def test_in_any_dimension_it_is_the_mixtures_and_float32_errs_by_rounding(d):
    """Every way, each for few dimensions and for many: 1e-12 of the largest number in float64, 5e-6 in float32."""
    for law in laws(d):
        x, score = 2 * normal(50, d, seed=3), law.prepared()
        exact, height = law.score(x), law.log_density(x)
        size, tall = exact.abs().max(), height.abs().max()
        for at, bound in ((score, 1e-12), (law.prepared(torch.float32), 5e-6)):
            assert (at(x) - exact).abs().max() < bound * size
            s, log_density = at.with_log_density(x)
            assert (s - exact).abs().max() < bound * size
            assert (log_density - height).abs().max() < bound * tall


def test_blocks_of_particles_make_no_difference_and_derivatives_go_through():
    """Any covariances, 20 particles at a time of 50; the divergence is that of the mixture's score, to 1e-11."""
    for law in laws():
        x, score = 2 * normal(50, 4, seed=3), law.prepared()
        if hasattr(score._way, "block"):
            score._way.block = 20
        close(score(x), law.score(x), 1e-11)
        close(score.with_log_density(x)[1], law.log_density(x), 1e-11)
        close(divergence(score, x)[1], divergence(law.score, x)[1], 1e-11)
        close(score_of(score.log_density)(x), law.score(x), 1e-11)


def test_far_from_all_components_the_nearest_one_rules():
    """A thousand widths away, in float32: finite, and the nearest component's own score and log-density to 1e-5."""
    for law in laws():
        x = torch.full((1, 4), 1000.0, dtype=torch.float64)
        s, log_density = law.prepared(torch.float32).with_log_density(x)
        torch.testing.assert_close(s, law.score(x), rtol=1e-5, atol=0.0)
        torch.testing.assert_close(log_density, law.log_density(x), rtol=1e-5, atol=0.0)
        close(law.prepared()(x), law.score(x), 1e-11)


def test_the_score_of_a_funnel_is_the_gradient_of_its_log_density():
    """At exact draws and far from them, relative to its size; and both in one call."""
    law = Funnel(5, 2.0)
    for x in (law.sample((40,), generator=Generator().manual_seed(0)), normal(40, 5)):
        s, log_density = law.with_log_density(x)
        expected = score_of(law.log_density)(x)
        torch.testing.assert_close(s, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(law.score(x), expected, rtol=1e-10, atol=1e-10)
        close(log_density, law.log_density(x))
        fast = Funnel(5, 2.0, torch.float32).with_log_density(x)
        torch.testing.assert_close(fast, (s, log_density), rtol=1e-4, atol=1e-4)


def test_a_funnel_is_the_product_of_its_normals_and_samples_are_its_own():
    """By torch's normals, to 1e-12; v / width and the others over their scale are standard normal (KS, 1e-3 each)."""
    law, v = Funnel(3, 1.5), torch.tensor([0.7], dtype=torch.float64)
    x = torch.tensor([[0.7, -1.0, 2.0]], dtype=torch.float64)
    scale = (v / 2).exp()
    normals = [torch.distributions.Normal(0 * v, width) for width in (1.5 + 0 * v, scale, scale)]
    parts = [law.log_prob(x[:, i]) for i, law in enumerate(normals)]
    close(law.log_density(x), sum(parts))
    x = law.sample((4000,), generator=Generator().manual_seed(0))
    assert kstest((x[:, 0] / 1.5).numpy(), "norm").pvalue > 1e-3
    assert kstest((x[:, 2] * (-x[:, 0] / 2).exp()).numpy(), "norm").pvalue > 1e-3
    whole = law.sample((5,), generator=PerSample(0, range(5)))
    assert torch.equal(whole[3:], law.sample((2,), generator=PerSample(0, [3, 4])))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="dimension must be >= 2, got 1"):
        Funnel(1)
    with pytest.raises(ValueError, match="width must be a finite number > 0, got nan"):
        Funnel(3, math.nan)
    with pytest.raises(ValueError, match=r"x must have shape \(2, 10\)"):
        Funnel().score(normal(2, 3))
