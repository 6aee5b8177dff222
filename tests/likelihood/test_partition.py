"""Annealed importance sampling: log Z by closed form, its error, what it refuses."""

import math

import pytest
import torch

from scorefield.densities import Gaussian, GaussianMixture
from scorefield.likelihood import annealed_importance
from scorefield.samplers import Langevin


class Exact:
    """The kernel that draws anew from N(0, 1/a) with a = (1 - beta) + beta p: it knows the path of this test."""

    def __init__(self, p):
        self.p = p

    def step(self, target, x, *, generator=None):
        a = (-target(torch.ones(1, 1, dtype=torch.float64))).item()
        return torch.randn(x.shape, generator=generator, dtype=x.dtype) / a**0.5, {}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("changes", [1, 10, 50])
def test_log_z_of_a_gaussian(changes):
    """Z of exp(-p x^2/2 + 3) is e^3 sqrt(2 pi/p), whatever the number of temperatures."""
    p = 4.0
    found = annealed_importance(
        lambda x: 3 - p * x[:, 0] ** 2 / 2, Gaussian([0.0], [[1.0]]), kernel=Exact(p), particles=20_000, betas=changes,
        generator=seeded(),
    )  # fmt: skip
    assert abs(found.value - (3 + 0.5 * math.log(2 * math.pi / p))) < 4 * found.standard_error
    assert 0.4 * 20_000 < found.effective_samples <= 20_000
    assert found.evaluations == changes + (changes - 1)


def test_the_stated_error_is_the_spread_over_repetitions():
    """Over 200 runs log Z spreads by the mean stated error, within 4 s.e. (relative 1/sqrt(400))."""

    def once(seed):
        return annealed_importance(
            lambda x: -2 * x[:, 0] ** 2, Gaussian([0.0], [[1.0]]), kernel=Exact(4.0), particles=200, betas=3,
            generator=seeded(seed),
        )  # fmt: skip

    runs = [once(k) for k in range(200)]
    spread = torch.tensor([r.value for r in runs]).std().item()
    stated = torch.tensor([r.standard_error for r in runs]).mean().item()
    assert abs(spread / stated - 1) < 4 / math.sqrt(400)


def test_langevin_finds_the_mass_of_a_mixture():
    """Two separated components of total mass 5: the weights carry it through the temperatures."""
    law = GaussianMixture([0.3, 0.7], [[-2.0], [2.0]], [[[0.25]], [[0.25]]])
    found = annealed_importance(
        lambda x: law.log_density(x) + math.log(5), Gaussian([0.0], [[6.0]]), kernel=Langevin(0.02), particles=2000,
        betas=60, generator=seeded(),
    )  # fmt: skip
    assert abs(found.value - math.log(5)) < 4 * found.standard_error + 0.03  # the bias of unadjusted steps, O(h)
    assert found.effective_samples > 500


def test_bad_input_is_refused():
    """Temperatures, particles and a base that misses the target."""
    base, kernel = Gaussian([0.0], [[1.0]]), Langevin(0.1)
    with pytest.raises(ValueError, match="particles must be >= 2"):
        annealed_importance(lambda x: x[:, 0], base, kernel=kernel, particles=1)
    for betas in ([0.0, 0.5], [0.1, 1.0], [0.0, 0.6, 0.6, 1.0]):
        with pytest.raises(ValueError, match="betas must rise from 0 to 1"):
            annealed_importance(lambda x: x[:, 0], base, kernel=kernel, particles=2, betas=betas)
    with pytest.raises(RuntimeError, match="covers the target"):
        annealed_importance(
            lambda x: torch.full((len(x),), -math.inf, dtype=x.dtype), base, kernel=kernel, particles=4, betas=1
        )
