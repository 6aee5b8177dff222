"""What a page is made of: pixels in their places, text that ends nothing, and panels of planted runs."""

import base64
import io
import types

import numpy as np
import torch
from PIL import Image

from scorefield.doctor import Finding
from scorefield.metrics import Estimate
from scorefield.report import panels
from scorefield.report.blocks import safe_json, tiles


def pixels(uri):
    """The picture of a data URI, (H, W, 3)."""
    memory = io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))
    return np.asarray(Image.open(memory).convert("RGB")).astype(int)


def test_tiles_stand_in_reading_order_with_white_gaps_and_the_lowest_value_is_white():
    """Three images of 2 x 3 in two columns, each pixel five wide, four pixels between; 9 to 15 of a range 5 to 15."""
    images = np.array([5.0, 9.0, 15.0])[:, None, None, None] * np.ones((3, 1, 2, 3))
    sheet = pixels(tiles(images, 2, 5.0, 15.0, side=15))
    assert sheet.shape == (2 * 10 + 4, 2 * 15 + 4, 3)
    shades = {"first": sheet[:10, :15], "second": sheet[:10, 19:], "third": sheet[14:, :15], "none": sheet[14:, 19:]}
    for place, shade in {"first": 255, "second": 153, "third": 0, "none": 255}.items():
        assert (np.abs(shades[place] - shade) <= 2).all(), place
    assert (sheet[10:14] == 255).all() and (sheet[:, 15:19] == 255).all()
    colour = np.zeros((1, 3, 2, 2))
    colour[0, 0] = 1.0
    assert (np.abs(pixels(tiles(colour, 1, 0.0, 1.0, side=2)) - [255, 0, 0]) <= 2).all()  # colours are as they are


def test_text_in_a_script_element_cannot_end_it():
    """Neither a tag nor an entity; JSON reads the same."""
    text = safe_json(["</script><b>&amp;"])
    assert "<" not in text and "&" not in text and "\\u003c/script" in text


def test_beneath_a_sample_stands_the_training_row_nearest_to_it(digits_run):
    """Training rows as samples are their own neighbours; held-out rows are not."""
    data = digits_run.dataset
    for rows, same in ((data.train_rows[100:124], True), (data.held_out_rows[:24], False)):
        above, below = panels._beside_their_neighbours(digits_run, torch.from_numpy(np.array(data.x[rows])).float())
        assert (above.source == below.source) is same


def test_a_report_begins_with_what_was_trained_on_what(digits_run):
    """1,797 digits less the 180 held out."""
    expected = "A score network trained on 1,617 images of digits for 12 of 12 steps."
    assert panels.lead(digits_run) == expected


def test_a_running_mean_has_no_memory_of_a_start_at_zero():
    """A constant stays one; of two numbers the second counts 1 beside 0.98."""
    np.testing.assert_allclose(panels._smooth([3.0] * 5), 3.0)
    np.testing.assert_allclose(panels._smooth([0.0, 1.0]), [0.0, 1 / 1.98])


def test_what_is_wrong_stands_first(monkeypatch):
    """Faults, warnings, what is healthy, what was skipped; the section is healthy where all findings are."""
    kinds = ("ok", "skipped", "warning", "fault")
    found = [Finding(kind, kind, kind in ("ok", "skipped"), "seen", "why" * (k > 1)) for k, kind in enumerate(kinds)]
    monkeypatch.setattr(panels, "examine", lambda target: found)
    panel = panels.findings("run")
    assert [row[1] for row in panel.blocks[0].rows] == ["fault", "warning", "ok", "skipped"] and not panel.healthy
    monkeypatch.setattr(panels, "examine", lambda target: found[:2])
    assert panels.findings("run").healthy


def test_particles_end_within_the_frame(monkeypatch):
    """The last frame's extent is two thirds of the width, a quarter of it on either side, in thousandths."""
    path = torch.tensor([[[-5.0, 9.0], [7.0, 0.0], [0.0, 0.0]], [[0.0, 10.0], [2.0, 20.0], [1.0, 15.0]]])
    info = types.SimpleNamespace(kind="vector", columns=("a", "b"))
    run = types.SimpleNamespace(
        dataset=types.SimpleNamespace(info=info, shape=(2,)),
        recipe=types.SimpleNamespace(at_all_levels=False),
        sample=lambda *_, **__: types.SimpleNamespace(path=path),
    )
    (player,) = panels.particles(run, 100, 0).blocks
    assert player.names == ["step 0 of 1", "step 1 of 1"] and player.limits == ("-0.5", "2.5", "7.5", "22.5")
    assert player.points.endswith("[167,167,833,833,500,500]]")


def test_a_cell_holds_the_value_and_its_interval():
    assert panels._said(Estimate(1.23456, 0.1, 9, (1.0, 1.5), "m")) == "1.23 [1, 1.5]"
    assert panels._said(Estimate(2.0, None, 9, None, "m")) == "2"
