"""What stands in the experiments' tables and pictures: signs, units and settings, by numbers that are known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scorefield.data import Scaling
from scorefield.evaluation import loss_by_level
from scorefield.experiments import annealing, demo, low_density, lyu, manifold, ncsn, objectives, optimisation, sde
from scorefield.experiments.outcome import Outcome, kept
from scorefield.samplers import annealed_settings
from scorefield.training import Diverged


def in_units(mean, scale):
    """A run that knows the units of its data alone."""
    return SimpleNamespace(dataset=SimpleNamespace(info=SimpleNamespace(scaling=Scaling(mean, scale))))


def test_both_columns_of_lyus_table_fall_and_their_difference_is_noise(monkeypatch):
    """5,000 particles, four standard errors at each of seven times; the divergence falls under noise."""
    monkeypatch.setattr(lyu, "PARTICLES", 5000)
    for _, _, left, right, difference, error in lyu._sides(0):
        assert left < 0 and right < 0 and difference == pytest.approx(right - left)
        assert abs(difference) < 4 * error


def test_the_mixture_in_the_units_of_a_run_is_the_law_of_its_scaled_rows():
    """For u = (x - m)/c the score is c ∇ log p(m + c u)."""
    mean, scale = np.array([0.5, -1.0]), np.array([2.0, 0.25])
    law, scaled = annealing.toy(annealing.NAME), annealing.scaled_law(in_units(mean, scale))
    u = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    m, c = torch.from_numpy(mean), torch.from_numpy(scale)
    torch.testing.assert_close(scaled.score(u), c * law.score(m + c * u))


def test_the_digits_covariance_is_that_of_training_rows_in_units_of_all_pixels(tmp_path):
    """One scale for all pixels: their variances are 1 in the mean, less what the pixels' own means differ."""
    data = annealing.stored(annealing.DataSettings("digits"), tmp_path / "data", seed=0)
    x = np.asarray(data.x[data.train_rows], dtype=np.float64).reshape(-1, 64)
    found = annealing.digits_covariance(tmp_path / "data", 0).numpy()
    np.testing.assert_allclose(found, np.cov(x.T) / x.std() ** 2, rtol=1e-4, atol=1e-5)


def test_the_particles_of_the_picture_take_steps_in_proportion_to_the_variance(monkeypatch, tmp_path):
    """h_i = ε σ_i²/σ_L², a frame per level after the start."""
    steps, seen = [], {}
    monkeypatch.setattr(annealing, "chain", lambda kernel, score, x, **_: steps.append(kernel.step_size) or _ends(x))
    monkeypatch.setattr(annealing.plots, "moving_particles", lambda paths, file, **how: seen.update(paths, **how))
    annealing.moving(tmp_path / "a.gif", seed=0, particles=3)
    noise = annealing.Levels(8.0, 0.05, 30)
    epsilon = annealed_settings(noise, 2).epsilon
    assert steps == pytest.approx([epsilon * (noise.sigma(t).item() / 0.05) ** 2 for t in noise.levels])
    assert len(seen["annealed Langevin"]) == len(seen["captions"]) == 31 and seen["captions"][-1] == "σ = 0.05"


def _ends(x):
    return SimpleNamespace(x=x)


def test_arrows_are_off_from_45_degrees_on():
    """Turned by 40° none, by 50° all; turned by a, the relative error is 2 sin(a/2), of thrice the length 2."""
    law = low_density.law()
    for degrees, away in ((40, 0.0), (50, 1.0)):
        a = math.radians(degrees)
        turn = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
        for row in low_density.regions(lambda x, turn=turn: law.score(x) @ turn.T, seed=0):
            assert row[3] == pytest.approx(2 * math.sin(a / 2)) and row[4] == away
    x = law.sample((20,), generator=torch.Generator().manual_seed(0))
    error = low_density.relative_error(lambda x: 3 * law.score(x), x)
    torch.testing.assert_close(error, torch.full((20,), 2.0, dtype=torch.float64))


def test_the_loss_of_thin_rows_is_told_per_dimension_up_to_where_training_diverged(monkeypatch):
    def steps(*_):
        yield SimpleNamespace(loss=96.0)
        yield SimpleNamespace(loss=-48.0)
        raise Diverged("the loss is not finite")

    monkeypatch.setattr(manifold, "train", steps)
    assert manifold.losses(torch.zeros(4, 96), seed=0).tolist() == [1.0, -0.5]


