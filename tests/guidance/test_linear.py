"""Linear inverse problems: each covariance against the closed form where it is exact, and seen not to be elsewhere."""

import math

import pytest
import torch
from exact_posterior import A2, A3, GAUSSIAN, NOISES, TWO, Y2, Y3, exact_posterior

from scorefield.densities import GaussianMixture
from scorefield.guidance import Operator, posterior
from scorefield.guidance.linear import conjugate_gradients
from scorefield.likelihood import log_likelihood
from scorefield.samplers import DPMSolver, reverse, time_grid

TIMES = [0.02, 0.3, 0.7, 1.0]


def points(d: int, n: int = 40) -> torch.Tensor:
    return 2 * torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_moments_give_the_exact_score_of_a_gaussian_posterior(noise, t, sigma):
    """Any correlated prior, at every noise level, to 1e-7 of the score's size."""
    guided = posterior(GAUSSIAN.noisy_score(noise), noise, A3, Y3, sigma=sigma)
    law, _ = exact_posterior(GAUSSIAN, A3, Y3, sigma)
    x, at = points(3), torch.tensor(t, dtype=torch.float64)
    torch.testing.assert_close(guided(x, at), law.noisy_score(noise)(x, at), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("t", TIMES)
def test_pigdm_is_exact_for_a_white_prior_alone(noise, t):
    """Exact for N(m, vI) with its v, not with another v, and not for the correlated prior."""
    white = GaussianMixture([1.0], [[0.5, -1.0, 0.3]], 2.0 * torch.eye(3)[None])
    x, at = points(3), torch.tensor(t, dtype=torch.float64)
    law, _ = exact_posterior(white, A3, Y3, 0.3)
    exact = law.noisy_score(noise)(x, at)

    def guided(prior, v):
        return posterior(prior.noisy_score(noise), noise, A3, Y3, sigma=0.3, method="pigdm", variance=v)(x, at)

    torch.testing.assert_close(guided(white, 2.0), exact, rtol=1e-7, atol=1e-7)
    if 0.1 < t < 0.9:
        assert (guided(white, 1.0) - exact).abs().max() > 1e-3
        other, _ = exact_posterior(GAUSSIAN, A3, Y3, 0.3)
        assert (guided(GAUSSIAN, 1.0) - other.noisy_score(noise)(x, at)).abs().max() > 1e-3


def test_dps_is_the_likelihood_of_tweedies_mean():
    """It is the gradient of -|y - A D(x)|² / (2 sigma²), by finite differences, and too sharp at positive noise."""
    noise, t = NOISES[1], torch.tensor(0.5, dtype=torch.float64)
    prior = TWO.noisy_score(noise)
    guided = posterior(prior, noise, A2, Y2, sigma=0.5, method="dps")
    x, step = points(2, 5), 1e-5

    def value(at):
        mean = (at + noise.sigma(t) ** 2 * prior(at, t)) / noise.alpha(t)
        return -((Y2 - mean @ A2.T) ** 2).sum(1) / (2 * 0.25)

    axes = step * torch.eye(2, dtype=torch.float64)
    slopes = torch.stack([(value(x + e) - value(x - e)) / (2 * step) for e in axes], 1)
    torch.testing.assert_close(guided(x, t) - prior(x, t), slopes, rtol=1e-6, atol=1e-6)
    law, _ = exact_posterior(TWO, A2, Y2, 0.5)
    assert (guided(x, t) - law.noisy_score(noise)(x, t)).abs().max() > 0.1


@pytest.mark.parametrize("method", ["dps", "pigdm", "moments"])
def test_all_methods_agree_with_bayes_as_the_noise_goes_to_zero(method):
    """At sigma_t = 1e-3 the spread left out is nothing: prior plus likelihood's gradient, within 1 %."""
    noise = NOISES[0]
    t = noise.time_at(torch.tensor(0.01, dtype=torch.float64))
    guided = posterior(TWO.noisy_score(noise), noise, A2, Y2, sigma=0.5, method=method)
    law, _ = exact_posterior(TWO, A2, Y2, 0.5)
    x = law.sample((50,), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(guided(x, t), law.noisy_score(noise)(x, t), rtol=0.01, atol=0.02)


def test_sampling_the_guided_score_gives_the_posterior_and_its_likelihood_too():
    """Mean and covariance of 20,000 draws within 4 standard errors; log p(x | y) within 1e-3 nats."""
    noise = NOISES[1]
    law, _ = exact_posterior(GAUSSIAN, A3, Y3, 0.3)
    guided = posterior(GAUSSIAN.noisy_score(noise), noise, A3, Y3, sigma=0.3)
    g = torch.Generator().manual_seed(2)
    start = torch.randn(20_000, 3, generator=g, dtype=torch.float64)
    drawn = reverse(guided, noise, start, times=time_grid(noise, 40), predictor=DPMSolver(3)).x
    error = (law.covariance.diagonal() / 20_000).sqrt()
    assert ((drawn.mean(0) - law.mean).abs() < 4 * error + 2e-3).all()
    sampled = torch.cov(drawn.T)
    scale = law.covariance.diagonal()
    tolerance = 4 * (2 * torch.outer(scale, scale) / 20_000).sqrt() + 2e-3
    assert ((sampled - law.covariance).abs() < tolerance).all()
    x = law.sample((5,), generator=g)
    prior = noise.prior((3,), law.mean, law.covariance.diagonal().mean())
    found = log_likelihood(guided, noise, x, rtol=1e-6, prior=prior)
    torch.testing.assert_close(found.nats, law.log_density(x), rtol=0, atol=1e-3)


def test_a_noiseless_observation_is_met():
    """sigma = 0: the draws satisfy A x = y up to the schedule's least noise, the rest follows the conditional law."""
    noise = NOISES[0]
    guided = posterior(GAUSSIAN.noisy_score(noise), noise, A3, Y3, sigma=0.0)
    start = 20 * torch.randn(4000, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    drawn = reverse(guided, noise, start, times=time_grid(noise, 60), predictor=DPMSolver(3)).x
    assert (drawn @ A3.T - Y3).std() < 3 * 0.01 * A3.norm()
    law, _ = exact_posterior(GAUSSIAN, A3, Y3, 1e-6)
    free = torch.linalg.svd(A3)[2][-1]  # the direction that A does not see
    expected = (free @ law.covariance @ free).item() + 0.01**2
    assert ((drawn - law.mean) @ free).var().item() == pytest.approx(expected, rel=4 * math.sqrt(2 / 4000) + 0.01)


def test_matrices_functions_and_operators_are_the_same():
    """Also with one observation per sample."""
    noise, x, t = NOISES[1], points(3), torch.tensor(0.4, dtype=torch.float64)
    how = {"sigma": 0.3}
    prior = GAUSSIAN.noisy_score(noise)
    whole = posterior(prior, noise, A3, Y3, **how)(x, t)
    function = posterior(prior, noise, lambda x: x @ A3.T, Y3, shape=(3,), **how)(x, t)  # its own float64, not x's
    each = posterior(prior, noise, Operator(A3, (3,)), Y3.expand(len(x), 2), **how)(x, t)
    torch.testing.assert_close(function, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(each, whole, rtol=1e-12, atol=1e-12)
    mixed = torch.stack([Y3, Y3 + 1]).repeat(20, 1)
    both = posterior(prior, noise, A3, mixed, **how)(x, t)
    torch.testing.assert_close(both[::2], whole[::2], rtol=1e-9, atol=1e-9)
    assert (both[1::2] - whole[1::2]).abs().min() > 0


@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_a_floor_adds_its_part_of_pigdms_variance(floor):
    """V + floor r_t² I in the closed form of a Gaussian: D's gain, the residual and the solved system, to 1e-8."""
    noise, x, t = NOISES[1], points(3), torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma2, eye = noise.alpha(t), noise.sigma(t) ** 2, torch.eye(3, dtype=torch.float64)
    prior = GAUSSIAN.noisy_score(noise)
    spread = torch.linalg.inv(torch.linalg.inv(GAUSSIAN.covariance) + alpha**2 / sigma2 * eye)
    residual = Y3 - (x + sigma2 * prior(x, t)) / alpha @ A3.T
    white = 2.0 * sigma2 / (2.0 * alpha**2 + sigma2)
    system = 0.3**2 * torch.eye(2, dtype=torch.float64) + A3 @ (spread + floor * white * eye) @ A3.T
    pull = torch.linalg.solve(system, residual.T).T @ A3 @ spread * alpha / sigma2
    found = posterior(prior, noise, A3, Y3, sigma=0.3, variance=2.0, floor=floor).parts(x, t)[2]
    torch.testing.assert_close(found, pull, rtol=1e-8, atol=1e-8)


def test_the_likelihood_of_clean_samples_is_normalised():
    """log N(y; A x, sigma² I), by torch's own normal law."""
    guided = posterior(GAUSSIAN.noisy_score(NOISES[0]), NOISES[0], A3, Y3, sigma=0.7)
    x = points(3)
    expected = torch.distributions.Normal(x @ A3.T, 0.7).log_prob(Y3).sum(1)
    torch.testing.assert_close(guided.log_likelihood(x), expected, rtol=1e-12, atol=1e-12)


def test_conjugate_gradients_solve_each_system_and_leave_alone_what_is_solved():
    """A different right-hand side per sample, one of them zero; d steps suffice in d dimensions."""
    g = torch.Generator().manual_seed(4)
    root = torch.randn(5, 5, generator=g, dtype=torch.float64)
    matrix, right = (
        root @ root.T + torch.eye(5, dtype=torch.float64),
        torch.randn(6, 5, generator=g, dtype=torch.float64),
    )
    right[2] = 0
    found = conjugate_gradients(lambda u: u @ matrix, right, 5)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right.T).T, rtol=1e-8, atol=1e-9)
    assert (found[2] == 0).all()
    assert conjugate_gradients(lambda u: -u, right, 5).isfinite().all()  # not positive: kept where it is


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.ones(1, 4)}, r"a matrix must have shape \(M, 3\) for samples of shape \(3,\), got \(1, 4\)"),
        ({"a": lambda x: x**2, "y": torch.zeros(3)}, "A must be linear: .* left"),
        ({"a": lambda x: x + 1, "y": torch.zeros(3)}, "A must be linear"),
        ({"a": lambda x: x - x.mean(0), "y": torch.zeros(3)}, "A must treat each sample of a batch by itself"),
        ({"y": torch.zeros(3)}, r"y must have shape \(2,\) or \(B, 2\), got \(3,\)"),
        ({"y": torch.tensor([0.0, math.nan])}, "y must be finite"),
        ({"sigma": -1.0}, "sigma must be a finite number >= 0, got -1.0"),
        ({"method": "dsp"}, "did you mean 'dps'"),
        ({"method": "dps", "sigma": 0.0}, "sigma must be > 0 for method dps, got 0"),
        ({"method": "pigdm", "variance": 0.0}, "variance must be a finite number > 0"),
        ({"floor": -0.1}, "floor must be a finite number >= 0, got -0.1"),
        ({"iterations": 0}, "iterations must be >= 1, got 0"),
    ],
)
def test_bad_observations_are_refused(change, message):
    """The value, the rule, the way out."""
    given = {"a": A3, "y": Y3, "sigma": 0.3, "shape": (3,)} | change
    with pytest.raises(ValueError, match=message):
        posterior(GAUSSIAN.noisy_score(NOISES[0]), NOISES[0], given.pop("a"), given.pop("y"), **given)
