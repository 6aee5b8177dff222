"""Panels that are read against each other: what is drawn is what was given, to one scale."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.quiver import Quiver

from scorefield.plots import Plane, curves, intervals, planes, save, time_paths

BOX = (-1.0, 1.0, -1.0, 1.0)


def of(axes, kind):
    return [artist for artist in axes.collections if isinstance(artist, kind)]


def test_arrows_of_a_row_share_the_scale_of_its_first_and_rows_do_not():
    """Length |s|/(|s| + m): with |s| = 2 everywhere in the first panel m = 2, and |s| = 6 is drawn at 3/4."""
    field = lambda size: lambda x: torch.tensor([[size, 0.0]], dtype=x.dtype).expand(len(x), 2)  # noqa: E731
    figure = planes([[Plane("a", score=field(2.0)), Plane("b", score=field(6.0))], [Plane("c", score=field(6.0))] * 2],
                    boxes=[BOX, BOX], n=4)  # fmt: skip
    lengths = [float(of(axes, Quiver)[0].U[0]) for axes in figure.axes]
    assert lengths == pytest.approx([0.5, 0.75, 0.5, 0.5])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b", "c", "c"]


def test_colours_points_and_the_bar_are_drawn(tmp_path):
    """The colour of a place is the function's value there, from below upwards; the bar has its name."""
    points = torch.tensor([[0.5, -0.5], [0.0, 0.0]])
    panel = Plane("error", colour=lambda x: x[:, 1], points=points, density=lambda x: -x.square().sum(1))
    figure = planes([[panel]], boxes=[BOX], colour_name="size", colour_range=(-1, 1))
    (image,) = figure.axes[0].images
    shades = np.asarray(image.get_array())
    assert shades.shape == (160, 160) and image.get_clim() == (-1, 1) and image.origin == "lower"
    np.testing.assert_allclose(shades[:, 7], np.linspace(-1, 1, 321)[1::2], atol=1e-12)
    np.testing.assert_allclose(of(figure.axes[0], PathCollection)[0].get_offsets(), points)
    assert figure.axes[-1].get_ylabel() == "size"
    assert save(figure, tmp_path / "planes.png").stat().st_size > 1000


def test_paths_over_time_stand_on_the_law_and_end_in_dots():
    times, path = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[1.0, 2.0], [1.5, 2.5], [3.0, -3.0]])
    figure = time_paths({"a": (times, path), "b": (times.flip(0), path)}, density=torch.eye(5) + 1, over=(0, 1, -4, 4))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    first, second = figure.axes
    strands = of(first, LineCollection)[0].get_segments()
    np.testing.assert_allclose(strands[1], [[0, 2], [0.5, 2.5], [1, -3]])
    np.testing.assert_allclose(of(first, PathCollection)[0].get_offsets(), [[1, 3], [1, -3]])
    np.testing.assert_allclose(of(second, PathCollection)[0].get_offsets(), [[0, 3], [0, -3]])
    assert np.asarray(first.images[0].get_array()).max(0) == pytest.approx(np.ones(5))
    assert tuple(first.images[0].get_extent()) == (0, 1, -4, 4)


def test_intervals_are_drawn_from_top_to_bottom_with_the_truth():
    figure = intervals(["one", "two"], [0.5, 0.8], [0.4, 0.7], [0.6, 0.95], truth=0.8, x_name="share")
    (axes,) = figure.axes
    (bars,) = of(axes, LineCollection)
    np.testing.assert_allclose(bars.get_segments(), [[[0.4, 0], [0.6, 0]], [[0.7, 1], [0.95, 1]]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    assert axes.lines[0].get_xdata()[0] == 0.8 and axes.get_ylim()[0] > axes.get_ylim()[1]


def test_marks_are_dashed_lines_across_with_their_names():
    (axes,) = curves([0, 1, 2], {"a": [1, 2, 3]}, marks={"limit": 2.5}).axes
    assert axes.lines[1].get_ydata()[0] == 2.5 and axes.lines[1].get_linestyle() == "--"
    assert [text.get_text() for text in axes.texts] == ["limit"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: planes([[Plane("a")], []], boxes=[BOX, BOX]), r"of one length and have a box each, got \[1, 0\]"),
        (lambda: planes([[]], boxes=[BOX]), "of one length"),
        (lambda: planes([[Plane("a")]], boxes=[]), "got .1. and 0"),
        (lambda: planes([[Plane("a", points=torch.zeros(3))]], boxes=[BOX]), r"shape \(k, 2\), got \(3,\)"),
        (lambda: planes([[Plane("a", score=lambda x: x[:, :1])]], boxes=[BOX]), "must return"),
        (lambda: time_paths({}, density=torch.eye(2), over=BOX), "not empty"),
        (lambda: time_paths({"a": (torch.zeros(3), torch.zeros(2, 4))}, density=torch.eye(2), over=BOX), r"\(T, B\)"),
        (lambda: intervals(["a"], [1.0], [0.5, 0.6], [2.0]), r"must have shape \(1,\)"),
        (lambda: intervals([], [], [], []), "must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
