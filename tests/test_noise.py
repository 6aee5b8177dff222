"""Schedules against their SDE, worked out by hand, and the choices made from data against their definitions."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import ndtr
from scipy.stats import multivariate_normal
from torch import Generator

from scorefield.calculus import expand, score_of
from scorefield.noise import VE, VP, Cosine, Levels, Noise, SubVP, overlap_ratio

NOISES = [VE(0.02, 7.0), VP(0.2, 15.0), SubVP(0.2, 15.0), Cosine(0.03), Levels(7.0, 0.02, 12)]
RATE = 2 * math.log(7.0 / 0.02)
ANGLE = math.acos(0.03)


def beta(t):
    return 0.2 + 14.8 * t


def integral(t):
    return 0.2 * t + 7.4 * t**2


# alpha, sigma^2, f and g^2 worked out by hand.
CLOSED = [
    (
        lambda t: 1 + 0 * t,
        lambda t: 0.02**2 * torch.exp(RATE * t),
        lambda t: 0 * t,
        lambda t: RATE * 4e-4 * (RATE * t).exp(),
    ),
    (lambda t: (-integral(t) / 2).exp(), lambda t: 1 - (-integral(t)).exp(), lambda t: -beta(t) / 2, beta),
    (
        lambda t: (-integral(t) / 2).exp(),
        lambda t: (1 - (-integral(t)).exp()) ** 2,
        lambda t: -beta(t) / 2,
        lambda t: beta(t) * (1 - (-2 * integral(t)).exp()),
    ),
    (
        lambda t: (ANGLE * t).cos(),
        lambda t: (ANGLE * t).sin() ** 2,
        lambda t: -ANGLE * (ANGLE * t).tan(),
        lambda t: 2 * ANGLE * (ANGLE * t).tan(),
    ),
]
CLOSED.append(CLOSED[0])


def label(value):
    return str(value) if isinstance(value, Noise) else "closed"


WITH_CLOSED = pytest.mark.parametrize(("noise", "closed"), list(zip(NOISES, CLOSED, strict=True)), ids=label)
EACH = pytest.mark.parametrize("noise", NOISES, ids=str)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def inside(noise, n=41):
    """Times all over the schedule, its ends included."""
    return torch.linspace(noise.t_min, noise.t_max, n, dtype=torch.float64)


@WITH_CLOSED
def test_alpha_sigma_f_and_g2_are_the_closed_forms(noise, closed):
    """What is derived by automatic differentiation equals what is derived by hand, to 1e-10."""
    t = inside(noise)
    for computed, by_hand in zip((noise.alpha, lambda t: noise.sigma(t) ** 2, noise.f, noise.g2), closed, strict=True):
        close(computed(t), by_hand(t), 1e-10)
        close(computed(t[7]), by_hand(t[7]), 1e-10)


@EACH
def test_the_moments_of_the_forward_sde_are_alpha_and_sigma(noise):
    """Integrating dm/dt = f m and dv/dt = 2 f v + g^2 from t_min recovers alpha and sigma^2 to 1e-7."""

    def slope(t, moments):
        at = torch.tensor(t, dtype=torch.float64)
        f, g2 = noise.f(at).item(), noise.g2(at).item()
        return f * moments[0], 2 * f * moments[1] + g2

    start, ends = torch.tensor(noise.t_min, dtype=torch.float64), [0.3, 1.0]
    first = [noise.alpha(start).item(), noise.sigma(start).item() ** 2]
    solved = solve_ivp(slope, (noise.t_min, 1.0), first, method="DOP853", t_eval=ends, rtol=1e-10, atol=1e-13).y
    t = torch.tensor(ends, dtype=torch.float64)
    np.testing.assert_allclose(solved, [noise.alpha(t).numpy(), noise.sigma(t).numpy() ** 2], rtol=1e-7)


@EACH
def test_noise_grows_with_time_and_alpha_stays_positive(noise):
    """Sigma over alpha increases strictly from t_min to t_max, and nothing at the ends is zero or infinite."""
    t = inside(noise, 200)
    ratio = noise.sigma(t) / noise.alpha(t)
    assert (ratio.diff() > 0).all() and ratio[0] > 0 and ratio.isfinite().all()
    assert noise.alpha(t).min() > 0


@EACH
def test_float32_times_are_answered_in_float32_computed_in_float64(noise):
    """Alpha, sigma and f at float32 times are the rounded float64 values; g^2 is within three roundings."""
    t = inside(noise).float()
    for method in (noise.alpha, noise.sigma, noise.f):
        assert method(t).dtype == torch.float32
        assert torch.equal(method(t), method(t.double()).float())
    assert noise.g2(t).dtype == torch.float32
    torch.testing.assert_close(noise.g2(t).double(), noise.g2(t.double()), rtol=3 * 2**-24, atol=0)


@EACH
def test_schedules_answer_in_the_shape_of_t_and_where_gradients_are_off(noise):
    """A time (), (B,) or (A, B) gives coefficients of its shape, under no_grad too."""
    for t in (torch.tensor(0.4), torch.full((3,), 0.4), torch.full((2, 3), 0.4)):
        for method in (noise.alpha, noise.sigma, noise.f, noise.g2):
            with torch.no_grad():
                assert method(t).shape == t.shape
            assert not method(t).requires_grad


@EACH
@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 2, 3)])
def test_perturb_and_kernel_score_are_the_kernel_and_its_score(noise, shape):
    r"""$x_t = \alpha x + \sigma z$, and $\nabla \log N(x_t; \alpha x, \sigma^2 I)$ is $-z/\sigma$."""
    x, z, t = normal(*shape), normal(*shape, seed=1), torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    x_t = noise.perturb(x, t, z)
    alpha, sigma = noise.alpha(t), noise.sigma(t)
    for i in range(4):
        close(x_t[i], alpha[i] * x[i] + sigma[i] * z[i])

    def log_kernel(at):
        return -((at - expand(alpha, x) * x) ** 2 / (2 * expand(sigma**2, x))).flatten(1).sum(1)

    close(noise.kernel_score(x_t, x, t), score_of(log_kernel)(x_t), 1e-10)
    close(noise.kernel_score(x_t, x, t), -z / expand(sigma, x), 1e-10)
    close(noise.perturb(x, t[1], z), noise.perturb(x, t[1].expand(4), z))
    close(noise.kernel_score(x_t, x, t[1]), noise.kernel_score(x_t, x, t[1].expand(4)))


@EACH
def test_the_prior_is_the_gaussian_at_t_max(noise):
    r"""Mean $\alpha_1 m$, variance $\alpha_1^2 v + \sigma_1^2$; its log-density is scipy's."""
    m, v = normal(2, 3), normal(2, 3, seed=1).square()
    end = torch.tensor(1.0, dtype=torch.float64)
    alpha, variance = noise.alpha(end), noise.alpha(end) ** 2 * v + noise.sigma(end) ** 2
    law = noise.prior((2, 3), m, v)
    close(law.mean, alpha * m)
    close(law.variance, variance)
    x = normal(5, 2, 3, seed=2)
    by_scipy = multivariate_normal((alpha * m).flatten(), np.diag(variance.flatten())).logpdf(x.flatten(1).numpy())
    close(law.log_prob(x), torch.from_numpy(by_scipy), 1e-10)


