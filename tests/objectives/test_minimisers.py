r"""Each objective, minimised, gives the precision that its own theory says: a Gaussian model, score network and energy.

For s(x) = -Px + b every score-matching objective is quadratic in (P, b), so that one Newton step trains to the
optimum of the very sample and the very probes: $P = S^{-1}$ for centred data of covariance S, and $(\alpha^2 S +
\sigma^2 \operatorname{Var}(z) I)^{-1}$ by denoising, whatever the law of the noise.
"""

import math

import pytest
import torch
from torch import Generator, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from scorefield.densities import Gaussian
from scorefield.fields import EnergyModel
from scorefield.noise import VE, VP
from scorefield.objectives import (
    Replay,
    Student,
    contrastive_divergence,
    denoising,
    explicit,
    finite_difference_sliced,
    implicit,
    noise_conditional,
    noise_conditional_sliced,
    noise_contrastive,
    persistent_contrastive_divergence,
    sliced,
)

D, EYE = 2, torch.eye(2, dtype=torch.float64)
S = torch.tensor([[1.2, 0.4], [0.4, 0.7]], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def with_covariance(x, covariance):
    """Rows moved so that their mean is 0 and their covariance the given one, to rounding."""
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.T @ x / len(x))
    return torch.linalg.solve_triangular(root, x.T, upper=False).T @ torch.linalg.cholesky(covariance).T


DATA = with_covariance(torch.special.ndtr(normal(64, D)), S)  # not Gaussian: the optimum knows the covariance alone


class Field(nn.Module):
    """The score network -Px + b, whatever the time."""

    def __init__(self):
        super().__init__()
        self.p, self.b = nn.Parameter(EYE.clone()), nn.Parameter(torch.zeros(D, dtype=torch.float64))

    def forward(self, x, t=None):
        return self.b - x @ self.p.T


class Energy(nn.Module):
    """The energy x'Px/2 - b'x + c, whatever the time."""

    def __init__(self):
        super().__init__()
        self.p, self.b = nn.Parameter(EYE.clone()), nn.Parameter(torch.zeros(D, dtype=torch.float64))
        self.c = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t=None):
        return ((x @ self.p) * x).sum(1) / 2 - x @ self.b + self.c


def built(kind):
    return Field() if kind == "score" else EnergyModel(Energy())


def precision(model):
    p = next(q for name, q in model.named_parameters() if name.endswith("p")).detach()
    return p if isinstance(model, Field) else (p + p.T) / 2


def newton(objective, model):
    """Train to the optimum of a quadratic objective: its Hessian column by column, from gradients."""
    parameters = list(model.parameters())

    def gradient(theta):
        vector_to_parameters(theta, parameters)
        found = torch.autograd.grad(objective(model).mean(), parameters, materialize_grads=True)
        return parameters_to_vector(found)

    at_zero = gradient(torch.zeros_like(parameters_to_vector(parameters)).detach())
    hessian = torch.stack([gradient(e) - at_zero for e in torch.eye(len(at_zero), dtype=torch.float64)], 1)
    best = torch.linalg.lstsq(hessian, -at_zero[:, None], driver="gelsd").solution[:, 0]  # an energy has P + P' alone
    assert gradient(best).abs().max() < 1e-8, "the objective is quadratic, and this is its optimum"
    return precision(model)


EXACT = {
    "explicit": lambda score, x: explicit(score, x, -x @ S.inverse()),
    "implicit": lambda score, x: implicit(score, x),
}


@pytest.mark.parametrize("kind", ["score", "energy"])
@pytest.mark.parametrize("name", EXACT)
def test_objectives_without_noise_are_least_at_the_inverse_covariance_of_the_sample(name, kind):
    """P = S^-1 to rounding."""
    p = newton(lambda score: EXACT[name](score, DATA), built(kind))
    torch.testing.assert_close(p, S.inverse(), rtol=1e-9, atol=1e-9)


def spread(n, generator, dimension=D):
    """N(0, I) by randomised quasi-random points: smooth means over n of them err by far less than n^(-1/2)."""
    seed = int(torch.randint(2**31, (), generator=generator))
    u = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    return torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))


class Spread:
    """Noise of such points, the same for the same seed; two draws in turn are spread evenly over both."""

    def __init__(self, seed):
        self.generator, self.ready = Generator().manual_seed(seed), []

    def normal(self, x):
        self.ready = self.ready or list(spread(len(x), self.generator, 2 * D).chunk(2, dim=1))
        return self.ready.pop(0)


T = 0.3


def at_one_level(noise):
    """The covariance of the sample blurred by a schedule at time T."""
    t = torch.tensor(T, dtype=torch.float64)
    return noise.alpha(t) ** 2 * S + noise.sigma(t) ** 2 * EYE


def time(x):
    return torch.full((len(x),), T, dtype=torch.float64)


def denoised(**how):
    """The entry of denoising at sigma = 0.6 by a kernel whose noise has variance `variance`."""
    variance = how.pop("variance", 1.0)
    return lambda s, x, g: denoising(s, x, sigma=0.6, generator=g, **how), S + 0.36 * variance * EYE


def levelled(objective, noise, **how):
    """The entry of an objective of many levels at one of them."""
    return lambda s, x, g: objective(s, x, noise=noise, t=time(x), generator=g, **how), at_one_level(noise)


