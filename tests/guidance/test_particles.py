"""Sequential Monte Carlo: the posterior of a mixture, its evidence, any twist, no gradients; what is refused."""

import itertools
import math

import pytest
import torch
from exact_posterior import A2, TWO, Y2, exact_posterior

from scorefield.densities import GaussianMixture
from scorefield.guidance import plug_in, posterior, smc
from scorefield.guidance.particles import _systematic
from scorefield.noise import VE, VP
from scorefield.samplers import time_grid

SIGMA = 0.5


def linear(noise, prior=TWO, sigma=SIGMA, method="moments"):
    return posterior(prior.noisy_score(noise), noise, A2, Y2, sigma=sigma, method=method)


def no_gradients(noise, prior, sigma):
    def log_likelihood(x):
        return torch.distributions.Normal(x @ A2.T, sigma).log_prob(Y2).sum(1)

    return plug_in(prior.noisy_score(noise), noise, log_likelihood, gradients=False)


GUIDES = {
    "moments": linear,
    "pigdm": lambda noise, prior, sigma: linear(noise, prior, sigma, "pigdm"),
    "dps": lambda noise, prior, sigma: linear(noise, prior, sigma, "dps"),
    "no gradients": no_gradients,
}


LAW = GaussianMixture([1.0], [[0.5, -1.0]], [[[1.5, 0.6], [0.6, 0.4]]])


def discrete_law(noise, times, variance):
    """The law of `LAW`'s own reverse process on the grid, by propagating its moments along each eigenvector."""
    spread, axes = torch.linalg.eigh(LAW.covariances[0])
    alpha, sigma = noise.alpha(times).tolist(), noise.sigma(times).tolist()
    v = alpha[0] ** 2 * spread + sigma[0] ** 2  # the start is exact
    for (a_t, s_t), (a_s, s_s) in itertools.pairwise(zip(alpha, sigma, strict=True)):
        a = a_t / a_s
        given = s_t**2 - (a * s_s) ** 2
        step = given * (a_s**2 * variance + s_s**2) / (a_t**2 * variance + s_t**2)
        v = ((1 - given / (a_t**2 * spread + s_t**2)) / a) ** 2 * v + step
    return GaussianMixture([1.0], LAW.means, (axes * (v / alpha[-1] ** 2)) @ axes.T[None])


@pytest.mark.parametrize(("name", "sigma"), [("moments", 0.5), ("pigdm", 0.5), ("dps", 2.0), ("no gradients", 2.0)])
@pytest.mark.parametrize("noise", [VE(0.02, 20.0), VP()], ids=["VE", "VP"])
def test_every_twist_gives_the_exact_posterior_of_the_steps_taken(name, sigma, noise):
    """A coarse grid and a wrong variance: mean, covariance and log p(y) of that very process, 4.5 s.e. of 10 runs.

    The cruder twists get an observation that leaves them more than 100 effective particles: below that no error is
    to be trusted.
    """
    times, variance = time_grid(noise, 40), 0.3
    made = discrete_law(noise, times, variance)
    law, log_y = exact_posterior(made, A2, Y2, sigma)
    assert abs(made.covariance.diagonal() / LAW.covariance.diagonal() - 1).max() > 0.02  # far from the prior itself
    end, rows = noise.alpha(times[-1]), []
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        start = LAW.blurred(noise, 1.0).sample((1500,), generator=g)
        found = smc(GUIDES[name](noise, LAW, sigma), noise, start, times=times, variance=variance, generator=g)
        w, x = found.log_weights.exp()[:, None], found.x / end
        mean = (w * x).sum(0)
        second = (w * (x - law.mean) ** 2).sum(0)
        rows.append(torch.cat([mean, second, torch.tensor([found.log_evidence])]))
        assert found.evaluations == 40 and len(found.effective) == 41
        assert 100 < found.effective.min() and found.effective.max() <= 1500 * (1 + 1e-9)
        assert w.sum().item() == pytest.approx(1, abs=1e-9)
    found, truth = torch.stack(rows), torch.cat([law.mean, law.covariance.diagonal(), torch.tensor([log_y])])
    error = found.std(0) / math.sqrt(10)
    slack = found.std(0) ** 2  # a ratio of means, and the log of one, are biased by their variance
    assert ((found.mean(0) - truth).abs() < 4.5 * error + slack).all()


def test_a_step_is_proposed_by_the_reverse_process_of_the_guided_score():
    """One long step from one point: N((x + given (s + grad log psi)) / a, spread), 4 standard errors of 20,000."""
    noise, times, g = VP(), torch.tensor([0.8, 0.4], dtype=torch.float64), torch.Generator().manual_seed(0)
    guide, x = linear(noise), torch.tensor([[0.7, -0.4]], dtype=torch.float64).expand(20_000, 2)
    moved = smc(guide, noise, x, times=times, variance=0.3, threshold=0.0, generator=g).x
    (alpha, alpha_s), (sigma2, sigma2_s) = noise.alpha(times).tolist(), (noise.sigma(times) ** 2).tolist()
    given = sigma2 - (alpha / alpha_s) ** 2 * sigma2_s
    mean = (x[:1] + given * guide(x[:1], times[0])) * alpha_s / alpha
    spread = given * (0.3 * alpha_s**2 + sigma2_s) / (0.3 * alpha**2 + sigma2)
    assert ((moved.mean(0) - mean).abs() < 4 * math.sqrt(spread / 20_000)).all()
    assert ((moved.var(0) / spread - 1).abs() < 4 * math.sqrt(2 / 20_000)).all()


