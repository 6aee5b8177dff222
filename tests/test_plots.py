"""Plots: pixels land where they should, ranges are honoured, and what does not fit is refused."""

import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.contour import QuadContourSet
from matplotlib.quiver import Quiver

from scorefield.densities import toy
from scorefield.plots import (
    COLOURS,
    DPI,
    curves,
    image_grid,
    moving_particles,
    paths,
    save,
    scatter_paths,
    score_field,
)

ZOOM, GAP = 11, 5  # of 8 x 8 images: 88 pixels a side


def picture(figure, panel=0):
    (image,) = figure.axes[panel].images
    return np.asarray(image.get_array())


def tile(pixels, row, column, side=8, zoom=ZOOM):
    """The small image at this place, one number per pixel of its own, checked to be constant over each."""
    step = side * zoom + GAP
    block = pixels[row * step : row * step + side * zoom, column * step : column * step + side * zoom]
    blocks = block.reshape(side, zoom, side, zoom, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    return blocks[:, 0, :, 0]


def drawn(figure):
    """The pixels of a saved figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def test_each_image_of_a_grid_lands_in_its_cell_and_gaps_are_white():
    images = torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pixels = picture(image_grid(images, value_range=(0, 1)))
    assert pixels.shape == (2 * (88 + GAP) - GAP, 3 * (88 + GAP) - GAP, 3)
    for i in range(2):
        for j in range(3):
            np.testing.assert_array_equal(tile(pixels, i, j), np.repeat(images[i, j, 0, ..., None].numpy(), 3, 2))
    assert (pixels[88 : 88 + GAP] == 1).all() and (pixels[:, 88 : 88 + GAP] == 1).all()


def test_a_saved_grid_shows_every_pixel_at_full_sharpness(tmp_path):
    """The grid is drawn one to one: the pixels of the file are those of the array."""
    images = (torch.arange(4 * 64) % 7).reshape(2, 2, 1, 8, 8) / 6.0
    figure = image_grid(images, row_names=["a", "b"], title="grid")
    shown, expected = drawn(figure), picture(figure)
    box = figure.axes[0].get_window_extent()
    top, left = round(figure.bbox.height - box.y1), round(box.x0)
    window = shown[top : top + expected.shape[0], left : left + expected.shape[1]]
    assert np.abs(window - expected).max() < 1 / 250
    assert save(figure, tmp_path / "grid.png").stat().st_size > 1000


def test_the_value_range_is_honoured_and_is_that_of_the_data_otherwise():
    images = torch.tensor([-1.0, 0.0, 8.0, 16.0, 20.0]).reshape(5, 1, 1, 1).expand(5, 1, 8, 8)
    honoured = picture(image_grid(images, columns=5, value_range=(0, 16)))
    assert [tile(honoured, 0, j)[0, 0, 0] for j in range(5)] == [0, 0, 0.5, 1, 1]
    own = picture(image_grid(images[1:4], columns=3))
    assert [tile(own, 0, j)[0, 0, 0] for j in range(3)] == [0, 0.5, 1]
    assert (tile(picture(image_grid(torch.full((1, 1, 8, 8), 3.0))), 0, 0) == 0).all()


def test_colours_are_kept_and_places_without_an_image_are_white():
    images = torch.zeros(3, 3, 8, 8)
    images[0, 0], images[1, 1], images[2, 2] = 1, 1, 1
    pixels = picture(image_grid(images))
    assert [tile(pixels, k // 2, k % 2)[3, 3].tolist() for k in range(4)] == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 1, 1],
    ]


def test_row_names_stand_beside_their_rows_and_inside_the_figure():
    figure = image_grid(torch.rand(3, 4, 1, 8, 8), row_names=["zero", "one", "a longer name"], title="a title " * 5)
    drawn(figure)
    axes = figure.axes[0].get_window_extent()
    for i, text in enumerate(figure.axes[0].texts):
        box = text.get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
        if i < 3:
            assert box.x1 < axes.x0 and abs((box.y0 + box.y1) / 2 - (axes.y1 - (i + 0.5) * axes.height / 3)) < 12


def test_paths_have_a_panel_each_rows_of_samples_and_columns_of_times():
    forward = torch.arange(6.0).reshape(3, 2, 1, 1, 1).expand(3, 2, 1, 8, 8)
    names = {"noising": ["σ = 1", "σ = 2", "σ = 3"]}
    figure = paths({"noising": forward, "reverse": forward.flip(0)}, column_names=names, value_range=(0, 5))
    assert len(figure.axes) == 2
    for panel, order in enumerate(([0, 1, 2], [2, 1, 0])):
        pixels = picture(figure, panel)
        for row in range(2):
            shown = [tile(pixels, row, column)[0, 0, 0] * 5 for column in range(3)]
            assert shown == pytest.approx([2 * t + row for t in order])
    assert [t.get_text() for t in figure.axes[0].texts] == [*names["noising"], "noising"]


def test_each_time_of_a_path_has_its_own_range_so_that_large_noise_hides_nothing():
    z = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = picture(paths({"up": torch.stack([z, 1000 * z + 7])}))
    for row in range(5):
        np.testing.assert_allclose(tile(pixels, row, 0), tile(pixels, row, 1), atol=1e-5)
    assert 0.05 < tile(pixels, 0, 0).std()


def test_the_arrows_of_a_field_point_along_the_score_with_the_stated_length():
    law = toy("gaussian-mixture")
    figure = score_field(law.score, density=law.log_density, box=(-4, 5, -4, 5), samples=law.sample((9,)), n=10)
    (arrows,) = [c for c in figure.axes[0].collections if isinstance(c, Quiver)]
    points = torch.from_numpy(np.stack([arrows.X, arrows.Y], 1))
    s = law.score(points)
    size = s.norm(dim=1, keepdim=True)
    expected = s / (size + np.median(size))
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V], 1), expected, atol=1e-12)
    assert len(points) == 100 and figure.axes[0].get_xlim() == (-4, 5)
    assert drawn(figure).shape[2] == 3


def test_the_level_sets_hold_the_mass_they_should():
    """For a standard normal the region of mass q is the disc of radius sqrt(-2 log(1 - q))."""
    figure = score_field(lambda x: -x, density=lambda x: -x.square().sum(1) / 2, box=(-5, 5, -5, 5))
    lines = [c for c in figure.axes[0].collections if isinstance(c, QuadContourSet) and not c.filled]
    for mass, outline in zip((0.2, 0.4, 0.6, 0.8, 0.95, 0.99), lines[0].get_paths(), strict=True):
        radii = np.hypot(*outline.vertices.T)
        np.testing.assert_allclose(radii, math.sqrt(-2 * math.log(1 - mass)), rtol=0.02)


def test_a_field_may_be_without_a_value_somewhere():
    law = toy("rings")
    assert drawn(score_field(law.score, density=law.log_density, box=(-4, 4, -4, 4), n=9)).size


def test_paths_of_particles_are_lines_from_start_to_end():
    path = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[0.5, 0.0], [1.0, 2.0]], [[0.5, 0.5], [1.0, 3.0]]])
    figure = scatter_paths(path)
    lines, ends = figure.axes[0].collections
    assert isinstance(lines, LineCollection) and len(lines.get_segments()) == 4
    np.testing.assert_array_equal(lines.get_segments()[1], [[1, 1], [1, 2]])
    np.testing.assert_array_equal(ends.get_offsets(), path[-1])
    assert figure.axes[0].get_xlim()[0] < 0 and figure.axes[0].get_ylim()[1] > 3
    assert drawn(figure).size


def test_curves_are_drawn_as_given_with_their_bands_and_scales():
    x, y = np.geomspace(0.01, 10, 5), {"train": [1, 2, 3, 4, 5.0], "held out": torch.ones(5)}
    bands = {"train": (np.arange(5.0), np.arange(5.0) + 2)}
    figure = curves(x, y, bands=bands, log_x=True, x_name="σ", y_name="loss", title="loss by level")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["train", "held out"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), y["train"])
    low, high = axes.collections[0].get_datalim(axes.transData).get_points()
    assert low[1] == 0 and high[1] == 6 and axes.get_xscale() == "log" and axes.get_yscale() == "linear"
    assert axes.get_title(loc="left") == "loss by level" and axes.get_legend() is not None
    assert curves(x, {"one": x}).axes[0].get_legend() is None
    assert drawn(figure).shape[:2] == (3.4 * DPI, 5.6 * DPI)


def test_drawing_leaves_matplotlibs_settings_alone(tmp_path):
    before = dict(mpl.rcParams)
    save(curves([1, 2], {"a": [1, 2]}), tmp_path / "a.svg")
    assert dict(mpl.rcParams) == before and len(set(COLOURS)) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: image_grid(torch.zeros(8, 8)), r"\(N, channels, H, W\) and not empty, got \(8, 8\)"),
        (lambda: image_grid(torch.zeros(0, 1, 8, 8)), "not empty"),
        (lambda: image_grid(torch.zeros(4, 2, 8, 8)), "1 or 3 channels, got 2"),
        (lambda: image_grid(torch.full((4, 1, 8, 8), math.nan)), "finite, got 256 values"),
        (lambda: image_grid(torch.zeros(2, 2, 1, 8, 8), columns=2), "leave columns out"),
        (lambda: image_grid(torch.zeros(4, 1, 8, 8), columns=0), "columns must be >= 1"),
        (lambda: image_grid(torch.zeros(4, 1, 8, 8), row_names=["a"]), "got 1 names for 2 rows"),
        (lambda: image_grid(torch.zeros(4, 1, 8, 8), value_range=(1, 0)), "value_range must be"),
        (lambda: paths({}), "panels must hold"),
        (lambda: paths({"a": torch.zeros(4, 1, 8, 8)}), r"\(times, samples, channels, H, W\)"),
        (lambda: paths({"a": torch.zeros(2, 4, 1, 8, 8)}, column_names={"a": ["1"]}), "1 names for 2 times"),
        (
            lambda: paths({"a": torch.zeros(2, 4, 1, 8, 8)}, column_names={"b": ["1"]}),
            "column_names must be of a panel",
        ),
        (lambda: score_field(lambda x: x, box=(1, 0, 0, 1)), "box must be"),
        (lambda: score_field(lambda x: x[:, :1], box=(0, 1, 0, 1)), "score in the plane must return"),
        (lambda: score_field(lambda x: x, density=lambda x: x, box=(0, 1, 0, 1)), "one number per point"),
        (
            lambda: score_field(lambda x: x, samples=torch.ones(3), box=(0, 1, 0, 1)),
            r"samples must have shape \(k, 2\)",
        ),
        (lambda: scatter_paths(torch.zeros(1, 3, 2)), "T >= 2"),
        (lambda: curves([1, 2, 3], {"a": [1, 2]}), r"series\['a'\] must have shape \(3,\)"),
        (lambda: curves([1, 2], {"a": [1, 2]}, bands={"b": ([1, 2], [1, 2])}), "bands must be of a series, got b"),
        (lambda: curves([1, 2], {"a": "two words"}), "numbers in one rectangular array"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_smooth_tiles_pass_through_the_pixels_centres_mean():
    """Bicubic interpolation keeps a constant image, the range, and a tile's mean to a few percent."""
    x = np.zeros((1, 1, 8, 8))
    x[0, 0, 2:6, 2:6] = 1.0
    crisp, soft = (image_grid(x, value_range=(0, 1), smooth=s).axes[0].images[0].get_array() for s in (False, True))
    assert crisp.shape == soft.shape and abs(crisp.mean() - soft.mean()) < 0.03
    assert soft.min() >= 0 and soft.max() <= 1 and len(np.unique(soft)) > len(np.unique(crisp)) == 2
    flat = image_grid(np.full((1, 1, 8, 8), 0.25), value_range=(0, 1), smooth=True).axes[0].images[0].get_array()
    assert np.allclose(flat, 0.25)


def test_a_moving_picture_has_a_panel_a_path_and_a_frame_a_time(tmp_path):
    """One particle moves from left to right in the first panel and rests in the second; the last frame stands."""
    from PIL import Image

    across = np.array([[[-0.5, 0.0]], [[0.0, 0.0]], [[0.5, 0.0]]])
    file = moving_particles({"a": across, "b": 0 * across}, tmp_path / "m.gif", box=(-1, 1, -1, 1), per_second=10)
    places, durations = [], []
    with Image.open(file) as film:
        assert film.n_frames == 3 and film.info["loop"] == 0
        wide = film.size[0]
        for k in range(3):
            film.seek(k)
            durations.append(film.info["duration"])
            shown = np.asarray(film.convert("RGB")).astype(int)
            orange = (shown[..., 0] - shown[..., 2]) > 100
            columns = np.nonzero(orange.any(0))[0]
            places.append([columns[columns < wide / 2].mean(), columns[columns > wide / 2].mean()])
            assert (shown[-1, :3] == 255).all()
    places = np.array(places)
    assert durations == [100, 100, 1600]
    assert np.diff(places[:, 0]) == pytest.approx(wide / 2 / 4, rel=0.1)  # a quarter of a panel a frame
    assert np.diff(places[:, 1]) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "m.png"}, "written as .gif, got m.png; name it m.gif"),
        ({"paths": {"a": np.zeros((1, 2, 2))}}, r"shape \(T, B, 2\) with one T >= 2, got .*\(1, 2, 2\)"),
        ({"paths": {"a": np.zeros((3, 2, 2)), "b": np.zeros((4, 2, 2))}}, "with one T >= 2"),
        ({"captions": ["one"]}, "captions must be one per frame, 3, got 1"),
        ({"per_second": 0.0}, "per_second must be a finite number > 0, got 0.0"),
    ],
)
def test_moving_pictures_that_cannot_be_are_refused(change, message):
    """The value, the rule, the way out; nothing is written."""
    given = {"paths": {"a": np.zeros((3, 2, 2))}, "file": "m.gif", "box": (-1, 1, -1, 1)} | change
    with pytest.raises(ValueError, match=message):
        moving_particles(given.pop("paths"), given.pop("file"), **given)


