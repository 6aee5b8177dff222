"""Sliced score matching, by derivatives and by finite differences, against closed forms and against the exact trace."""

import itertools
import math

import pytest
import torch
from closed_forms import (
    FAMILIES,
    SHAPES,
    Deep,
    Linear,
    Pair,
    Quartic,
    along,
    assert_loss,
    close,
    deep_network,
    half_square,
    learned,
    normal,
)
from torch import Generator, nn

from scorefield.calculus import PerSample
from scorefield.fields import EnergyModel, ScoreModel, at
from scorefield.noise import VP
from scorefield.objectives import finite_difference_sliced, implicit, sliced, sliced_terms

EACH = pytest.mark.parametrize("family", FAMILIES)
SHAPED = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
LAWS = pytest.mark.parametrize("law", ["rademacher", "gaussian", "sphere"])
FORMS = pytest.mark.parametrize("variance_reduced", [True, False], ids=["variance-reduced", "plain"])


def draw(law, shape, g):
    """The probe that the library draws next from a generator in the same state, flattened."""
    z = torch.randn(shape, dtype=torch.float64, generator=g).flatten(1)
    if law == "rademacher":
        return z.sign()
    return z if law == "gaussian" else z * (math.sqrt(z.shape[1]) / z.norm(dim=1, keepdim=True))


def squared(v, s, ds, variance_reduced):
    r"""$\frac12\|s\|^2$ or $\frac12(v^T s)^2$, and its derivative."""
    if variance_reduced:
        return half_square(s, ds)
    projected = (v * s).sum(1)
    return projected**2 / 2, projected[:, None] * torch.einsum("ni,nik->nk", v, ds)


@EACH
@SHAPED
@LAWS
@pytest.mark.parametrize("probes", [1, 3])
@FORMS
def test_sliced_equals_its_formula_for_the_very_probes_drawn(family, shape, law, probes, variance_reduced):
    r"""$v^T\nabla s\,v + \frac12\|s\|^2$, or $+ \frac12(v^Ts)^2$, averaged over the probes; values and gradients."""
    model, x, g = FAMILIES[family](), normal(*shape), Generator().manual_seed(3)
    s, jacobian, ds, d_jacobian = model.exact(x)
    square, d_square, trace, d_trace = 0, 0, 0, 0
    for _ in range(probes):
        v = draw(law, shape, g)
        (a, da), (b, db) = squared(v, s, ds, variance_reduced), along(v, jacobian, d_jacobian)
        square, d_square, trace, d_trace = square + a, d_square + da, trace + b, d_trace + db
    given = {"probes": probes, "law": law, "variance_reduced": variance_reduced}
    loss = sliced(model, x, **given, generator=Generator().manual_seed(3))
    assert_loss(loss, (square + trace) / probes, (d_square + d_trace) / probes, model)
    terms = sliced_terms(model, x, **given, generator=Generator().manual_seed(3))
    assert_loss(terms[0], square / probes, d_square / probes, model)
    assert_loss(terms[1], trace / probes, d_trace / probes, model)


@FORMS
def test_sliced_over_every_probe_is_implicit_exactly(variance_reduced):
    """The mean over all 2^d sign vectors is the implicit objective: SSM = ISM, value and gradients, to rounding."""

    class AllSigns:
        def normal(self, x):
            return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=x.dtype).reshape(x.shape)

    for model in (Linear(), EnergyModel(Deep(4)), ScoreModel(deep_network(4), VP())):
        score = at(model, torch.tensor(0.3, dtype=torch.float64)) if isinstance(model, ScoreModel) else model
        for point in normal(3, 4):
            x = point.repeat(16, 1)
            loss = sliced(score, x, variance_reduced=variance_reduced, generator=AllSigns()).mean()
            exact = implicit(score, x).mean()
            close(loss, exact)
            for a, b in zip(learned(loss, model), learned(exact, model), strict=True):
                close(a, b)


