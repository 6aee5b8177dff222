"""Levels, steps and step size of annealed Langevin: the recursion they rest on, the paper's numbers, their limits."""

import math

import numpy as np
import pytest
import torch

from scorefield.densities import GaussianMixture
from scorefield.noise import VE, VP, Levels, overlap_ratio
from scorefield.samplers import annealed_langevin, annealed_settings
from scorefield.samplers.ncsnv2 import best_step, overlapping_levels, variance_ratio


@pytest.mark.parametrize("a", [0.01, 0.3, 0.9])
@pytest.mark.parametrize(("gamma", "steps"), [(1.04, 5), (1.9, 1), (2.0, 40)])
def test_the_variance_ratio_is_that_of_the_recursion_step_by_step(a, gamma, steps):
    """x' = (1 - a) x + sqrt(2a) z from variance gamma², T times."""
    variance = gamma**2
    for _ in range(steps):
        variance = (1 - a) ** 2 * variance + 2 * a
    assert variance_ratio(a, gamma, steps) == pytest.approx(variance, rel=1e-12)


def test_annealed_langevin_leaves_each_level_with_that_ratio():
    """Data at one point, score -x/sigma²: the measured variance over sigma_L², 4 standard errors of 100,000."""
    noise = Levels(4.0, 1.0, 3)
    chosen = annealed_settings(noise, 1, steps_per_level=3)
    a = chosen.epsilon
    expected = 1.0
    for gamma in (1.0, 2.0, 2.0):  # the first level starts at its own variance
        expected = variance_ratio(a, gamma * math.sqrt(expected), 3)
    g = torch.Generator().manual_seed(0)
    x = 4 * torch.randn(100_000, 1, generator=g, dtype=torch.float64)
    drawn = annealed_langevin(
        lambda x, t: -x / noise.sigma(t) ** 2, noise, x, epsilon=chosen.epsilon,
        steps_per_level=chosen.steps_per_level, levels=chosen.levels, convention="ncsnv2", generator=g,
    )  # fmt: skip
    assert abs(drawn.x.var().item() / expected - 1) < 4 * math.sqrt(2 / 100_000)
    assert drawn.evaluations == 9


@pytest.mark.parametrize(
    ("sigma_1", "count", "epsilon"), [(50, 232, 6.2e-6), (90, 500, 3.3e-6)], ids=["CIFAR-10", "CelebA"]
)
def test_the_papers_step_sizes_come_out(sigma_1, count, epsilon):
    """Song & Ermon 2020, appendix B: sigma_L = 0.01 and T = 5, epsilon to the two digits printed."""
    chosen = annealed_settings(Levels(sigma_1, 0.01, count), 3072, steps_per_level=5)
    assert float(f"{chosen.epsilon:.1e}") == epsilon


@pytest.mark.parametrize("gamma", [1.01, 1.3, 2.0])
@pytest.mark.parametrize("steps", [1, 5, 60])
def test_no_step_does_better_and_none_is_perfect(gamma, steps):
    """On a grid of a in (0, 1) no ratio is nearer to 1, and all are above it: there is no root."""
    a, left = best_step(gamma, steps)
    grid = [variance_ratio(b, gamma, steps) for b in np.linspace(1e-4, 0.9999, 20_001)]
    assert min(grid) > 1 and left <= min(grid) + 1e-12 and 0 < a < 1
    assert left == pytest.approx(variance_ratio(a, gamma, steps), rel=1e-14)


@pytest.mark.parametrize("dimension", [2, 64, 3072])
@pytest.mark.parametrize("excess", [0.05, 0.02])
def test_the_number_of_steps_is_the_least_that_meets_the_excess(dimension, excess):
    """T meets it, T - 1 does not."""
    chosen = annealed_settings(VE(0.01, 50.0), dimension, excess=excess)
    bar = VE(0.01, 50.0).sigma(chosen.levels)
    gamma = (bar[:-1] / bar[1:]).max().item()
    assert chosen.variance_ratio <= 1 + excess < best_step(gamma, chosen.steps_per_level - 1)[1]
    assert chosen.epsilon == pytest.approx(best_step(gamma, chosen.steps_per_level)[0] * 1e-4, rel=1e-6)


@pytest.mark.parametrize("noise", [VE(0.01, 50.0), VP()])
@pytest.mark.parametrize("dimension", [2, 64])
def test_levels_are_geometric_overlap_and_end_at_one_hundredth(noise, dimension):
    """Ratios of sigma/alpha are equal and at most the overlap ratio; a schedule's own levels are kept."""
    levels = overlapping_levels(noise, dimension)
    bar = noise.sigma(levels) / noise.alpha(levels)
    ratios = bar[:-1] / bar[1:]
    assert ratios.max() <= overlap_ratio(dimension)[0] * (1 + 1e-9)
    assert ratios.max() / ratios.min() == pytest.approx(1, rel=1e-6)
    assert bar[-1].item() == pytest.approx(0.01, rel=1e-6)
    own = Levels(5.0, 0.1, 7)
    assert torch.equal(overlapping_levels(own, dimension), own.levels)


@pytest.mark.parametrize("noise", [VE(0.05, 20.0), VP()])
def test_on_a_gaussian_the_variance_is_that_of_the_recursion_over_all_levels(noise):
    """Data N(0, 0.3): x' = (1 - h/(alpha² 0.3 + sigma²)) x + sqrt(2h) z, rescaled between levels; 4 s.e. of 20,000.

    It is 0.40, not 0.3: at low noise the data are wider than the level, and the rule's steps too few.
    """
    law, chosen = GaussianMixture([1.0], [[0.0]], [[[0.3]]]), annealed_settings(noise, 1, excess=0.05)
    alpha, sigma = noise.alpha(chosen.levels).tolist(), noise.sigma(chosen.levels).tolist()
    variance = sigma[0] ** 2
    for k, (a, s) in enumerate(zip(alpha, sigma, strict=True)):
        variance *= (a / alpha[max(k - 1, 0)]) ** 2
        h = chosen.epsilon * (s / sigma[-1]) ** 2
        for _ in range(chosen.steps_per_level):
            variance = (1 - h / (0.3 * a**2 + s**2)) ** 2 * variance + 2 * h
    g = torch.Generator().manual_seed(1)
    x = sigma[0] * torch.randn(20_000, 1, generator=g, dtype=torch.float64)
    drawn = annealed_langevin(
        law.noisy_score(noise), noise, x, epsilon=chosen.epsilon, steps_per_level=chosen.steps_per_level,
        levels=chosen.levels, convention="ncsnv2", generator=g,
    ).x  # fmt: skip
    assert abs(drawn.var().item() / variance - 1) < 4 * math.sqrt(2 / 20_000)
    assert 0.38 < variance < 0.43


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimension": 0}, "dimension must be >= 1, got 0"),
        ({"dimension": 2, "steps_per_level": 0}, "steps_per_level must be >= 1, got 0"),
        ({"dimension": 2, "excess": 0.0}, "excess must be a finite number > 0, got 0.0"),
        ({"dimension": 2, "excess": 1e-6}, "excess must be met by at most 100,000 steps per level, got 1e-06"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    """The value, the rule, the way out."""
    with pytest.raises(ValueError, match=message):
        annealed_settings(VE(), **arguments)
