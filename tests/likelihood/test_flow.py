"""The probability flow's log-likelihood against closed forms, its two errors, its count of calls, bad input."""

import math

import pytest
import torch
from scipy.stats import t as student
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from scorefield.calculus import PerSample
from scorefield.densities import Gaussian, GaussianMixture, toy
from scorefield.fields import ScoreModel
from scorefield.likelihood import log_likelihood
from scorefield.likelihood.solver import Place, adaptive, along, integrals
from scorefield.networks import MLP
from scorefield.noise import VE, VP, Cosine, SubVP
from scorefield.settings import MLPSize

SCHEDULES = [VE(0.01, 50.0), VP(), SubVP(), Cosine()]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def correlated(d, seed=0):
    """A Gaussian far from the origin whose axes are not those of the coordinates."""
    A = torch.randn(d, d, generator=seeded(seed), dtype=torch.float64)
    return Gaussian(torch.arange(d, dtype=torch.float64) - 1, A @ A.T / d + 0.1 * torch.eye(d))


def mixture(d):
    means = 2 * torch.randn(3, d, generator=seeded(5), dtype=torch.float64)
    C = correlated(d, 3).covariance
    return GaussianMixture([0.5, 0.3, 0.2], means, torch.stack([C, torch.eye(d, dtype=torch.float64) / 3, C / 2]))


@pytest.mark.parametrize("law", [correlated(2), correlated(8), mixture(2), mixture(8)], ids=lambda law: "law")
@pytest.mark.parametrize("noise", SCHEDULES, ids=lambda n: type(n).__name__)
def test_exact_scores_give_the_exact_log_density(law, noise):
    """Within 1e-3 nats per dimension, and the step error is above the true error."""
    blurred = law.blurred(noise, t=noise.t_min)
    x = blurred.sample((40,), generator=seeded(1))
    found = log_likelihood(law.noisy_score(noise), noise, x)
    error = (found.nats - blurred.log_density(x)).abs()
    assert error.max() < 1e-3 * x.shape[1]
    assert (error <= found.step_error).double().mean() >= 0.9  # 0.95 less two standard errors of 40 cases
    assert not found.probe_se.any()


def ill_conditioned(d, condition):
    """A Gaussian whose axes are turned, with variances from 1/condition to 1."""
    axes, _ = torch.linalg.qr(torch.randn(d, d, generator=seeded(d), dtype=torch.float64))
    variances = torch.logspace(-math.log10(condition), 0, d, dtype=torch.float64)
    return Gaussian(torch.randn(d, generator=seeded(d + 1), dtype=torch.float64), (axes * variances) @ axes.T)


def clusters(d, k):
    roots = torch.randn(k, d, d, generator=seeded(10 * d + k), dtype=torch.float64) / d**0.5
    means = 2 * torch.randn(k, d, generator=seeded(k), dtype=torch.float64)
    return GaussianMixture([1 / k] * k, means, 0.15 * roots @ roots.mT + 0.02 * torch.eye(d, dtype=torch.float64))


def distribution(law):
    """The exact law at t_max as a prior, so that what is left are the errors of the steps."""
    return MixtureSameFamily(Categorical(law.weights), MultivariateNormal(law.means, law.covariances))


@pytest.mark.parametrize("d", [2, 8, 64])
def test_the_step_error_is_above_the_true_error(d):
    """In 95 % of the cases over schedules, condition numbers to 1000, 10 components, tolerances from 1e-2 to 1e-5."""
    for law in (ill_conditioned(d, 1), ill_conditioned(d, 1000), clusters(d, 10)):
        above = []
        for noise in SCHEDULES:
            blurred, prior = law.blurred(noise, t=noise.t_min), distribution(law.blurred(noise, t=1.0))
            x = blurred.sample((10,), generator=seeded(1))
            for rtol in (1e-2, 1e-3, 1e-4, 1e-5):
                found = log_likelihood(law.noisy_score(noise), noise, x, prior=prior, rtol=rtol)
                error = (found.nats - blurred.log_density(x)).abs()
                above.append(error <= found.step_error)
                assert error.max() < max(10 * rtol, 1e-4) * d
        assert torch.cat(above).double().mean() >= 0.95


def test_the_step_error_holds_for_a_network_too():
    """A score that is no law's gradient: against steps of a thousandth of the tolerance, in 95 % of the cases."""
    noise = VE(0.1, 10.0)
    model = untrained(4, noise)
    x, prior = torch.randn(40, 4, generator=seeded(), dtype=torch.float64), noise.prior((4,), variance=1.0)
    exact = log_likelihood(model, noise, x, prior=prior, rtol=1e-8)
    for rtol in (1e-2, 1e-3, 1e-4):
        found = log_likelihood(model, noise, x, prior=prior, rtol=rtol)
        assert ((found.nats - exact.nats).abs() <= found.step_error).double().mean() >= 0.95
        assert found.step_error.max() > exact.step_error.max()