@FORMS
@LAWS
def test_sliced_equals_implicit_in_the_mean_over_drawn_probes(law, variance_reduced):
    """SSM = ISM at each of 3 points over 5,000 seeded probes of each law, 4 s.e. each (false alarms 1e-3 in all)."""
    model, n = Linear(), 5000
    for i, point in enumerate(normal(3, 4)):
        loss = sliced(
            model,
            point.expand(n, 4),
            law=law,
            variance_reduced=variance_reduced,
            generator=Generator().manual_seed(i),
        )
        assert abs(loss.mean() - implicit(model, point[None])[0]) < 4 * loss.std() / math.sqrt(n)


def test_variances_over_the_probes_are_those_of_the_theory():
    r"""Of $v^TJv$, J symmetric: signs $2\sum_{i\ne j}J_{ij}^2$, Gaussian $2\|J\|^2$; 20,000 probes of each, 5 %."""
    model, d = Pair(), 4
    j = model.exact(normal(1, d))[1][0]
    squares, trace = j.square().sum(), j.trace()
    expected = {
        "rademacher": 2 * (squares - j.diagonal().square().sum()),
        "gaussian": 2 * squares,
        "sphere": d / (d + 2) * (2 * squares + trace**2) - trace**2,
    }
    for law, variance in expected.items():
        loss = sliced(model, normal(1, d).expand(20_000, d), law=law, generator=Generator().manual_seed(1))
        assert abs(loss.var() / variance - 1) < 0.05


def test_all_probes_share_one_call_of_the_score():
    """Five probes call the score once."""
    model, calls = Linear(), []

    def score(x):
        calls.append(1)
        return model(x)

    sliced(score, normal(6, 4), probes=5)
    assert len(calls) == 1


@FORMS
def test_probes_in_chunks_give_the_same(variance_reduced):
    """Values and gradients do not depend on how many probes are taken in one batch."""
    model, x = EnergyModel(Deep(4)), normal(6, 4)
    given = {"probes": 5, "law": "sphere", "variance_reduced": variance_reduced}
    a, b = (sliced(model, x, **given, chunk=chunk, generator=Generator().manual_seed(0)) for chunk in (None, 2))
    close(a, b, 1e-12)
    for one, other in zip(learned(a.mean(), model), learned(b.mean(), model), strict=True):
        close(one, other, 1e-12)


def test_an_image_has_the_loss_of_its_flattened_self():
    """A (C, H, W) sample is a vector with other axes: the same loss per sample, shape (B,)."""
    flat, shape = normal(6, 12), (3, 2, 2)
    score = EnergyModel(Deep(12))

    def on_images(x):
        return score(x.flatten(1)).reshape(-1, *shape)

    for objective in (sliced, lambda score, x, generator: finite_difference_sliced(score, x, step=0.1)):
        torch.manual_seed(2)
        image = objective(on_images, flat.reshape(6, *shape), generator=Generator().manual_seed(2))
        torch.manual_seed(2)
        assert image.shape == (6,)
        close(image, objective(lambda x: score(x), flat, generator=Generator().manual_seed(2)), 1e-12)


@FORMS
def test_sliced_draws_one_stream_per_sample(variance_reduced):
    """Under PerSample the loss of a sample does not depend on the batch it is in."""
    model, x = Quartic(), normal(6, 4)
    whole, part = PerSample(0, range(6)), PerSample(0, [4, 5])
    for objective, given in ((sliced, {}), (finite_difference_sliced, {"step": 0.1})):
        given = {**given, "probes": 2, "variance_reduced": variance_reduced}
        close(
            objective(model, x, **given, generator=whole)[4:], objective(model, x[4:], **given, generator=part), 1e-12
        )


