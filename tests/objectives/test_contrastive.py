"""Noise-contrastive estimation and contrastive divergence against closed forms, and the pool of persistent chains."""

import math

import numpy as np
import pytest
import torch
from torch import Generator, nn

from scorefield.calculus import PerSample
from scorefield.densities import Curve, Gaussian
from scorefield.fields import EnergyModel
from scorefield.noise import VP
from scorefield.objectives import (
    Replay,
    contrastive_divergence,
    noise_contrastive,
    persistent_contrastive_divergence,
)
from scorefield.samplers import Langevin


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class Quadratic(nn.Module):
    """The log-density -x'Px/2 - c of flattened samples, c a free constant: log Z where it is normalised."""

    def __init__(self, precision, constant=0.0):
        super().__init__()
        self.p = nn.Parameter(torch.as_tensor(precision, dtype=torch.float64))
        self.c = nn.Parameter(torch.tensor(constant, dtype=torch.float64))

    def forward(self, x):
        x = x.flatten(1)
        return -((x @ self.p.to(x.dtype)) * x).sum(1) / 2 - self.c.to(x.dtype)


def log_z(covariance):
    return torch.logdet(2 * math.pi * torch.as_tensor(covariance, dtype=torch.float64)).item() / 2


def outer(x):
    """Every row's outer product with itself, (B, d, d)."""
    return x[:, :, None] * x[:, None, :]


LAW = Gaussian([0.0, 0.0], [[1.0, 0.4], [0.4, 0.8]])
NOISE = Gaussian([0.2, -0.1], [[1.5, 0.0], [0.0, 1.2]])


@pytest.mark.parametrize("ratio", [1, 3])
def test_noise_contrastive_equals_its_formula_in_value_and_gradients(ratio):
    r"""$-\log h(x) - \sum\log(1-h(y))$ with $h = p/(p+\nu q)$; $\partial_c = 1 - h(x) - \sum h(y)$, and in P alike."""
    model, x, g = Quadratic([[1.3, -0.2], [-0.2, 0.7]], 1.5), normal(20, 2), Generator().manual_seed(1)
    loss = noise_contrastive(model, x, noise=NOISE, ratio=ratio, generator=Generator().manual_seed(1))

    def h(u):
        p, q = model(u).detach().exp(), NOISE.log_density(u).exp()
        return p / (p + ratio * q)

    value, by_c, by_p = -h(x).log(), 1 - h(x), (1 - h(x))[:, None, None] * outer(x) / 2
    for _ in range(ratio):
        y = NOISE.sample((20,), generator=g)
        value, by_c = value - (1 - h(y)).log(), by_c - h(y)
        by_p = by_p - h(y)[:, None, None] * outer(y) / 2
    close(loss, value)
    found = torch.autograd.grad(loss.sum(), [model.c, model.p])
    close(found[0], by_c.sum())
    close(found[1], by_p.sum(0))


@pytest.mark.parametrize("ratio", [1, 2, 7])
def test_a_model_equal_to_the_noise_is_told_from_it_by_chance_alone(ratio):
    r"""$\log(1+\nu) + \nu\log(1+1/\nu)$ at every sample: 2 log 2 for one sample of noise."""
    loss = noise_contrastive(NOISE.log_density, normal(30, 2), noise=NOISE, ratio=ratio)
    close(loss, torch.full((30,), math.log(1 + ratio) + ratio * math.log(1 + 1 / ratio), dtype=torch.float64))
    if ratio == 1:
        close(loss[0].item(), 2 * math.log(2))


