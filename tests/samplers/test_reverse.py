"""Predictors by their order and their exact moments, the loop that drives them, and annealed Langevin."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Generator

from scorefield.calculus import PerSample, expand
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.fields import denoise
from scorefield.noise import VE, VP, Cosine, Levels, SubVP
from scorefield.samplers import (
    Ancestral,
    AnnealedStep,
    Euler,
    EulerMaruyama,
    Heun,
    Rescale,
    annealed_langevin,
    reverse,
)

NOISES = [VE(0.01, 25.0), VP(), SubVP(), Cosine()]
EACH = pytest.mark.parametrize("noise", NOISES, ids=str)
PREDICTORS = [Euler(), Heun(), EulerMaruyama(), Ancestral()]
MEAN, VARIANCE = 1.5, 0.7


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def at(t):
    return torch.tensor(t, dtype=torch.float64)


def levels_of(noise, t):
    """Alpha and sigma at one time, as numbers."""
    return noise.alpha(at(t)).item(), noise.sigma(at(t)).item()


def gaussian_score(noise, mean=MEAN, variance=VARIANCE):
    """The exact blurred score of N(mean, variance I), by hand; variance 0 for a point."""

    def score(x, t):
        alpha, sigma = expand(noise.alpha(t), x), expand(noise.sigma(t), x)
        return -(x - alpha * mean) / (alpha**2 * variance + sigma**2)

    return score


def slope_of(errors, counts):
    """The order of convergence: minus the slope of log error over log number of steps."""
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


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


@dataclass
class Fixed:
    """Noise that is given: one row per sample."""

    rows: torch.Tensor

    def normal(self, x):
        return self.rows.to(x).expand_as(x)


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


# --- whole samplers recover a mixture ---

LAW = GaussianMixture([0.3, 0.7], [[4.0, 2.0], [-1.5, -1.0]], [[[0.6, 0.25], [0.25, 0.4]], [[0.9, -0.4], [-0.4, 0.5]]])


def from_prior(noise, n, seed=0):
    """Draws of the prior of the mixture's mean and variances, from a generator of their own."""
    prior = noise.prior((2,), LAW.mean, LAW.covariance.diagonal())
    return prior.mean + prior.stddev * normal(n, 2, seed=seed)


def largest_z(x, law):
    """The largest of 11 errors, in standard errors: weight, means and covariances of both components.

    The components are 12 standard deviations apart, so that every sample's component is known.
    """
    parts = [Gaussian(mean, covariance) for mean, covariance in zip(law.means, law.covariances, strict=True)]
    member, zs = torch.stack([part.log_density(x) for part in parts]).argmax(0), []
    w = law.weights[0]
    zs.append(((member == 0).double().mean() - w) / (w * (1 - w) / len(x)).sqrt())
    for k, (mean, cov) in enumerate(zip(law.means, law.covariances, strict=True)):
        part = x[member == k]
        found = torch.cov(part.T)
        for i in range(2):
            zs.append((part[:, i].mean() - mean[i]) / (cov[i, i] / len(part)).sqrt())
            for j in range(i + 1):
                error = found[i, j] - cov[i, j]
                zs.append(error / ((cov[i, i] * cov[j, j] + cov[i, j] ** 2) / len(part)).sqrt())
    return torch.stack(zs).abs().max()


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


@dataclass(frozen=True)
class Hold:
    """A predictor that leaves the state as it is: what annealed Langevin does if it forgets to rescale."""

    def step(self, score, noise, x, t, s, memory=None, *, generator=None):
        return x, None


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


# --- the loop ---


@dataclass
class Recorder:
    """A corrector and a project hook that write down when they were called, and with what."""

    log: list

    def step(self, score, noise, x, t, *, generator=None):
        self.log.append(("correct", t.item(), x.clone()))
        return x + 1, {"mean": x.mean()}

    def project(self, x, t):
        self.log.append(("project", t.item(), x.clone()))
        return 2 * x


def test_the_loop_predicts_projects_corrects_in_that_order_at_every_time():
    """At each time, the first included: arrive, project, correct twice; the path holds what leaves."""
    noise, recorder = VP(), Recorder([])
    times = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    x = normal(4, 3)
    samples = reverse(
        lambda x, t: -x,
        noise,
        x,
        times=times,
        predictor=Hold(),
        corrector=recorder,
        corrections=2,
        project=recorder.project,
        path=True,
    )
    state, expected, path = x, [], []
    for t in (0.9, 0.5, 0.2):
        expected.append(("project", t, state))
        state = 2 * state
        for _ in range(2):
            expected.append(("correct", t, state))
            state = state + 1
        path.append(state)
    assert [(kind, t) for kind, t, _ in recorder.log] == [(kind, t) for kind, t, _ in expected]
    for (*_, found), (*_, wanted) in zip(recorder.log, expected, strict=True):
        close(found, wanted)
    close(samples.path, torch.stack(path))
    close(samples.x, state)
    assert samples.info["mean"].shape == (6,) and samples.evaluations == 0


def test_the_predictor_is_given_each_pair_of_times_and_its_own_memory():
    """From t to s along the grid; what a step returns as memory the next one gets, None at first."""
    seen = []

    class Remembering:
        order = 1

        def step(self, score, noise, x, t, s, memory=None, *, generator=None):
            seen.append((t.item(), s.item(), memory))
            return x, len(seen)

    reverse(lambda x, t: -x, VP(), normal(2, 2), times=[0.9, 0.5, 0.2, 0.1], predictor=Remembering())
    assert seen == [(0.9, 0.5, None), (0.5, 0.2, 1), (0.2, 0.1, 2)]


