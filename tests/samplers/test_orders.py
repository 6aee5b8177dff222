"""The certificate of the predictors: their measured order of convergence, and the law they end in.

Deterministic predictors are measured on the state, beside a fine run, for the exact score of a mixture; stochastic ones
on the mean and variance of a Gaussian, which `moments` carries exactly.
"""

import functools

import numpy as np
import pytest
import torch
from exact_flow import MEAN, NOISES, VARIANCE, levels_of, moments, normal, slope_of

from scorefield.densities import Gaussian, GaussianMixture
from scorefield.noise import VE, VP, Cosine
from scorefield.samplers import (
    DDIM,
    DDPM,
    Ancestral,
    ChurnedHeun,
    Consistent,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    SDEDPMSolver,
    StochasticHeun,
    UniPC,
    reverse,
    time_grid,
)

EACH = pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
QUANTITIES = ("data", "noise", "velocity")
MIXTURE = GaussianMixture(
    [0.3, 0.7], [[-2.0, 0.5], [1.0, -1.0]], [[[0.4, 0.1], [0.1, 0.6]], [[0.8, -0.3], [-0.3, 0.5]]]
)
CORRELATED = Gaussian([0.5, -1.0], [[1.0, 0.5], [0.5, 0.4]])
FLOW = [
    Euler(),
    DDIM(),
    Heun(),
    *(DPMSolver(k, predicts=q) for k in (1, 2, 3) for q in QUANTITIES),
    *(UniPC(k, predicts=q) for k in (1, 2) for q in QUANTITIES),
    *(UniPC(k, variant) for k in (1, 2) for variant in ("B1", "B2")),
]
WEAK = [
    lambda n: EulerMaruyama(),
    lambda n: Ancestral(),
    lambda n: DDPM(),
    lambda n: DDIM(0.5),
    lambda n: SDEDPMSolver(1),
    lambda n: SDEDPMSolver(2),
    lambda n: SDEDPMSolver(1, "velocity"),
    lambda n: SDEDPMSolver(2, "velocity"),
    lambda n: StochasticHeun(),
    lambda n: ChurnedHeun(churn=3.0, steps=n),
]


def carried(predictor, noise, law, n):
    """Six states carried from t = 0.8 to 0.2 in n even steps."""
    alpha, sigma = levels_of(noise, 0.8)
    x, times = (2 * alpha**2 + sigma**2) ** 0.5 * normal(6, 2), torch.linspace(0.8, 0.2, n + 1, dtype=torch.float64)
    return reverse(law.noisy_score(noise), noise, x, times=times, predictor=predictor).x


@functools.cache
def exact(noise, law):
    """The same by 1,500 steps, to 1e-9."""
    return carried(UniPC(3), noise, law, 1500)


def errors(predictor, noise, law, counts):
    """Root-mean-square errors of the end state."""
    return [(carried(predictor, noise, law, n) - exact(noise, law)).square().mean().sqrt().item() for n in counts]


@EACH
@pytest.mark.parametrize("predictor", FLOW, ids=str)
def test_the_flow_predictors_have_their_stated_order(noise, predictor):
    """For a mixture, from t = 0.8 to 0.2: the measured order is the stated one within 0.15."""
    counts = [64, 128, 256]
    assert slope_of(errors(predictor, noise, MIXTURE, counts), counts) == pytest.approx(predictor.order, abs=0.15)


@EACH
@pytest.mark.parametrize("predictor", [Euler(), Heun(), DPMSolver(3), UniPC(2)], ids=str)
def test_the_order_holds_on_a_correlated_gaussian(noise, predictor):
    """The same for one Gaussian with correlation 0.79."""
    counts = [64, 128, 256]
    assert slope_of(errors(predictor, noise, CORRELATED, counts), counts) == pytest.approx(predictor.order, abs=0.15)


def test_degree_three_of_unipc_is_of_order_three_in_the_end():
    """Where the first-order start shows, under Cosine, it is 3 within 0.15; elsewhere 3 to 4 at such counts."""
    counts = [96, 192, 384]
    assert slope_of(errors(UniPC(3), Cosine(), MIXTURE, counts), counts) == pytest.approx(3, abs=0.15)
    for noise in NOISES[:3]:
        assert 2.85 < slope_of(errors(UniPC(3), noise, MIXTURE, counts), counts) < 4.3


