"""Scores of log-densities and sums over a sample's axes; networks whose kinks would be missed."""

import pytest
import torch
from curved import close, normal
from torch import nn

from scorefield.calculus import check_smooth, divergence, expand, inner, score_of

SHAPES = [(5, 3), (2, 2, 3, 4)]


def test_inner_sums_over_every_axis_of_a_sample():
    """The inner product is a sum, not a mean: <1, 2> over 3 x 4 numbers is 24."""
    a = torch.ones(2, 3, 4, dtype=torch.float64)
    close(inner(a, 2 * a), torch.tensor([24.0, 24.0], dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_expand_stretches_numbers_per_sample_and_single_ones(shape):
    """A coefficient (B,) multiplies its own sample, one of shape () all of them, in the dtype of x."""
    x, c = normal(*shape), normal(shape[0], seed=1)
    close(expand(c, x) * x, torch.stack([a * row for a, row in zip(c, x, strict=True)]))
    close(expand(c[0], x) * x, c[0] * x)
    assert expand(c, x.float()).dtype == expand(c[0], x.float()).dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_score_of_is_the_gradient_and_its_divergence_the_laplacian(shape):
    r"""For $-\sum x^4/4 + \cos\Sigma$, $\Sigma = \sum x$: $-x^3 - \sin\Sigma$ and $-3\sum x^2 - D\cos\Sigma$."""

    def log_density(x):
        flat = x.flatten(1)
        return -flat.pow(4).sum(1) / 4 + flat.sum(1).cos()

    x, score = normal(*shape), score_of(log_density)
    total = x.flatten(1).sum(1)
    s, div = divergence(score, x)
    close(score(x), -(x**3) - expand(total.sin(), x))
    close(s, score(x))
    close(div, -3 * x.flatten(1).square().sum(1) - x[0].numel() * total.cos())
    close(score.log_density(x), log_density(x))


def test_score_of_can_be_differentiated_in_the_parameters_and_in_x():
    r"""For $\log p = -k\|x\|^2/2$: $d(\sum s)/dk = -\sum x$, and $d(\sum s)/dx = -k$."""
    k = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    x = normal(4, 2).requires_grad_()
    s = score_of(lambda x: -k * x.square().sum(1) / 2)(x)
    by_k, by_x = torch.autograd.grad(s.sum(), (k, x))
    close(by_k, -x.detach().sum())
    close(by_x, torch.full_like(x, -3.0))


def test_score_of_works_where_gradients_are_off():
    """Samplers run under no_grad; the score of a log-density is the same there."""
    x = normal(4, 2)
    with torch.no_grad():
        close(score_of(lambda x: -x.square().sum(1) / 2)(x), -x)


def test_score_of_refuses_a_log_density_that_is_not_one_number_per_sample():
    """A log-density of shape (B, 1) would sum to the same gradient by luck; it is refused."""
    with pytest.raises(ValueError, match=r"log_density\(x\) must have shape \(4,\)"):
        score_of(lambda x: -x.square().sum(1, keepdim=True))(normal(4, 2))


def test_a_log_density_of_shape_b_1_is_told_to_drop_its_axis():
    """The message says how; integers are refused too."""
    with pytest.raises(ValueError, match=r"take \[:, 0\] of it"):
        score_of(lambda x: -x.square().sum(1, keepdim=True))(normal(4, 2))
    with pytest.raises(TypeError, match="x must be floating point"):
        score_of(lambda x: -x.square().sum(1))(torch.zeros(4, 2, dtype=torch.int64))


def test_a_log_density_without_a_graph_is_refused_unless_it_is_flat():
    """Detaching would give the score 0 everywhere, silently; a flat log-density has that score and keeps it."""
    x, k = normal(4, 2), torch.ones(2, dtype=torch.float64, requires_grad=True)
    for broken in (lambda x: -x.detach().square().sum(1), lambda x: -(k * x.detach()).square().sum(1)):
        with pytest.raises(RuntimeError, match="must not detach"):
            score_of(broken)(x)
    for flat in (lambda x: x.new_ones(len(x)), lambda x: k.sum().expand(len(x))):
        close(score_of(flat)(x).detach(), torch.zeros_like(x))


def ramp(x, b):
    """The score $-(x - b)_+$ of one dimension, with a kink at b."""
    return -(x - b).relu()


def test_the_divergence_of_a_score_with_a_kink_has_the_right_value_and_the_wrong_gradient():
    r"""For $s = -(x - b)_+$ and x uniform on a grid of [0, 1]: E tr = -(1 - b) to half a cell, its slope is 1, not 0.

    A softplus of scale $\epsilon$ in its place has the slope, up to $e^{-1/\epsilon}$.
    """
    n, epsilon = 2000, 0.02
    x = ((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]
    b = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        trace = [divergence(lambda x, c=c: ramp(x, c), x)[1].mean() for c in (b - 0.1, b, b + 0.1)]
    close(trace[1], -(1 - b.detach()), 1e-3)
    close((trace[2] - trace[0]) / 0.2, torch.tensor(1.0, dtype=torch.float64), 1e-3)
    _, kinked = divergence(lambda x: ramp(x, b), x)
    assert torch.autograd.grad(kinked.mean(), b)[0] == 0
    _, smooth = divergence(lambda x: epsilon * torch.nn.functional.logsigmoid((b - x) / epsilon), x)
    close(torch.autograd.grad(smooth.mean(), b)[0], torch.tensor(1.0, dtype=torch.float64), 1e-4)


ROUGH = [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.PReLU(), nn.Hardtanh(), nn.SELU(), nn.MaxPool2d(2), nn.ELU(2.0)]
SMOOTH = [nn.SiLU(), nn.GELU(), nn.Tanh(), nn.Softplus(), nn.Sigmoid(), nn.Mish()]


def is_refused(score, derivatives=1) -> bool:
    try:
        check_smooth(score, derivatives=derivatives)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("unit", [*ROUGH, *SMOOTH, nn.ELU()], ids=lambda m: f"{type(m).__name__}-{id(m) % 7}")
def test_kinks_are_refused_where_they_are_differentiated_away(unit):
    """In a score network: for gradients of a divergence, not for its value, nor for denoising. In an energy: always.

    ELU has one continuous derivative: enough for a score network, and for the value of an energy's divergence.
    """
    network = nn.Sequential(nn.Linear(2, 2), unit, nn.Linear(2, 2))
    energy = nn.Sequential(nn.Linear(2, 2), unit)
    energy.log_density = lambda x: x
    rough, once = any(unit is m for m in ROUGH), type(unit) is nn.ELU
    assert is_refused(network) == rough and not is_refused(network, derivatives=0)
    assert is_refused(energy) == (rough or once) and is_refused(energy, derivatives=0) == rough
    with torch.no_grad():
        assert not is_refused(network)
        assert is_refused(energy) == rough and not is_refused(energy, derivatives=0)


def test_a_step_is_no_score_network_and_functions_are_not_looked_into():
    """A threshold jumps itself, so that even values miss it; what carries no modules passes."""
    with torch.no_grad(), pytest.raises(ValueError, match="Threshold is not smooth enough"):
        check_smooth(nn.Sequential(nn.Threshold(0.0, 1.0)))
    check_smooth(lambda x: x.relu())


def test_the_score_of_a_network_with_kinks_is_refused_at_once():
    """`score_of(network)` and `score_of(model.method)` see the network; the message names the unit and the way out."""

    class Energy(nn.Sequential):
        def log_density(self, x):
            return -self(x)[:, 0]

    with pytest.raises(ValueError, match="ReLU is not smooth enough.*use SiLU"):
        score_of(Energy(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).log_density)
    network = nn.Sequential(nn.Linear(2, 1), nn.SiLU(), nn.Flatten(0))
    assert list(score_of(network).modules()) == list(network.modules())
