"""The loop that drives predictors and correctors: order of calls, counts, paths, batches, bad input."""

import math
from dataclasses import dataclass

import pytest
import torch
from exact_flow import LAW, NOISES, Hold, close, gaussian_score, normal
from torch import Generator

from scorefield.calculus import PerSample
from scorefield.fields import denoise
from scorefield.noise import VP
from scorefield.samplers import Ancestral, AnnealedStep, Euler, EulerMaruyama, Heun, annealed_langevin, reverse

PREDICTORS = [Euler(), Heun(), EulerMaruyama(), Ancestral()]


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
