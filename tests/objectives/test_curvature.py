"""Approximate back-propagation and curvature propagation against the exact Laplacian and recursions by hand."""

import math

import pytest
import torch
from torch import Generator, nn

from scorefield.calculus import PerSample, divergence
from scorefield.fields import EnergyModel, ScoreModel
from scorefield.networks import MLP
from scorefield.networks.activations import activation
from scorefield.noise import VP
from scorefield.objectives import approximate_backpropagation, curvature_propagation, implicit
from scorefield.settings import MLPSize


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def energy(depth, shape=3, phi="silu", width=5):
    """An energy of order one in every parameter, in float64."""
    network = MLP(shape, MLPSize(width, depth, phi), energy=True).double()
    g = Generator().manual_seed(depth)
    for p in network.parameters():
        p.data = 1.3 * torch.randn(p.shape, dtype=torch.float64, generator=g) / math.sqrt(p.shape[-1])
    return EnergyModel(network)


def gradients(loss, model):
    return torch.autograd.grad(loss.mean(), list(model.parameters()), materialize_grads=True)


@pytest.mark.parametrize("phi", ["silu", "tanh", "sine"])
@pytest.mark.parametrize("shape", [3, (2, 2, 1)], ids=str)
def test_approximate_backpropagation_is_exact_for_one_hidden_layer(shape, phi):
    """One layer's Hessian in its units is diagonal: value and parameter gradients of the implicit objective."""
    model = energy(1, shape, phi)
    x = normal(6, *model.network.shape)
    ours, exact = approximate_backpropagation(model, x), implicit(model, x)
    close(ours, exact)
    for a, b in zip(gradients(ours, model), gradients(exact, model), strict=True):
        close(a, b)
    assert (divergence(model, x)[1].abs() > 0.1).any(), "the trace must have something to say"


@pytest.mark.parametrize("depth", [2, 3])
def test_deeper_it_keeps_the_diagonal_alone_and_is_biased_by_what_it_leaves_out(depth):
    """Full Hessians layer by layer, each cut to its diagonal: equal value and gradients; uncut they are implicit's."""
    model, x = energy(depth, phi="sine"), normal(4, 3)
    network, ours, exact = model.network, approximate_backpropagation(model, x), implicit(model, x)
    for cut, value in ((True, ours), (False, exact)):
        by_hand = []
        for point in x:
            _, inputs = network.hidden(point[None])
            g, hessian = network.head.weight[0], torch.zeros(5, 5, dtype=torch.float64)
            for a, layer in zip(reversed(inputs), reversed(network.layers), strict=True):
                slope, bend = (torch.diag(f(a[0])) for f in (network.phi.first, network.phi.second))
                hessian = slope @ hessian @ slope + bend @ torch.diag(g)
                hessian = layer.weight.T @ hessian @ layer.weight
                hessian = torch.diag(hessian.diagonal()) if cut else hessian
                g = layer.weight.T @ slope @ g
            by_hand.append(g @ g / 2 - hessian.trace())
        close(value, torch.stack(by_hand))
        for a, b in zip(gradients(value, model), gradients(torch.stack(by_hand), model), strict=True):
            close(a, b)
    assert ((ours - exact).abs() > 1e-3).all(), "the bias must be there to be seen"


def test_its_bias_on_a_chain_of_two_units_is_the_cross_term():
    r"""$E = \varphi(\sum_j u_j\varphi(w_j x))$: missing is $2\varphi'' u_1w_1\varphi'(w_1x)\,u_2w_2\varphi'(w_2x)$."""
    model = EnergyModel(MLP(1, MLPSize(2, 2, "tanh"), energy=True).double())
    network, phi = model.network, activation("tanh")
    for p in network.parameters():
        p.data.zero_()
    w, u = torch.tensor([[0.8], [-1.1]], dtype=torch.float64), torch.tensor([0.9, 0.6], dtype=torch.float64)
    network.layers[0].weight.data = w
    network.layers[1].weight.data[0] = u
    network.head.weight.data[0, 0] = 1.0
    x = normal(5, 1)
    slopes = phi.first(x @ w.T) * u * w[:, 0]
    top = phi.second(phi.value(x @ w.T) @ u)
    missing = 2 * top * slopes[:, 0] * slopes[:, 1]
    close(approximate_backpropagation(model, x) - implicit(model, x), missing)
    assert missing.abs().max() > 0.05


@pytest.mark.parametrize("predicts", ["edm", "score"])
def test_a_preconditioned_energy_is_as_exact(predicts):
    """With the data's scale 1.7 and a normal law beside the energy: one hidden layer, value and gradients."""
    model = EnergyModel(energy(1).network, None, predicts, 1.7)
    x, signs = normal(3, 3), 2**5
    for ours, exact in (
        (approximate_backpropagation(model, x), implicit(model, x)),
        (curvature_propagation(model, x[:1].repeat(signs, 1), generator=AllSigns(5, 1)), implicit(model, x[:1])),
    ):
        close(ours.mean(), exact.mean())
        for a, b in zip(gradients(ours, model), gradients(exact, model), strict=True):
            close(a, b)


