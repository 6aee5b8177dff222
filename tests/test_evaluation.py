"""The judgement of a run: figures with known answers on runs whose samples are planted."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from scorefield.densities import toy
from scorefield.evaluation import Row, evaluate, loss_by_level
from scorefield.metrics import Estimate
from scorefield.samplers import Samples


class Planted:
    """A run whose samples are given: everything else is the real run's."""

    def __init__(self, run, x, y=None):
        self._run, self._x, self._y = run, x, y

    def __getattr__(self, name):
        return getattr(self._run, name)

    def sample(self, n, seed=0):
        return Samples(self._x[:n], None, {} if self._y is None else {"y": self._y[:n]})


def figures(run, **how) -> dict[str, Row]:
    return {row.name: row for row in evaluate(run, **how)}


@pytest.fixture
def digits(digits_run):
    """All digits in data units with their classes, shuffled."""
    order = np.random.default_rng(0).permutation(len(digits_run.dataset))
    x = torch.from_numpy(np.array(digits_run.dataset.x))[order].float()
    return x, digits_run.dataset.labels(order)


def test_real_images_pass_as_real(digits_run, digits):
    """Real digits in place of samples: agreement near 1, Fréchet ratio about or below 1, nearest neighbour at 0."""
    rows = figures(Planted(digits_run, *digits))
    assert rows["class agreement"].samples.value > 0.98
    assert rows["Fréchet distance"].ratio < 1.1
    assert rows["nearest training image"].samples.value < 1e-6  # memorised: they are the training images
    kernel = rows["kernel distance"].samples
    assert abs(kernel.value) < 4 * kernel.standard_error


def test_noise_and_wrong_labels_are_found(digits_run, digits):
    """Shifted labels agree at 0; blurred and noised images raise the Fréchet and neighbour ratios."""
    x, y = digits
    assert figures(Planted(digits_run, x, (y + 1) % 10))["class agreement"].samples.value < 0.02
    noised = x + 6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    rows = figures(Planted(digits_run, noised, y))
    assert rows["Fréchet distance"].ratio > 2 and rows["nearest training image"].ratio > 1.6
    kernel = rows["kernel distance"].samples
    assert kernel.value > 4 * kernel.standard_error


def test_every_figure_has_an_error_and_a_number_of_samples(digits_run, digits):
    """No figure without n and its standard error, for the samples and for the real data."""
    for row in figures(Planted(digits_run, *digits)).values():
        for estimate in (row.samples, row.real):
            assert estimate.n >= 100 and estimate.standard_error is not None
            assert estimate.interval[0] <= estimate.value <= estimate.interval[1]


def test_a_trained_mixture_is_close_to_the_truth(vector_run):
    """On vectors: MMD² near 0, the two-sample test near chance, a small part of the score's energy wrong."""
    rows = figures(vector_run)
    assert rows["two-sample test"].samples.value < 0.6 and rows["two-sample test"].real.value < 0.6
    assert rows["MMD²"].samples.value < 0.01
    assert rows["Fisher divergence"].ratio < 0.2


def test_draws_of_the_truth_pass_and_others_do_not(vector_run):
    """Exact draws cannot be told from held-out data; draws moved by one spread can."""
    x = toy("gaussian-mixture").sample((1000,), generator=torch.Generator().manual_seed(7))
    good, bad = figures(Planted(vector_run, x)), figures(Planted(vector_run, x + x.std(0)))
    assert abs(good["MMD²"].samples.value) < 4 * good["MMD²"].samples.standard_error
    assert bad["MMD²"].samples.value > 10 * bad["MMD²"].samples.standard_error
    assert bad["two-sample test"].samples.value > 0.65 > good["two-sample test"].samples.value


def test_loss_by_level_of_a_zero_field_is_one(digits_run, monkeypatch):
    """sigma² ||z/sigma||² / D = 1 in expectation when the score is 0, at every level (4 standard errors)."""

    class Zero(torch.nn.Module):
        def forward(self, x, t, y=None):
            return torch.zeros_like(x)

    monkeypatch.setattr(type(digits_run), "load_model", lambda self: Zero())
    sigma, mean, error = loss_by_level(digits_run, digits_run.dataset.train_rows[:200], levels=5)
    assert ((mean - 1).abs() < 4 * error).all()
    assert sigma[0].item() == pytest.approx(digits_run.noise.sigma_min)
    assert sigma[-1].item() == pytest.approx(digits_run.noise.sigma_max)


def test_rows_go_to_json_and_back():
    """What is stored beside a run is what was measured."""
    row = Row("name", Estimate(1.5, 0.1, 10, (1.3, 1.7), "m"), Estimate(3.0, None, 5, None, "m"), "reading")
    again = Row.from_json({k: v for k, v in row.to_json().items() if k != "ratio"})
    assert again.samples == row.samples and again.real == row.real and math.isclose(row.to_json()["ratio"], 0.5)


def test_bad_requests_are_refused(vector_run, digits_run):
    """Too few samples, and vectors without held-out rows to judge by."""
    with pytest.raises(ValueError, match="count must be >= 100, got 5"):
        evaluate(digits_run, count=5)
    info = dataclasses.replace(vector_run.dataset.info, held_out=0)
    without = type(vector_run.dataset)(info, vector_run.dataset.x, None)
    planted = Planted(vector_run, torch.zeros(200, 2))
    planted.dataset = without
    with pytest.raises(ValueError, match="at least 8 held-out rows, got 0; hold out more"):
        evaluate(planted)
