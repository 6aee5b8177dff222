"""The ancestral model's bound: below the truth, tight in the limit, each term by its closed form."""

import math

import pytest
import torch

from scorefield.densities import Gaussian
from scorefield.likelihood import ancestral_bound
from scorefield.noise import VE, VP


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_bound_of_a_gaussian_has_its_closed_form():
    """Data N(0, v), exact score, VE: E of the bound at x by integrating each term's square by hand."""
    v, noise, x0 = 0.7, VE(0.1, 5.0), 1.3
    law = Gaussian([0.0], [[v]])
    times = noise.times(6)
    x = torch.full((40_000, 1), x0, dtype=torch.float64)
    found = ancestral_bound(law.noisy_score(noise), noise, x, times=times, variance=v, generator=seeded())
    s2 = noise.sigma(times).double() ** 2
    # the denoiser is v x_t / (v + s2): its error given x0 has mean x0 s2/(v + s2) and variance (v/(v + s2))^2 s2
    square = (x0 * s2 / (v + s2)) ** 2 + (v / (v + s2)) ** 2 * s2
    steps = (1 / s2).diff() / 2 * square[:-1]
    prior = (s2[0] / (v + s2[0]) + x0**2 / (v + s2[0]) - 1 + ((v + s2[0]) / s2[0]).log()) / 2
    decoder = 0.5 + 0.5 * math.log(2 * math.pi * s2[-1].item())
    assert torch.allclose(found.prior[0], prior, atol=1e-12)
    for terms, expected in zip(found.steps, steps, strict=True):
        assert abs(terms.mean() - expected) < 4 * terms.std() / 200
    assert abs(found.decoder.mean() - decoder) < 4 * found.decoder.std() / 200
    expected = -(prior + steps.sum() + decoder)
    assert abs(found.nats.mean() - expected) < 4 * found.nats.std() / 200


def test_the_bound_lies_below_the_truth_and_rises_with_the_steps():
    """More steps are tighter; with many the mean gap to the law blurred by the decoder is small but stays >= 0."""
    noise = VP()
    law = Gaussian([0.5, -1.0], [[1.0, 0.6], [0.6, 0.8]])
    x = law.sample((4000,), generator=seeded(1))
    truth = law.log_density(x).mean().item()
    means = []
    for n in (4, 32, 512):
        times = noise.time_at(torch.logspace(2.0, -1.5, n + 1, dtype=torch.float64))  # sigma/alpha from 100 to 0.03
        found = ancestral_bound(
            law.noisy_score(noise), noise, x, times=times, mean=law.mean, variance=law.covariance.diagonal(),
            generator=seeded(2),
        )  # fmt: skip
        means.append(found.nats.mean().item())
        assert (found.steps >= 0).all()
        assert (found.prior >= 0).all()
        assert found.evaluations == n
    error = 4 * found.nats.std().item() / len(x) ** 0.5
    assert means[0] < means[1] < means[2] < truth + error
    assert truth - means[2] < 0.1 + error


@pytest.mark.parametrize("times", [[0.5], [0.2, 0.4], [0.5, 0.5], [1.5, 0.1], [0.5, -0.1]])
def test_times_that_do_not_fall_are_refused(times):
    """At least two, strictly decreasing, within the schedule."""
    with pytest.raises(ValueError, match="times must"):
        ancestral_bound(lambda x, t: -x, VP(), torch.zeros(2, 2), times=torch.tensor(times))
