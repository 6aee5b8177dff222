"""Leapfrog: reversible, volume-preserving, of order two; and HMC's acceptance. Its invariant laws: test_mala.py."""

import math

import numpy as np
import pytest
import torch
from torch import Generator

from scorefield.calculus import PerSample, inner, score_of
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.samplers import HMC, MALA, chain
from scorefield.samplers.metropolis import evaluate

MIXTURE = GaussianMixture([0.7, 0.3], [[-1.0, 0.0], [2.0, 1.0]], [[[0.5, 0.2], [0.2, 0.6]], [[1.0, 0.0], [0.0, 0.3]]])
TARGET = score_of(MIXTURE.log_density)
DENSE = torch.tensor([[1.0, 0.5], [0.5, 1.5]], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def trajectory(kernel, x, p, step_size):
    new, end = kernel.trajectory(TARGET, evaluate(TARGET, x, "density"), p, step_size)
    return new.x, end


@pytest.mark.parametrize("preconditioner", [1.0, 0.5, torch.tensor([0.5, 2.0]), DENSE], ids=str)
def test_a_trajectory_is_undone_by_turning_its_momentum(preconditioner):
    """To 1e-11 after 20 steps and back."""
    kernel, x, p = HMC(0.2, 20, preconditioner), normal(30, 2), normal(30, 2, seed=1)
    end, p_end = trajectory(kernel, x, p, 0.2)
    back, p_back = trajectory(kernel, end, -p_end, 0.2)
    close(back, x, 1e-11)
    close(-p_back, p, 1e-11)
    assert (end - x).abs().max() > 0.5


def test_a_trajectory_keeps_volume():
    """The Jacobian of (x, p) -> (x', p') has determinant 1, to 1e-10, by forward differences of autograd."""
    kernel = HMC(0.3, 7, DENSE)

    def flow(z):
        x, p = z[None, :2], z[None, 2:]
        half = 0.15
        p = p + half * MIXTURE.score(x)
        for k in range(7):
            x = x + 0.3 * p @ DENSE
            p = p + (0.3 if k < 6 else half) * MIXTURE.score(x)
        return torch.cat([x[0], p[0]])

    z = normal(4)
    close(torch.linalg.det(torch.func.jacrev(flow)(z)), torch.ones((), dtype=torch.float64), 1e-10)
    end, p_end = trajectory(kernel, z[None, :2], z[None, 2:], 0.3)
    close(torch.cat([end[0], p_end[0]]), flow(z), 1e-12)


@pytest.mark.parametrize("preconditioner", [1.0, DENSE], ids=["identity", "dense"])
def test_the_energy_error_of_a_trajectory_is_of_order_two(preconditioner):
    """Over a time of 1.6, steps 0.1 to 0.0125: the slope of the mean error is 2 ± 0.1."""
    x, p = normal(200, 2), normal(200, 2, seed=1)
    matrix = preconditioner if torch.is_tensor(preconditioner) else torch.eye(2, dtype=torch.float64)

    def energy(x, p):
        return -MIXTURE.log_density(x) + inner(p, p @ matrix) / 2

    errors, counts = [], (16, 32, 64, 128)
    for count in counts:
        end = trajectory(HMC(1.6 / count, count, preconditioner), x, p, 1.6 / count)
        errors.append((energy(*end) - energy(x, p)).abs().mean().log().item())
    slope = np.polyfit(-np.log(counts), errors, 1)[0]
    assert abs(slope - 2) < 0.1


def test_the_acceptance_is_the_change_of_energy():
    """By hand, from the momentum drawn again from the seed, with its mass the inverse of P."""
    x, z = normal(40, 2), normal(40, 2, seed=1)
    root = torch.linalg.cholesky(DENSE)
    p = torch.linalg.solve(root.T, z.T).T
    end, p_end = trajectory(HMC(0.5, 3, DENSE), x, p, 0.5)
    energies = [-MIXTURE.log_density(a) + inner(b, b @ DENSE) / 2 for a, b in ((x, p), (end, p_end))]
    moved, info = HMC(0.5, 3, DENSE).step(TARGET, x, generator=Generator().manual_seed(1))
    close(info["acceptance"], (energies[0] - energies[1]).clamp(max=0).exp(), 1e-10)
    changed = (moved != x).any(1)
    close(moved[changed], end[changed], 1e-12)


def test_one_leapfrog_step_is_mala():
    r"""With $h = \epsilon^2/2$ and the same noise: the same proposals, acceptances and states, to 1e-12."""
    x, g = normal(50, 2), (Generator().manual_seed(4), Generator().manual_seed(4))
    one = chain(HMC(0.8, 1), MIXTURE, x, steps=6, generator=g[0])
    other = chain(MALA(0.32), MIXTURE, x, steps=6, generator=g[1])
    close(one.x, other.x, 1e-11)
    close(one.info["acceptance"], other.info["acceptance"], 1e-10)
    assert one.evaluations == other.evaluations == 7


def test_jitter_breaks_the_period_of_a_gaussian():
    """Ten steps of 2 sin(pi/10) are a whole period of N(0, 1): states come back, to 1e-10; with jitter they do not."""
    h, law, x = 2 * math.sin(math.pi / 10), Gaussian([0.0], [[1.0]]), normal(100, 1)
    close(chain(HMC(h, 10), law, x, steps=5, generator=Generator().manual_seed(0)).x, x, 1e-10)
    away = chain(HMC(h, 10, jitter=0.3), law, x, steps=5, generator=Generator().manual_seed(0)).x - x
    assert away.abs().mean() > 0.3


def test_a_preconditioner_is_a_change_of_coordinates():
    """On N(0, C) with P = C, all is as on N(0, I) with P = 1 and x = L y, to 1e-10."""
    root, y = torch.linalg.cholesky(DENSE), normal(20, 2)
    plain = chain(HMC(0.7, 4), lambda_gaussian(torch.eye(2)), y, steps=5, generator=Generator().manual_seed(1))
    metric = chain(
        HMC(0.7, 4, DENSE), lambda_gaussian(DENSE), y @ root.T, steps=5, generator=Generator().manual_seed(1)
    )
    close(metric.info["acceptance"], plain.info["acceptance"], 1e-9)
    p = torch.linalg.solve(root.T, y.T).T  # L^{-T} y: momenta differ by a rotation only if L is used both ways
    close(inner(p, p @ DENSE), inner(y, y), 1e-12)
    close(metric.x, plain.x @ root.T, 1e-9)


def lambda_gaussian(cov):
    return Gaussian(torch.zeros(2), cov)


def test_a_sample_is_the_same_in_any_batch_and_any_shape():
    """Under PerSample to 1e-12; images move as their flattened selves, with a diagonal or a dense P."""
    x = normal(6, 2)
    kernel = HMC(0.5, 3, jitter=0.2)
    whole = chain(kernel, MIXTURE, x, steps=8, generator=PerSample(0, range(6))).x
    part = chain(kernel, MIXTURE, x[4:], steps=8, generator=PerSample(0, [4, 5])).x
    close(whole[4:], part)
    flat = score_of(lambda x: -x.flatten(1).square().sum(1) / 2 - x.flatten(1).prod(1) ** 2)
    images = normal(5, 1, 2, 2)
    dense = torch.eye(4, dtype=torch.float64) + 0.3
    for p, p_flat in ((dense, dense), (images[0].abs(), images[0].abs().flatten())):
        one = chain(HMC(0.5, 3, p), flat, images, steps=4, generator=Generator().manual_seed(1)).x
        other = chain(HMC(0.5, 3, p_flat), flat, images.flatten(1), steps=4, generator=Generator().manual_seed(1)).x
        close(one.flatten(1), other)


def test_divergences_are_counted_and_refused():
    """A step of 40 on N(0, 1) multiplies the energy beyond 1000: no state moves, every move is counted."""
    x = normal(50, 1)
    samples = chain(HMC(40.0, 5), Gaussian([0.0], [[1.0]]), x, steps=4)
    assert torch.equal(samples.x, x)
    assert (samples.divergences == 4).all() and (samples.acceptance == 0).all()


def test_bad_arguments_are_refused():
    for h in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"step_size must be a finite number > 0, got {h}"):
            HMC(h, 3)
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        HMC(0.1, 0)
    with pytest.raises(ValueError, match=r"jitter must lie in \[0, 1\), got 1"):
        HMC(0.1, 2, jitter=1)