@SHAPED
@LAWS
@pytest.mark.parametrize("probes", [1, 3])
def test_finite_differences_of_a_quartic_energy_equal_their_closed_form(shape, law, probes):
    r"""Along v, with step h: $\delta^2 = v^T\nabla s\,v - \frac12 h^2\sum a v^4$, $\delta = v^Ts - h^2\sum a x v^3$.

    The energy's values give $\delta^2$ plus half the square of $\delta$, exactly: the error in $h^2$ is in closed form.
    """
    model, x, h, g = Quartic(), normal(*shape), 0.3, Generator().manual_seed(3)
    s, jacobian, ds, d_jacobian = model.exact(x)
    flat, a, value, slope = x.flatten(1), model.a.detach(), 0, 0
    for _ in range(probes):
        v = draw(law, shape, g)
        curved, d_curved = along(v, jacobian, d_jacobian)
        projected, d_projected = (v * s).sum(1), torch.einsum("ni,nik->nk", v, ds)
        curved, projected = curved - h**2 * (v**4) @ a / 2, projected - h**2 * (flat * v**3) @ a
        d_curved[:, :4] -= h**2 * v**4 / 2
        d_projected[:, :4] -= h**2 * flat * v**3
        value, slope = value + curved + projected**2 / 2, slope + d_curved + projected[:, None] * d_projected
    loss = finite_difference_sliced(model, x, step=h, probes=probes, law=law, generator=Generator().manual_seed(3))
    assert_loss(loss, value / probes, slope / probes, model)


@EACH
@SHAPED
@FORMS
def test_finite_differences_of_a_score_equal_their_closed_form(family, shape, variance_reduced):
    r"""$v^T(s_+ - s_-)/2h + \frac12(v^T\bar s)^2$, or $\frac12\|\bar s\|^2$, with $\bar s = (s_+ + s_-)/2$."""
    model, x, h = FAMILIES[family](), normal(*shape), 0.3
    v = draw("gaussian", shape, Generator().manual_seed(3))
    (up, _, d_up, _), (down, _, d_down, _) = (model.exact(x.flatten(1) + sign * h * v) for sign in (1, -1))
    square, d_square = squared(v, (up + down) / 2, (d_up + d_down) / 2, variance_reduced)
    value = (v * (up - down)).sum(1) / (2 * h) + square
    slope = torch.einsum("ni,nik->nk", v, d_up - d_down) / (2 * h) + d_square
    given = {"step": h, "law": "gaussian", "variance_reduced": variance_reduced}
    loss = finite_difference_sliced(lambda x: model(x), x, **given, generator=Generator().manual_seed(3))
    assert_loss(loss, value, slope, model)


@pytest.mark.parametrize("form", ["values", "scores", "variance-reduced"])
def test_finite_differences_converge_to_sliced_with_the_second_power_of_the_step(form):
    """Halving h quarters the distance to sliced with the same probes, values and gradients (slope 2 within 0.02)."""
    model, x = EnergyModel(Deep(4)), normal(20, 4)
    score = model if form == "values" else lambda x: model(x)
    reduced = form == "variance-reduced"

    def outcome(objective, **given):
        loss = objective(score, x, **given, variance_reduced=reduced, generator=Generator().manual_seed(3))
        return torch.cat([loss.detach(), *[g.flatten() for g in learned(loss.mean(), model)]])

    truth = outcome(sliced)
    errors = [(outcome(finite_difference_sliced, step=h) - truth).norm().item() for h in (0.02, 0.01, 0.005)]
    for coarse, fine in itertools.pairwise(errors):
        assert abs(math.log2(coarse / fine) - 2) < 0.02


def test_the_energy_form_asks_for_values_alone():
    """The score is never called, nothing is differentiated in x, and 3 probes take 7 values."""
    calls = []

    class Values(nn.Module):
        def log_density(self, x):
            assert not x.requires_grad
            calls.append(1)
            return -(x**4).sum(1)

        def forward(self, x):
            raise AssertionError("the score was called")

    with torch.no_grad():
        finite_difference_sliced(Values(), normal(5, 4), step=0.1, probes=3)
    assert len(calls) == 7


