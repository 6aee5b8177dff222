"""Annealed Langevin by its algorithm and its laws, and whole samplers by the mixture they recover."""

import math

import pytest
import torch
from exact_flow import (
    LAW,
    MEAN,
    NOISES,
    Fixed,
    Hold,
    at,
    close,
    from_prior,
    gaussian_score,
    largest_z,
    levels_of,
    normal,
)
from torch import Generator

from scorefield.noise import VE, VP, Levels
from scorefield.samplers import Ancestral, AnnealedStep, EulerMaruyama, Heun, Rescale, annealed_langevin, reverse

EACH = pytest.mark.parametrize("noise", NOISES, ids=str)


# --- whole samplers recover a mixture ---


@pytest.mark.parametrize("noise", NOISES[:3], ids=str)
@pytest.mark.parametrize(("predictor", "steps"), [(Heun(), 60), (EulerMaruyama(), 400), (Ancestral(), 300)], ids=str)
def test_reverse_sampling_recovers_an_off_centre_mixture(noise, predictor, steps):
    """Weights, means and covariances of 6,000 samples within 4.5 s.e. (11 figures, false alarms 7.5e-5)."""
    times = noise.rho_times(steps) if predictor.order == 2 else noise.times(steps)
    samples = reverse(
        LAW.noisy_score(noise),
        noise,
        from_prior(noise, 6000),
        times=times,
        predictor=predictor,
        generator=Generator().manual_seed(1),
    )
    assert largest_z(samples.x, LAW.blurred(noise, noise.t_min)) < 4.5


def annealing(noise, low=0.02, count=14):
    """Times at which sigma/alpha is geometric from the prior's end down to `low`, and Song and Ermon's epsilon."""
    high = noise.sigma(at(1.0)) / noise.alpha(at(1.0))
    ratios = torch.linspace(high.log().item(), math.log(low), count, dtype=torch.float64).exp()
    levels = noise.time_at(ratios)
    return levels, 0.5 * noise.sigma(levels[-1]).item() ** 2


@pytest.mark.parametrize("noise", NOISES[:3], ids=str)
def test_annealed_langevin_recovers_an_off_centre_mixture(noise):
    """Weights, means and covariances of 3,000 samples within 4.5 s.e. (11 figures, false alarms 7.5e-5)."""
    levels, epsilon = annealing(noise)
    samples = annealed_langevin(
        LAW.noisy_score(noise),
        noise,
        from_prior(noise, 3000),
        epsilon=epsilon,
        steps_per_level=80,
        levels=levels,
        generator=Generator().manual_seed(2),
    )
    assert largest_z(samples.x, LAW.blurred(noise, levels[-1].item())) < 4.5


@pytest.mark.parametrize("noise", NOISES[1:3], ids=str)
def test_annealed_langevin_keeps_the_mean_by_rescaling_and_loses_it_without(noise):
    r"""The mean of a Gaussian follows $\alpha_t m$ to rounding; without `Rescale` it drifts by more than a tenth."""
    levels, epsilon = annealing(noise)
    score, still = gaussian_score(noise), Fixed(torch.zeros(1, 1))
    start = torch.full((1, 1), noise.alpha(levels[0]).item() * MEAN, dtype=torch.float64)
    arrival = noise.alpha(levels[-1]).item() * MEAN
    kept = annealed_langevin(
        score, noise, start, epsilon=epsilon, steps_per_level=3, levels=levels, generator=still
    ).x.item()
    corrector = AnnealedStep(epsilon, noise.sigma(levels[-1]).item())
    lost = reverse(
        score, noise, start, times=levels, predictor=Hold(), corrector=corrector, corrections=3, generator=still
    ).x.item()
    assert kept == pytest.approx(arrival, rel=1e-10)
    assert abs(lost - arrival) > 0.1 * MEAN


@EACH
def test_rescale_is_the_ratio_of_alphas(noise):
    r"""$x \leftarrow (\alpha_s/\alpha_t)\,x$: the identity for VE, growth towards the data elsewhere, no score call."""
    x = normal(4, 3)
    (alpha_t, _), (alpha_s, _) = levels_of(noise, 0.9), levels_of(noise, 0.2)
    moved, _ = Rescale().step(None, noise, x, at(0.9), at(0.2))
    close(moved, alpha_s / alpha_t * x)


def test_annealed_langevin_is_song_and_ermons_algorithm_written_out():
    r"""$x + \frac{\alpha_i}2 s + \sqrt{\alpha_i}\,z$ with $\alpha_i = \epsilon\sigma_i^2/\sigma_L^2$, T times each."""
    noise, x, g = Levels(3.0, 0.3, 4), normal(5, 3), Generator().manual_seed(7)
    score, state = gaussian_score(noise), x
    for sigma, t in zip([3.0, 3 * 0.1 ** (1 / 3), 3 * 0.1 ** (2 / 3), 0.3], noise.levels, strict=True):
        step = 0.02 * sigma**2 / 0.3**2
        for _ in range(3):
            z = torch.randn(5, 3, dtype=torch.float64, generator=g)
            state = state + step / 2 * score(state, t) + math.sqrt(step) * z
    samples = annealed_langevin(score, noise, x, epsilon=0.02, steps_per_level=3, generator=Generator().manual_seed(7))
    close(samples.x, state, 1e-11)
    assert samples.evaluations == 12


def test_the_two_conventions_differ_exactly_by_the_step_size():
    """With "ncsn" (2019) h is half the printed step, with "ncsnv2" (2020) all of it; 2019 is the default."""
    noise, x, t = VE(0.5, 4.0), normal(5, 3), at(0.5)
    alpha_i = 0.1 * (math.sqrt(2.0) / 0.25) ** 2
    for convention, h in {"ncsn": alpha_i / 2, "ncsnv2": alpha_i}.items():
        step = AnnealedStep(0.1, 0.25, convention)
        drift, _ = step.step(lambda x, t: torch.ones_like(x), noise, x, t, generator=Fixed(torch.zeros(1, 1)))
        spread, _ = step.step(lambda x, t: torch.zeros_like(x), noise, x, t, generator=Fixed(torch.ones(1, 1)))
        close(drift - x, torch.full_like(x, h))
        close(spread - x, torch.full_like(x, math.sqrt(2 * h)))
    assert AnnealedStep(0.1, 0.25) == AnnealedStep(0.1, 0.25, "ncsn")


def test_annealed_langevin_without_levels_takes_ten_geometric_ones():
    """Sigma over alpha is geometric between the schedule's ends; each level counts T calls, plus one to denoise."""
    for noise in (VP(), VE(0.1, 3.0)):
        seen = []

        def score(x, t, seen=seen):
            seen.append(t.item())
            return -x

        x = normal(3, 2)
        samples = annealed_langevin(score, noise, x, epsilon=1e-7, steps_per_level=2, denoise=True)
        assert samples.evaluations == len(seen) == 21
        assert seen[0] == noise.t_max and seen[-1] == seen[-2] == noise.t_min and seen[0::2][:10] == seen[1::2]
        times = torch.tensor(seen[1::2], dtype=torch.float64)
        ratios = (noise.sigma(times) / noise.alpha(times)).log()
        close(ratios.diff(), ratios.diff().mean().expand(9), 1e-9)
