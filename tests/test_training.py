"""Training: what a step does, what resumes, what splits, what is refused."""

import dataclasses
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from scorefield.calculus import inner, randn_like
from scorefield.settings import TrainSettings
from scorefield.training import (
    Diverged,
    Engine,
    calibrate,
    check_settings,
    learning_rate,
    step_generator,
    train,
)


class Batch(NamedTuple):
    x: Tensor
    y: Tensor | None
    index: Tensor


X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def batches(step: int, size: int = 16) -> Batch:
    """Rows of a fixed data set in order, a function of the step alone."""
    rows = torch.arange(step * size, (step + 1) * size) % len(X)
    return Batch(X[rows], None, rows)


def noisy_square(model: nn.Module, batch: Batch, generator) -> Tensor:
    """A loss that uses noise: half the squared output at a blurred point."""
    out = model(batch.x + 0.1 * randn_like(batch.x, generator))
    return inner(out, out) / 2


def linear(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 3).double()


def finished(model, objective=noisy_square, batches=batches, resume=None, **settings):
    config = TrainSettings(**({"steps": 8, "batch_size": 16, "precision": "fp64"} | settings))
    return list(train(model, objective, batches, config, resume=resume, engine=Engine(alone=True)))


def copied(state):
    parts = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return type(state)(**{k: v if k == "step" else {n: t.clone() for n, t in v.items()} for k, v in parts.items()})


def test_first_step_is_adamw_by_hand():
    """After one step from zero moments AdamW moves each weight by lr (sign of the gradient) plus decay."""
    model = linear()
    before = model.weight.detach().clone()
    (step,) = finished(model, steps=1, clip=1e9, learning_rate=0.1, weight_decay=0.5)
    gradient = torch.autograd.grad(
        noisy_square(fresh := linear(), batches(0), step_generator(0, 0)).mean(), fresh.weight
    )[0]
    expected = before * (1 - 0.1 * 0.5) - 0.1 * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(model.weight, expected, atol=1e-12)
    assert step.lr == 0.1 and step.step == 1 and step.samples == 16


def test_reported_norm_is_the_whole_gradients_and_clipping_scales_it():
    """The norm reported is the one before clipping; a clipped step equals one with the gradient rescaled."""
    model = linear()
    norm = torch.cat([g.flatten() for g in torch.autograd.grad(
        noisy_square(model, batches(0), step_generator(0, 0)).mean(), list(model.parameters())
    )]).norm()  # fmt: skip
    steps = finished(model, steps=1, clip=1e-3)
    assert steps[0].grad_norm == pytest.approx(norm.item(), rel=1e-12)


def test_moving_average_is_the_weighted_mean_of_the_weights():
    """EMA by samples seen: a plain mean over the first horizon, then exponential with rate batch / horizon."""
    model, seen, kept = linear(), [], None
    config = TrainSettings(steps=6, batch_size=16, precision="fp64", ema_samples=48)
    for step in train(model, noisy_square, batches, config, engine=Engine(alone=True)):
        seen.append(model.weight.detach().clone())
        kept = copied(step.state())
    expected = seen[0]
    for k, weight in enumerate(seen):
        expected = expected + (weight - expected) * (16 / min((k + 1) * 16, 48))
    assert torch.allclose(kept.ema["weight"], expected, atol=1e-14)


def test_accumulated_micro_batches_equal_one_batch():
    """For a loss without noise, four micro-batches give the gradient of the whole batch."""

    def square(model, batch, generator):
        out = model(batch.x)
        return inner(out, out) / 2

    one, four = linear(), linear()
    a, b = finished(one, square), finished(four, square, accumulate=4)
    assert torch.allclose(one.weight, four.weight, atol=1e-13)
    assert [s.loss for s in a] == pytest.approx([s.loss for s in b], rel=1e-13)


def test_resumed_training_equals_unbroken_bit_for_bit():
    """Weights, average and moments after 3 + 5 steps are those after 8."""
    whole, broken = linear(), linear()
    last = finished(whole)[-1].state()
    config = TrainSettings(steps=8, batch_size=16, precision="fp64")
    for step in train(broken, noisy_square, batches, config, engine=Engine(alone=True)):
        if step.step == 3:
            saved = copied(step.state())
            break
    other = linear(seed=9)
    resumed = finished(other, resume=saved)[-1].state()
    for part in ("model", "ema", "optimizer"):
        for name, value in getattr(last, part).items():
            assert torch.equal(value, getattr(resumed, part)[name]), (part, name)


def test_learning_rate_rises_stays_and_falls_to_zero():
    """Warm-up over at most a tenth, a plateau, then linear decay that would reach 0 one step after the last."""
    config = TrainSettings(steps=100, warmup=50, decay=0.5, learning_rate=1.0)
    rates = [learning_rate(config, k) for k in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[10:50] == pytest.approx([1.0] * 40)
    assert rates[50:] == pytest.approx([(100 - k) / 50 for k in range(50, 100)])


def test_noise_of_a_step_is_a_function_of_seed_and_step():
    """Equal for equal (seed, step), different when either differs."""

    def draw(seed, step):
        return torch.randn(4, generator=step_generator(seed, step))

    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(2, 1)) and not torch.equal(draw(1, 2), draw(1, 3))


