"""BAOAB's and Langevin's bias: moments propagated exactly through the code, and orders measured without noise."""

import math

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev, hermite_e
from scipy.linalg import solve_discrete_lyapunov
from torch import Generator

from scorefield.densities import Gaussian
from scorefield.samplers import Ascent, Langevin, Underdamped, chain
from scorefield.samplers.underdamped import Phase


class Given:
    """A source of noise that hands out the same row of numbers."""

    def __init__(self, z):
        self.z = torch.as_tensor(z, dtype=torch.float64)

    def normal(self, x):
        return self.z.expand(x.shape).clone()

    def uniform(self, x):
        raise AssertionError("these kernels accept every move")


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def stationary(kernel, score, d):
    """The stationary covariance of (x, v), from the matrices of the linear map that one move of the kernel is."""

    def move(x, v, z):
        at = Phase(x, v, score(x))
        new, _ = kernel.advance(score, at, generator=Given(z))
        return torch.cat([new.x, new.velocity], 1)

    eye, zero = torch.eye(2 * d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    a = move(eye[:, :d], eye[:, d:], zero).T.numpy()
    rest = torch.zeros(1, d, dtype=torch.float64)
    b = torch.cat([move(rest, rest, z) for z in torch.eye(d, dtype=torch.float64)]).T.numpy()
    return torch.from_numpy(solve_discrete_lyapunov(a, b @ b.T))


@pytest.mark.parametrize("friction", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("h", [0.1, 0.7, 1.5])
def test_on_a_gaussian_positions_are_exact_and_velocities_have_the_variance_of_theory(h, friction):
    r"""On N(0, 1): Var x = 1 and Var v = $1 - h^2/4$, uncorrelated, to 1e-10, whatever the friction."""
    covariance = stationary(Underdamped(h, friction), lambda x: -x, 1)
    close(covariance, torch.diag(torch.tensor([1.0, 1 - h**2 / 4], dtype=torch.float64)), 1e-10)


@pytest.mark.parametrize(
    "preconditioner", [0.5, torch.tensor([0.5, 1.2]), torch.tensor([[1.0, 0.4], [0.4, 0.8]])], ids=str
)
def test_positions_are_exact_on_a_correlated_gaussian_under_any_preconditioner(preconditioner):
    r"""Cov x = C, and Cov v = $P - \frac{h^2}4 P C^{-1} P$, to 1e-9."""
    law, h = Gaussian([0.0, 0.0], [[1.0, 0.5], [0.5, 0.6]]), 0.5
    covariance = stationary(Underdamped(h, 1.0, preconditioner), law.score, 2)
    p = preconditioner.double() if torch.is_tensor(preconditioner) else preconditioner * torch.eye(2).double()
    p = torch.diag(p) if p.ndim == 1 else p
    close(covariance[:2, :2], law.covariance, 1e-7)  # the preconditioner is in float32 in two cases
    close(covariance[2:, 2:], p - h**2 / 4 * p @ law.covariance.inverse() @ p, 1e-7)


def test_a_single_step_from_fresh_velocities_has_the_bias_it_says():
    r"""With $c = e^{-\gamma h}$ the variance is $1/(1 - h^2(1 + c)/8)$ on N(0, 1), to 1e-12: order 2."""
    for h in (0.2, 0.8):
        kernel, c = Underdamped(h), math.exp(-h)
        one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)

        class Drawn(Given):
            def normal(self, x):
                value, self.z = self.z[0], self.z[1:]
                return value.expand(x.shape).clone()

        def step(x, v, z, kernel=kernel):
            return kernel.step(lambda x: -x, x, generator=Drawn([v, z]))[0].item()

        a, b = step(one, 0.0, 0.0), (step(zero, 1.0, 0.0), step(zero, 0.0, 1.0))
        variance = (b[0] ** 2 + b[1] ** 2) / (1 - a**2)
        assert abs(variance - 1 / (1 - h**2 * (1 + c) / 8)) < 1e-12


def test_the_bias_of_langevin_on_a_quartic_is_of_order_one():
    """Its transition density on a grid, made from the code's drift and noise: the slope of E x^2's error is 1 ± 0.1."""
    grid = torch.linspace(-3.5, 3.5, 351, dtype=torch.float64)[:, None]
    weight = (-(grid[:, 0] ** 4) / 4).exp()
    exact = (weight @ grid[:, 0] ** 2 / weight.sum()).item()
    steps, errors = (0.04, 0.02, 0.01), []
    for h in steps:
        kernel = Langevin(h)
        mean, _ = kernel.step(lambda x: -(x**3), grid, generator=Given([0.0]))
        noise = (kernel.step(lambda x: -(x**3), grid, generator=Given([1.0]))[0] - mean).mean()
        move = (-((grid.T - mean) ** 2) / (2 * noise**2)).exp()
        move = move / move.sum(1, keepdim=True)
        power = torch.linalg.matrix_power(move, 2048)
        errors.append(abs((power[175] @ grid[:, 0] ** 2).item() - exact))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope - 1) < 0.1