@pytest.mark.parametrize("ratio", [1, 4])
def test_the_gradient_vanishes_at_the_truth_and_its_normalising_constant(ratio):
    """By Gauss-Hermite quadrature in data and noise at once: 0 to 1e-9 at (1/s^2, log Z), not at another constant."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite.hermgauss(200))
    weights = weights / math.sqrt(math.pi)
    s, r = 0.8, 1.1

    class Nodes:
        """N(0, r^2) at the nodes of its own quadrature."""

        def log_density(self, x):
            return Gaussian([0.0], [[r**2]]).log_density(x)

        def sample(self, shape, *, generator=None):
            return math.sqrt(2) * r * nodes[:, None]

    def gradient(precision, constant):
        model = Quadratic([[precision]], constant)
        loss = noise_contrastive(model, math.sqrt(2) * s * nodes[:, None], noise=Nodes(), ratio=ratio)
        return torch.stack([g.flatten()[0] for g in torch.autograd.grad(weights @ loss, [model.p, model.c])])

    true = log_z([[s**2]])
    close(gradient(1 / s**2, true), torch.zeros(2, dtype=torch.float64), 1e-9)
    assert gradient(1 / s**2, true + 0.1)[1] > 0.01 and gradient(1 / s**2, true - 0.1)[1] < -0.01
    assert gradient(1.1 / s**2, true)[0] > 0.003 and gradient(0.9 / s**2, true)[0] < -0.003


def test_the_minimiser_has_the_precision_and_the_log_z_of_the_law():
    """Precision and constant free, 16 sets of 5,000 data with twice the noise: 4 s.e. of the mean, 4 numbers (5e-3)."""
    found = []
    for k in range(16):
        model, x = Quadratic(torch.eye(2), 1.0), LAW.sample((5000,), generator=Generator().manual_seed(k))
        optimiser = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def closure(model=model, x=x, k=k, optimiser=optimiser):
            optimiser.zero_grad()
            g = Generator().manual_seed(100 + k)
            loss = noise_contrastive(model, x, noise=NOISE, ratio=2, generator=g).mean()
            loss.backward()
            return loss

        optimiser.step(closure)
        p = (model.p + model.p.T).detach() / 2
        found.append(torch.stack([p[0, 0], p[0, 1], p[1, 1], model.c.detach()]))
    found, precision = torch.stack(found), LAW.covariance.inverse()
    expected = torch.stack([precision[0, 0], precision[0, 1], precision[1, 1], torch.tensor(log_z(LAW.covariance))])
    standard_error = found.std(0) / 4
    assert ((found.mean(0) - expected).abs() < 4 * standard_error).all()
    assert (standard_error < 0.02).all(), "the test must be able to see a wrong constant"


def test_noise_contrastive_pairs_each_sample_with_its_own_noise():
    """Under PerSample the loss of a sample does not depend on the batch it is in; float32 stays float32."""
    model, x = Quadratic(torch.eye(2)), normal(6, 2)
    whole = noise_contrastive(model, x, noise=NOISE, ratio=2, generator=PerSample(0, range(6)))
    close(whole[4:], noise_contrastive(model, x[4:], noise=NOISE, ratio=2, generator=PerSample(0, [4, 5])))
    assert noise_contrastive(model, x.float(), noise=NOISE).dtype == torch.float32


class Climb:
    """x' = x + h s(x), without noise; it wants the target's own log-density too."""

    def __init__(self, h):
        self.h = h

    def step(self, target, x, *, generator=None):
        assert target.log_density(x).shape == (len(x),)
        return x + self.h * target(x), {}


@pytest.mark.parametrize("shape", [(9, 4), (9, 1, 2, 2)], ids=["vectors", "images"])
@pytest.mark.parametrize("begun", ["at the data", "elsewhere"])
@pytest.mark.parametrize("steps", [1, 3])
def test_contrastive_divergence_equals_its_formula_with_the_chains_end_held_constant(steps, begun, shape):
    r"""$\log p(x^-) - \log p(x)$ with $x^- = (I-hP)^k x_0$; $\partial_P = (xx^T - x^-x^{-T})/2$, no more."""
    root = normal(4, 4, seed=3) / 2
    model, x, h = Quadratic(root @ root.T + torch.eye(4)), normal(*shape), 0.2
    start = None if begun == "at the data" else normal(*shape, seed=1)
    loss = contrastive_divergence(model, x, kernel=Climb(h), steps=steps, start=start)
    p, flat = model.p.detach(), x.flatten(1)
    end = flat if start is None else start.flatten(1)
    for _ in range(steps):
        end = end - h * end @ p
    close(loss, ((flat @ p) * flat).sum(1) / 2 - ((end @ p) * end).sum(1) / 2)
    (by_p,) = torch.autograd.grad(loss.sum(), [model.p])
    close(by_p, (outer(flat) - outer(end)).sum(0) / 2)


class Exact:
    """A kernel that draws from N(0, P^-1) whatever the state, for the model's current P."""

    def __init__(self, model):
        self.model = model

    def step(self, target, x, *, generator=None):
        root = torch.linalg.cholesky(self.model.p.detach().inverse())
        return torch.randn(x.shape, generator=generator, dtype=x.dtype) @ root.T, {}


