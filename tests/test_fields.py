"""Score models: each parametrisation is exact for an exact network; energies, Tweedie, and scores at one time."""

import math

import pytest
import torch
from torch import Generator, nn

from scorefield.calculus import divergence, expand
from scorefield.fields import PREDICTS, EnergyModel, ScoreModel, at, denoise, given
from scorefield.networks import MLP, UNet
from scorefield.noise import VE, VP, Cosine, SubVP
from scorefield.objectives import noise_conditional
from scorefield.settings import MLPSize, UNetSize

# The schedules, and alpha as a function of q = sigma / alpha, worked out by hand.
ALPHA_OF = {
    VE(0.02, 7.0): lambda q: torch.ones_like(q),
    VP(): lambda q: 1 / (1 + q**2).sqrt(),
    SubVP(): lambda q: ((q**2 + 4).sqrt() - q) / 2,
    Cosine(): lambda q: 1 / (1 + q**2).sqrt(),
}
EACH = pytest.mark.parametrize("noise", list(ALPHA_OF), ids=str)
TIMES = torch.tensor([0.02, 0.3, 0.6, 0.9, 1.0], dtype=torch.float64)
MEAN, VARIANCE, SCALE = 1.5, 0.7, 1.3  # of the data, and the model's data_scale: another on purpose


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def blurred_score(noise, x, t):
    """The score of N(m, w I) blurred by `noise`, by hand."""
    alpha, sigma = expand(noise.alpha(t), x), expand(noise.sigma(t), x)
    return -(x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)


class ExactNetwork(nn.Module):
    """E[target | x_t] for data N(m, w I), computed from nothing but the network's own inputs, c_in x and c_noise."""

    def __init__(self, noise, predicts):
        super().__init__()
        self.alpha_of, self.predicts = ALPHA_OF[noise], predicts

    def forward(self, u, c, y=None):
        q = expand((4 * c).exp(), u)
        alpha = self.alpha_of(q)
        sigma, v = q * alpha, SCALE**2
        c2 = alpha**2 * v + sigma**2
        x = u * c2.sqrt()
        pull = (x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)
        x0, z = MEAN + alpha * VARIANCE * pull, sigma * pull
        return {
            "edm": (x0 - alpha * v / c2 * x) / (sigma * SCALE / c2.sqrt()),
            "score": -sigma * pull,
            "noise": z,
            "data": x0,
            "velocity": (alpha * z - sigma * x0) / (alpha**2 + sigma**2).sqrt(),
        }[self.predicts]


def jacobian_trace(score, x):
    x = x.clone().requires_grad_()
    s = score(x).flatten(1)
    rows = [torch.autograd.grad(s[:, j].sum(), x, retain_graph=True)[0].flatten(1)[:, j] for j in range(s.shape[1])]
    return torch.stack(rows).sum(0)


def stirred(network, seed=0):
    """The network in float64 with every parameter moved away from its initial value."""
    network, g = network.double(), Generator().manual_seed(seed)
    for p in network.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return network


@EACH
@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 2, 3)], ids=["vectors", "images"])
def test_an_exact_network_gives_the_exact_score(noise, predicts, shape):
    """Whatever the network predicts, its conditional expectation for Gaussian data yields the blurred score."""
    model, x = ScoreModel(ExactNetwork(noise, predicts), noise, predicts, SCALE), 2 * normal(*shape)
    exact = blurred_score(noise, x, TIMES)
    torch.testing.assert_close(model(x, TIMES), exact, rtol=1e-10, atol=1e-10 * exact.abs().max().item())
    close(model(x, TIMES[2]), blurred_score(noise, x, TIMES[2]))


@EACH
def test_the_network_sees_inputs_of_unit_variance_and_a_quarter_of_the_log_noise_level(noise):
    r"""Input $x/\sqrt{\alpha^2 v + \sigma^2}$, level $\frac14 \log(\sigma/\alpha)$, and the label as it was given."""
    seen = {}

    class Spy(nn.Module):
        def forward(self, u, c, y):
            seen.update(u=u, c=c, y=y)
            return torch.zeros_like(u)

    x, y = normal(5, 3), torch.arange(5)
    ScoreModel(Spy(), noise, data_scale=SCALE)(x, TIMES, y)
    alpha, sigma = noise.alpha(TIMES), noise.sigma(TIMES)
    close(seen["u"], x / (alpha**2 * SCALE**2 + sigma**2).sqrt()[:, None])
    close(seen["c"], (sigma / alpha).log() / 4)
    assert seen["y"] is y


