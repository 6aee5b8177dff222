"""Langevin's exact law under a linear score, and the loop that repeats a kernel."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Generator

from scorefield.calculus import PerSample, score_of
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.samplers import Langevin, chain


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(5, 3), (5, 1, 2, 2)], ids=["vectors", "images"])
def test_one_step_is_its_formula_for_the_noise_drawn(shape):
    r"""$x + h\,s(x) + \sqrt{2h}\,z$, z drawn again from the seed."""
    x, h = normal(*shape), 0.3
    moved, info = Langevin(h).step(lambda x: -(x**3), x, generator=Generator().manual_seed(1))
    close(moved, x - h * x**3 + math.sqrt(2 * h) * normal(*shape, seed=1))
    assert info == {}


def test_langevin_has_the_biased_variance_theory_predicts():
    """On N(0, 1) ULA's stationary variance is exactly 1 / (1 - h/2): 4 s.e. (6e-5)."""
    h, g = 0.5, Generator().manual_seed(0)
    x, kernel = torch.zeros(20_000, 1, dtype=torch.float64), Langevin(step_size=h)
    for _ in range(60):
        x, _ = kernel.step(lambda x: -x, x, generator=g)
    expected = 1 / (1 - h / 2)
    assert abs(x.var().item() - expected) < 4 * expected * math.sqrt(2 / len(x))
    assert abs(x.mean().item()) < 4 * math.sqrt(expected / len(x))


def test_its_stationary_law_on_a_correlated_gaussian_is_the_one_theory_predicts():
    r"""On N(m, C) the mean is m and the covariance $C(I - \frac h2 C^{-1})^{-1}$: 4.5 s.e. on 5 moments (3.4e-5)."""
    n, h = 20_000, 0.2
    law = Gaussian([1.0, -2.0], [[1.0, 0.5], [0.5, 0.6]])
    cov = law.covariance
    expected = cov @ (torch.eye(2, dtype=torch.float64) - h / 2 * cov.inverse()).inverse()
    x = chain(
        Langevin(h), law.score, torch.zeros(n, 2, dtype=torch.float64), steps=120, generator=Generator().manual_seed(0)
    ).x
    for i in range(2):
        assert abs(x[:, i].mean() - law.mean[i]) < 4.5 * (expected[i, i] / n).sqrt()
        for j in range(i + 1):
            error = torch.cov(x.T)[i, j] - expected[i, j]
            assert abs(error) < 4.5 * ((expected[i, i] * expected[j, j] + expected[i, j] ** 2) / n).sqrt()


def test_the_moments_of_every_step_follow_the_linear_recursion():
    """From x = 3 with score -x: mean 3 (1-h)^k, variance 2h sum (1-h)^{2j}; 4.5 s.e. at 5 steps (6.8e-5)."""
    n, h = 20_000, 0.3
    start = torch.full((n, 1), 3.0, dtype=torch.float64)
    path = chain(Langevin(h), lambda x: -x, start, steps=5, keep=1, generator=Generator().manual_seed(0)).path
    variance = 0.0
    for k, x in enumerate(path, start=1):
        variance = (1 - h) ** 2 * variance + 2 * h
        assert abs(x.mean().item() - 3 * (1 - h) ** k) < 4.5 * math.sqrt(variance / n)
        assert abs(x.var().item() - variance) < 4.5 * variance * math.sqrt(2 / n)


def test_chain_is_the_kernel_repeated_and_keeps_every_second_state():
    """Seven steps with keep=2: the path holds states 2, 4 and 6; x is state 7; one score call a step."""
    x, kernel, g = normal(4, 3), Langevin(0.1), Generator().manual_seed(5)
    states = []
    at = x
    for _ in range(7):
        at, _ = kernel.step(lambda x: -x, at, generator=g)
        states.append(at)
    samples = chain(kernel, lambda x: -x, x, steps=7, keep=2, generator=Generator().manual_seed(5))
    close(samples.x, states[-1])
    close(samples.path, torch.stack(states[1::2][:3]))
    assert samples.evaluations == 7
    plain = chain(kernel, lambda x: -x, x, steps=7, generator=Generator().manual_seed(5))
    assert plain.path is None and torch.equal(plain.x, samples.x)


