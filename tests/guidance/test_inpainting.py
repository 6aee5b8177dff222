"""Inpainting: the posterior method exact on Gaussians, replacement biased and seen to be, what is known kept."""

import math

import pytest
import torch
from exact_posterior import TWO, exact_posterior

from scorefield.densities import GaussianMixture
from scorefield.guidance import inpaint
from scorefield.guidance.inpainting import RePaint
from scorefield.noise import VE, VP
from scorefield.samplers import Ancestral, DPMSolver, reverse, time_grid

PRIOR = GaussianMixture([1.0], [[0.0, 0.0, 0.0]], [[[1.0, 0.9, 0.5], [0.9, 1.0, 0.6], [0.5, 0.6, 1.0]]])
MASK = torch.tensor([True, False, False])
SEEN = torch.tensor([1.5, math.nan, math.nan], dtype=torch.float64)
SELECT = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)


def filled(method: str, n: int, noise=None, **how) -> torch.Tensor:
    noise = noise or VP()
    g = torch.Generator().manual_seed(0)
    more = {} if method == "posterior" else {"generator": g}
    made = inpaint(PRIOR.noisy_score(noise), noise, MASK, SEEN, method=method, **more, **how)
    start = torch.randn(n, 3, generator=g, dtype=torch.float64)
    predictor = DPMSolver(3) if method == "posterior" else Ancestral()
    times = time_grid(noise, 40 if method == "posterior" else 100)
    return reverse(made.score, noise, start, times=times, predictor=predictor, **made.hooks, generator=g).x


def errors(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far mean and variance of the unknown columns are from the truth, in standard errors."""
    law, _ = exact_posterior(PRIOR, SELECT, SEEN[:1], 1e-6)
    variance = law.covariance.diagonal()[1:]
    return (
        (x.mean(0)[1:] - law.mean[1:]) / (variance / len(x)).sqrt(),
        (x.var(0)[1:] / variance - 1) / math.sqrt(2 / len(x)),
    )


def test_the_posterior_method_is_exact_for_a_gaussian():
    """Means and variances of the unknown columns within 4 standard errors of 10,000; the known one comes back."""
    x = filled("posterior", 10_000)
    mean, variance = errors(x)
    assert mean.abs().max() < 4 and variance.abs().max() < 4
    assert (x[:, 0] - 1.5).abs().max() < 0.02


def test_replacement_is_biased_and_climbing_mends_some_of_it():
    """The mean misses by more than 20 standard errors of 2,000, with climbing by less than a fifth of that."""
    replace, repaint = (errors(filled(method, 2000))[0].abs().max() for method in ("replace", "repaint"))
    assert replace > 20 and repaint < replace / 5
    for method in ("replace", "repaint"):
        assert (filled(method, 50)[:, 0] - 1.5).abs().max() < 5 * VP().sigma(torch.tensor(1e-5))


@pytest.mark.parametrize("noise", [VE(0.01, 20.0), VP()], ids=["VE", "VP"])
def test_replacement_puts_the_observation_blurred_as_its_level_over_the_known_part_alone(noise):
    """N(alpha y, sigma²) there: mean and variance of 20,000 within 4 standard errors; the rest stays to the bit."""
    mask, known, t = torch.tensor([True, False]), torch.tensor([1.5, 0.0]).double(), torch.tensor(0.4).double()
    x, g = torch.zeros(20_000, 2, dtype=torch.float64) - 3, torch.Generator().manual_seed(5)
    moved = inpaint(TWO.noisy_score(noise), noise, mask, known, method="replace", generator=g).hooks["project"](x, t)
    sigma = noise.sigma(t).item()
    assert torch.equal(moved[:, 1], x[:, 1])
    assert abs(moved[:, 0].mean().item() - noise.alpha(t).item() * 1.5) < 4 * sigma / math.sqrt(20_000)
    assert abs(moved[:, 0].var().item() / sigma**2 - 1) < 4 * math.sqrt(2 / 20_000)


def test_noise_on_what_is_known_is_the_posteriors_business():
    """sigma = 0.5 under method posterior: the exact law; replace refuses it."""
    x = filled("posterior", 10_000, sigma=0.5)
    law, _ = exact_posterior(PRIOR, SELECT, SEEN[:1], 0.5)
    assert ((x.mean(0) - law.mean) / (law.covariance.diagonal() / 10_000).sqrt()).abs().max() < 4
    with pytest.raises(ValueError, match="sigma is an option of method posterior, got 0.5 for replace"):
        filled("replace", 5, sigma=0.5)


def test_a_climb_is_noise_up_and_one_step_down():
    """On N(0, 1) without a known part: the variance of five climbs by the moments of its two halves, 4 s.e."""
    noise, t = VE(0.01, 20.0), torch.tensor(0.6, dtype=torch.float64)
    law = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
    low = noise.sigma(t).item() ** 2
    up, given = 1.2**2 * low, (1.2**2 - 1) * low
    g, variance = torch.Generator().manual_seed(1), 1 + low
    x = law.blurred(noise, 0.6).sample((20_000,), generator=g)
    for _ in range(5):
        x, _ = RePaint(lambda x, t: x, factor=1.2).step(law.noisy_score(noise), noise, x, t, generator=g)
        variance = (1 - given / (1 + up)) ** 2 * (variance + given) + given * low / up
    assert abs(x.var().item() / variance - 1) < 4 * math.sqrt(2 / 20_000)
    top = torch.tensor(1.0, dtype=torch.float64)
    assert torch.equal(RePaint(lambda x, t: x).step(law.noisy_score(noise), noise, x, top, generator=g)[0], x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(2, dtype=torch.bool)}, "nothing is left to fill in"),
        ({"mask": torch.zeros(2, dtype=torch.bool)}, "nothing is known"),
        ({"observed": torch.zeros(3)}, r"observed must have shape \(2,\) \(as the mask\), got \(3,\)"),
        ({"observed": torch.tensor([math.nan, 0.0])}, "observed must be finite where the mask is True"),
        ({"method": "replaced"}, "did you mean 'replace'"),
        ({"sigma": -0.1}, "sigma must be a finite number >= 0"),
        ({"jumps": 0}, "jumps must be >= 1, got 0"),
    ],
)
def test_gaps_that_cannot_be_filled_are_refused(change, message):
    """The value, the rule, the way out."""
    given = {"mask": torch.tensor([True, False]), "observed": torch.zeros(2)} | change
    with pytest.raises(ValueError, match=message):
        inpaint(TWO.noisy_score(VP()), VP(), given.pop("mask"), given.pop("observed"), **given)


def test_a_climb_goes_up():
    """factor must exceed 1."""
    with pytest.raises(ValueError, match="factor must be a finite number > 1, got 1.0"):
        RePaint(lambda x, t: x, factor=1.0)