def test_with_an_exact_kernel_the_gradient_is_that_of_maximum_likelihood():
    r"""Gaussian model: $\partial_P(-\log p) = (xx^T - P^{-1})/2$ in the mean: 4 s.e. on 3 numbers (2e-4)."""
    n, model = 20_000, Quadratic([[1.5, 0.3], [0.3, 0.8]])
    x = LAW.sample((n,), generator=Generator().manual_seed(0))
    loss = contrastive_divergence(model, x, kernel=Exact(model), generator=Generator().manual_seed(1))
    (found,) = torch.autograd.grad(loss.mean(), [model.p])
    likelihood = (x.T @ x / n - model.p.detach().inverse()) / 2
    covariance = model.p.detach().inverse()
    variances = covariance.diagonal()[:, None] * covariance.diagonal()[None] + covariance**2
    standard_error = (variances / n).sqrt() / 2
    assert ((found - likelihood).abs() < 4 * standard_error).all()
    assert (likelihood.abs() > 8 * standard_error).all(), "the test must be able to see a wrong sign"


@pytest.mark.parametrize("steps", [1, 4])
def test_with_langevin_the_fixed_point_is_the_model_whose_chain_has_the_variance_of_the_data(steps):
    r"""On data N(0, 1): not P = 1 but $p(1 - hp/2) = 1$, the stationary variance of the biased chain; 4 s.e. (6e-5).

    At P = 1 the chain's end has a larger variance, and the mean gradient is $(1 - E[x^{-2}])/2 < 0$.
    """
    n, h = 40_000, 0.3
    x = normal(n, 1)

    def gradient(p):
        model = Quadratic([[p]])
        loss = contrastive_divergence(model, x, kernel=Langevin(h), steps=steps, generator=Generator().manual_seed(1))
        (mean,) = torch.autograd.grad(loss.mean(), [model.p])
        return mean.item()

    def expected(p):
        variance = 1.0
        for _ in range(steps):
            variance = (1 - h * p) ** 2 * variance + 2 * h
        return (1 - variance) / 2

    fixed, standard_error = (1 - math.sqrt(1 - 2 * h)) / h, math.sqrt(4 / n) / 2
    assert abs(expected(fixed)) < 1e-12
    assert abs(gradient(fixed)) < 4 * standard_error
    assert abs(gradient(1.0) - expected(1.0)) < 4 * standard_error
    assert expected(1.0) < -4 * standard_error


def test_contrastive_divergence_lowers_the_energy_of_the_data_and_raises_that_of_the_chains_end():
    """One gradient step on an energy network moves the two in opposite directions; the chain carries no graph."""
    energy = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1)).double()
    for i, p in enumerate(energy.parameters()):
        p.data = 0.5 * normal(*p.shape, seed=i)
    model, x, start = EnergyModel(energy), 0.2 * normal(40, 2), 0.2 * normal(40, 2, seed=1) + 3
    ends = []

    class Still:
        def step(self, target, x, *, generator=None):
            ends.append(x)
            return x, {}

    def energies():
        return -model.log_density(x).mean().item(), -model.log_density(start).mean().item()

    before = energies()
    contrastive_divergence(model.log_density, x, kernel=Still(), start=start).mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.05 * p.grad
    after = energies()
    assert after[0] - after[1] < before[0] - before[1]
    assert torch.equal(ends[0], start) and not ends[0].requires_grad


def test_contrastive_divergence_draws_one_stream_per_sample():
    """Under PerSample the loss of a sample does not depend on the batch; float32 stays float32."""
    model, x = Quadratic(torch.eye(2)), normal(6, 2)
    whole = contrastive_divergence(model, x, kernel=Langevin(0.1), steps=3, generator=PerSample(0, range(6)))
    part = contrastive_divergence(model, x[4:], kernel=Langevin(0.1), steps=3, generator=PerSample(0, [4, 5]))
    close(whole[4:], part)
    assert contrastive_divergence(model, x.float(), kernel=Langevin(0.1)).dtype == torch.float32


class Grid:
    """Draws that are told: uniform numbers in turn."""

    def __init__(self, *rows):
        self.rows = list(rows)

    def uniform(self, x):
        return torch.tensor(self.rows.pop(0), dtype=torch.float64)

    def normal(self, x):
        return torch.zeros_like(x)