def test_the_published_start_costs_a_third_order_method_its_order():
    """DPM-Solver++ 3M from a first-order step is of order 2, matched of order 3, at one more call."""
    counts, published = [96, 192, 384], DPMSolver(3, "published")
    for noise in (VE(0.01, 25.0), Cosine()):
        assert slope_of(errors(published, noise, MIXTURE, counts), counts) == pytest.approx(2, abs=0.15)
        assert slope_of(errors(DPMSolver(3), noise, MIXTURE, counts), counts) == pytest.approx(3, abs=0.15)
    x, times, score = normal(3, 2), VP().times(5), MIXTURE.noisy_score(VP())
    calls = [reverse(score, VP(), x, times=times, predictor=p).evaluations for p in (published, DPMSolver(3), UniPC(3))]
    assert calls == [5, 6, 5]


@EACH
@pytest.mark.parametrize("make", WEAK, ids=lambda make: str(make(1)).split(", steps")[0])
def test_the_stochastic_predictors_have_their_stated_weak_order(noise, make):
    """Mean and variance of a Gaussian, carried exactly from 0.6 to 0.1: the stated order within 0.15, or no error."""
    counts, (alpha, sigma) = [64, 128, 256], levels_of(noise, 0.1)
    exact = np.array([alpha * MEAN, alpha**2 * VARIANCE + sigma**2])
    found = [moments(make(n), noise, torch.linspace(0.6, 0.1, n + 1, dtype=torch.float64)) for n in counts]
    for wrong in np.abs(np.array(found) - exact).T:
        if wrong.max() > 1e-10:  # the mean is exact for all but Euler–Maruyama
            assert slope_of(wrong, counts) == pytest.approx(make(1).order, abs=0.15)


@EACH
def test_consistent_sampling_with_a_fixed_fraction_does_not_converge(noise):
    """Order 0: the variance of a Gaussian is off by a tenth at 128 steps and at 512, its mean exact."""
    alpha, sigma = levels_of(noise, 0.1)
    for n in (128, 512):
        mean, variance = moments(Consistent(0.3), noise, torch.linspace(0.6, 0.1, n + 1, dtype=torch.float64))
        assert mean == pytest.approx(alpha * MEAN, rel=1e-9)
        assert 0.05 < abs(variance / (alpha**2 * VARIANCE + sigma**2) - 1) < 0.5


LAWFUL = [
    (Heun(), 32),
    (DPMSolver(2), 64),
    (DPMSolver(3), 63),
    *((UniPC(k), 64) for k in (1, 2, 3)),
    (UniPC(3, predicts="velocity"), 64),
    (SDEDPMSolver(2), 64),
    (SDEDPMSolver(2, "velocity"), 64),
    (StochasticHeun(), 32),
    (ChurnedHeun(churn=0.3, steps=32), 32),
]


@pytest.mark.parametrize("noise", [*NOISES, VE(0.01, 50.0)], ids=str)
@pytest.mark.parametrize(("predictor", "steps"), LAWFUL, ids=str)
def test_sixty_four_calls_keep_the_variance_of_data_of_any_width(noise, predictor, steps):
    """On the default grid the ratio to the exact variance lies within 1 ± 0.02 for data of sd 0.1, 0.5, 1, 2."""
    times = time_grid(noise, steps, predictor)
    for width in (0.1, 0.5, 1.0, 2.0):
        alpha, sigma = levels_of(noise, times[-1])
        _, variance = moments(predictor, noise, times, width**2)
        assert variance / (alpha**2 * width**2 + sigma**2) == pytest.approx(1, abs=0.02)


@EACH
@pytest.mark.parametrize("predictor", [SDEDPMSolver(2, "velocity"), StochasticHeun()], ids=str)
def test_the_sde_by_its_velocity_keeps_unit_variance_whatever_the_steps(noise, predictor):
    """Four uneven steps from t_max to 0.01 carry the variance of unit Gaussians exactly."""
    times = torch.tensor([1.0, 0.9, 0.4, 0.3, 0.01], dtype=torch.float64)
    alpha, sigma = levels_of(noise, 0.01)
    assert moments(predictor, noise, times, variance=1.0)[1] == pytest.approx(alpha**2 + sigma**2, rel=1e-10)
