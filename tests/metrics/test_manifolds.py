"""Precision, recall, density and coverage: known overlaps, known expectations, errors that cover."""

import math

import pytest
import torch
from torch import Generator

from scorefield.metrics import density_coverage, expected_coverage, precision_recall


def uniform(n, low, high, g, d=1):
    return low + (high - low) * torch.rand(n, d, dtype=torch.float64, generator=g)


def test_overlapping_and_disjoint_supports_have_the_overlap_as_precision_and_recall():
    """Uniform on [0, 1] against real on [0.75, 2.75]: a quarter of the samples, an eighth of the real rows."""
    g = Generator().manual_seed(0)
    a, b = uniform(1000, 0, 1, g), uniform(1000, 0.75, 2.75, g)
    precision, recall = precision_recall(a, b, splits=3, generator=g)
    assert abs(precision.value - 0.25) < 4 * precision.standard_error + 0.02
    assert abs(recall.value - 0.125) < 4 * recall.standard_error + 0.02
    assert precision.standard_error < 0.03
    for estimate in (*precision_recall(a, b + 9, splits=2), *density_coverage(a, b + 9, splits=2)):
        assert estimate.value == 0 and estimate.interval[0] == 0
    assert precision_recall(a, b + 9, splits=2)[0].interval[1] == pytest.approx(0.0038, abs=1e-4)  # Wilson's, 0 of 1000


def test_a_lost_mode_costs_recall_and_coverage_and_no_precision_or_density():
    g = Generator().manual_seed(1)
    real = torch.cat([uniform(300, 0, 1, g, 2), uniform(300, 5, 6, g, 2)])
    one_mode = uniform(600, 0, 1, g, 2)
    precision, recall = precision_recall(one_mode, real, splits=2)
    density, coverage = density_coverage(one_mode, real, splits=2)
    assert precision.value > 0.9 and recall.value < 0.55
    assert density.value == pytest.approx(1, abs=0.1) and coverage.value == pytest.approx(0.5, abs=0.03)


def test_one_outlier_lifts_precision_but_not_density():
    """Naeem et al. 2020, figure 1: one real row far out has a ball that swallows samples between."""
    g = Generator().manual_seed(2)
    real = torch.cat([uniform(200, 0, 1, g), torch.tensor([[10.0]]).double()])
    strays = uniform(200, 3, 9, g)
    assert precision_recall(strays, real, splits=2)[0].value == 1
    assert density_coverage(strays, real, splits=2)[0].value < 0.25


@pytest.mark.parametrize(("n", "m", "k"), [(60, 60, 5), (40, 90, 3)])
def test_density_and_coverage_of_equal_laws_have_their_known_expectations(n, m, k):
    """1 and 1 - (m-1)...(m-k) / (n+m-1)...(n+m-k), whatever the law; the errors are the spread over repetitions."""
    g, repeats = Generator().manual_seed(3), 150
    pairs = [
        density_coverage(
            torch.randn(n, 2, generator=g).double(), torch.randn(m, 2, generator=g).double(), neighbours=k, splits=4
        )
        for _ in range(repeats)
    ]
    for estimates, truth in zip(zip(*pairs, strict=True), (1.0, expected_coverage(n, m, neighbours=k)), strict=True):
        values = torch.tensor([e.value for e in estimates])
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(repeats)
        errors = torch.tensor([e.standard_error for e in estimates]).square().mean().sqrt()
        assert 0.7 < errors / values.std() < 1.5


def test_the_expected_coverage_by_hand():
    """n = 2, m = 4, k = 2: 1 - (3 2) / (5 4); many samples cover all, and k neighbours more than k - 1."""
    assert expected_coverage(2, 4, neighbours=2) == pytest.approx(0.7)
    assert expected_coverage(10**6, 10) > 0.9999 and expected_coverage(9, 9, neighbours=3) > 0.8


def test_the_balls_do_not_depend_on_the_block(monkeypatch):
    g = Generator().manual_seed(4)
    a, b = uniform(31, 0, 1, g, 3), uniform(43, 0, 1, g, 3)
    whole = [e.value for e in (*precision_recall(a, b, splits=2), *density_coverage(a, b, splits=2))]
    monkeypatch.setattr("scorefield.metrics.pairs._BLOCK", 150)
    assert [e.value for e in (*precision_recall(a, b, splits=2), *density_coverage(a, b, splits=2))] == whole


@pytest.mark.parametrize("figures", [precision_recall, density_coverage])
def test_too_few_rows_for_the_neighbours_are_refused(figures):
    with pytest.raises(ValueError, match="b must have at least 14 rows, got 13"):
        figures(torch.rand(20, 2), torch.rand(13, 2), neighbours=6)
    with pytest.raises(ValueError, match="splits must be >= 2, got 1"):
        figures(torch.rand(20, 2), torch.rand(20, 2), splits=1)
    with pytest.raises(ValueError, match="m must be >= 6, got 5"):
        expected_coverage(10, 5)