@EACH
def test_residual_weight_turns_denoising_into_regression_on_the_residual(noise):
    r"""The weighted loss is $\frac12\|F - F^*\|^2$ with EDM's target $F^* = (x_0 - c_{skip} x_t)/c_{out}$."""
    model = ScoreModel(stirred(MLP(3, MLPSize(8, 1))), noise, data_scale=SCALE)
    x = MEAN + normal(5, 3)
    z = normal(5, 3, seed=1)
    loss = noise_conditional(
        model, x, noise=noise, t=TIMES, weight=model.residual_weight, generator=Generator().manual_seed(1)
    )
    alpha, sigma, v = noise.alpha(TIMES)[:, None], noise.sigma(TIMES)[:, None], SCALE**2
    c2 = alpha**2 * v + sigma**2
    x_t = alpha * x + sigma * z
    target = (x - alpha * v / c2 * x_t) / (sigma * SCALE / c2.sqrt())
    f = model.network(x_t / c2.sqrt(), ((sigma / alpha).log() / 4)[:, 0])
    close(loss, (f - target).square().sum(1) / 2)


@EACH
def test_the_residual_has_unit_variance_when_the_data_have_the_scale_of_the_model(noise):
    """A network of zeros has weighted loss 1/2 per dimension at every level: 4.5 s.e. at 5 levels (3.4e-5)."""
    n, d = 4000, 3

    class Zero(nn.Module):
        def forward(self, u, c, y):
            return torch.zeros_like(u)

    model, g = ScoreModel(Zero(), noise, data_scale=SCALE), Generator().manual_seed(0)
    for t in TIMES:
        x = SCALE * torch.randn(n, d, dtype=torch.float64, generator=g)
        loss = noise_conditional(model, x, noise=noise, t=t.expand(n), weight=model.residual_weight, generator=g)
        assert abs(loss.mean() - d / 2) < 4.5 * loss.std() / math.sqrt(n)


@pytest.mark.parametrize("predicts", PREDICTS)
def test_a_float32_model_answers_in_float32_close_to_its_float64_self(predicts):
    """At sigma from 0.01 to 50 the float32 score is within 1e-4 of the largest float64 score of its level."""
    noise = VE(0.01, 50.0)
    net = stirred(MLP(3, MLPSize(8, 1)))
    x, t = normal(5, 3).float(), torch.linspace(0, 1, 5)
    exact = ScoreModel(net, noise, predicts)(x.double(), t.double())
    single = ScoreModel(net.float(), noise, predicts)(x, t)
    assert single.dtype == torch.float32
    assert ((single - exact).abs() / exact.abs().amax(1, keepdim=True)).max() < 1e-4


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2, 2)], ids=["vectors", "images"])
def test_the_exact_divergence_of_a_network_equals_its_jacobian_trace(shape):
    """ScoreModel with labels, at one time, on vectors and on images."""
    model = ScoreModel(stirred(MLP(shape[1:], MLPSize(8, 2), classes=3)), VP())
    score = at(given(model, torch.arange(shape[0]) % 3), TIMES[1])
    x = normal(*shape)
    s, div = divergence(score, x)
    close(s, score(x))
    close(div, jacobian_trace(score, x))


@pytest.mark.parametrize(("shape", "size"), [((1, 8, 8), (4, 1, 2, 1)), ((2, 8, 9), (4, 1, 2, 2))], ids=str)
def test_the_exact_divergence_of_a_unet_equals_its_jacobian_trace(shape, size):
    """The exact divergence works for the U-Net, one channel or more, with pixel patches and odd sides."""
    score = at(ScoreModel(stirred(UNet(shape, UNetSize(*size))), VP()), TIMES[1])
    x = normal(2, *shape)
    close(divergence(score, x)[1], jacobian_trace(score, x))


@EACH
@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 2, 3)], ids=["vectors", "images"])
def test_tweedie_gives_the_posterior_mean_of_a_gaussian(noise, shape):
    r"""$\mathbb E[x_0 \mid x_t] = m + \frac{\alpha w}{\alpha^2 w + \sigma^2}(x_t - \alpha m)$, t (B,) or ()."""
    x = 2 * normal(*shape)
    for t in (TIMES, TIMES[1]):
        alpha, sigma = expand(noise.alpha(t), x), expand(noise.sigma(t), x)
        expected = MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)
        close(denoise(lambda x, t: blurred_score(noise, x, t), noise, x, t), expected)


class Quadratic(nn.Module):
    """The energy k x^2 / 2, plus t times the sum of x, plus y times the first coordinate."""

    def __init__(self, column=False):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.column = column

    def forward(self, x, t=None, y=None):
        flat = x.flatten(1)
        energy = self.k * flat.square().sum(1) / 2
        energy = energy if t is None else energy + t * flat.sum(1)
        energy = energy if y is None else energy + y * flat[:, 0]
        return energy[:, None] if self.column else energy


