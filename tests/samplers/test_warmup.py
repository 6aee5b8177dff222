"""Dual averaging, warm-up and replica exchange."""

import math

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Generator

from scorefield.densities import Gaussian, GaussianMixture
from scorefield.samplers import HMC, MALA, DualAveraging, Langevin, Tempered, chain, warm_up
from scorefield.samplers.warmup import Moments

FAR = GaussianMixture([0.8, 0.2], [[-4.0, 0.0], [4.0, 0.0]], torch.eye(2).expand(2, 2, 2))
FAST = FAR.prepared()
SCALES = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_dual_averaging_is_the_recursion_of_the_paper():
    """Three updates by hand."""
    tuner, mu, errors, mean = DualAveraging(0.3, 0.8), math.log(3.0), 0.0, 0.0
    for m, seen in enumerate((0.1, 0.9, 0.6), start=1):
        errors += 0.8 - seen
        log_step = mu - math.sqrt(m) / 0.05 / (m + 10) * errors
        mean = m**-0.75 * log_step + (1 - m**-0.75) * mean
        assert abs(math.log(tuner.update(seen)) - log_step) < 1e-12
    assert abs(math.log(tuner.mean) - mean) < 1e-12


def test_dual_averaging_solves_for_the_acceptance():
    """On acceptance e^{-step} the step becomes -log(0.7), to 3 % after 2,000 updates."""
    tuner = DualAveraging(1.0, 0.7)
    step = 1.0
    for _ in range(2000):
        step = tuner.update(math.exp(-step))
    assert abs(tuner.mean / -math.log(0.7) - 1) < 0.03


@pytest.mark.parametrize("dense", [False, True])
def test_moments_in_parts_are_those_of_all_samples(dense):
    """Two batches of unequal size, far from 0; shrunk by 5 of n + 5 towards 1e-3 of the mean variance."""
    x = 1000 + normal(90, 3) @ normal(3, 3, seed=1)
    moments = Moments(dense)
    moments.add(x[:20])
    moments.add(x[20:])
    cov = torch.cov(x.T)
    expected = 90 / 95 * cov + 5 / 95 * 1e-3 * cov.diagonal().mean() * torch.eye(3)
    close(moments.covariance(), expected if dense else expected.diagonal(), 1e-8)


@pytest.mark.parametrize("kernel", [MALA(1e-4), MALA(1e3), HMC(1e-3, 3)], ids=["small", "large", "hmc"])
def test_warm_up_reaches_the_acceptance_from_any_step_size(kernel):
    """On a correlated Gaussian with 100 chains: the kernel's own target, to ± 0.06 in the chain that follows."""
    law = Gaussian([1.0, -2.0], [[1.0, 0.8], [0.8, 2.0]]).prepared()
    g = Generator().manual_seed(0)
    tuned, x = warm_up(kernel, law, normal(100, 2), steps=100, generator=g)
    assert abs(chain(tuned, law, x, steps=30, generator=g).acceptance.mean() - kernel.target_acceptance) < 0.06
    asked, x = warm_up(kernel, law, x, steps=100, acceptance=0.9, generator=g)
    assert abs(chain(asked, law, x, steps=30, generator=g).acceptance.mean() - 0.9) < 0.06
    assert asked.step_size < tuned.step_size


@pytest.mark.parametrize("way", ["diagonal", "dense"])
def test_warm_up_finds_the_preconditioner(way):
    """Scales from 0.1 to 10: P within a factor 1.5 of the variances; the ESS of the widest coordinate rises 20-fold."""
    law, g = Gaussian(torch.zeros(3), torch.diag(SCALES)).prepared(), Generator().manual_seed(0)
    x = normal(100, 3) * SCALES.sqrt()
    plain, _ = warm_up(MALA(0.1), law, x, steps=100, generator=g)
    tuned, start = warm_up(MALA(0.1), law, x, steps=120, preconditioner=way, generator=g)
    variances = tuned.preconditioner.diagonal() if way == "dense" else tuned.preconditioner
    assert tuned.preconditioner.shape == ((3, 3) if way == "dense" else (3,))
    assert ((variances / SCALES).log().abs() < math.log(1.5)).all()
    ess = [chain(k, law, start, steps=100, keep=1, generator=g).ess(method="mean")[2] for k in (plain, tuned)]
    assert ess[1] > 20 * ess[0]