def test_a_draw_takes_one_slot_from_each_of_n_equal_parts():
    """Seven slots in three parts of 2, 2 and 3: the uniform numbers choose within; no slot comes twice."""
    replay = Replay(LAW, 7, refresh=0.0, generator=Generator().manual_seed(0))
    low, states = replay.draw(3, generator=Grid([0.0, 0.0, 0.0], [0.0] * 3, [0.0] * 3))
    high, _ = replay.draw(3, generator=Grid([0.999, 0.999, 0.999], [0.0] * 3, [0.0] * 3))
    assert low.tolist() == [0, 2, 4] and high.tolist() == [1, 3, 6]
    assert torch.equal(states, replay.states[low])
    g = Generator().manual_seed(1)
    counts = sum(torch.bincount(replay.draw(2, generator=g)[0], minlength=7) for _ in range(6000))
    for slot, chance in enumerate([1 / 3] * 3 + [1 / 4] * 4):  # parts of 3 and 4
        assert abs(counts[slot] - 6000 * chance) < 4 * math.sqrt(6000 * chance * (1 - chance))


def test_a_pool_as_large_as_the_batch_without_refresh_is_one_chain_per_row():
    """Tieleman's persistent chains: every slot in its order, its state as stored."""
    replay = Replay(LAW, 5, refresh=0.0)
    replay.store(torch.arange(5), normal(5, 2))
    slots, states = replay.draw(5)
    assert slots.tolist() == [0, 1, 2, 3, 4]
    close(states, normal(5, 2))


def test_the_refreshed_fraction_is_begun_anew_at_the_initial_law():
    """With probability 0.3, 4 s.e. (6e-5); with 1 all are, and the draw is that of the initial law itself."""
    replay = Replay(LAW, 10_000, refresh=0.3, generator=Generator().manual_seed(0))
    before = replay.states.clone()
    slots, states = replay.draw(10_000, generator=Generator().manual_seed(1))
    share = (states != before[slots]).any(1).double().mean().item()
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 10_000)
    assert torch.equal(replay.states, before), "a draw leaves the pool as it was"
    anew = Replay(LAW, 50, refresh=1.0)
    g = Generator().manual_seed(2)
    _, states = anew.draw(50, generator=g)
    h = Generator().manual_seed(2)
    torch.rand(2, 50, dtype=torch.float64, generator=h)  # the slots and the coins
    close(states, LAW.sample((50,), generator=h))


def test_a_pool_that_is_saved_and_loaded_goes_on_bit_for_bit():
    """Two halves with a save between them equal one run; the copy is not the pool itself."""
    model, x = Quadratic(torch.eye(2)), normal(6, 2)

    def run(replay, seeds):
        return [
            persistent_contrastive_divergence(
                model, x, kernel=Langevin(0.2), replay=replay, steps=2, generator=Generator().manual_seed(k)
            )
            for k in seeds
        ]

    whole = Replay(LAW, 12, generator=Generator().manual_seed(0))
    losses = run(whole, range(6))
    first, second = Replay(LAW, 12, generator=Generator().manual_seed(0)), Replay(LAW, 12)
    run(first, range(3))
    saved = first.state()
    second.load(saved)
    run(first, range(3, 6))  # must not reach into what was saved
    for a, b in zip(losses[3:], run(second, range(3, 6)), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.states, second.states)
    assert not torch.equal(saved["states"], second.states)


def test_persistent_contrastive_divergence_is_the_plain_one_begun_at_the_drawn_states_and_stores_the_end():
    """Drawn, moved and put back by hand from the same seed: equal loss and gradient, and an equal pool."""
    model, x, g = Quadratic(torch.eye(2)), normal(4, 2), Generator().manual_seed(3)
    ours, by_hand = (Replay(LAW, 9, refresh=0.5, generator=Generator().manual_seed(0)) for _ in range(2))
    loss = persistent_contrastive_divergence(
        model, x, kernel=Langevin(0.2), replay=ours, steps=2, generator=Generator().manual_seed(3)
    )
    slots, start = by_hand.draw(4, generator=g)
    end = start
    for _ in range(2):
        end = 0.8 * end + math.sqrt(0.4) * torch.randn(4, 2, dtype=torch.float64, generator=g)
    by_hand.store(slots, end)
    close(loss, (model(end) - model(x)).detach())
    close(ours.states, by_hand.states)
    (by_p,) = torch.autograd.grad(loss.sum(), [model.p])
    close(by_p, (outer(x) - outer(end)).sum(0) / 2)


