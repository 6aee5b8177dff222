"""What a chain reports: acceptance, effective samples, R-hat, arviz's data, and samples that are lost."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from torch import Generator

from scorefield.densities import GaussianMixture
from scorefield.noise import VE
from scorefield.samplers import HMC, MALA, Langevin, Samples, annealed_langevin, chain

TWO = GaussianMixture([0.8, 0.2], [[-3.0, 0.0], [3.0, 0.0]], 0.25 * torch.eye(2).expand(2, 2, 2))


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def explode(x):
    """A score that throws what lies above 1 far away, ever faster."""
    return torch.where(x > 1, x**3 * 1e30, -x)


def test_a_sample_that_is_lost_is_named_and_the_others_go_on():
    """Sample 2 starts where the score explodes: a warning and `lost` say which and when; the others are as alone."""
    x = torch.tensor([[0.1], [-0.2], [50.0], [0.3]], dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match=r"1 of 4 samples became non-finite: sample 2 at step \d; use a smaller"):
        samples = chain(Langevin(0.001), explode, x, steps=20, generator=Generator().manual_seed(0))
    assert samples.lost.tolist()[:2] == [0, 0] and samples.lost[3] == 0
    assert 1 < samples.lost[2] < 20
    assert samples.x[[0, 1, 3]].isfinite().all() and not samples.x[2].isfinite()
    kept = chain(Langevin(0.001), lambda x: -x, x, steps=20, generator=Generator().manual_seed(0)).x
    assert torch.equal(samples.x[[0, 1, 3]], kept[[0, 1, 3]])


def test_a_chain_without_survivors_ends_and_a_start_that_is_not_finite_is_refused():
    x = torch.full((3, 1), 50.0, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"all 3 samples became non-finite by step \d; use a smaller step_size"):
        chain(Langevin(0.001), explode, x, steps=20)
    x[1] = math.nan
    with pytest.raises(ValueError, match="x must be finite, but sample 1 of 3 is not"):
        chain(Langevin(0.1), lambda x: -x, x, steps=2)


def test_no_samples_are_no_error():
    """B = 0: an empty state, nothing lost."""
    for kernel in (Langevin(0.1), MALA(0.1), HMC(0.1, 2)):
        samples = chain(kernel, TWO, torch.zeros(0, 2, dtype=torch.float64), steps=3, keep=1)
        assert samples.x.shape == (0, 2) and samples.path.shape == (3, 0, 2) and len(samples.lost) == 0


def test_the_chain_leaves_its_start_alone_and_keeps_copies():
    x = normal(5, 2)
    before = x.clone()
    path = chain(Langevin(0.1), TWO.score, x, steps=4, keep=1).path
    assert torch.equal(x, before)
    assert len({tuple(state.flatten().tolist()) for state in path}) == 4


def test_totals_are_the_sums_of_what_the_steps_report():
    """One number per chain instead of one per step: the same acceptance and divergences."""
    x = normal(6, 2)
    stacked = chain(MALA(0.5), TWO, x, steps=9, generator=Generator().manual_seed(1))
    summed = chain(MALA(0.5), TWO, x, steps=9, totals=True, generator=Generator().manual_seed(1))
    assert stacked.info["acceptance"].shape == (9, 6) and summed.info["acceptance"].shape == (6,)
    torch.testing.assert_close(summed.acceptance, stacked.info["acceptance"].mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(summed.acceptance, stacked.acceptance, rtol=1e-12, atol=1e-12)
    assert torch.equal(summed.divergences, stacked.divergences)
    with pytest.raises(RuntimeError, match="this kernel reports no 'acceptance': it accepts every move"):
        _ = chain(Langevin(0.1), TWO, x, steps=2).acceptance


def test_the_effective_sample_size_of_an_autoregression_is_the_known_one():
    r"""Langevin on N(0, 1) is AR(1) with $\rho = 1 - h$: n (1 - ρ)/(1 + ρ) to 10 %, and R-hat near 1."""
    h, draws, chains = 0.4, 2000, 10
    samples = chain(
        Langevin(h), lambda x: -x, normal(chains, 2), steps=draws, keep=1, generator=Generator().manual_seed(0)
    )
    ess, r_hat = samples.ess(method="mean"), samples.r_hat()
    assert ess.shape == r_hat.shape == (2,)
    expected = draws * chains * h / (2 - h)
    assert ((ess / expected - 1).abs() < 0.1).all()
    assert ((r_hat - 1).abs() < 0.01).all()


def test_r_hat_of_chains_apart_is_large_and_the_classical_formula():
    """Split R-hat by hand: the square root of the pooled over the mean within-chain variance of the halves."""
    path = normal(100, 4, 1) + torch.arange(4.0)[None, :, None]
    halves = torch.cat([path[:50, :, 0], path[50:, :, 0]], 1)
    within, between = halves.var(0).mean(), 50 * halves.mean(0).var()
    expected = ((49 / 50 * within + between / 50) / within).sqrt()
    torch.testing.assert_close(Samples(path[-1], path).r_hat(method="split")[0], expected, rtol=1e-10, atol=1e-10)
    assert Samples(path[-1], path).r_hat()[0] > 1.3


def test_lost_chains_are_left_out_and_a_missing_path_is_named():
    path = normal(100, 3, 1)
    whole = Samples(path[-1], path[:, :2]).ess()
    path[40:, 2] = math.nan
    assert torch.equal(Samples(path[-1], path).ess(), whole)
    for samples, held in ((Samples(path[-1]), 0), (Samples(path[-1], path[:3]), 3)):
        with pytest.raises(RuntimeError, match=rf"a path of at least 4 states, got {held}; run chain\(..., keep=1\)"):
            samples.r_hat()
    with pytest.raises(RuntimeError, match="every chain became non-finite"):
        Samples(path[-1], path * math.nan).ess()


def test_to_arviz_hands_over_the_path_and_the_info(monkeypatch):
    """Chains first, arviz's own names for acceptance and divergences; without arviz the error names it."""
    samples = chain(MALA(0.5), TWO, normal(3, 2), steps=5, keep=1)
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match="to_arviz needs arviz: pip install arviz"):
        samples.to_arviz()
    stand_in = types.ModuleType("arviz")
    stand_in.from_dict = lambda groups: groups
    monkeypatch.setitem(sys.modules, "arviz", stand_in)
    groups = samples.to_arviz()
    assert groups["posterior"]["x"].shape == (3, 5, 2)
    np.testing.assert_array_equal(groups["posterior"]["x"][1, 4], samples.x[1])
    np.testing.assert_array_equal(groups["sample_stats"]["acceptance_rate"], samples.info["acceptance"].T)
    assert groups["sample_stats"]["diverging"].dtype == bool


def test_annealing_recovers_the_weights_where_plain_langevin_does_not_and_r_hat_says_so():
    """0.8 and 0.2, six widths apart: annealed Langevin to 4 s.e.; plain Langevin keeps what it started with."""
    noise, n, g = VE(0.05, 12.0), 1000, Generator().manual_seed(0)
    start = noise.sigma(torch.tensor(1.0)).item() * torch.randn(n, 2, dtype=torch.float64, generator=g)
    drawn = annealed_langevin(
        TWO.noisy_score(noise), noise, start, epsilon=1e-3, steps_per_level=40, convention="ncsnv2", generator=g
    )
    standard_error = math.sqrt(0.16 / n)
    assert abs((drawn.x[:, 0] < 0).double().mean() - 0.8) < 4 * standard_error
    plain = chain(Langevin(0.02), TWO.prepared(), start, steps=300, keep=3, generator=g)
    assert abs((plain.x[:, 0] < 0).double().mean() - 0.8) > 10 * standard_error
    late = Samples(plain.x, plain.path[50:, :20])
    assert late.r_hat()[0] > 1.5 and late.r_hat()[1] < 1.2
