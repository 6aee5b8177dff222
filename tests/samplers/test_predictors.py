"""Predictors by their formulas, and by exact transports and moments."""

import math

import numpy as np
import pytest
import torch
from exact_flow import MEAN, NOISES, VARIANCE, Fixed, at, close, gaussian_score, levels_of, normal, slope_of
from scipy.optimize import brentq
from scipy.special import ndtr

from scorefield.densities import GaussianMixture
from scorefield.noise import VE, VP
from scorefield.samplers import Ancestral, Euler, EulerMaruyama, Heun, reverse

EACH = pytest.mark.parametrize("noise", NOISES, ids=str)


# --- the deterministic predictors ---

MIXTURE_1D = GaussianMixture([0.3, 0.7], [[-2.0], [1.0]], [[[0.4]], [[0.8]]])


def transported(law, noise, x, t, s):
    """The exact probability flow in one dimension: quantiles stay quantiles."""

    def parts(u):
        alpha, sigma = levels_of(noise, u)
        scale = (alpha**2 * law.covariances[:, 0, 0] + sigma**2).sqrt().numpy()
        return law.weights.numpy(), alpha * law.means[:, 0].numpy(), scale

    def cdf(value, u):
        w, m, scale = parts(u)
        return float((w * ndtr((value - m) / scale)).sum())

    def carried(value):
        quantile = cdf(value, t)
        return brentq(lambda v: cdf(v, s) - quantile, -60, 60, xtol=1e-14, rtol=1e-14)

    return torch.tensor([[carried(value)] for value in x[:, 0].tolist()], dtype=torch.float64)


@EACH
@pytest.mark.parametrize("predictor", [Euler(), Heun()], ids=str)
def test_the_probability_flow_predictors_have_their_stated_order(noise, predictor):
    """Against the exact transport of quantiles of a mixture: order 1.0 (Euler) and 2.0 (Heun), within 0.1."""
    t, s, counts = 0.7, 0.1, [64, 128, 256]
    alpha, sigma = levels_of(noise, t)
    x = math.sqrt(alpha**2 * 2 + sigma**2) * torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    exact, score = transported(MIXTURE_1D, noise, x, t, s), MIXTURE_1D.noisy_score(noise)
    errors = []
    for n in counts:
        times = torch.linspace(t, s, n + 1, dtype=torch.float64)
        samples = reverse(score, noise, x, times=times, predictor=predictor)
        errors.append((samples.x - exact).square().mean().sqrt().item())
    assert slope_of(errors, counts) == pytest.approx(predictor.order, abs=0.1)


@EACH
@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 2, 2)], ids=["vectors", "images"])
def test_heun_converges_to_the_closed_form_flow_of_a_gaussian(noise, shape):
    r"""$x_s = \mu_s + (\mathrm{std}_s/\mathrm{std}_t)(x_t - \mu_t)$ from t_max to t_min, with order 2.0 within 0.1."""
    x, ends, counts = 2 * normal(*shape), [], [50, 100, 200]
    for t in (noise.t_max, noise.t_min):
        alpha, sigma = levels_of(noise, t)
        ends.append((alpha * MEAN, math.sqrt(alpha**2 * VARIANCE + sigma**2)))
    (mean_t, std_t), (mean_s, std_s) = ends
    exact = mean_s + std_s / std_t * (x - mean_t)
    found = [reverse(gaussian_score(noise), noise, x, times=noise.rho_times(n), predictor=Heun()).x for n in counts]
    errors = [(x - exact).square().mean().sqrt().item() for x in found]
    assert slope_of(errors, counts) == pytest.approx(2, abs=0.1)
    assert errors[-1] < 2e-3