def test_persistent_chains_reach_the_law_that_theory_predicts_for_their_kernel():
    """While the model stands still the pool tends to Langevin's own variance 1/(p(1 - hp/2)): 4 s.e. (6e-5)."""
    n, h, p = 10_000, 0.3, 1.5
    model, g = Quadratic([[p]]), Generator().manual_seed(0)
    replay = Replay(Gaussian([3.0], [[0.1]]), n, refresh=0.0, generator=g)
    for _ in range(30):
        persistent_contrastive_divergence(model, normal(n, 1), kernel=Langevin(h), replay=replay, generator=g)
    variance = 1 / (p * (1 - h * p / 2))
    assert abs(replay.states.var().item() - variance) < 4 * variance * math.sqrt(2 / n)
    assert abs(replay.states.mean().item()) < 4 * math.sqrt(variance / n)


def test_bad_arguments_are_refused():
    """Integers, counts, schedules in place of laws, no kernel, shapes of starts and pools, a log-density per axis."""
    model, x, kernel = Quadratic(torch.eye(2)), normal(4, 2), Langevin(0.1)
    replay = Replay(Curve(2), 4)  # a law without a density can begin chains
    with pytest.raises(TypeError, match=r"x must be floating point, got torch.int64"):
        noise_contrastive(model, x.long(), noise=NOISE)
    with pytest.raises(ValueError, match="ratio must be >= 1, got 0"):
        noise_contrastive(model, x, noise=NOISE, ratio=0)
    with pytest.raises(TypeError, match="noise must be a density with log_density and sample, got VP"):
        noise_contrastive(model, x, noise=VP())
    with pytest.raises(ValueError, match=r"a sample of the noise must have shape \(4, 2\)"):

        class Other(Quadratic):
            def log_density(self, x):
                return self(x)

            def sample(self, shape, *, generator=None):
                return normal(*shape, 3)

        noise_contrastive(model, x, noise=Other(torch.eye(2)))
    for objective in (
        lambda f, x, **more: noise_contrastive(f, x, noise=NOISE),
        lambda f, x, **more: contrastive_divergence(f, x, kernel=kernel, **more),
        lambda f, x, **more: persistent_contrastive_divergence(f, x, kernel=kernel, replay=replay, **more),
    ):
        with pytest.raises(ValueError, match=r"log_density\(x\) must have shape \(4,\)"):
            objective(lambda x: x, x)
    for objective in (
        contrastive_divergence,
        lambda *a, **b: persistent_contrastive_divergence(*a, **b, replay=replay),
    ):
        with pytest.raises(TypeError, match=r"x must be floating point, got torch.int64"):
            objective(model, x.long(), kernel=kernel)
        with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
            objective(model, x, kernel=kernel, steps=0)
        with pytest.raises(TypeError, match=r"kernel must have a step\(score, x, generator=...\), got float"):
            objective(model, x, kernel=0.1)
    with pytest.raises(ValueError, match=r"start must have shape \(4, 2\) \(the shape of x\), got \(3, 2\)"):
        contrastive_divergence(model, x, kernel=kernel, start=x[:3])
    with pytest.raises(ValueError, match=r"a state of the pool must have shape \(4, 3\)"):
        persistent_contrastive_divergence(model, normal(4, 3), kernel=kernel, replay=replay)
    with pytest.raises(ValueError, match="n must be at most the pool's size 4, got 5"):
        replay.draw(5)
    with pytest.raises(ValueError, match=r"x must have shape \(2, 2\)"):
        replay.store(torch.arange(2), x)
    with pytest.raises(ValueError, match=r"state\['states'\] must have shape \(4, 2\)"):
        replay.load({"states": x[:2]})
    with pytest.raises(ValueError, match=r"refresh must lie in \[0, 1\], got 1.5"):
        Replay(LAW, 4, refresh=1.5)
    with pytest.raises(ValueError, match="size must be >= 1, got 0"):
        Replay(LAW, 0)
    with pytest.raises(TypeError, match=r"initial must have a sample\(\(n,\), generator=...\), got VP"):
        Replay(VP(), 4)
