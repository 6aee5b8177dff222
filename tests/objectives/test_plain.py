"""Explicit and implicit score matching against closed forms: values, parameter gradients, identities."""

import math

import pytest
import torch
from closed_forms import (
    COARSE,
    FAMILIES,
    NEAR,
    SHAPES,
    TRUTH,
    Deep,
    Linear,
    Quartic,
    assert_loss,
    assert_same_gap,
    close,
    deep_network,
    half_square,
    learned,
    normal,
)
from torch import Generator, nn

from scorefield.calculus import score_of
from scorefield.fields import EnergyModel, ScoreModel, at
from scorefield.noise import VP
from scorefield.objectives import explicit, implicit, implicit_terms, sliced

EACH = pytest.mark.parametrize("family", FAMILIES)
SHAPED = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@EACH
@SHAPED
def test_explicit_equals_its_closed_form_in_value_and_gradients(family, shape):
    r"""$\frac12\|s - \nabla\log p\|^2$ and its gradient $(s - \nabla\log p)^T \partial_\theta s$."""
    model, x, target = FAMILIES[family](), normal(*shape), normal(*shape, seed=5)
    s, _, ds, _ = model.exact(x)
    assert_loss(explicit(model, x, target), *half_square(s - target.flatten(1), ds), model)


@EACH
@SHAPED
def test_implicit_equals_its_closed_form_in_value_and_gradients(family, shape):
    r"""$\frac12\|s\|^2 + \mathrm{tr}\nabla s$ and its gradient; the two terms apart and their sum."""
    model, x = FAMILIES[family](), normal(*shape)
    s, jacobian, ds, d_jacobian = model.exact(x)
    square, d_square = half_square(s, ds)
    trace, d_trace = torch.einsum("nii->n", jacobian), torch.einsum("niik->nk", d_jacobian)
    assert_loss(implicit(model, x), square + trace, d_square + d_trace, model)
    terms = implicit_terms(model, x)
    assert_loss(terms[0], square, d_square, model)
    assert_loss(terms[1], trace, d_trace, model)


@SHAPED
def test_implicit_of_an_energy_is_that_of_its_score(shape):
    """The quartic energy by automatic differentiation twice: the closed form again, with the sign flipped once."""

    class Energy(Quartic):
        def forward(self, x):
            return -self.log_density(x)

    energy, x = Energy(), normal(*shape)
    s, jacobian, ds, d_jacobian = energy.exact(x)
    square, d_square = half_square(s, ds)
    value, slope = square + torch.einsum("nii->n", jacobian), d_square + torch.einsum("niik->nk", d_jacobian)
    assert_loss(implicit(EnergyModel(energy), x), value, slope, energy)
    assert_loss(implicit(score_of(energy.log_density), x), value, slope, energy)


@SHAPED
@pytest.mark.parametrize("law", ["rademacher", "gaussian", "sphere"])
def test_implicit_by_hutchinson_is_variance_reduced_sliced_with_the_same_probes(shape, law):
    """Both are half the squared norm plus a probed trace: equal value and gradients from one seed."""
    model, x = Linear(), normal(*shape)
    a = implicit(model, x, method="hutchinson", probes=2, law=law, generator=Generator().manual_seed(3))
    b = sliced(model, x, probes=2, law=law, generator=Generator().manual_seed(3))
    close(a, b)
    for one, other in zip(learned(a.mean(), model), learned(b.mean(), model), strict=True):
        close(one, other)


def test_implicit_by_hutch_plus_plus_is_exact_where_its_probes_span_the_space():
    """With 3 D probes the sketch is a basis: value and gradients equal the exact trace's, in 4 dimensions."""
    model, x = Quartic(), normal(5, 4)
    loss = implicit(model, x, method="hutch++", probes=12, generator=Generator().manual_seed(3))
    exact = implicit(model, x)
    close(loss, exact)
    for one, other in zip(learned(loss.mean(), model), learned(exact.mean(), model), strict=True):
        close(one, other)


def test_implicit_in_chunks_is_the_same():
    """How many derivatives are carried at once changes nothing."""
    model, x = EnergyModel(Deep(4)), normal(5, 4)
    for chunk in (1, 3):
        a, b = implicit(model, x, chunk=chunk), implicit(model, x)
        close(a, b, 1e-12)
        for one, other in zip(learned(a.mean(), model), learned(b.mean(), model), strict=True):
            close(one, other, 1e-12)


def test_the_implicit_objective_is_least_at_the_inverse_covariance_and_the_mean():
    r"""$P = S^{-1}$ (not S) and m the mean: the gradient vanishes, the value is $-\frac12 \mathrm{tr} S^{-1}$."""
    x, model = normal(200, 3) @ normal(3, 3, seed=2) + 1, Linear(3)
    centred = x - x.mean(0)
    precision = (centred.T @ centred / len(x)).inverse()
    model.p.data, model.m.data = precision, x.mean(0)
    loss = implicit(model, x)
    close(loss.mean(), -precision.trace() / 2)
    for gradient in learned(loss.mean(), model):
        close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(("method", "n"), [("implicit", 6000), ("sliced", 20_000), ("plain sliced", 20_000)])