class AllSigns:
    """Probes told in advance: row b of the batch has the b-th of all sign patterns, layer after layer."""

    def __init__(self, width, depth):
        patterns = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * (width * depth))
        self.rows, self.width, self.at = patterns, width, 0

    def normal(self, x):
        self.at += self.width
        return self.rows[:, self.at - self.width : self.at]


@pytest.mark.parametrize("phi", ["silu", "tanh"])
@pytest.mark.parametrize(("depth", "width"), [(1, 5), (2, 4), (3, 3)])
def test_curvature_propagation_over_every_sign_is_implicit_exactly(depth, width, phi):
    """The mean over all 2^(h L) patterns of signs: value and parameter gradients, whatever the sign of a curvature."""
    model = energy(depth, 3, phi, width)
    for point in normal(2, 3):
        x = point.repeat(2 ** (width * depth), 1)
        loss = curvature_propagation(model, x, generator=AllSigns(width, depth)).mean()
        exact = implicit(model, point[None]).mean()
        close(loss, exact)
        for a, b in zip(gradients(loss, model), gradients(exact, model), strict=True):
            close(a, b)


@pytest.mark.parametrize("depth", [2, 3])
def test_curvature_propagation_is_unbiased_over_drawn_signs(depth):
    """At 3 points over 5,000 seeded draws, 4 s.e. each (2e-4); the estimate varies, and two probes halve that."""
    model, n = energy(depth), 5000
    for i, point in enumerate(normal(3, 3)):
        g, x = Generator().manual_seed(i), point.expand(n, 3)
        one, two = (curvature_propagation(model, x, probes=k, generator=g) for k in (1, 2))
        for loss in (one, two):
            assert abs(loss.mean() - implicit(model, point[None])[0]) < 4 * loss.std() / math.sqrt(n)
        assert abs(two.var() / one.var() - 0.5) < 0.1


@pytest.mark.parametrize("phi", ["tanh", "sine"])
def test_gradients_are_finite_where_a_curvature_is_zero(phi):
    """At x = 0 without biases every second derivative of an odd unit vanishes; the gradient exists there too."""
    model = energy(2, 3, phi)
    for name, p in model.named_parameters():
        if "weight" not in name or "bias.weight" in name:
            p.data.zero_()
    loss = curvature_propagation(model, torch.zeros(2, 3, dtype=torch.float64), generator=Generator().manual_seed(0))
    assert all(g.isfinite().all() for g in gradients(loss, model))
    loss = curvature_propagation(model, torch.full((2, 3), 1e4).double(), generator=Generator().manual_seed(0))
    assert all(g.isfinite().all() for g in gradients(loss, model)), "saturated units"


def test_it_draws_one_stream_per_sample_and_keeps_the_dtype():
    """Under PerSample the loss of a sample does not depend on the batch it is in; float32 stays float32."""
    model, x = energy(2), normal(6, 3)
    whole = curvature_propagation(model, x, probes=2, generator=PerSample(0, range(6)))
    close(whole[4:], curvature_propagation(model, x[4:], probes=2, generator=PerSample(0, [4, 5])))
    single = EnergyModel(MLP(3, MLPSize(5, 2), energy=True))
    for objective in (approximate_backpropagation, curvature_propagation):
        assert objective(single, x.float()).dtype == torch.float32


def test_what_has_no_such_recursion_is_refused():
    """Fields, other networks, an energy with noise levels, integers, no probe."""
    x = normal(4, 3)
    for objective in (approximate_backpropagation, curvature_propagation):
        with pytest.raises(TypeError, match=r"alone, got ScoreModel\(MLP\); use implicit or sliced"):
            objective(ScoreModel(MLP(3).double(), VP()), x)
        with pytest.raises(TypeError, match=r"alone, got EnergyModel\(Linear\)"):
            objective(EnergyModel(nn.Linear(3, 1).double()), x)
        with pytest.raises(TypeError, match="alone, got function"):
            objective(lambda x: x, x)
        with pytest.raises(TypeError, match=r"x must be floating point, got torch.int64"):
            objective(energy(1), x.long())
        with pytest.raises(ValueError, match=r"x must have shape \(4, 3\)"):
            objective(energy(1), x[:, :2])
        with pytest.raises(ValueError, match="must not depend on a noise level"):
            objective(EnergyModel(energy(1).network, VP()), x)
    with pytest.raises(ValueError, match="probes must be >= 1, got 0"):
        curvature_propagation(energy(1), x, probes=0)
