"""Energies as score fields: at all noise levels and at one law, their score, divergence and parameter gradients."""

import math

import pytest
import torch
from torch import Generator, nn

from scorefield.calculus import divergence, inner
from scorefield.fields import PREDICTS, EnergyModel, InnerEnergy, ScoreModel, at, given
from scorefield.networks import MLP, UNet
from scorefield.noise import VE, VP, Cosine, SubVP
from scorefield.objectives import denoising, implicit, noise_conditional, sliced
from scorefield.settings import MLPSize, UNetSize
from test_fields import EACH, MEAN, SCALE, TIMES, VARIANCE, ExactNetwork, blurred_score, close, normal, stirred


class ExactEnergy(nn.Module):
    """The energy whose gradient is minus the exact network's output, a u + b: $-a \\|u\\|^2/2 - b \\sum u$."""

    def __init__(self, noise, predicts):
        super().__init__()
        self.field = ExactNetwork(noise, predicts)

    def forward(self, u, c, y=None):
        b = self.field(torch.zeros_like(u), c)
        a = self.field(torch.ones_like(u), c) - b
        return -inner(a * u, u) / 2 - inner(b, u)


@EACH
@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 2, 3)], ids=["vectors", "images"])
def test_an_exact_energy_gives_the_exact_log_density_and_score(noise, predicts, shape):
    """For Gaussian data: the blurred score, and the blurred log-density up to a constant of the level."""
    model, x = EnergyModel(ExactEnergy(noise, predicts), noise, predicts, SCALE), 2 * normal(*shape)
    exact = blurred_score(noise, x, TIMES)
    torch.testing.assert_close(model(x, TIMES), exact, rtol=1e-10, atol=1e-10 * exact.abs().max().item())
    alpha, sigma = noise.alpha(TIMES), noise.sigma(TIMES)
    variance, other = alpha**2 * VARIANCE + sigma**2, 2 * normal(*shape, seed=1)

    def log_normal(x):
        apart = (x.flatten(1) - (alpha * MEAN)[:, None]).square().sum(1)
        return -apart / (2 * variance)

    difference = model.log_density(x, TIMES) - model.log_density(other, TIMES)
    expected = log_normal(x) - log_normal(other)
    torch.testing.assert_close(difference, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())
    close(at(model, TIMES[2]).log_density(x), model.log_density(x, TIMES[2].expand(5)))


SCHEDULES = (None, VE(0.02, 7.0), VP(), SubVP(), Cosine())


@pytest.mark.parametrize("noise", SCHEDULES, ids=str)
@pytest.mark.parametrize("predicts", ["edm", "score"])
@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 2, 2)], ids=["vectors", "images"])
@pytest.mark.parametrize("kind", [ScoreModel, EnergyModel], ids=["score", "energy"])
def test_the_own_divergence_is_the_trace_of_the_derivative(noise, predicts, shape, kind):
    """What a model says of itself equals automatic differentiation of its score, labels and no labels included."""
    network = stirred(MLP(shape[1:], MLPSize(8, 2), classes=3, energy=kind is EnergyModel))
    model, y = kind(network, noise, predicts, SCALE), torch.tensor([0, -1, 2, 1, -1])
    score, x = at(given(model, y), None if noise is None else TIMES[1]), normal(*shape)
    s, div = divergence(score, x)
    close(s, score(x), 1e-9)
    rows = torch.func.vmap(torch.func.jacrev(lambda x, y: given_row(model, noise, x, y)))(x, y)
    trace = rows.reshape(5, x[0].numel(), x[0].numel()).diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(div, trace, rtol=1e-9, atol=1e-9)


def given_row(model, noise, x, y):
    """The score of one sample alone."""
    return model(x[None], None if noise is None else TIMES[1][None], y[None])[0]


def test_without_a_schedule_edm_is_what_is_left_beside_a_normal_law():
    """A network of zeros is N(0, v I): score -x/v, log-density -|x|²/2v, for both kinds of model."""

    class Zero(nn.Module):
        def forward(self, u, c=None, y=None):
            return torch.zeros_like(u)

    x = normal(5, 3)
    close(ScoreModel(Zero(), None, "edm", SCALE)(x), -x / SCALE**2)
    energy = EnergyModel(InnerEnergy(Zero()), None, "edm", SCALE)
    close(energy(x), -x / SCALE**2)
    close(energy.log_density(x), -inner(x, x) / (2 * SCALE**2))