def test_warm_up_keeps_the_other_settings():
    law = Gaussian([0.0], [[1.0]])
    tuned, _ = warm_up(HMC(0.1, 4, 2.0, jitter=0.3), law, normal(20, 1), steps=20)
    assert (tuned.steps, tuned.preconditioner, tuned.jitter) == (4, 2.0, 0.3)


def test_replica_exchange_keeps_the_law_and_crosses_where_mala_does_not():
    """Exact draws stay exact (KS, 1e-4); from one mode of two, the weight 0.8 is found to 4 s.e.; MALA stays."""
    g = Generator().manual_seed(0)
    kernel = Tempered(MALA(0.8), (1.0, 3.0, 9.0))
    exact = chain(kernel, FAST, FAR.sample((2000,), generator=g), steps=12, generator=g)
    fresh = FAR.sample((24_000,), generator=g)
    for i in (0, 1):
        assert ks_2samp(exact.x[:, i].numpy(), fresh[:, i].numpy()).pvalue > 1e-4 / 2
    assert 0.2 < exact.info["exchange"].mean() < 0.95
    start = torch.tensor([4.0, 0.0], dtype=torch.float64).expand(300, 2)
    moved = chain(kernel, FAST, start, steps=120, generator=g).x
    assert abs((moved[:, 0] < 0).double().mean() - 0.8) < 4 * math.sqrt(0.16 / 300)
    stuck = chain(MALA(0.8), FAST, start, steps=120, generator=g).x
    assert (stuck[:, 0] < 0).double().mean() < 0.05


def test_an_exchange_swaps_states_with_the_probability_of_its_formula():
    """Two temperatures, a kernel that hardly moves: who is exchanged holds the other's state, score and density."""
    from scorefield.samplers.metropolis import Evaluated
    from scorefield.samplers.tempering import _exchange

    x, y, t = normal(400, 2), 2 * normal(400, 2, seed=1), (1.0, 3.0)
    (s, p), (r, q) = FAR.with_log_density(x), FAR.with_log_density(y)
    cold, hot, probability = _exchange(Evaluated(x, s, p), Evaluated(y, r / 3, q / 3), t, Generator().manual_seed(0))
    close(probability, ((1 - 1 / 3) * (q - p)).clamp(max=0).exp(), 1e-12)
    swapped = (cold.x == y).all(1)
    assert 20 < swapped.sum() < 380
    for state, temperature in ((cold, 1.0), (hot, 3.0)):
        score, density = FAR.with_log_density(state.x)
        close(state.score, score / temperature)
        close(state.log_density, density / temperature)
    assert torch.equal(hot.x[swapped], x[swapped])


def test_bad_arguments_are_refused():
    law, x = Gaussian([0.0], [[1.0]]), normal(4, 1)
    with pytest.raises(ValueError, match="steps must be >= 20, got 5"):
        warm_up(MALA(0.1), law, x, steps=5)
    with pytest.raises(ValueError, match="acceptance must lie strictly between 0 and 1, got 1.5"):
        warm_up(MALA(0.1), law, x, steps=20, acceptance=1.5)
    with pytest.raises(ValueError, match="x must hold at least one chain"):
        warm_up(MALA(0.1), law, x[:0], steps=20)
    with pytest.raises(TypeError, match=r"warm_up tunes kernels that accept or refuse \(MALA, HMC\), got Langevin"):
        warm_up(Langevin(0.1), law, x, steps=20)
    with pytest.raises(RuntimeError, match="every move is accepted up to the step size"):
        warm_up(MALA(0.1), Flat(), x, steps=20)
    for temperatures in ((1.0,), (2.0, 3.0), (1.0, 1.0), (1.0, 3.0, 2.0)):
        with pytest.raises(ValueError, match="temperatures must increase from 1, at least two of them"):
            Tempered(MALA(0.1), temperatures)
    for kernel in (Langevin(0.1), MALA(0.1, adjust="line")):
        with pytest.raises(TypeError, match="kernel must be MALA or HMC with adjust='density'"):
            Tempered(kernel, (1.0, 2.0))


class Flat:
    """A density that is the same everywhere."""

    def score(self, x):
        return torch.zeros_like(x)

    def log_density(self, x):
        return x.new_zeros(len(x))