def test_the_prior_takes_numbers_and_gives_samples_of_the_shape_asked_for():
    """With m = 3 and v = 4 under VE(., 2): N(3, 8); 4 s.e. on mean and variance of 30,000 numbers (1.3e-4)."""
    law = VE(0.1, 2.0).prior((3, 1), 3.0, 4.0)
    close(law.variance, torch.full((3, 1), 8.0, dtype=torch.float64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = law.sample((10_000,))
    assert x.shape == (10_000, 3, 1) and x.dtype == torch.float64
    assert abs(x.mean() - 3) < 4 * math.sqrt(8 / 30_000)
    assert abs(x.var() - 8) < 4 * 8 * math.sqrt(2 / 30_000)
    close(VE(0.1, 2.0).prior((2,)).variance, torch.full((2,), 4.0, dtype=torch.float64))
    close(VE(0.1, 2.0).prior((2,)).mean, torch.zeros(2, dtype=torch.float64))


@EACH
def test_times_decrease_evenly_between_the_exact_ends(noise):
    """A grid of n + 1 times from t_max to t_min, float64."""
    t = noise.times(10)
    assert (t.dtype, len(t), t[0].item(), t[-1].item()) == (torch.float64, 11, noise.t_max, noise.t_min)
    close(t.diff(), torch.full((10,), (noise.t_min - noise.t_max) / 10, dtype=torch.float64))


@EACH
@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_rho_times_space_the_root_of_sigma_over_alpha_evenly(noise, rho):
    r"""$(\sigma/\alpha)^{1/\rho}$ falls by equal steps, and both ends are the schedule's own to the last digit."""
    t = noise.rho_times(8, rho)
    assert (t.dtype, len(t), t[0].item(), t[-1].item()) == (torch.float64, 9, noise.t_max, noise.t_min)
    steps = ((noise.sigma(t) / noise.alpha(t)) ** (1 / rho)).diff()
    assert (steps < 0).all()
    close(steps, steps.mean().expand(8), 1e-9)
    assert noise.rho_times(1).tolist() == [noise.t_max, noise.t_min]


@EACH
def test_time_at_inverts_sigma_over_alpha(noise):
    """Time to ratio and back is the identity to 1e-12; beyond the ends it gives the nearer end."""
    t = inside(noise)
    close(noise.time_at(noise.sigma(t) / noise.alpha(t)), t)
    close(noise.ratio(t), noise.sigma(t) / noise.alpha(t))
    assert noise.ratio(0.5) == noise.ratio(torch.tensor(0.5, dtype=torch.float64))
    close(noise.time_at(torch.tensor([0.0, 1e9])), torch.tensor([noise.t_min, noise.t_max], dtype=torch.float64))


def test_the_levels_are_the_geometric_sequence():
    """Sigma at the levels is sigma_1 > ... > sigma_L with one ratio, both ends exact."""
    noise = Levels(4.0, 0.25, 5)
    sigma = noise.sigma(noise.levels)
    close(sigma, torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25], dtype=torch.float64))
    assert noise.levels.dtype == torch.float64