def test_without_a_schedule_the_network_sees_data_of_unit_scale():
    """F(x / c) / c beside -x / c² or alone, and E(x / c) beside |x|² / 2c² or alone."""
    x, field, energy = normal(5, 3), stirred(MLP(3, MLPSize(8, 1))), stirred(MLP(3, MLPSize(8, 1), energy=True))
    close(ScoreModel(field, None, "edm", SCALE)(x), -x / SCALE**2 + field(x / SCALE) / SCALE)
    close(ScoreModel(field, None, "score", SCALE)(x), field(x / SCALE) / SCALE)
    close(EnergyModel(energy, None, "edm", SCALE).log_density(x), -inner(x, x) / (2 * SCALE**2) - energy(x / SCALE))
    close(EnergyModel(energy, None, "score", SCALE).log_density(x), -energy(x / SCALE))
    close(EnergyModel(energy).log_density(x), -energy(x))


class Linear(nn.Module):
    """A backbone A u on flattened samples."""

    def __init__(self, d):
        super().__init__()
        self.A = nn.Parameter(normal(d, d))

    def forward(self, u, c=None, y=None):
        return (u.flatten(1) @ self.A.T).reshape(u.shape)


@pytest.mark.parametrize("shape", [(5, 4), (5, 1, 2, 2)], ids=["vectors", "images"])
def test_the_inner_energy_of_a_linear_backbone_is_its_symmetric_part(shape):
    """E(u) = b - u'Au has score (A + A')u, and its constant moves the log-density alone."""
    energy, x = InnerEnergy(Linear(4)), normal(*shape)
    model = EnergyModel(energy)
    close(model(x), (x.flatten(1) @ (energy.network.A + energy.network.A.T)).reshape(x.shape))
    before = model.log_density(x)
    energy.constant.data += 3.0
    close(model.log_density(x), before - 3.0, 1e-6)  # a float32 constant


def test_the_score_of_a_unet_energy_is_a_gradient_and_the_unets_own_is_not():
    """The derivative of a gradient field is symmetric."""
    unet = stirred(UNet((1, 8, 8), UNetSize(4, 1, 2, 1)))
    x, t = normal(1, 1, 8, 8), TIMES[1]

    def asymmetry(score):
        jacobian = torch.func.jacrev(lambda x: score(x).flatten())(x).reshape(64, 64)
        return ((jacobian - jacobian.T).abs().max() / jacobian.abs().max()).item()

    assert asymmetry(at(EnergyModel(InnerEnergy(unet), VP()), t)) < 1e-12
    assert asymmetry(at(ScoreModel(unet, VP()), t)) > 1e-3