def test_objectives_without_the_truth_differ_from_explicit_by_a_constant(method, n):
    """ESM = ISM + C and SSM = ISM: the gap between two models is the same under both, within 4 s.e. (6e-5)."""
    x = TRUTH.sample((n,), generator=Generator().manual_seed(0))

    def blind(score):
        if method == "implicit":
            return implicit(score, x)
        return sliced(score, x, variance_reduced=method == "sliced", generator=Generator().manual_seed(1))

    truth = TRUTH.score(x)
    gap_explicit = explicit(NEAR.score, x, truth) - explicit(COARSE.score, x, truth)
    assert_same_gap(blind(NEAR.score) - blind(COARSE.score), gap_explicit)


def test_the_explicit_objective_of_the_truth_is_zero_and_that_of_another_gaussian_half_the_fisher_divergence():
    r"""For N(0, 1) against s(x) = -x/4: $\frac12 E[(\frac34 x)^2] = 9/32$ per dimension; 4 s.e. (6e-5)."""
    x = normal(20_000, 3)
    close(explicit(lambda x: -x, x, -x), torch.zeros(20_000, dtype=torch.float64))
    loss = explicit(lambda x: -x / 4, x, -x)
    assert abs(loss.mean() - 3 * 9 / 32) < 4 * loss.std() / math.sqrt(20_000)


def test_the_loss_of_a_product_law_is_the_sum_over_its_factors():
    """Nothing is divided by the dimension: for s(x) = (a(x1), b(x2)) losses of the parts add up."""
    a, b = EnergyModel(Deep(2)), EnergyModel(Deep(3))
    x, target = normal(7, 5), normal(7, 5, seed=1)
    left, right = x[:, :2], x[:, 2:]

    def both(x):
        return torch.cat([a(x[:, :2]), b(x[:, 2:])], 1)

    close(explicit(both, x, target), explicit(a, left, target[:, :2]) + explicit(b, right, target[:, 2:]))
    close(implicit(both, x), implicit(a, left) + implicit(b, right))


@pytest.mark.parametrize("kind", ["network", "energy", "image network"])
def test_exact_implicit_of_networks_and_energies_agrees_with_backward_passes(kind):
    """Value and parameter gradients of forward mode equal one backward pass per coordinate, to 1e-9."""
    shape = (2, 2, 1) if kind == "image network" else (4,)
    model = EnergyModel(Deep(4)) if kind == "energy" else ScoreModel(deep_network(shape), VP())
    score = model if kind == "energy" else at(model, torch.tensor(0.3, dtype=torch.float64))
    x = normal(3, *shape).requires_grad_()
    s = score(x).flatten(1)
    trace = 0
    for j in range(4):
        (row,) = torch.autograd.grad(s[:, j].sum(), x, create_graph=True)
        trace = trace + row.flatten(1)[:, j]
    by_hand = s.square().sum(1) / 2 + trace
    loss = implicit(score, x.detach())
    close(loss, by_hand)
    found = learned(loss.mean(), model)
    for a, b in zip(found, learned(by_hand.mean(), model), strict=True):
        close(a, b)
    assert sum(gradient.abs().sum() for gradient in found) > 0


def test_objectives_of_float32_data_are_float32_and_work_where_gradients_are_off():
    """The dtype is that of the input; under no_grad the values are the same."""
    x = normal(4, 3)
    for objective in (lambda x: explicit(lambda x: -x, x, x), lambda x: implicit(lambda x: -x, x)):
        assert objective(x.float()).dtype == torch.float32
        with torch.no_grad():
            close(objective(x), objective(x))


def test_relu_is_refused_where_its_derivative_is_trained_and_allowed_where_it_is_not():
    """The trace of a ReLU network misses its kinks, and an energy's score does so already; a score alone does not."""
    x, score = normal(4, 3), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with pytest.raises(ValueError, match="ReLU"):
        implicit(score, x)
    with torch.no_grad():
        assert implicit(score, x).shape == (4,)
    assert explicit(score, x, x).shape == (4,)
    energy = EnergyModel(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)).double())
    for objective in (lambda: implicit(energy, x), lambda: explicit(energy, x, x)):
        with pytest.raises(ValueError, match="ReLU"):
            objective()


def test_bad_arguments_are_refused():
    """Integers, another shape or dtype of target or score, no probe, unknown methods and laws, energies not (B,)."""
    x = normal(4, 3)
    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        implicit(lambda x: x, x.long())
    with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
        explicit(lambda x: x, x.long(), x)
    with pytest.raises(ValueError, match=r"target must have shape \(4, 3\) \(the shape of x\), got \(4,\)"):
        explicit(lambda x: x, x, x[:, 0])
    for objective in (implicit, lambda score, x: explicit(score, x, x)):
        with pytest.raises(ValueError, match="a score must return the shape of x"):
            objective(lambda x: x[:, :1], x)
        with pytest.raises(TypeError, match="a score must return the dtype of x"):
            objective(lambda x: x.float(), x)
        with pytest.raises(ValueError, match=r"must have shape \(4,\) \(one number per sample\), got \(4, 2\)"):
            objective(EnergyModel(nn.Linear(3, 2).double()), x)
    with pytest.raises(ValueError, match="probes must be >= 1, got 0"):
        implicit(lambda x: x, x, method="hutchinson", probes=0)
    with pytest.raises(ValueError, match="method must be one of exact, hutchinson"):
        implicit(lambda x: x, x, method="guess")
    with pytest.raises(ValueError, match="law must be one of rademacher, gaussian, sphere; got 'gauss'"):
        implicit(lambda x: x, x, method="hutchinson", law="gauss")
