"""What all metrics of two sets stand on: nearest rows, halves, kernel sums, and the errors of shares."""

import math

import torch
from torch import Generator

from scorefield.metrics import c2st, class_agreement, mmd, precision_recall
from scorefield.metrics.pairs import by_halves, nearest_rows


def test_the_nearest_of_rows_that_single_precision_cannot_tell_apart_is_found():
    """Three rows within 1e-3 of each other at 100 from the origin: their products agree, their distances are exact."""
    g = Generator().manual_seed(0)
    places = 100 * torch.randn(40, 3, generator=g)
    rows = (places[:, None] + torch.tensor([0.0, 1e-3, 2e-3])[:, None]).flatten(0, 1)
    distances, found = nearest_rows(places + 2.1e-3, rows)
    assert (found[:, 0] == 3 * torch.arange(40) + 2).all() and distances.max() < 3e-4


def test_a_discrepancy_does_not_depend_on_where_the_origin_is():
    """Both sets moved by 10⁷ spreads: the distances come from products about an origin that all rows share."""
    g = Generator().manual_seed(1)
    a, b = (torch.randn(60, 2, dtype=torch.float64, generator=g) for _ in range(2))
    here, there = (mmd(a + shift, b + shift, bandwidth=1.0).value for shift in (0.0, 1e7))
    assert abs(here - there) < 1e-7


def test_halves_share_no_row_and_take_every_second_of_a_class():
    """13 rows in halves of 6; with five of class 0 and eight of class 1 a half has two or three, and four or more."""
    strata, seen = torch.tensor([0] * 5 + [1] * 8), []

    def figures(a, b):
        seen.append((a[:, 0].tolist(), b[:, 0].tolist()))
        return b.sum(0)

    rows = torch.arange(13.0)[:, None]
    mean, error = by_halves(figures, rows, rows, 20, Generator().manual_seed(2), strata=strata)
    for first, second in zip(seen[0::2], seen[1::2], strict=True):
        for one, other in zip(first, second, strict=True):
            assert len(one) == len(other) == 6 and not set(one) & set(other)
        assert all(2 <= sum(k < 5 for k in half) <= 3 for half in (first[1], second[1]))
    sums = torch.tensor([sum(b) for _, b in seen]).view(20, 2)
    assert mean.item() == sums.mean().item()
    assert error.item() == ((sums[:, 0] - sums[:, 1]) / 2).square().mean().sqrt().item()


def test_precision_and_recall_change_places_with_the_sets():
    """One stray sample has a ball that holds many real rows; the other way round it lifts precision."""
    g = Generator().manual_seed(3)
    a, b = torch.rand(60, 1, generator=g), 0.5 + 2 * torch.rand(80, 1, generator=g)
    a[0] = 9.0
    forth, back = precision_recall(a, b, splits=2), precision_recall(b, a, splits=2)
    assert (forth[0].value, forth[1].value) == (back[1].value, back[0].value)
    assert forth[0].value < 0.6 and forth[1].value == 1
    apart = precision_recall(a[1:], b + 9, splits=2)  # none of 59, none of 80: Wilson's upper ends
    ends = [1.96**2 / (n + 1.96**2) for n in (59, 80)]
    assert [round(e.interval[1], 4) for e in apart] == [round(end, 4) for end in ends]


def test_two_sets_are_told_apart_whatever_the_units_of_their_columns():
    """Three spreads apart in one column (accuracy 0.93), and noise a thousand times as large in another."""
    g = Generator().manual_seed(4)
    a, b = (torch.randn(150, 2, dtype=torch.float64, generator=g) for _ in range(2))
    units = torch.tensor([1.0, 1000.0], dtype=torch.float64)
    assert c2st(units * a, units * b + torch.tensor([3.0, 0.0]), generator=g).value > 0.85


def test_the_standard_error_of_a_share_is_the_binomials():
    """81 of 263."""
    found = class_agreement((torch.arange(263) < 81).long(), torch.ones(263, dtype=torch.long))
    assert abs(found.standard_error - math.sqrt(81 * 182 / 263**3)) < 1e-12