def test_the_variance_reduced_form_of_an_energy_calls_its_score():
    """For an energy the two ways to the same score agree."""
    model, x = EnergyModel(Deep(4)), normal(5, 4)
    a, b = (
        finite_difference_sliced(s, x, step=0.1, variance_reduced=True, generator=Generator().manual_seed(0))
        for s in (model, lambda x: model(x))
    )
    close(a, b)


def test_losses_of_float32_data_are_float32_and_work_where_gradients_are_off():
    """The dtype is that of the input; under no_grad the values are the same."""
    x = normal(4, 3)
    assert sliced(lambda x: -x, x.float()).dtype == torch.float32
    assert finite_difference_sliced(lambda x: -x, x.float(), step=0.1).dtype == torch.float32
    with torch.no_grad():
        close(sliced(lambda x: -x, x), x.square().sum(1) / 2 - 3)


def test_the_loss_of_a_product_law_is_the_sum_over_its_factors():
    """Nothing is divided by the dimension: for s(x) = (a(x1), b(x2)) losses of the parts add up."""
    a, b, x = EnergyModel(Deep(2)), EnergyModel(Deep(3)), normal(7, 5)

    class Columns:
        """Fixed signs: the columns of a vector of probes."""

        def __init__(self, part):
            self.part = part

        def normal(self, x):
            return normal(7, 5, seed=9)[:, self.part]

    def both(x):
        return torch.cat([a(x[:, :2]), b(x[:, 2:])], 1)

    def difference(score, x, generator):
        return finite_difference_sliced(score, x, step=0.1, variance_reduced=True, generator=generator)

    for loss in (sliced, difference):
        parts = loss(a, x[:, :2], generator=Columns(slice(2))) + loss(b, x[:, 2:], generator=Columns(slice(2, None)))
        close(loss(both, x, generator=Columns(slice(None))), parts)


def test_relu_is_refused_by_derivatives_and_allowed_by_finite_differences():
    """Sliced trains a derivative that misses the kinks; values and finite differences do not."""
    x, score = normal(4, 3), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    energy = EnergyModel(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)).double())
    for model in (score, energy):
        with pytest.raises(ValueError, match="ReLU"):
            sliced(model, x)
        assert finite_difference_sliced(model, x, step=0.1).shape == (4,)
    with pytest.raises(ValueError, match="ReLU"):
        finite_difference_sliced(energy, x, step=0.1, variance_reduced=True)


def test_bad_arguments_are_refused():
    """Integers, scores of another shape or dtype or without a graph, no probe, an unknown law, steps and energies."""
    x = normal(4, 3)
    for objective in (sliced, lambda *given, **more: finite_difference_sliced(*given, step=0.1, **more)):
        with pytest.raises(TypeError, match="x must be floating point, got torch.int64"):
            objective(lambda x: x, x.long())
        with pytest.raises(ValueError, match="a score must return the shape of x"):
            objective(lambda x: x[:, :1], x)
        with pytest.raises(TypeError, match="a score must return the dtype of x"):
            objective(lambda x: x.float(), x)
        with pytest.raises(ValueError, match="probes must be >= 1, got 0"):
            objective(lambda x: x, x, probes=0)
        with pytest.raises(ValueError, match="law must be one of rademacher, gaussian, sphere; got 'gausian'; did you"):
            objective(lambda x: x, x, law="gausian")
        with pytest.raises(ValueError, match=r"must have shape \(4,\) \(one number per sample\), got \(4, 2\)"):
            objective(EnergyModel(nn.Linear(3, 2).double()), x)
    with pytest.raises(ValueError, match="chunk must be >= 1, got 0"):
        sliced(lambda x: x, x, chunk=0)
    with pytest.raises(RuntimeError, match="must not detach"):
        sliced(lambda x: x.detach(), x)
    for step in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="step must be a finite number > 0"):
            finite_difference_sliced(lambda x: x, x, step=step)
