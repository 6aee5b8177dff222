"""Tests of memorisation: their size where nothing is copied, blurred or sharp, and the copies they find."""

import math

import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Generator

from scorefield.metrics import memorisation
from scorefield.metrics.memory import _mann_whitney

ALARMS = 0.05


def laws(g, n=60, train=120, held=40, d=5, blur=1.0):
    """Samples (shrunk by `blur`), training rows and held-out rows of a normal law."""
    x = torch.randn(n + train + held, d, generator=g)
    return blur * x[:n], x[n : n + train], x[n + train :]


@pytest.mark.parametrize("blur", [1.0, 0.5])
def test_the_neighbour_test_has_its_size_for_sharp_and_for_blurred_samples(blur):
    """Rejections at 5 % in 200 repetitions, within 3.5 binomial standard errors; the share is its chance."""
    g, repeats = Generator().manual_seed(0), 200
    found = [memorisation(*laws(g, blur=blur), permutations=99, generator=g) for _ in range(repeats)]
    rejected = sum(m.nearer.p_value <= ALARMS for m in found) / repeats
    assert abs(rejected - ALARMS) < 3.5 * math.sqrt(ALARMS * (1 - ALARMS) / repeats)
    z = torch.tensor([(m.nearer.value - m.chance.value) / m.chance.standard_error for m in found])
    assert m_is_standard(z, repeats) and found[0].chance.value == 0.75
    shifts = torch.tensor([m.shift.value for m in found])
    if blur == 1:
        assert m_is_standard(shifts, repeats)
    else:  # blurred samples lie near everything: the score alone takes them for copies
        assert shifts.mean() < -3
    assert sum(m.copied.p_value <= ALARMS for m in found) / repeats < ALARMS  # Fisher's test errs on the safe side


def m_is_standard(z, repeats):
    """Mean 0 and spread 1 within 4 standard errors."""
    return abs(z.mean()) < 4 / math.sqrt(repeats) and abs(z.std() - 1) < 4 / math.sqrt(2 * repeats)


def test_the_data_copying_score_of_several_cells_has_its_size():
    """A weighted mean of independent z-scores: over its standard error again standard."""
    g, repeats = Generator().manual_seed(1), 40
    found = [
        memorisation(*laws(g, 150, 150, 150, 2), cells=3, permutations=9, generator=g).shift for _ in range(repeats)
    ]
    z = torch.tensor([e.value / e.standard_error for e in found])
    assert abs(z.mean()) < 4 / math.sqrt(repeats) and 0.6 < z.std() < 1.4
    assert found[0].p_value == pytest.approx(0.5 * math.erfc(-z[0].item() / math.sqrt(2)), abs=1e-6)
    assert "3 cells" in found[0].method and all(3**-0.5 <= e.standard_error < 0.8 for e in found)


def test_samples_around_one_row_count_as_one_witness():
    """Ten around one training row, ten around one held-out row: weights 10 and 10, and the variance by hand.

    Labels of N = 30 rows, 20 of them of training, are permuted: Var = (sum w^2 - (sum w)^2 / N) 20 10 / (N (N - 1)).
    """
    g = Generator().manual_seed(8)
    _, train, held = laws(g, train=20, held=10, d=9)
    samples = torch.cat([train[:1], held[:1]]).repeat_interleave(10, 0) + 1e-3 * torch.randn(20, 9, generator=g)
    found = memorisation(samples, train, held, generator=g)
    expected = math.sqrt((200 - 400 / 30) * 200 / (30 * 29)) / 20
    assert found.nearer.value == 0.5 and found.chance.value == pytest.approx(2 / 3)
    assert found.nearer.standard_error == pytest.approx(expected)
    assert found.nearer.p_value == pytest.approx(1 - 10 * 9 / (30 * 29), abs=0.02)


def test_planted_copies_are_found_by_all_three():
    """Every sample a training row with a little noise."""
    g = Generator().manual_seed(2)
    _, train, held = laws(g, train=200, held=60)
    copies = train[:100] + 0.01 * torch.randn(100, 5, generator=g)
    found = memorisation(copies, train, held, generator=g)
    assert found.nearer.value == 1 and found.nearer.p_value < 1e-3
    assert found.shift.value < -8 and found.shift.p_value < 1e-12
    assert found.copied.value > 0.95 and found.copied.p_value < 1e-12 and found.copied_held_out.value < 0.1


def test_a_few_copies_among_good_samples_are_found_by_the_ratio():
    """One in fifteen: the ratio test sees it, and says about how many."""
    g = Generator().manual_seed(3)
    samples, train, held = laws(g, n=150, train=300, held=150)
    samples[:10] = train[:10]
    found = memorisation(samples, train, held, generator=g)
    assert found.copied.value == pytest.approx(10 / 150) and found.copied.p_value < 0.01
    assert found.copied_held_out.value == 0
    assert found.nearer.p_value > 0.001 and abs(found.shift.value) < 4


def test_samples_far_off_shift_the_score_up_and_are_no_copies():
    """Underfitted: the score is above 0 and its p-value near 1."""
    g = Generator().manual_seed(4)
    samples, train, held = laws(g)
    found = memorisation(3 * samples, train, held, generator=g)
    assert found.shift.value > 3 and found.shift.p_value > 0.99 and found.copied.value == 0


def test_rows_in_both_sets_belong_to_neither():
    """Held-out rows that also stand among the training rows: all ties, and the share is that of chance."""
    rows = torch.randn(50, 3, generator=Generator().manual_seed(5))
    found = memorisation(rows[:20], rows, rows[:40], generator=Generator().manual_seed(5))
    assert found.nearer.value == pytest.approx(found.chance.value) and found.nearer.p_value == 1


def test_the_z_score_is_that_of_scipys_test_with_ties():
    """The asymptotic p-value of scipy's Mann-Whitney test, without its continuity correction."""
    g = Generator().manual_seed(6)
    x, y = (torch.randint(0, 9, (n,), generator=g).double().numpy() for n in (40, 31))
    theirs = mannwhitneyu(x, y, alternative="less", method="asymptotic", use_continuity=False).pvalue
    assert 0.5 * math.erfc(-_mann_whitney(x, y) / math.sqrt(2)) == pytest.approx(theirs, rel=1e-9)
    assert _mann_whitney(x * 0, y * 0) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": torch.zeros(4, 5)}, "samples must have at least 5 rows, got 4"),
        ({"ratio": 1.5}, r"ratio must lie in \[0, 1\], got 1.5"),
        ({"cells": 0}, "cells must be >= 1, got 0"),
        ({"cells": 40}, "no cell holds 5 samples and 5 held-out rows; use fewer cells"),
        ({"held_out": torch.zeros(9, 4)}, "rows like those of samples"),
    ],
)
def test_bad_requests_are_refused(change, message):
    samples, train, held = laws(Generator().manual_seed(7))
    with pytest.raises(ValueError, match=message):
        memorisation(**({"samples": samples, "train": train, "held_out": held} | change))
