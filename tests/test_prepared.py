"""Densities made for samplers: the prepared score of a mixture, and Neal's funnel."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Generator

from scorefield.calculus import PerSample, score_of
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


def test_the_score_of_a_funnel_is_the_gradient_of_its_log_density():
    """At exact draws and far from them, relative to its size; and both in one call."""
    law = Funnel(5, 2.0)
    for x in (law.sample((40,), generator=Generator().manual_seed(0)), normal(40, 5)):
        s, log_density = law.with_log_density(x)
        expected = score_of(law.log_density)(x)
        torch.testing.assert_close(s, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(law.score(x), expected, rtol=1e-10, atol=1e-10)
        close(log_density, law.log_density(x))


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