# name: the objective of (score, x, generator), the covariance whose inverse is its optimum
NOISY = {
    f"{name}, {law}": (lambda s, x, g, law=law, how=how: sliced(s, x, law=law, generator=g, **how), S)
    for law in ("rademacher", "gaussian", "sphere")
    for name, how in (("sliced", {}), ("plain sliced", {"variance_reduced": False}))
} | {
    "hutchinson": (lambda s, x, g: implicit(s, x, method="hutchinson", probes=2, generator=g), S),
    "finite difference": (lambda s, x, g: finite_difference_sliced(s, x, step=0.1, generator=g), S),
    "denoising, gaussian": denoised(),
    "denoising, laplace": denoised(kernel="laplace"),
    "denoising, student": denoised(kernel=Student(5.0), variance=5 / 3),
    "denoising, antithetic": denoised(antithetic=True),
    "denoising, control variate": denoised(control_variate=True),
    "one level, VE": levelled(noise_conditional, VE(0.5, 2.0)),
    "one level, VP": levelled(noise_conditional, VP(), weight="min-snr"),
    "sliced at one level, VE": levelled(noise_conditional_sliced, VE(0.5, 2.0)),
    "sliced at one level, VP": levelled(noise_conditional_sliced, VP(), weight="likelihood"),
}
BLOCKS, COPIES = 8, 64


@pytest.mark.parametrize("kind", ["score", "energy"])
@pytest.mark.parametrize("name", NOISY)
def test_objectives_with_noise_are_least_there_too(name, kind):
    """8 trainings with fresh noise: tr P within 1 % and within 4 s.e., and 4 s.e. are less than the 1 %."""
    objective, covariance = NOISY[name]
    x = DATA.repeat_interleave(COPIES, 0)  # each sample meets noise that is spread evenly
    traces = torch.stack(
        [newton(lambda s, k=k: objective(s, x, Spread(k)), built(kind)).trace() for k in range(BLOCKS)]
    )
    one_percent(traces, covariance.inverse().trace())


def one_percent(values, expected):
    """The mean is within 1 % and 4 s.e. of what is expected, and the 1 % is wider than the 4 s.e."""
    standard_error = values.std() / math.sqrt(len(values))
    assert 4 * standard_error < 0.01 * expected
    assert abs(values.mean() - expected) < 4 * standard_error + 1e-9


class Law:
    """N(0, S), sampled by such points."""

    def log_density(self, x):
        return Gaussian([0.0, 0.0], S).log_density(x)

    def sample(self, shape, *, generator=None):
        return spread(*shape, generator) @ torch.linalg.cholesky(S).T


def test_noise_contrastive_is_least_at_the_inverse_covariance_and_the_log_z_of_a_gaussian_sample():
    """8 trainings of an energy on 2,048 data each: tr P within 1 %, its constant within 0.01 of log Z, 4 s.e. each."""
    traces, constants = [], []
    for k in range(BLOCKS):
        x, energy = Law().sample((2048,), generator=Generator().manual_seed(k)), Energy()
        model = EnergyModel(energy)
        optimiser = torch.optim.LBFGS(model.parameters(), max_iter=40, line_search_fn="strong_wolfe")

        def closure(model=model, x=x, k=k, optimiser=optimiser):
            optimiser.zero_grad()
            g = Generator().manual_seed(100 + k)
            loss = noise_contrastive(model.log_density, x, noise=Law(), ratio=2, generator=g).mean()
            loss.backward()
            return loss

        optimiser.step(closure)
        traces.append(precision(model).trace())
        constants.append(energy.c.detach())
    one_percent(torch.stack(traces), S.inverse().trace())
    apart = torch.stack(constants) - torch.logdet(2 * math.pi * S) / 2
    assert abs(apart.mean()) < 4 * apart.std() / math.sqrt(BLOCKS) < 0.01


class Exact:
    """A kernel that draws from the model N(P^-1 b, P^-1) itself, by such points."""

    def __init__(self, model):
        self.model = model

    def step(self, target, x, *, generator=None):
        covariance = precision(self.model).inverse()
        mean = covariance @ self.model.network.b.detach()
        return mean + spread(len(x), generator) @ torch.linalg.cholesky(covariance).T, {}


@pytest.mark.parametrize("form", ["plain", "persistent"])
def test_contrastive_divergence_with_an_exact_kernel_stands_still_at_the_inverse_covariance(form):
    """8 trainings of an energy by gradient descent, with the same noise at every step."""
    x, traces = DATA.repeat(16, 1), []
    for k in range(BLOCKS):
        model, replay = EnergyModel(Energy()), Replay(Law(), len(x), generator=Generator().manual_seed(0))
        optimiser = torch.optim.SGD(model.parameters(), lr=1.3)
        for _ in range(50):
            g, kernel = Generator().manual_seed(k), Exact(model)
            if form == "plain":
                loss = contrastive_divergence(model.log_density, x, kernel=kernel, generator=g)
            else:
                loss = persistent_contrastive_divergence(
                    model.log_density, x, kernel=kernel, replay=replay, generator=g
                )
            optimiser.zero_grad()
            loss.mean().backward()
            optimiser.step()
        traces.append(precision(model).trace())
    one_percent(torch.stack(traces), S.inverse().trace())