def test_non_finite_steps_leave_the_model_alone_and_three_stop_training():
    """Nothing of a bad step enters the weights, moments or buffers; the third in a row names the rows and stops."""

    def poisoned(step):
        batch = batches(step)
        return batch._replace(x=batch.x.index_fill(0, torch.tensor([5]), math.nan)) if step >= 2 else batch

    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    seen, states = [], []
    config = TrainSettings(steps=9, batch_size=16, precision="fp64")
    with pytest.raises(Diverged, match=r"step 5.*rows \[") as stopped:
        for step in train(model, lambda m, b, g: m(b.x).square().sum(1), poisoned, config, engine=Engine(alone=True)):
            seen.append(step.skipped)
            states.append(copied(step.state()))
    assert seen == [False, False, True, True]
    for name, value in states[1].model.items():
        assert torch.equal(value, states[-1].model[name]) and torch.equal(value, model.state_dict()[name]), name
    assert "lower the learning rate" in str(stopped.value)


def test_divergence_names_the_noise_levels_where_the_objective_tells_them():
    """The message carries sigma of the offending rows, re-drawn from the same generator."""

    class Objective:
        def levels(self, batch, generator):
            return torch.full((len(batch.x),), 0.25)

        def __call__(self, model, batch, generator):
            return model(batch.x).sum(1) * torch.where(batch.index == 1, math.inf, 1.0)

    with pytest.raises(Diverged, match=r"rows \[1\] of the data at noise levels sigma 0\.25"):
        finished(linear(), Objective(), batches=lambda step: batches(0))


def test_a_single_bad_batch_is_survived():
    """One non-finite batch among good ones is skipped and training goes on."""

    def once(step):
        batch = batches(step)
        return batch._replace(x=batch.x * math.inf) if step == 3 else batch

    steps = finished(linear(), batches=once)
    assert [s.skipped for s in steps] == [k == 3 for k in range(8)]


def test_gradients_of_gradients_reach_the_parameters():
    """An implicit objective trains inside the wrapped module: on N(0, 4) a linear score finds -1/4."""
    from scorefield.objectives import implicit

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x):
            return self.slope * x

    x = torch.randn(256, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = 2 * (x - x.mean()) / x.std(correction=0)
    model = Line()
    everything = Batch(x, None, torch.arange(256))
    finished(model, lambda m, b, g: implicit(m, b.x), lambda step: everything, steps=300, batch_size=256,
             learning_rate=0.05, weight_decay=0.0)  # fmt: skip
    assert model.slope.item() == pytest.approx(-0.25, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"batch_size": 10, "accumulate": 4}, "multiple of accumulate x devices = 4, got 10"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number > 0"),
        ({"precision": "fp16"}, "precision must be one of"),
        ({"decay": 1.5}, r"decay must lie in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(change, message):
    """Each message has the value and the rule."""
    with pytest.raises(ValueError, match=message):
        check_settings(dataclasses.replace(TrainSettings(), **change))


def test_an_objective_that_averages_is_refused():
    """The caller averages: a scalar is not one number per sample."""
    with pytest.raises(ValueError, match="one number per sample"):
        finished(linear(), lambda m, b, g: m(b.x).square().mean())


def test_calibration_leaves_the_model_as_it_was():
    """Measuring works on copies; fp32 is among what is measured."""
    model = nn.Linear(3, 3)
    before = model.weight.detach().clone()
    config = TrainSettings(batch_size=16)
    plain = lambda step: Batch(X[:16].float(), None, torch.arange(16))  # noqa: E731
    measured = calibrate(model, noisy_square, plain, config, precision="fp32", steps=3)
    assert measured.precision == "fp32" and measured.seconds_per_step > 0
    assert torch.equal(model.weight, before)


def test_more_devices_than_processes_are_refused(monkeypatch):
    """Under torchrun with two processes, --devices 3 fails and says what to give."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="number of processes, 2, got 3; give it 2"):
        Engine(3)


class Told:
    """An objective of two terms, a square and minus a third of it, by name."""

    def terms(self, model, batch, generator):
        square = noisy_square(model, batch, generator)
        return {"square": square, "rest": -square / 3}

    def __call__(self, model, batch, generator):
        return noisy_square(model, batch, generator) * (2 / 3)


def test_terms_of_the_loss_are_reported_apart_and_train_as_their_sum():
    """The loss is their sum, each is its own mean, and the weights are those of the sum trained as a whole."""
    whole, apart = linear(), linear()
    a, b = finished(whole, lambda m, x, g: Told()(m, x, g)), finished(apart, Told())
    assert torch.allclose(whole.weight, apart.weight, atol=1e-13)
    assert [s.loss for s in b] == pytest.approx([s.loss for s in a], rel=1e-12)
    for step in b:
        assert list(step.terms) == ["square", "rest"] and sum(step.terms.values()) == step.loss
        assert step.terms["rest"] == pytest.approx(-step.terms["square"] / 3, rel=1e-12)
    expected = noisy_square(linear(), batches(0), step_generator(0, 0)).mean().item()
    assert b[0].terms["square"] == pytest.approx(expected, rel=1e-12)
    assert all(not s.terms for s in a)


def test_terms_are_means_over_micro_batches():
    """For a loss without noise, four micro-batches report the terms of one batch."""

    class Plain(Told):
        def terms(self, model, batch, generator):
            out = model(batch.x)
            return {"square": inner(out, out), "rest": -out.sum(1)}

    one, four = finished(linear(), Plain()), finished(linear(), Plain(), accumulate=4)
    for a, b in zip(one, four, strict=True):
        assert dict(a.terms) == pytest.approx(dict(b.terms), rel=1e-12)


def test_a_term_that_is_not_one_number_per_sample_is_refused_by_name():
    """As the loss itself would be."""

    class Averaged(Told):
        def terms(self, model, batch, generator):
            return {"square": noisy_square(model, batch, generator).mean()}

    with pytest.raises(ValueError, match=r"the objective's term square must have shape \(16,\)"):
        finished(linear(), Averaged())