def test_the_noise_on_thin_rows_has_the_variance_that_is_said(monkeypatch, tmp_path):
    """1e-4 in units of 3, 4 standard errors of 20,000 numbers; a loss still falls by its middle less its end."""
    given = []
    x = torch.rand(400, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(manifold, "rows", lambda *_: (x, "rows", 3.0))
    monkeypatch.setattr(
        manifold, "losses", lambda rows, seed: given.append(rows) or np.repeat([9.0, 5.0, 2.0], 10) - len(given)
    )
    outcome = manifold.experiment(tmp_path, root=None, seed=0)
    assert given[0] is x
    assert (given[1] - x).var().item() == pytest.approx(9e-4, rel=4 * math.sqrt(2 / x.numel()))
    assert [row[1:4] for row in outcome.rows] == [(1.0, 0.0, 3.0), (0.0, 0.0, 3.0)]


def test_the_recipe_of_2019_has_ten_levels_from_the_range_of_a_pixel_to_a_hundredth(digits_run, monkeypatch, tmp_path):
    """Of the bundled digits: 16 over their standard deviation; today's has what it chooses itself."""
    asked = []
    monkeypatch.setattr(ncsn, "trained", lambda recipe, folder: asked.append(recipe) or digits_run)
    ncsn.both(tmp_path, "digits", None, 3)
    today, printed = asked
    reach = 16 / float(digits_run.dataset.info.scaling.scale)
    assert (printed.sigma_max, printed.sigma_min) == pytest.approx((reach, reach / 100))
    assert (printed.noise, printed.predicts, printed.levels) == ("levels", "score", 10)
    assert today.sigma_max is None and today.seed == printed.seed == 3 and today.steps == printed.steps == 400


def test_distances_of_the_comparison_are_to_other_rows_and_their_floor_is_that_of_halves(digits_run):
    """The rows that samples are held against are 0 from themselves; the next as many are the floor."""
    rows = np.random.default_rng(0).permutation(len(digits_run.dataset))[: 2 * ncsn.COUNT]
    x = digits_run.dataset.x_scaled(rows)
    floor = ncsn.halves(digits_run, 0)
    assert ncsn.distance(digits_run, x[: ncsn.COUNT], 0) == pytest.approx(0, abs=1e-9)
    assert ncsn.distance(digits_run, x[ncsn.COUNT :], 0) == pytest.approx(floor) and floor > 0.1
    assert ncsn.distance(digits_run, x[: ncsn.COUNT] / 0, 0) == math.inf


def test_the_table_of_objectives_begins_with_what_the_theory_says_and_keeps_to_it(monkeypatch, tmp_path):
    """½E‖s‖², minus twice that, their sum, no error; below, the error is the sum less that of the truth, by parts."""
    monkeypatch.setattr(objectives, "STEPS", 2)
    for draw in ("_both", "_alone"):
        monkeypatch.setattr(objectives, draw, lambda *_: None)
    monkeypatch.setattr(objectives.plots, "save", lambda *_: None)
    truth, *trained = objectives.experiment(tmp_path, root=None, seed=0).rows
    law = objectives.law()
    power = law.score(law.sample((20_000,), generator=torch.Generator().manual_seed(9))).square().sum(1).mean().item()
    assert truth[1] == pytest.approx(power / 2, rel=0.05) and truth[2:] == (-2 * truth[1], -truth[1], 0.0)
    for _, half_square, trace, both, error in trained:
        assert both == pytest.approx(half_square + trace)
        assert error == pytest.approx(both - truth[3], rel=0.05)


def test_reverse_and_forward_are_compared_at_the_same_times(monkeypatch, tmp_path):
    """300 particles against exact draws: each of eighteen discrepancies within five standard errors."""
    monkeypatch.setattr(sde, "COUNT", 300)
    monkeypatch.setattr(sde, "STEPS", 200)
    monkeypatch.setattr(sde, "_picture", lambda *_: None)
    monkeypatch.setattr(sde.plots, "save", lambda *_: None)
    outcome = sde.experiment(tmp_path, root=None, seed=0)
    assert [row[0] for row in outcome.rows] == list(sde.TIMES)
    for row in outcome.rows:
        assert all(abs(value) < 5 * error for value, error in zip(row[1::2], row[2::2], strict=True)), row


def test_the_start_of_the_walks_is_spread_over_the_plane():
    """About the law's mean, 2.5 in each direction."""
    law = optimisation.law()
    start = optimisation.walks(law, count=2000, steps=3, seed=0)["the start"]
    assert ((start.mean(0) - law.mean).abs() < 4 * 2.5 / 2000**0.5).all()
    assert start.std().item() == pytest.approx(2.5, rel=4 / math.sqrt(2 * start.numel()))


def test_an_outcome_without_its_picture_is_made_anew(tmp_path):
    """Found while the picture is there, as it was but for what JSON cannot tell apart."""

    def make():
        (tmp_path / "a.png").write_bytes(b"picture")
        return Outcome({"what it shows": "a.png"}, ("x",), ((1.5,),), ("said",))

    asked = {"experiment": "a", "seed": 0}
    first, before = kept(tmp_path, asked, make)
    assert not before and kept(tmp_path, asked, make) == (first, True)
    (tmp_path / "a.png").unlink()
    assert kept(tmp_path, asked, make)[1] is False and kept(tmp_path, asked, make)[1] is True


def test_the_demos_pictures_hold_what_their_names_say(digits_run, monkeypatch):
    """Noising begins with the images and adds sigma z; the way back ends with samples; curves by their rows."""
    drawn = {}
    monkeypatch.setattr(demo.plots, "paths", lambda panels, **how: drawn.update(panels, **how))
    demo._there_and_back(digits_run, count=5)
    data = digits_run.dataset
    there, back = drawn["Noising"], drawn["The way back"]
    torch.testing.assert_close(there[0].double(), torch.from_numpy(np.array(data.x[data.held_out_rows[:5]], float)))
    added = (there[-1] - there[0]) / float(data.info.scaling.scale)
    assert added.std().item() == pytest.approx(demo.SHOWN[-1], rel=4 / math.sqrt(2 * added.numel()))
    assert len(back) == len(drawn["column_names"]["The way back"]) == len(demo.SHOWN)
    torch.testing.assert_close(back[-1], digits_run.sample(5, seed=2, path=True).path[-1])
    spread = back.flatten(1).std(1)
    assert (spread.diff() < 0).all()
    monkeypatch.setattr(demo, "loss_by_level", lambda run, rows: loss_by_level(run, rows, levels=2))
    sigma, curves, bands = demo._loss_curves(digits_run)
    assert list(curves) == ["training images", "held-out"]
    _, mean, error = loss_by_level(digits_run, data.held_out_rows, levels=2)
    torch.testing.assert_close(curves["held-out"], mean)
    torch.testing.assert_close(bands["held-out"], (mean - 1.96 * error, mean + 1.96 * error))
