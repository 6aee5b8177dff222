"""Restoration: the posterior of a trained law in data units, the tasks and their masks, what is refused."""

import math

import numpy as np
import pytest
import torch

from conftest import small_recipe, trained
from scorefield.cli import main
from scorefield.runs import degradation, restore
from scorefield.runs.restoring import named_mask, write_restoration
from scorefield.settings import MLPSize, Recipe


@pytest.fixture(scope="module")
def gaussian_run(tmp_path_factory):
    """A run on correlated normal data of unequal scales, far from the origin."""
    folder = tmp_path_factory.mktemp("restoring")
    covariance = np.array([[4.0, 0.9], [0.9, 0.25]])
    rows = np.random.default_rng(0).multivariate_normal([10.0, -3.0], covariance, size=4000)
    np.save(folder / "gauss.npy", rows)
    recipe = Recipe(str(folder / "gauss.npy"), steps=1500, mlp=MLPSize(64, 2), learning_rate=4e-3)
    return trained(recipe, folder / "run"), covariance


def test_a_missing_column_follows_its_conditional_law(gaussian_run):
    """x2 given x1 = 12: mean -3 + 0.9/4 · 2, variance 0.25 - 0.81/4; 4 s.e. of 2,000, and 15 % for the training."""
    run, covariance = gaussian_run
    known = np.array([True, False])
    operator = degradation("inpaint", (2,), known=known, width=1.0, factor=2)
    found = restore(run, np.array([12.0, 0.0]), operator, n=2000)
    mean, variance = -3 + covariance[0, 1] / covariance[0, 0] * 2, covariance[1, 1] - covariance[0, 1] ** 2 / 4
    assert abs(found.draws[:, 0] - 12).max() < 0.1
    assert abs(found.draws[:, 1].mean() - mean) < 4 * math.sqrt(variance / 2000) + 0.15 * math.sqrt(variance)
    assert found.draws[:, 1].var() / variance == pytest.approx(1, abs=0.3)
    np.testing.assert_allclose(found.mean, found.draws.mean(0))
    np.testing.assert_allclose(found.spread, found.draws.std(0, ddof=1))


@pytest.mark.parametrize("method", ["moments", "pigdm", "particles"])
def test_noise_in_data_units_is_taken_off(gaussian_run, method):
    """y = x + 1.0 n at (12, -2): the posterior mean C (C + I)^-1 (y - m) + m, columns of unlike scales."""
    run, covariance = gaussian_run
    y, m = np.array([12.0, -2.0]), np.array([10.0, -3.0])
    operator = degradation("denoise", (2,), known=None, width=1.0, factor=2)
    steps = 60 if method == "particles" else None
    found = restore(run, y, operator, n=600, sigma=1.0, method=method, steps=steps)
    gain = covariance @ np.linalg.inv(covariance + np.eye(2))
    posterior = covariance - gain @ covariance
    gap = np.abs(found.draws.mean(0) - (m + gain @ (y - m)))
    # pigdm takes the columns for uncorrelated: its bias is allowed for
    allowed = 4 * np.sqrt(posterior.diagonal() / 300) + (0.5 if method == "pigdm" else 0.15) * np.sqrt(
        posterior.diagonal()
    )
    assert (gap < allowed).all()
    assert (found.effective is not None) == (method == "particles")