@EACH
@pytest.mark.parametrize("predictor", [Euler(), Heun()], ids=str)
def test_the_flow_predictors_are_exact_for_a_point(noise, predictor):
    r"""For data at one point the flow is straight: three uneven steps land on $\alpha_s x_0 + \sigma_s z$ exactly."""
    z, times = normal(5, 3), torch.tensor([1.0, 0.8, 0.3, 0.05], dtype=torch.float64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels_of(noise, 1.0), levels_of(noise, 0.05)
    score = gaussian_score(noise, variance=0.0)
    samples = reverse(score, noise, alpha_t * MEAN + sigma_t * z, times=times, predictor=predictor)
    close(samples.x, alpha_s * MEAN + sigma_s * z, 1e-11)


def test_euler_under_vp_is_ddim():
    r"""$x_s = \alpha_s \hat x_0 + \sigma_s \hat\epsilon$ with $\hat\epsilon = -\sigma_t s$ and Tweedie's $\hat x_0$."""
    noise, x, t, s = VP(), normal(5, 3), at(0.6), at(0.4)
    score = gaussian_score(noise)
    epsilon = -noise.sigma(t) * score(x, t)
    expected = noise.alpha(s) * (x - noise.sigma(t) * epsilon) / noise.alpha(t) + noise.sigma(s) * epsilon
    close(Euler().step(score, noise, x, t, s)[0], expected)


# --- the stochastic predictors, by their exact moments ---


def affine(move):
    """A, b and S of a move x -> A x + b + S z that is linear in x (1-D) and z."""
    x, z = torch.tensor([[0.0], [1.0], [0.0]]).double(), torch.tensor([[0.0], [0.0], [1.0]]).double()
    out = move(x, Fixed(z))[:, 0]
    return (out[1] - out[0]).item(), out[0].item(), (out[2] - out[0]).item()


def propagated(predictor, noise, times):
    """Mean and variance of a Gaussian carried from the exact law at times[0] down to times[-1]."""
    alpha, sigma = levels_of(noise, times[0])
    mean, variance = alpha * MEAN, alpha**2 * VARIANCE + sigma**2
    score = gaussian_score(noise)
    for t, s in zip(times, times[1:], strict=False):
        a, b, c = affine(lambda x, z, t=t, s=s: predictor.step(score, noise, x, at(t), at(s), generator=z)[0])
        mean, variance = a * mean + b, a**2 * variance + c**2
    return mean, variance


def moment_errors(predictor, noise, counts, t=0.6, s=0.1):
    alpha, sigma = levels_of(noise, s)
    exact = np.array([alpha * MEAN, alpha**2 * VARIANCE + sigma**2])
    return np.array([np.abs(propagated(predictor, noise, np.linspace(t, s, n + 1)) - exact) for n in counts])


@EACH
def test_euler_maruyama_has_weak_order_one(noise):
    """Mean and variance of a Gaussian, propagated exactly, have order 1.0 within 0.1; under VE the mean is exact."""
    counts = [100, 200, 400]
    errors = moment_errors(EulerMaruyama(), noise, counts)
    if isinstance(noise, VE):
        assert errors[:, 0].max() < 1e-11
    else:
        assert slope_of(errors[:, 0], counts) == pytest.approx(EulerMaruyama.order, abs=0.1)
    assert slope_of(errors[:, 1], counts) == pytest.approx(EulerMaruyama.order, abs=0.1)


@EACH
def test_ancestral_has_weak_order_one_and_an_exact_mean(noise):
    """The variance of a Gaussian converges with order 1.0 within 0.1; its mean is exact at any number of steps."""
    counts = [100, 200, 400]
    errors = moment_errors(Ancestral(), noise, counts)
    assert errors[:, 0].max() < 1e-11
    assert slope_of(errors[:, 1], counts) == pytest.approx(Ancestral.order, abs=0.1)


def test_one_step_of_euler_maruyama_is_its_formula():
    r"""Under VP: $x_s = x_t + (s-t)(-\frac\beta2 x_t - \beta s(x_t)) + \sqrt{\beta(t-s)}\,z$ with $\beta(t)$."""
    noise, x, z = VP(0.2, 10.0), normal(5, 3), normal(5, 3, seed=1)
    t, s, beta = 0.6, 0.4, 0.2 + 9.8 * 0.6
    moved, _ = EulerMaruyama().step(lambda x, t: -(x**3), noise, x, at(t), at(s), generator=Fixed(z))
    close(moved, x + (s - t) * (-beta / 2 * x + beta * x**3) + math.sqrt(beta * (t - s)) * z)


@EACH
def test_one_ancestral_step_draws_from_the_posterior_given_the_clean_sample(noise):
    r"""With $\hat x_0$ known the step is $q(x_s \mid x_t, x_0)$, by conditioning the Gaussian of $x_s$ and $x_t$."""
    x, x0, z, t, s = normal(5, 3), normal(5, 3, seed=1), normal(5, 3, seed=2), 0.6, 0.4
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels_of(noise, t), levels_of(noise, s)
    a = alpha_t / alpha_s  # x_t = a x_s + noise: given x_0, cov(x_s, x_t) = a sigma_s^2
    gain = a * sigma_s**2 / sigma_t**2
    variance = sigma_s**2 - gain * a * sigma_s**2
    step_noise = sigma_t**2 - a**2 * sigma_s**2
    assert variance == pytest.approx(1 / (1 / sigma_s**2 + a**2 / step_noise), rel=1e-9)
    expected = alpha_s * x0 + gain * (x - alpha_t * x0) + math.sqrt(variance) * z
    moved, _ = Ancestral().step(lambda x, t: noise.kernel_score(x, x0, t), noise, x, at(t), at(s), generator=Fixed(z))
    close(moved, expected, 1e-10)


@EACH
def test_ancestral_sampling_of_a_point_is_exact_at_any_number_of_steps(noise):
    r"""For data at one point, three steps carry $N(\alpha_t x_0, \sigma_t^2)$ to $N(\alpha_s x_0, \sigma_s^2)$."""
    score, times = gaussian_score(noise, variance=0.0), [1.0, 0.8, 0.3, 0.05]
    alpha, sigma = levels_of(noise, 1.0)
    mean, variance = alpha * MEAN, sigma**2
    for t, s in zip(times, times[1:], strict=False):
        a, b, c = affine(lambda x, z, t=t, s=s: Ancestral().step(score, noise, x, at(t), at(s), generator=z)[0])
        mean, variance = a * mean + b, a**2 * variance + c**2
    alpha, sigma = levels_of(noise, 0.05)
    assert mean == pytest.approx(alpha * MEAN, rel=1e-10)
    assert variance == pytest.approx(sigma**2, rel=1e-9)