class Decay:
    """On [0, 2]: y' = -2 u y and q' = u y, that is y = exp(-u^2) and q = (1 - exp(-u^2))/2; log p = -q and its pull."""

    low, high = 0.0, 2.0

    def place(self, u):
        return Place(u, torch.tensor(u), 1.0, u)

    def __call__(self, place, z):
        y = z[:, :1]
        return torch.cat([-2 * place.u * y, place.u * y], 1), torch.full_like(y, 0.5)  # q + y/2 is conserved


def begun(rows=1):
    return torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(rows, 2)


def test_the_solver_has_order_five():
    """Half the steps, a thirty-second of the error, of the state as of what it gathers."""

    def error(n):
        end = along(Decay(), begun(), n).past.z[0]
        return abs(end[0].item() - math.exp(-4)), abs(end[1].item() - (1 - math.exp(-4)) / 2)

    for coarse, fine in zip(error(80), error(160), strict=True):
        assert 4.7 < math.log2(coarse / fine) < 5.3


def test_the_tolerance_is_kept():
    """The exact answer to about the tolerance, with fewer steps where it is loose."""
    ends = [adaptive(Decay(), begun(3), rtol) for rtol in (1e-3, 1e-6, 1e-9)]
    for end, rtol in zip(ends, (1e-3, 1e-6, 1e-9), strict=True):
        exact = torch.tensor([math.exp(-4), (1 - math.exp(-4)) / 2], dtype=torch.float64)
        assert (end.past.z - exact).abs().max() < 2 * rtol
    assert ends[0].steps < ends[1].steps < ends[2].steps


def test_the_weights_of_unequal_steps_integrate_polynomials():
    """Through n nodes: exact for degrees below n, and not for n."""
    nodes, a, b = [0.9, 0.7, 0.3, 0.2, -0.1], 0.7, 0.9
    for power in range(6):
        found = sum(w * u**power for w, u in zip(integrals(nodes, a, b), nodes, strict=True))
        exact = (b ** (power + 1) - a ** (power + 1)) / (power + 1)
        assert (abs(found - exact) < 1e-12) == (power < 5)


def test_doubled_steps_are_what_they_say():
    """On a slope that does not depend on the state the step error is the sum of |single - doubled|, by hand."""

    class Slope(Decay):
        def __call__(self, place, z):
            return torch.full_like(z, math.sin(5 * place.u)), torch.zeros_like(z[:, :1])

    walk = along(Slope(), begun(), 2)
    nodes = [0.0, *(2.0**-i for i in range(6, -1, -1)), 2.0]

    def rule(points, k):
        used = [points[k + 1], *reversed(points[max(k - 3, 0) : k + 1])]
        return sum(w * math.sin(5 * u) for w, u in zip(integrals(used, points[k], points[k + 1]), used, strict=True))

    single = [rule(nodes, k) for k in range(8)]
    doubled = [rule(nodes[::2], k) for k in range(4)]
    expected = sum(abs(single[2 * k] + single[2 * k + 1] - doubled[k]) for k in range(4))
    assert walk.step_error().item() == pytest.approx(expected, abs=1e-12)


def test_errors_of_the_state_and_of_what_it_gathers_may_cancel():
    """Where y + q is conserved and log p = y, no step can change the answer, and the step error knows it."""

    class Slope(Decay):
        def __call__(self, place, z):
            rate = torch.full_like(z[:, :1], math.sin(5 * place.u))
            return torch.cat([rate, -rate], 1), torch.ones_like(rate)

    assert along(Slope(), begun(), 2).step_error().item() < 1e-14


def test_a_given_prior_is_used_and_the_plain_one_errs():
    """The data's own variance in the prior matters: N(0, sigma^2 I) is off by more than the matched one."""
    law, noise = Gaussian(torch.zeros(2), 4.0 * torch.eye(2, dtype=torch.float64)), VE(0.01, 20.0)
    x = torch.tensor([[6.0, 0.0]], dtype=torch.float64)
    truth = law.blurred(noise, t=0.0).log_density(x)

    def off(prior):
        return abs(log_likelihood(law.noisy_score(noise), noise, x, prior=prior, rtol=1e-5).nats - truth).item()

    assert off(noise.prior((2,), variance=4.0)) < 1e-4
    assert off(noise.prior((2,))) > 0.01
    assert off(None) < 1e-4


def test_hutchinson_is_unbiased_and_its_student_intervals_cover():
    """32 probes, d = 8: 95 % Student intervals cover the exact answer at 92 to 98 % of 2,000 points; bias < 4 s.e."""
    law, noise = correlated(8), VP()
    x = law.blurred(noise, t=noise.t_min).sample((2000,), generator=seeded(2))
    exact = log_likelihood(law.noisy_score(noise), noise, x, steps=16)
    found = log_likelihood(law.noisy_score(noise), noise, x, method="hutchinson", steps=16, generator=seeded(3))
    gap = found.nats - exact.nats
    covered = (gap.abs() <= float(student.ppf(0.975, 31)) * found.probe_se).double().mean().item()
    assert 0.92 < covered < 0.98
    assert abs(gap.mean()) < 4 * gap.std() / len(x) ** 0.5
    assert found.evaluations == exact.evaluations