def test_a_schedule_of_ones_own_needs_alpha_and_sigma_alone():
    r"""For $\alpha = 1 - t/2$ and $\sigma = t$: $f = -1/(2 - t)$ and $g^2 = 2t + 2t^2/(2 - t)$."""

    @dataclass(frozen=True)
    class Straight(Noise):
        t_min = 0.01

        def alpha(self, t):
            return 1 - t / 2

        def sigma(self, t):
            return t

    t = torch.linspace(0.01, 1, 9, dtype=torch.float64)
    close(Straight().f(t), -1 / (2 - t))
    close(Straight().g2(t), 2 * t + 2 * t**2 / (2 - t))
    close(Straight().time_at(t / (1 - t / 2)), t)


def by_definition(x):
    """The largest distance between two rows, and every row's smallest positive one, pair by pair in numpy."""
    rows = x.flatten(1).double().numpy()
    distances = [[math.dist(a, b) for b in rows] for a in rows]
    return np.max(distances), np.array([min(d for d in row if d > 0) for row in distances])


@pytest.mark.parametrize("shape", [(30, 2), (20, 1, 3, 4)])
def test_from_data_takes_the_largest_distance_and_a_tenth_of_the_nearest_one(shape):
    """Sigma_max is the diameter of the data; sigma_min a tenth of the median nearest distance over sqrt(D)."""
    x = normal(*shape)
    high, nearest = by_definition(x)
    expected = 0.1 * torch.from_numpy(nearest).median().item() / math.sqrt(x[0].numel())
    for noise in (VE.from_data(x), Levels.from_data(x)):
        assert noise.sigma_max == pytest.approx(high, rel=1e-12)
        assert noise.sigma_min == pytest.approx(expected, rel=1e-12)
        assert f"sigma_max {high:.4g}: the largest pairwise distance among {len(x)} of {len(x)} rows" in noise.reasons
        assert any(reason.startswith(f"sigma_min {expected:.4g}: ") for reason in noise.reasons)