@pytest.mark.parametrize("d", [2, 5])
def test_the_layout_of_a_score_changes_nothing_but_speed(d):
    """Prepared scores put particles last in memory: the same path as in rows, to 1e-11, and rows come out."""
    means, roots = 2 * normal(3, d), normal(3, d, d, seed=1)
    law = GaussianMixture([0.5, 0.3, 0.2], means, roots @ roots.mT + 0.5 * torch.eye(d))
    x, score = normal(40, d, seed=2), law.prepared()
    assert score(x).stride() == (1, 40)
    one = chain(Langevin(0.05), score, x, steps=9, keep=3, generator=Generator().manual_seed(0))
    other = chain(
        Langevin(0.05), lambda x: score(x).contiguous(), x, steps=9, keep=3, generator=Generator().manual_seed(0)
    )
    close(one.path, other.path, 1e-11)
    assert one.x.is_contiguous() and torch.equal(one.x, one.path[-1])


def test_chain_gathers_what_the_kernel_reports_and_lets_it_see_the_density():
    """Info is stacked step by step, (steps, B); the target still carries its log-density; both calls are counted."""

    @dataclass(frozen=True)
    class Reporting:
        def step(self, target, x, *, generator=None):
            return x + target(x) + target(x), {"log_density": target.log_density(x)}

    x = normal(4, 3)
    samples = chain(Reporting(), score_of(lambda x: -x.square().sum(1) / 4), x, steps=3)
    close(samples.x, torch.zeros_like(x))
    assert samples.info["log_density"].shape == (3, 4)
    close(samples.info["log_density"][0], -x.square().sum(1) / 4)
    assert samples.evaluations == 6


def test_a_sample_is_the_same_in_any_batch():
    """Under PerSample sample i of a chain equals itself to 1e-12, alone or in a crowd."""
    x = normal(6, 3)
    whole = chain(Langevin(0.1), lambda x: -(x**3), x, steps=20, generator=PerSample(0, range(6))).x
    part = chain(Langevin(0.1), lambda x: -(x**3), x[4:], steps=20, generator=PerSample(0, [4, 5])).x
    close(whole[4:], part)


def test_a_chain_of_float32_stays_float32_and_carries_no_graph():
    """The dtype is the state's, and no gradient is kept through a chain, even for a network's score."""
    weight = torch.ones(3, requires_grad=True)
    samples = chain(Langevin(0.1), lambda x: -weight * x, torch.zeros(2, 3), steps=3, keep=1)
    assert samples.x.dtype == torch.float32
    assert not samples.x.requires_grad and not samples.path.requires_grad


def test_bad_arguments_are_refused():
    """Step sizes, counts, integers, and a score of another shape or dtype."""
    x = normal(4, 3)
    for h in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"step_size must be a finite number > 0, got {h}"):
            Langevin(h)
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        chain(Langevin(0.1), lambda x: -x, x, steps=0)
    with pytest.raises(ValueError, match="keep must be >= 1, got 0"):
        chain(Langevin(0.1), lambda x: -x, x, steps=2, keep=0)
    with pytest.raises(TypeError, match="steps must be an integer, got 2.0"):
        chain(Langevin(0.1), lambda x: -x, x, steps=2.0)
    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        chain(Langevin(0.1), lambda x: -x, x.long(), steps=2)
    with pytest.raises(ValueError, match="a score must return the shape of x"):
        chain(Langevin(0.1), lambda x: x[:, :1], x, steps=2)
    with pytest.raises(TypeError, match="a score must return the dtype of x"):
        chain(Langevin(0.1), lambda x: x.float(), x, steps=2)