def test_the_modes_of_a_mixture_get_their_weights():
    """Of 6 runs with 200 steps: within 4 standard errors and 1 % of the weight, which score methods alone miss."""
    noise, rows = VP(), []
    law, _ = exact_posterior(TWO, A2, Y2, SIGMA)
    truth = law.sample((400_000,), generator=torch.Generator().manual_seed(99))
    right = (truth[:, 0] > 0).double().mean().item()
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(2000, 2, generator=g, dtype=torch.float64)
        found = smc(linear(noise, method="pigdm"), noise, x, times=time_grid(noise, 200), variance=0.5, generator=g)
        rows.append((found.log_weights.exp() * (found.x[:, 0] > 0)).sum().item())
    weights = torch.tensor(rows)
    assert abs(weights.mean().item() - right) < 4 * weights.std().item() / math.sqrt(6) + 0.01


def test_a_better_twist_keeps_more_particles():
    """The least effective number: moments above dps."""
    noise = VP()

    def least(method):
        g = torch.Generator().manual_seed(0)
        x = torch.randn(1000, 2, generator=g, dtype=torch.float64)
        return smc(linear(noise, method=method), noise, x, times=time_grid(noise, 80), generator=g).effective.min()

    assert least("moments") > 2 * least("dps")


def test_on_a_gaussian_the_weights_stay_nearly_even():
    """Exact twist and, for a white prior, exact steps: at least 90 % of the particles stay effective."""
    noise, law = VP(), GaussianMixture([1.0], [[0.3, -0.2]], 0.8 * torch.eye(2)[None])
    guide = posterior(law.noisy_score(noise), noise, A2, Y2, sigma=SIGMA)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=g, dtype=torch.float64)
    found = smc(guide, noise, x, times=time_grid(noise, 200), variance=0.8, threshold=0.0, generator=g)
    assert found.effective.min() > 0.9 * 2000
    _, log_y = exact_posterior(law, A2, Y2, SIGMA)
    assert found.log_evidence == pytest.approx(log_y, abs=0.02)


def test_resampling_is_systematic():
    """Each particle is kept floor or ceil of N w times; draws of equal weight follow the weights."""
    w = torch.tensor([0.5, 0.05, 0.25, 0.2], dtype=torch.float64).repeat(5) / 5
    kept = _systematic(w.log(), torch.zeros(20, 1), torch.Generator().manual_seed(0))
    counts = torch.bincount(kept, minlength=20)
    assert (counts >= (20 * w).floor() - 1e-9).all() and (counts <= (20 * w).ceil() + 1e-9).all()


def test_after_resampling_all_weigh_the_same():
    """Resampled at every time, 80 % stay effective, since each has one step's weight; without, fewer than 20 % do."""
    noise = VP()

    def effective(threshold):
        g = torch.Generator().manual_seed(0)
        x = torch.randn(1000, 2, generator=g, dtype=torch.float64)
        how = {"times": time_grid(noise, 80), "threshold": threshold, "generator": g}
        return smc(linear(noise, method="pigdm"), noise, x, **how).effective

    assert effective(1.0).min() > 800 and effective(0.0)[-1] < 200


def test_draws_follow_the_weights():
    """`resample` picks by weight: the weighted mean within 4 standard errors."""
    noise = VP()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 2, generator=g, dtype=torch.float64)
    found = smc(linear(noise), noise, x, times=time_grid(noise, 50), threshold=0.0, generator=g)
    drawn = found.resample(20_000, generator=g)
    w = found.log_weights.exp()[:, None]
    mean = (w * found.x).sum(0)
    spread = (w * (found.x - mean) ** 2).sum(0).sqrt()
    assert ((drawn.mean(0) - mean).abs() < 4 * spread / math.sqrt(20_000)).all()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"x": torch.zeros(1, 2)}, ValueError, "x must hold at least 2 particles, got 1"),
        ({"threshold": 1.5}, ValueError, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"variance": -1.0}, ValueError, "variance must be a finite number >= 0"),
        ({"times": [0.1, 0.5]}, ValueError, "times must decrease strictly"),
        ({"x": torch.zeros(4, 2, dtype=torch.long)}, TypeError, "x must be floating point"),
    ],
)
def test_particles_that_cannot_be_are_refused(change, kind, message):
    """The value, the rule, the way out."""
    given = {"x": torch.zeros(4, 2), "times": [1.0, 0.5, 0.1]} | change
    with pytest.raises(kind, match=message):
        smc(linear(VP()), VP(), given.pop("x"), **given)


def test_one_observation_per_row_is_refused():
    """Resampling would mix them."""
    noise = VP()
    guide = posterior(TWO.noisy_score(noise), noise, A2, Y2.expand(4, 1), sigma=0.5)
    with pytest.raises(ValueError, match="particles are all for one observation, got one per row"):
        smc(guide, noise, torch.zeros(4, 2, dtype=torch.float64), times=[1.0, 0.5])
    with pytest.raises(ValueError, match="y must be one observation per sample, 3, got 4"):
        guide(torch.zeros(3, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))


def test_an_impossible_observation_is_named():
    """No particle with a finite weight: an error, not nan."""
    noise = VP()
    guide = plug_in(TWO.noisy_score(noise), noise, lambda x: torch.full((len(x),), -math.inf), gradients=False)
    with pytest.raises(RuntimeError, match="no particle has a finite weight at t = 1; the observation is impossible"):
        smc(guide, noise, torch.randn(10, 2, dtype=torch.float64), times=time_grid(noise, 5))
