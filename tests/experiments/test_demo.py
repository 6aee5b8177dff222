"""The demo's pictures and what happens the second time."""

import json
import shutil

import pytest
from PIL import Image

from conftest import small_recipe
from scorefield.cli import main
from scorefield.experiments.demo import pictures, recipe
from scorefield.runs import Run


@pytest.fixture
def copied(digits_run, tmp_path):
    """A small finished run in the place of the demo's."""
    shutil.copytree(digits_run.path, tmp_path / "demo")
    return tmp_path / "demo"


def test_pictures_are_drawn_once_and_found_again(copied):
    """Three pictures, each a readable PNG; drawn anew only for another step."""
    files = pictures(Run.open(copied))
    assert set(files) == {"Samples by class", "Noising and the way back", "Loss by noise level"}
    times = {file: file.stat().st_mtime_ns for file in files.values()}
    for file in files.values():
        with Image.open(file) as image:
            assert min(image.size) > 400
    assert {file: file.stat().st_mtime_ns for file in pictures(Run.open(copied)).values()} == times


def test_a_finished_demo_is_used_again_and_says_so(copied, capsys):
    """The table, the three files and the next commands are printed; the figures are stored with their step."""
    for _ in range(2):
        assert main(["demo", "-o", str(copied)]) == 0
        out = capsys.readouterr().out
        assert "is finished and used again" in out and "demo --fresh" in out
        for word in ("class agreement", "Fréchet distance", "nearest training image", ".png", "scorefield sample"):
            assert word in out
        assert "real data" in out and "parameters" in out
    assert json.loads((copied / "evaluation.json").read_text())["step"] == 12


def test_fresh_trains_anew(copied, capsys, monkeypatch):
    """--fresh removes the finished run and trains; the number of steps is measured for this machine."""
    from scorefield.experiments import demo

    monkeypatch.setattr(demo, "recipe", lambda seconds: small_recipe(steps=None, seconds=seconds))
    assert main(["demo", "-o", str(copied), "--fresh", "--seconds", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "Measuring this machine" in out and "used again" not in out
    assert Run.open(copied).recipe.seconds == 0.5 and Run.open(copied).finished


def test_the_demo_trains_on_the_digits_for_a_hundred_seconds():
    """What the README promises."""
    assert (recipe().data, recipe().seconds) == ("digits", 100.0)