def test_from_data_is_equivariant_under_scale_and_blind_to_shifts():
    """Ten times the data gives ten times both sigmas and the same number of levels; a shift changes nothing."""
    x = normal(40, 3)
    one, ten, shifted = Levels.from_data(x), Levels.from_data(10 * x), Levels.from_data(x + 100)
    assert ten.sigma_max == pytest.approx(10 * one.sigma_max, rel=1e-12)
    assert ten.sigma_min == pytest.approx(10 * one.sigma_min, rel=1e-12)
    assert shifted.sigma_max == pytest.approx(one.sigma_max, rel=1e-9)
    assert shifted.sigma_min == pytest.approx(one.sigma_min, rel=1e-9)
    assert one.count == ten.count == shifted.count


def test_duplicates_do_not_make_sigma_min_zero():
    """Ninety copies of one row and ten others: the median nearest positive distance is still positive."""
    x = torch.cat([torch.zeros(90, 2, dtype=torch.float64), normal(10, 2)])
    high, nearest = by_definition(x)
    noise = VE.from_data(x)
    assert noise.sigma_max == pytest.approx(high, rel=1e-12)
    assert noise.sigma_min == pytest.approx(0.1 * np.median(nearest) / math.sqrt(2), rel=1e-12)


def test_nearly_equal_pairs_do_not_pull_sigma_min_below_a_thousandth_of_the_spread():
    """Each row with a twin at distance 1e-9: sigma_min is a thousandth of the data's standard deviation."""
    x = normal(50, 2)
    x = torch.cat([x, x + 1e-9])
    spread = (x - x.mean(0)).square().mean().sqrt().item()
    assert VE.from_data(x).sigma_min == pytest.approx(1e-3 * spread, rel=1e-9)


def test_two_rows_are_enough_and_the_sample_taken_is_stated():
    """Two rows at distance 5 give sigma_max 5; of 5,000 rows 2,000 are measured and the reason says so."""
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    assert (VE.from_data(x).sigma_max, Levels.from_data(x).sigma_max) == (5.0, 5.0)
    line = torch.arange(5000, dtype=torch.float64)[:, None]
    noise = VE.from_data(line)
    assert noise.sigma_max == 4999.0
    assert any("2000 of 5000 rows" in reason for reason in noise.reasons)


def test_what_is_given_of_a_schedule_is_kept_and_the_rest_is_chosen():
    """Ends as given, with that reason; L follows from the ends in force, 1 + ceil(log(high/low)/log gamma), or is L."""
    x = normal(30, 40)
    chosen = Levels.from_data(x)
    given = Levels.from_data(x, sigma_max=40.0)
    assert (given.sigma_max, given.sigma_min) == (40.0, chosen.sigma_min)
    assert given.count == 1 + math.ceil(math.log(40.0 / chosen.sigma_min) / math.log(overlap_ratio(40)[0]))
    assert "sigma_max 40: as given" in given.reasons
    assert Levels.from_data(x, sigma_max=1.0, sigma_min=0.01, count=10) == Levels(
        1.0, 0.01, 10, ("sigma_max 1: as given", "sigma_min 0.01: as given", "10 levels: as given")
    )
    assert VE.from_data(x, sigma_min=0.5).sigma_min == 0.5
    assert VE.from_data(x, sigma_max=1e-6).sigma_min == 5e-7  # a chosen end stays below half of the given one
    with pytest.raises(ValueError, match="sigma_min must be < sigma_max"):
        VE.from_data(x, sigma_min=50.0, sigma_max=40.0)


def test_neighbouring_levels_chosen_from_data_overlap():
    """The ratio of neighbouring levels is at most the overlap ratio, and one level fewer would exceed it."""
    x = normal(30, 40)
    noise = Levels.from_data(x)
    gamma, why = overlap_ratio(40)
    log_span = math.log(noise.sigma_max / noise.sigma_min)
    assert log_span / (noise.count - 1) <= math.log(gamma) < log_span / (noise.count - 2)
    assert f"{noise.count} levels: {why}" in noise.reasons


def test_reasons_do_not_make_two_schedules_differ():
    """A schedule typed in by its numbers equals the one chosen from data with the same numbers."""
    chosen = Levels.from_data(normal(10, 2))
    assert chosen == Levels(chosen.sigma_max, chosen.sigma_min, chosen.count)