def test_degrading_first_is_the_operator_and_its_noise(gaussian_run):
    """`degrade` makes y = A x + sigma n of a whole sample, by its seed; the same seed gives the same draws."""
    run, _ = gaussian_run
    operator = degradation("denoise", (2,), known=None, width=1.0, factor=2)
    how = {"n": 3, "sigma": 0.5, "degrade": True}
    one, again, other = (restore(run, np.array([9.0, -3.0]), operator, **how, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one.draws, again.draws) and not np.array_equal(one.observed, other.observed)
    assert abs(one.observed - [9.0, -3.0]).max() < 5 * 0.5


def test_masks_have_names_and_tasks_their_shapes():
    """What is missing; what an operator gives."""
    known = {name: named_mask(name, (1, 8, 8)) for name in ("left", "right", "top", "bottom", "centre")}
    assert not known["left"][:, :, :4].any() and known["left"][:, :, 4:].all()
    assert not known["bottom"][:, 4:].any() and known["bottom"][:, :4].all()
    assert (known["left"] ^ known["right"]).all() and (known["top"] ^ known["bottom"]).all()
    assert not known["centre"][:, 2:6, 2:6].any() and known["centre"].sum() == 48
    colours = torch.randn(2, 3, 8, 8)
    seen = degradation("colourise", (3, 8, 8), known=None, width=1.0, factor=2)(colours)
    torch.testing.assert_close(seen[:, 0], torch.einsum("bchw,c->bhw", colours, torch.tensor([0.299, 0.587, 0.114])))
    x = torch.randn(2, 1, 8, 8)
    shapes = {"denoise": (8, 8), "deblur": (8, 8), "superres": (4, 4)}
    for task, shape in shapes.items():
        assert degradation(task, (1, 8, 8), known=None, width=1.0, factor=2)(x).shape == (2, 1, *shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "inpainted"}, "did you mean 'inpaint'"),
        ({"task": "inpaint"}, "task inpaint needs a mask: a file, or one of left, right, top, bottom, centre for what"),
        (
            {"task": "inpaint", "known": np.ones((2, 2), dtype=bool)},
            r"mask must have the shape of a sample, \(1, 8, 8\)",
        ),
        ({"task": "denoise", "known": np.ones((1, 8, 8), dtype=bool)}, "mask is an option of task inpaint"),
        ({"task": "superres", "factor": 3}, "factor must divide the image's sides 8 and 8, got 3"),
        ({"task": "colourise"}, "task colourise is for images of 3 channels, and this run learned 1"),
        ({"task": "deblur", "shape": (4,)}, "task deblur is for images, and this run learned vectors of 4 columns"),
    ],
)
def test_tasks_that_cannot_be_are_refused(change, message):
    """The value, the rule, the way out."""
    given = {"task": "denoise", "shape": (1, 8, 8), "known": None, "width": 1.0, "factor": 2} | change
    with pytest.raises(ValueError, match=message):
        degradation(given.pop("task"), given.pop("shape"), **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"given": np.zeros(3)}, r"the input must have shape \(2,\) for this task, got \(3,\)"),
        ({"given": np.zeros(3), "degrade": True}, r"a sample to degrade must have shape \(2,\), got \(3,\)"),
        ({"given": np.array([np.nan, 0.0])}, "y must be finite"),
        ({"n": 0}, "n must be >= 1, got 0"),
        ({"sigma": -1.0}, "sigma must be a finite number >= 0"),
        ({"method": "moment"}, "did you mean 'moments'"),
        ({"method": "dps"}, "sigma must be > 0 for method dps, got 0"),
        ({"method": "particles"}, "sigma must be > 0 for a likelihood with a density, got 0"),
        ({"label": "3"}, "without labels, got '3'"),
    ],
)
def test_restorations_that_cannot_be_are_refused(gaussian_run, change, message):
    """The value, the rule, the way out."""
    run, _ = gaussian_run
    operator = degradation("denoise", (2,), known=None, width=1.0, factor=2)
    given = {"given": np.zeros(2), "n": 2, "steps": 4} | change
    with pytest.raises(ValueError, match=message):
        restore(run, given.pop("given"), operator, **given)


def test_a_run_of_one_law_cannot_restore(tmp_path):
    """It has no noise levels."""
    run = trained(small_recipe(objective="denoising", sigma=0.3, steps=2), tmp_path / "run")
    with pytest.raises(RuntimeError, match="has no schedule: objective denoising learns one law"):
        restore(run, np.zeros((1, 8, 8)), lambda x: x)


def test_the_command_writes_draws_and_a_picture(digits_run, tmp_path, capsys):
    """From a file of images, masked first; -n draws; a .png beside the .npz."""
    np.save(tmp_path / "x.npy", np.asarray(digits_run.dataset.x[:3]))
    output = tmp_path / "out.npz"
    argv = ["restore", str(digits_run.path), str(tmp_path / "x.npy"), "--degrade", "--row", "2", "--mask", "left"]
    assert main([*argv, "-n", "3", "--steps", "4", "-o", str(output)]) == 0
    said = capsys.readouterr().out
    assert "3 draws, 9 network calls each" in said and "picture" in said
    with np.load(output, allow_pickle=False) as file:
        assert file["draws"].shape == (3, 1, 8, 8) and file["mean"].shape == file["spread"].shape == (1, 8, 8)
    assert output.with_suffix(".png").stat().st_size > 1000
    for more, words in ((["--row", "3"], "row must lie in [0, 2], got 3"), (["--mask", "lft"], "No such file")):
        assert main([*argv, *more, "-o", str(output)]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"written as .npz, got the output .*out.png; name it .*out.npz"):
        write_restoration(tmp_path / "out.png", restore(digits_run, np.zeros((1, 8, 8)), lambda x: x, n=1, steps=2))