class Stiff(nn.Module):
    """The energy k |u|² / 2."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

    def forward(self, u, c=None, y=None):
        return self.k * inner(u, u) / 2


@pytest.mark.parametrize("noise", SCHEDULES, ids=str)
@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 2, 3)], ids=["vectors", "images"])
def test_the_implicit_objective_of_a_quadratic_energy_and_its_gradient_in_the_stiffness(noise, shape):
    r"""s = (keep - g c k) x =: a x: the loss is $a^2 |x|^2/2 + D a$, its derivative in k is $-g c\,(a |x|^2 + D)$."""
    energy, x, d = Stiff(), normal(*shape), math.prod(shape[1:])
    if noise is None:
        keep, product = -1 / SCALE**2, torch.full((5,), 1 / SCALE**2, dtype=torch.float64)
    else:
        alpha, sigma = noise.alpha(TIMES), noise.sigma(TIMES)
        c2 = alpha**2 * SCALE**2 + sigma**2
        keep, product = -1 / c2, alpha * SCALE / (sigma * c2)
    a, square = keep - product * energy.k, inner(x, x)
    score = at(EnergyModel(energy, noise, "edm", SCALE), None if noise is None else TIMES)
    for loss in (implicit(score, x), sliced(score, x, generator=Generator().manual_seed(0))):  # one probe is exact here
        torch.testing.assert_close(loss, a**2 * square / 2 + d * a, rtol=1e-10, atol=1e-10)
        (gradient,) = torch.autograd.grad(loss.sum(), energy.k, retain_graph=True)
        expected = -(product * (a * square + d)).sum()
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


SMALL = UNetSize(4, 1, 2, 1)
MODELS = {
    "energy": lambda noise: EnergyModel(stirred(MLP(4, MLPSize(6, 2), classes=2, energy=True)), noise),
    "unet energy": lambda noise: EnergyModel(InnerEnergy(stirred(UNet((1, 8, 8), SMALL, classes=2))), noise),
    "unet": lambda noise: ScoreModel(stirred(UNet((1, 8, 8), SMALL, classes=2)), noise),
}
LOSSES = {
    "implicit": lambda score, x: implicit(score, x),
    "sliced": lambda score, x: sliced(score, x, generator=Generator().manual_seed(3)),
    "denoising": lambda score, x: denoising(score, x, sigma=0.3, generator=Generator().manual_seed(3)),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("loss", LOSSES)
def test_parameter_gradients_are_those_of_finite_differences(kind, loss):
    """The derivative of the loss along a random direction of all parameters, labels hidden in one row, to 1e-6.

    For an energy and the implicit or sliced objective it holds third derivatives of the network; for the U-Net and the
    exact trace a reverse derivative of a forward one: torch's own `layer_norm` fails here.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[kind](VE(0.05, 5.0))
    x = normal(2, 4) if kind == "energy" else normal(2, 1, 8, 8)
    score = at(given(model, torch.tensor([1, -1])), TIMES[1])
    parameters = list(model.parameters())
    way = [normal(*p.shape, seed=k) for k, p in enumerate(parameters)]
    gradients = torch.autograd.grad(LOSSES[loss](score, x).sum(), parameters, allow_unused=True)
    exact = sum((g * v).sum() for g, v in zip(gradients, way, strict=True) if g is not None)

    def moved(step):
        for p, v in zip(parameters, way, strict=True):
            p.data += step * v
        value = LOSSES[loss](score, x).sum().detach()
        for p, v in zip(parameters, way, strict=True):
            p.data -= step * v
        return value

    numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5
    size = sum(g.square().sum() for g in gradients if g is not None).sqrt()  # what `exact` is like along any direction
    assert abs(numeric - exact) < 1e-6 * size


def test_noise_conditional_training_reaches_energies_as_it_reaches_fields():
    """With the energy of a field that is a gradient, u -> k u, the loss is the field's, to rounding."""

    class Field(nn.Module):
        def forward(self, u, c, y=None):
            return -1.3 * u

    x, noise = normal(5, 3), VP()
    how = {"noise": noise, "t": TIMES, "weight": noise.residual_weight}
    pair = (EnergyModel(Stiff(), noise, data_scale=SCALE), ScoreModel(Field(), noise, data_scale=SCALE))
    losses = [noise_conditional(model, x, **how, generator=Generator().manual_seed(0)) for model in pair]
    close(losses[0], losses[1])


def test_times_and_predictions_that_mean_nothing_are_refused():
    """A level is needed where there are levels and refused where there are none."""
    field, energy, x = MLP(3, MLPSize(4, 1)), MLP(3, MLPSize(4, 1), energy=True), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="t must be given to a model with noise levels"):
        EnergyModel(energy, VP())(x)
    with pytest.raises(ValueError, match="t must be given to a model with noise levels"):
        ScoreModel(field, VP())(x)
    with pytest.raises(ValueError, match="t must be left out where there is no schedule"):
        ScoreModel(field, None)(x, torch.tensor(0.5))
    with pytest.raises(ValueError, match="no levels to weigh"):
        ScoreModel(field, None).residual_weight(torch.tensor(0.5))
    for kind in (ScoreModel, EnergyModel):
        with pytest.raises(ValueError, match="predicts must be edm or score where there is no schedule, got 'noise'"):
            kind(field, None, "noise")
        with pytest.raises(ValueError, match="did you mean 'velocity'"):
            kind(field, VP(), "velocty")
        with pytest.raises(ValueError, match="data_scale must be a finite number > 0, got 0.0"):
            kind(field, VP(), data_scale=0.0)