def test_a_restoration_shows_what_was_seen_drawn_and_uncertain():
    """Input, draws, mean and spread in one row; a small input is enlarged; what was not seen is mid-grey."""
    from scorefield.plots import restoration

    draws = np.stack([np.zeros((1, 4, 4)), np.ones((1, 4, 4))])
    known = np.ones((1, 4, 4))
    known[0, :, 2:] = 0
    figure = restoration(np.full((1, 4, 4), 0.75), draws, known=known)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.texts if t.get_text()] == ["input", "draw 1", "draw 2", "mean", "spread"]
    pixels = np.asarray(axes.images[0].get_array())
    grey = pixels[44]  # one line of pixels through all images
    assert grey[10, 0] == pytest.approx(0.75, abs=0.01) and grey[80, 0] == pytest.approx(0.5, abs=0.01)
    small = restoration(np.zeros((1, 2, 2)), draws)
    assert drawn(small).size
    beside = restoration(
        np.zeros((1, 4, 4)), np.zeros((2, 3, 4, 4)), truth=np.ones((3, 4, 4))
    )  # grey of a colour image
    assert [t.get_text() for t in beside.axes[0].texts if t.get_text()][:2] == ["truth", "input"]
    with pytest.raises(ValueError, match=r"truth must have the shape of a draw, \(1, 4, 4\), got \(4, 4\)"):
        restoration(np.zeros((1, 4, 4)), draws, truth=np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"draws must be \(n, C, H, W\) and observed \(C, H/k, W/k\)"):
        restoration(np.zeros((1, 3, 3)), draws)