@pytest.mark.parametrize("dimension", [18, 50, 784, 100_000])
def test_the_overlap_ratio_solves_song_and_ermons_equation(dimension):
    r"""$\Phi(a + 3\gamma) - \Phi(a - 3\gamma) = \frac12$ with $a = \sqrt{2D}(\gamma - 1)$, where that is at most 2."""
    gamma, why = overlap_ratio(dimension)
    shift = math.sqrt(2 * dimension) * (gamma - 1)
    assert ndtr(shift + 3 * gamma) - ndtr(shift - 3 * gamma) == pytest.approx(0.5, abs=1e-9)
    assert "the root of the overlap equation" in why


@pytest.mark.parametrize("dimension", [1, 2, 4, 5, 17])
def test_the_overlap_ratio_is_2_where_there_is_no_smaller_root(dimension):
    """There is no root for D <= 4 and one above 2 up to D = 17; both say so."""
    gamma, why = overlap_ratio(dimension)
    assert gamma == 2.0
    assert ("no root" in why) == (dimension <= 4)
    assert f"D = {dimension}" in why


def test_the_overlap_ratio_tends_to_one_like_three_over_the_root_of_twice_the_dimension():
    r"""There the first $\Phi$ is 1, so that $\sqrt{2D}(\gamma - 1) = 3\gamma$ and $\gamma \to 1 + 3/\sqrt{2D}$."""
    for dimension in (784, 12_288, 1_000_000):
        root = 1 / (1 - 3 / math.sqrt(2 * dimension))
        assert overlap_ratio(dimension)[0] == pytest.approx(root, rel=1e-8)
    assert math.sqrt(2e6) * (overlap_ratio(1_000_000)[0] - 1) == pytest.approx(3, rel=0.01)


REFUSED = [
    (lambda: VE(0.0, 1.0), ValueError, "sigma_min must be a finite number > 0, got 0.0"),
    (lambda: VE(0.1, math.inf), ValueError, "sigma_max must be a finite number > 0, got inf"),
    (lambda: VE(1.0, 1.0), ValueError, "sigma_min must be < sigma_max, got 1.0 and 1.0"),
    (lambda: Levels(0.1, 1.0, 5), ValueError, "sigma_min must be < sigma_max, got 1.0 and 0.1"),
    (lambda: Levels(1.0, 0.1, 1), ValueError, "count must be >= 2, got 1"),
    (lambda: Levels(1.0, 0.1, 2.0), TypeError, "count must be an integer, got 2.0"),
    (lambda: VP(0.0, 1.0), ValueError, "beta_min must be a finite number > 0, got 0.0"),
    (lambda: SubVP(0.1, math.nan), ValueError, "beta_max must be a finite number > 0, got nan"),
    (lambda: VP(2.0, 1.0), ValueError, "beta_min must be <= beta_max, got 2.0 and 1.0"),
    (lambda: Cosine(0.0), ValueError, "alpha_end must lie in (0, 1), got 0.0"),
    (lambda: Cosine(1.0), ValueError, "alpha_end must lie in (0, 1), got 1.0"),
    (lambda: VP().times(0), ValueError, "n must be >= 1, got 0"),
    (lambda: VP().rho_times(2.5), TypeError, "n must be an integer, got 2.5"),
    (lambda: VP().rho_times(4, rho=0.0), ValueError, "rho must be a finite number > 0, got 0.0"),
    (lambda: overlap_ratio(0), ValueError, "dimension must be >= 1, got 0"),
    (lambda: VE.from_data(torch.zeros(1, 2)), ValueError, "x must have at least 2 rows to measure distances, got 1"),
    (lambda: VE.from_data(torch.ones(3, 2)), ValueError, "x must have at least 2 different rows, got 3 equal ones"),
    (lambda: Levels.from_data(torch.ones(3, 2).long()), TypeError, "x must be floating point, got torch.int64"),
    (lambda: Levels.from_data(torch.ones(3)), ValueError, "x must have shape (B, *D) with at least two axes, got (3,)"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_bad_settings_are_refused_with_their_value_and_rule(call, error, words):
    """No schedule can be made whose alpha or sigma would be zero, infinite or out of order."""
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