@pytest.mark.parametrize("column", [False, True], ids=["(B,)", "(B, 1)"])
@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 2, 3)], ids=["vectors", "images"])
def test_the_score_of_an_energy_is_minus_its_gradient(column, shape):
    """Energy x^2/2 gives log-density -x^2/2, score -x and divergence -D, for energies (B,) and (B, 1)."""
    model, x = EnergyModel(Quadratic(column)), normal(*shape)
    close(model.log_density(x), -x.flatten(1).square().sum(1) / 2)
    close(model(x), -x)
    s, div = divergence(model, x)
    close(s, -x)
    close(div, torch.full((5,), -float(x[0].numel()), dtype=torch.float64))


def test_an_energy_passes_time_and_label_to_its_network():
    """With t and y the score is -x - t, and -y besides in the first coordinate; a single time serves all samples."""
    model, x, y = EnergyModel(Quadratic()), normal(5, 3), torch.arange(5.0, dtype=torch.float64)
    close(model(x, TIMES), -x - TIMES[:, None])
    close(model(x, TIMES[1]), -x - TIMES[1])
    first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    close(model(x, TIMES, y), -x - TIMES[:, None] - y[:, None] * first)
    close(given(model, y)(x, TIMES), model(x, TIMES, y))
    close(at(given(model, y), TIMES).log_density(x), model.log_density(x, TIMES, y))


def test_the_score_of_an_energy_has_parameter_gradients():
    """For energy k x^2/2 the mean of |score|^2 is k^2 mean |x|^2; its derivative at k = 1 is twice that."""
    model, x = EnergyModel(Quadratic()), normal(5, 3)
    model(x).square().sum().backward()
    close(model.network.k.grad, 2 * x.square().sum())


def test_an_energy_of_another_shape_is_refused():
    """One energy per sample, (B,) or (B, 1); two per sample cannot be meant."""
    with pytest.raises(ValueError, match=r"the energy must have shape \(4,\)"):
        EnergyModel(nn.Linear(3, 2).double())(normal(4, 3))
    with pytest.raises(ValueError, match=r"the energy must have shape \(4,\)"):
        EnergyModel(nn.Flatten(0))(normal(4, 1, 2))


class WithAll:
    """A noise-conditional score that knows its density and divergence: every answer tells what it was given."""

    def __call__(self, x, t, y=None):
        return x * 0 + t + (0 if y is None else 10 * y[:, None])

    def log_density(self, x, t, y=None):
        return x[:, 0] * 0 + 2 * t + (0 if y is None else 10 * y)

    def with_divergence(self, x, t, y=None):
        return self(x, t, y), x[:, 0] * 0 + 3 * t + (0 if y is None else 10 * y)


def test_at_and_given_forward_the_density_and_the_divergence():
    """At fixes the time, given the label, in the score and in what it carries; divergence() uses it."""
    x, y, t = normal(4, 1), torch.arange(4.0, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    score = at(given(WithAll(), y), t)
    close(score(x), (0.3 + 10 * y)[:, None])
    close(score.log_density(x), 0.6 + 10 * y)
    close(divergence(score, x)[1], 0.9 + 10 * y)
    plain = at(WithAll(), t)
    close(plain(x), torch.full((4, 1), 0.3, dtype=torch.float64))
    close(plain.log_density(x), torch.full((4,), 0.6, dtype=torch.float64))
    close(plain.with_divergence(x)[1], torch.full((4,), 0.9, dtype=torch.float64))


def test_at_and_given_carry_nothing_that_the_score_has_not():
    """A plain function has no density; its wrapper pretends none."""
    score = at(given(lambda x, t, y: x, None), 0.5)
    assert not hasattr(score, "log_density") and not hasattr(score, "with_divergence")


@EACH
def test_at_a_time_given_as_a_number_is_at_that_very_time(noise):
    """A Python number is not rounded to float32 on the way: for float64 data 0.3 means 0.3 to 1e-10."""
    x = normal(5, 3)
    model = ScoreModel(ExactNetwork(noise, "noise"), noise, "noise", SCALE)
    close(at(model, 0.3)(x), blurred_score(noise, x, TIMES[1]))


def test_bad_arguments_are_refused():
    """An unknown prediction offers the nearest; scale and times are checked."""
    net = MLP(3, MLPSize(4, 1))
    with pytest.raises(ValueError, match="did you mean 'velocity'"):
        ScoreModel(net, VP(), "velocty")
    with pytest.raises(ValueError, match="data_scale must be a finite number > 0, got 0.0"):
        ScoreModel(net, VP(), data_scale=0.0)
    with pytest.raises(ValueError, match=r"t must have shape \(4,\) \(one time per sample\), got \(3,\)"):
        ScoreModel(net, VP())(torch.zeros(4, 3), torch.full((3,), 0.5))