def test_probes_are_drawn_per_sample():
    """With `PerSample` the estimate of a point does not depend on its neighbours in the batch."""
    law, noise = correlated(3), VP()
    x = law.sample((4,), generator=seeded(2))

    def some(rows):
        kind = {"method": "hutchinson", "probes": 3, "steps": 32}
        draws = PerSample(7, range(rows.start, rows.stop))
        return log_likelihood(law.noisy_score(noise), noise, x[rows], generator=draws, **kind).nats

    whole, part = some(slice(0, 4)), some(slice(2, 4))
    assert torch.allclose(whole[2:], part, atol=1e-3)  # the coordinates, not the probes, know the batch


def untrained(d, noise):
    torch.manual_seed(0)
    network = MLP(d, MLPSize(width=16, depth=2)).double()
    torch.nn.init.normal_(network.head.weight, std=0.5)
    return ScoreModel(network, noise)


def test_the_law_is_normalised():
    """A flow's density integrates to 1 even if its score is that of no law: here of an untrained network."""
    noise = VE(0.1, 10.0)
    model = untrained(1, noise)
    line = torch.linspace(-9, 9, 1201, dtype=torch.float64)[:, None]
    found = log_likelihood(model, noise, line, prior=noise.prior((1,), variance=1.0), rtol=1e-6)
    assert torch.trapezoid(found.nats.exp(), line[:, 0]).item() == pytest.approx(1, abs=2e-4)


def test_calls_are_counted_and_images_are_taken():
    """One call an evaluation, counted by the score itself; (C, H, W) as well as vectors."""
    noise, calls = VP(), []

    def score(x, t):
        calls.append(1)
        return -x  # N(0, I) stays itself under VP

    x = torch.randn(3, 1, 2, 2, generator=seeded(), dtype=torch.float64)
    found = log_likelihood(score, noise, x, method="hutchinson", probes=2, generator=seeded(), steps=24)
    expected = -(x.flatten(1) ** 2).sum(1) / 2 - 2 * math.log(2 * math.pi)
    assert torch.allclose(found.nats, expected, atol=1e-5)
    assert found.evaluations == len(calls) == 1 + 6 + 24 + 6  # the beginning, its seven parts, the steps, the prior
    assert torch.isnan(log_likelihood(score, noise, x, method="hutchinson", probes=1, steps=2).probe_se).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtol": 0.0}, "rtol must be"),
        ({"steps": 3}, "steps must be even"),
        ({"steps": 0}, "steps must be >= 2"),
        ({"method": "exat"}, "did you mean 'exact'"),
        ({"method": "hutchinson", "probes": 0}, "probes must be >= 1"),
        ({"x": torch.tensor([[0.0, math.nan], [1.0, 1.0]])}, r"rows \[0\]"),
    ],
)
def test_bad_values_are_refused(change, message):
    """The value, the rule and the way out."""
    arguments = {"x": torch.zeros(2, 2), **change}
    with pytest.raises(ValueError, match=message):
        log_likelihood(lambda x, t: -x, VP(), arguments.pop("x"), **arguments)


def test_a_score_that_breaks_names_the_rows():
    """Rows whose flow is not finite are named; an empty batch has an empty answer."""

    def score(x, t):
        return torch.where(x > 3, math.inf, -x)

    with pytest.raises(RuntimeError, match=r"1 of 2 samples.*rows \[1\]"):
        log_likelihood(score, VP(), torch.tensor([[0.0], [4.0]]), steps=4)
    assert log_likelihood(lambda x, t: -x, VP(), torch.zeros(0, 2)).nats.shape == (0,)
    with pytest.raises(RuntimeError, match="give prior"):
        log_likelihood(lambda x, t: x, VP(), torch.zeros(1, 2), steps=2)


def test_two_moons_by_its_own_score():
    """A law that is no mixture of few Gaussians: two moons, blurred exactly by widening."""
    law, noise = toy("two-moons"), VE(0.02, 20.0)
    from scorefield.densities import TwoMoons

    def score(x, t):
        return TwoMoons(math.hypot(0.1, noise.sigma(t).item())).score(x)

    x = law.sample((5,), generator=seeded())
    truth = TwoMoons(math.hypot(0.1, 0.02)).log_density(x)
    assert (log_likelihood(score, noise, x).nats - truth).abs().max() < 2e-3


def test_the_steps_of_one_call_are_taken_again_by_others():
    """The same rows: the same answer bit for bit, without refused steps. Other rows: as with their own."""
    law, noise = mixture(2), VE(0.01, 50.0)
    x = law.blurred(noise, t=0.0).sample((40,), generator=seeded(1))
    first, others = log_likelihood(law.noisy_score(noise), noise, x[:20]), x[20:]
    again = log_likelihood(law.noisy_score(noise), noise, x[:20], steps=first.grid)
    assert torch.equal(again.nats, first.nats)
    assert again.evaluations <= first.evaluations
    found = log_likelihood(law.noisy_score(noise), noise, others, steps=first.grid)
    assert (found.nats - law.blurred(noise, t=0.0).log_density(others)).abs().max() < 2e-3
    one = log_likelihood(law.noisy_score(noise), noise, others[:1], steps=first.grid)
    assert torch.allclose(found.nats[:1], one.nats, rtol=1e-12)
