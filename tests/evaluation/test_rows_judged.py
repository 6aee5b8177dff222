"""What a run is judged by: which rows, and what stands in each figure."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from test_figures import Planted, figures

from scorefield.data import Dataset
from scorefield.evaluation import loss_by_level
from scorefield.evaluation.rows import distance_rows, median
from scorefield.evaluation.sets import choose_sets
from scorefield.settings import DataSettings


def test_as_many_training_rows_stand_beside_the_samples_and_none_of_them_is_held_out(digits_run):
    """Whole, the held-out rows keep their strata; a part of them, or another source, has none."""
    data, samples = digits_run.dataset, torch.zeros(180, 1, 8, 8)
    whole, part = (choose_sets(digits_run, samples[:n], None, None, 0) for n in (180, 100))
    assert whole.strata is whole.held_out_labels and part.strata is None
    assert (len(whole.train), len(part.train), len(part.held_out)) == (180, 100, 100)
    rows = {
        name: {x.tobytes() for x in np.asarray(data.x[getattr(data, name)])} for name in ("train_rows", "held_out_rows")
    }
    assert {x.tobytes() for x in whole.held_out} == rows["held_out_rows"]
    assert {x.tobytes() for x in whole.train} <= rows["train_rows"] and len(whole.learned) == 1617
    assert {x.tobytes() for x in whole.learned} == rows["train_rows"]
    assert choose_sets(digits_run, samples, None, DataSettings("digits", held_out=0), 0).strata is None


def test_the_classifier_without_features_learns_from_training_rows_alone(digits_run):
    """With wrong labels on every held-out row the samples still agree, and the held-out rows do not."""
    data = digits_run.dataset
    y = np.array(data.y)
    y[data.held_out_rows] = (y[data.held_out_rows] + 1) % 10
    drawn = data.held_out_rows[:100]
    planted = Planted(digits_run, torch.from_numpy(np.array(data.x[drawn])).float(), data.labels(drawn))
    planted.dataset = Dataset(data.info, data.x, y)
    planted.dataset.train_rows, planted.dataset.held_out_rows = data.train_rows, data.held_out_rows
    agreement = figures(planted, count=100)["class agreement"]
    assert agreement.samples.value > 0.9 and agreement.real.value < 0.1


def test_the_kernel_distance_of_real_data_is_that_of_training_rows_from_held_out_ones(digits_run):
    """About 0 within its error; a set beside itself would be far below."""
    x = torch.from_numpy(np.array(digits_run.dataset.x[digits_run.dataset.train_rows[:180]])).float()
    real = figures(Planted(digits_run, x, None), count=180)["kernel distance"].real
    assert abs(real.value) < 3 * real.standard_error


@pytest.mark.parametrize("n", [25, 100, 101, 400])
def test_the_interval_of_a_median_covers_whatever_the_law(n):
    """P(low < median <= high) is binomial: within 2 % of 95 %; a standard error is the interval's over 2 · 1.96."""
    found = median(torch.arange(float(n)))
    low, high = found.interval
    covers = binom.cdf(high, n, 0.5) - binom.cdf(low, n, 0.5)  # so many rows below, of low + 1 to high
    assert 0.93 < covers < 0.97 and found.value == (n - 1) // 2
    assert found.standard_error == pytest.approx((high - low) / (2 * 1.96))


def test_rows_held_out_class_by_class_are_halved_class_by_class(monkeypatch):
    """Ten apart: without strata halves of 80 rows differ in their classes, and the limit falls far below 0."""
    monkeypatch.setattr("scorefield.evaluation.rows.RESAMPLES", 0)  # they have no part in the limit
    g = torch.Generator().manual_seed(0)
    y = torch.arange(80) % 2

    def law(y):
        return torch.randn(len(y), 2, dtype=torch.float64, generator=g) + 10 * y[:, None]

    found = []
    for _ in range(8):
        a, b = law(torch.arange(400) % 2), law(y)
        rows = [distance_rows(a, a, b, "x", g, strata=strata) for strata in (y, None)]
        found.append([row[1].samples.value for row in rows])
    with_strata, without = torch.tensor(found).T
    assert without.mean() < with_strata.mean() - 4 * (with_strata - without).std() / 8**0.5


def test_the_error_of_the_loss_by_level_is_that_of_a_mean_of_squares(digits_run, monkeypatch):
    """For a field of zeros the loss per dimension is chi-square/D: its error √(2/(D n)), within a quarter."""

    class Zero(torch.nn.Module):
        def forward(self, x, t, y=None):
            return torch.zeros_like(x)

    monkeypatch.setattr(type(digits_run), "load_model", lambda self: Zero())
    _, _, error = loss_by_level(digits_run, digits_run.dataset.train_rows[:200], levels=3)
    torch.testing.assert_close(error, torch.full_like(error, (2 / 64 / 200) ** 0.5), rtol=0.25, atol=0)