@pytest.mark.parametrize("predictor", PREDICTORS, ids=str)
def test_reverse_counts_its_score_calls_and_ends_with_tweedie_on_request(predictor):
    """Four steps: one call each, two for Heun, one more to denoise; the last state is Tweedie's mean."""
    noise, x = VP(), normal(5, 3)
    score, times = gaussian_score(noise), noise.times(4)

    def run(**options):
        g = Generator().manual_seed(0)
        return reverse(score, noise, x, times=times, predictor=predictor, generator=g, **options)

    calls = 8 if predictor == Heun() else 4
    plain, kept, clean = run(), run(path=True), run(path=True, denoise=True)
    assert (plain.evaluations, clean.evaluations) == (calls, calls + 1)
    assert plain.path is None and plain.info == {}
    assert (len(kept.path), len(clean.path)) == (5, 6)
    close(kept.path[0], x)
    assert torch.equal(kept.path[-1], plain.x) and torch.equal(kept.x, plain.x)
    close(clean.path[:5], kept.path)
    close(clean.x, denoise(score, noise, plain.x, times[-1]))
    close(clean.path[5], clean.x)


@pytest.mark.parametrize("predictor", PREDICTORS, ids=str)
def test_a_sample_is_the_same_in_any_batch(predictor):
    """Under PerSample sample i, predicted and corrected, equals itself to 1e-12, alone or in a crowd."""
    noise = VP()
    x, score = normal(6, 2), LAW.noisy_score(noise)

    def run(rows):
        return reverse(
            score,
            noise,
            x[rows],
            times=noise.times(10),
            predictor=predictor,
            corrector=AnnealedStep(0.01, 0.1),
            generator=PerSample(3, rows),
        ).x

    whole = run(list(range(6)))
    close(whole[[4, 1]], run([4, 1]))
    close(whole[4:5], run([4]))


@pytest.mark.parametrize("predictor", PREDICTORS, ids=str)
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_float32_stays_float32_and_close_to_float64(noise, predictor):
    """Ten steps, a Langevin correction each and a last denoising: the float32 answer is the float64 one to 1e-3."""
    x = 2 * normal(4, 3)

    def run(x):
        return reverse(
            gaussian_score(noise),
            noise,
            x,
            times=noise.rho_times(10),
            predictor=predictor,
            corrector=AnnealedStep(1e-3, 1.0),
            denoise=True,
            generator=PerSample(0, range(4)),
        ).x

    single = run(x.float())
    assert single.dtype == torch.float32
    scale = run(x).abs().max().item()
    torch.testing.assert_close(single.double(), run(x), rtol=0, atol=1e-3 * scale)


def test_sampling_from_a_network_keeps_no_graph():
    """Samples carry no gradient, though the score has parameters."""
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    samples = reverse(lambda x, t: -weight * x, VP(), normal(2, 3), times=VP().times(3), predictor=Heun())
    assert not samples.x.requires_grad


BAD_TIMES = [
    ([0.2, 0.9], "times must decrease strictly, got [0.2, 0.9]"),
    ([0.9, 0.5, 0.5], "times must decrease strictly"),
    ([0.9], "times must be a vector of at least 2 times, got shape (1,)"),
    (0.9, "times must be a vector of at least 2 times, got shape ()"),
    ([1.1, 0.5], "times must lie in [1e-05, 1], got 1.1 to 0.5"),
    ([0.9, 0.0], "times must lie in [1e-05, 1], got 0.9 to 0"),
    ([0.9, math.nan], "times must decrease strictly"),
]


@pytest.mark.parametrize(("times", "words"), BAD_TIMES, ids=[words for _, words in BAD_TIMES])
def test_bad_times_are_refused(times, words):
    """Times decrease strictly within [t_min, t_max], at least two of them; the message gives the values."""
    with pytest.raises(ValueError) as caught:
        reverse(lambda x, t: -x, VP(), normal(2, 2), times=times, predictor=Euler())
    assert words in str(caught.value)


def test_a_schedules_own_times_are_accepted_in_float32_too():
    """The grid of a schedule is legal after rounding: its last time may round to just below t_min."""
    for noise in NOISES:
        samples = reverse(lambda x, t: -x, noise, normal(2, 2), times=noise.times(3).float(), predictor=Euler())
        assert samples.x.isfinite().all()


def test_other_bad_arguments_are_refused():
    """Integers, counts below 1, epsilon, convention, and a score of another shape or dtype."""
    noise, x = VP(), normal(2, 2)

    def run(score=lambda x, t: -x, x=x, **options):
        return reverse(score, noise, x, times=noise.times(2), predictor=Euler(), **options)

    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        run(x=x.long())
    with pytest.raises(ValueError, match="corrections must be >= 1, got 0"):
        run(corrections=0)
    with pytest.raises(ValueError, match="a score must return the shape of x"):
        run(lambda x, t: x[:, :1])
    with pytest.raises(TypeError, match="a score must return the dtype of x"):
        run(lambda x, t: x.float())
    with pytest.raises(ValueError, match="epsilon must be a finite number > 0, got 0"):
        annealed_langevin(lambda x, t: -x, noise, x, epsilon=0, steps_per_level=1)
    with pytest.raises(ValueError, match="must be >= 1, got 0"):
        annealed_langevin(lambda x, t: -x, noise, x, epsilon=0.1, steps_per_level=0)
    with pytest.raises(ValueError, match="convention must be one of ncsn, ncsnv2; got 'ncsnv3'; did you mean 'ncsnv2'"):
        annealed_langevin(lambda x, t: -x, noise, x, epsilon=0.1, steps_per_level=1, convention="ncsnv3")
    with pytest.raises(ValueError, match="sigma_end must be a finite number > 0, got 0.0"):
        AnnealedStep(0.1, 0.0)