def moments_of_the_stationary_law(kernel, score, n=28, nodes=16):
    r"""$E x^2$ and $E x^4$ under the law of (x, v) that the code's move keeps, without noise.

    The operator $f \mapsto E f(x', v')$ on polynomials of degree n - 1 in x and v, Chebyshev nodes on [-3.2, 3.2] and
    [-5.5, 5.5], the noise by Gauss-Hermite quadrature. Its stationary law puts weights on the nodes.
    """
    half = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    inverse = np.linalg.inv(chebyshev.chebvander(half, n - 1))
    x, v = (torch.from_numpy(a.reshape(-1, 1).copy()) for a in np.meshgrid(3.2 * half, 5.5 * half, indexing="ij"))
    z, weights = hermite_e.hermegauss(nodes)
    operator = np.zeros((n * n, n * n))
    for node, weight in zip(z, weights / weights.sum(), strict=True):
        new, _ = kernel.advance(score, Phase(x, v, score(x)), generator=Given([node]))
        ends = ((new.x, 3.2), (new.velocity, 5.5))
        a, b = (chebyshev.chebvander(at.numpy()[:, 0].clip(-r, r) / r, n - 1) @ inverse for at, r in ends)
        operator += weight * (a[:, :, None] * b[:, None, :]).reshape(operator.shape)
    system = np.eye(n * n) - operator.T
    system[0] = 1  # the weights sum to 1
    law = np.linalg.solve(system, np.eye(n * n)[0])
    return law @ x.numpy()[:, 0] ** 2, law @ x.numpy()[:, 0] ** 4


@pytest.mark.parametrize(("friction", "steps", "order"), [(1.0, (0.2, 0.14, 0.1), 2), (1000.0, (0.2, 0.16, 0.13), 4)])
def test_the_bias_of_baoab_in_a_double_well_has_its_order(friction, steps, order):
    r"""With $p \propto e^{x^2/2 - x^4/4}$: the slope of the error of $E x^2$ is 2 ± 0.1, and that of $E x^4$ too.

    At high friction BAOAB is the scheme of Leimkuhler & Matthews with the step $h^2/2$, of order 2 in it: the slope of
    the error of $E x^2$ is 4 ± 0.1 in h.
    """
    grid = np.linspace(-8, 8, 20_001)
    weight = np.exp(grid**2 / 2 - grid**4 / 4)
    exact = [(weight @ grid**k) / weight.sum() for k in (2, 4)]
    found = np.array([moments_of_the_stationary_law(Underdamped(h, friction), lambda x: x - x**3) for h in steps])
    slopes = np.polyfit(np.log(steps), np.log(abs(found - exact)), 1)[0]
    assert (abs(slopes - order)[: 4 // order] < 0.1).all(), slopes


def test_one_move_is_its_formula_and_at_high_friction_the_scheme_of_leimkuhler_and_matthews():
    """B, A, O, A, B by hand on a quartic, at two frictions; the second leaves nothing of the old velocity."""
    h, x, v, z = 0.4, 0.4, 0.7, 0.3
    for friction in (0.8, 1000.0):
        c = math.exp(-friction * h)
        half = v - h / 2 * x**3
        turned = c * half + math.sqrt(1 - c**2) * z
        end = x + h / 2 * half + h / 2 * turned
        at = Phase(*(torch.full((1, 1), value, dtype=torch.float64) for value in (x, v, -(x**3))))
        new, info = Underdamped(h, friction).advance(lambda x: -(x**3), at, generator=Given([z]))
        assert abs(new.x.item() - end) < 1e-14 and info == {}
        assert abs(new.velocity.item() - (turned - h / 2 * end**3)) < 1e-14


def test_it_forgets_its_direction_at_the_rate_of_its_friction():
    """The chain carries the velocity: on a flat target the path of 4 steps is the drift of v times e^{-γh}."""
    kernel, flat = Underdamped(0.5, 0.4), torch.zeros_like
    state = Phase(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1))
    for _ in range(4):
        state, _ = kernel.advance(flat, state, generator=Given([0.0]))
    assert abs(state.velocity.item() - math.exp(-0.4 * 2)) < 1e-6


def test_chain_carries_the_velocity_and_calls_the_score_once_a_move():
    x = normal(5, 2)
    samples = chain(Underdamped(0.3), lambda x: -x, x, steps=6, generator=Generator().manual_seed(1))
    assert samples.evaluations == 7
    g, kernel = Generator().manual_seed(1), Underdamped(0.3)
    state = kernel.start(lambda x: -x, x, generator=g)
    for _ in range(6):
        state, _ = kernel.advance(lambda x: -x, state, generator=g)
    close(samples.x, state.x)


def test_ascent_climbs_to_the_mode_and_draws_nothing():
    r"""On N(m, C) with P = C and h = 1 in one step; with P = 1 by the factor I - h/C each step; to 1e-12."""
    law = Gaussian([1.0, -2.0], [[1.0, 0.5], [0.5, 0.6]])
    x = normal(5, 2)
    close(chain(Ascent(1.0, law.covariance), law.score, x, steps=1).x, law.mean.expand(5, 2))
    factor = torch.linalg.matrix_power(torch.eye(2) - 0.1 * law.covariance.inverse(), 7)
    close(chain(Ascent(0.1), law.score, x, steps=7).x, law.mean + (x - law.mean) @ factor.T, 1e-11)


def test_bad_arguments_are_refused():
    for kernel in (Ascent, Underdamped):
        with pytest.raises(ValueError, match="step_size must be a finite number > 0, got -1.0"):
            kernel(-1.0)
    with pytest.raises(ValueError, match="friction must be a finite number > 0, got 0.0"):
        Underdamped(0.1, 0.0)
