"""The experiments of the theory at small sizes: each shows what it says, by numbers that are known."""

import importlib
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from scorefield.cli import main
from scorefield.data import Scaling
from scorefield.densities import GaussianMixture
from scorefield.experiments import low_density, lyu, mixing, objectives, optimisation, run_experiment, sde
from scorefield.experiments.fields import gap
from scorefield.experiments.trained import in_data_units, rows_of, trained
from scorefield.metrics import mmd
from scorefield.noise import VP, Levels
from scorefield.settings import MLPSize, Recipe


def test_both_sides_of_lyus_theorem_agree_within_their_standard_error():
    """20,000 particles, four standard errors at each of three times: a false alarm once in 5,000 runs."""
    g = torch.Generator().manual_seed(0)
    x = lyu.laws()[0].sample((20_000,), generator=g)
    z = torch.randn(x.shape, generator=g, dtype=x.dtype)
    for t in (0.1, 0.4, 1.6):
        left, right = lyu.speed(x, z, t)
        gap_of_each = left + right
        assert gap_of_each.mean().abs() < 4 * gap_of_each.std() / len(x) ** 0.5
        assert right.mean() > 10 * gap_of_each.std() / len(x) ** 0.5


def test_noise_on_the_data_moves_both_estimates_of_a_normal_variance_by_its_own():
    """Both fit the variance of what they see, 1 + t."""
    family = next(f for f in lyu.families() if f.name.startswith("variance"))
    for t in (0.02, 0.3):
        assert lyu.shifts(family, t) == pytest.approx((t, t), abs=1e-5)


def test_score_matching_is_the_more_stable_for_two_modes_and_the_less_for_heavy_tails():
    """Without noise neither moves. The figures were computed before by another quadrature."""
    known = {
        "modes ±m, m = 2": (0.0049, -0.0031),
        "modes ±m, m = 1.2": (0.0249, 0.0135),
        "mode at m = 1.2, another at 0": (0.0577, 0.0800),
        "weight of two modes": (0.0028, 0.0004),
        "scale of a logistic law": (0.0173, 0.0212),
        "scale of Student's law": (0.0405, 0.0568),
    }
    for family in lyu.families():
        assert lyu.shifts(family, 1e-10) == pytest.approx((0, 0), abs=1e-5)
        if family.name in known:
            assert lyu.shifts(family, 0.1) == pytest.approx(known[family.name], abs=1.2e-4)


def test_annealing_finds_the_weight_that_langevin_does_not(monkeypatch):
    """1,500 particles: slow annealing 0.8 within 0.03; fast one five standard errors too low; Langevin one half."""
    monkeypatch.setattr(mixing, "COUNT", 1500)
    law, noise, x = mixing.law(), Levels(*mixing.SIGMAS, 20), mixing.start(3)
    how = {"sigmas": mixing.SIGMAS, "levels": 20, "seed": 3}
    slow, fast = (mixing.share(mixing.anneal(law.noisy_score(noise), noise, x, steps=k, **how)) for k in (60, 1))
    g = torch.Generator().manual_seed(3)
    walk = mixing.share(mixing.chain(mixing.Langevin(mixing.STEP), law.prepared(), x, steps=200, generator=g).x)
    assert abs(slow.value - 0.8) < 0.03 and slow.interval[0] < 0.8
    assert fast.value < 0.8 - 5 * fast.standard_error
    assert abs(walk.value - 0.5) < 0.05


def test_a_network_anneals_in_its_own_units_and_answers_in_those_of_the_data(monkeypatch):
    """With the exact score of scaled data in the network's place the share is that of the exact score itself."""
    monkeypatch.setattr(mixing, "COUNT", 1500)
    law, noise, scale, mean = mixing.law(), Levels(10.0, 0.01, 20), 4.0, 3.0
    u = GaussianMixture(law.weights, (law.means - mean) / scale, law.covariances / scale**2)
    exact = u.noisy_score(noise)
    scaling = Scaling(np.full(2, mean), np.full(2, scale))
    run = SimpleNamespace(score=exact, noise=noise, dataset=SimpleNamespace(info=SimpleNamespace(scaling=scaling)))
    ends = mixing.annealed_by(run, mixing.start(3), levels=20, steps=60, seed=3)
    assert abs(mixing.share(ends).value - 0.8) < 0.03
    heavy = ends[ends.sum(1) > 0]
    assert (heavy.mean(0) - 5).abs().max() < 4 * 1.1 / len(heavy) ** 0.5
    assert abs(heavy.var(0).mean().item() - 1.01) < 4 * math.sqrt(2 / heavy.numel())  # blurred by the last sigma, 0.1


def test_without_noise_every_particle_ends_at_a_mode_and_with_it_the_law_is_that_of_exact_draws():
    """At the modes the score is 0 and its derivative negative; MMD² to exact draws within four standard errors."""
    law = optimisation.law()
    modes = optimisation.modes(law)
    assert len({tuple(m.round(decimals=3).tolist()) for m in modes}) == 3
    assert law.score(modes).abs().max() < 1e-9
    for mode in modes:
        slope = torch.autograd.functional.jacobian(lambda x: law.score(x[None])[0], mode)
        assert torch.linalg.eigvalsh((slope + slope.T) / 2).max() < 0
    ends = optimisation.walks(law, count=400, steps=600, seed=0)
    exact = law.sample((400,), generator=torch.Generator().manual_seed(1))
    near = {name: optimisation.near_a_mode(x, modes).double().mean() for name, x in ends.items()}
    assert near["no noise"] > 0.99 and near["no noise"] > near["temperature 0.03"] > near["temperature 0.3"]
    assert near["temperature 0.3"] > near["Langevin"] + 0.05
    apart = {name: mmd(x, exact, bandwidth=1.0) for name, x in ends.items()}
    assert all(abs(apart[name].value) < 4 * apart[name].standard_error for name in ("Langevin", "MALA"))
    assert all(apart[name].value > 5 * apart[name].standard_error for name in ("no noise", "temperature 0.03"))


def test_a_temperature_scales_the_variance():
    """On N(0, 1) Langevin at temperature tau is the autoregression whose variance is tau/(1 - h/2)."""
    law, h, tau = GaussianMixture([1.0], [[0.0, 0.0]], torch.eye(2)[None]), optimisation.STEP, 0.03
    x = optimisation.walks(law, count=4000, steps=300, seed=0)["temperature 0.03"]
    expected = tau / (1 - h / 2)
    assert abs(x.var().item() - expected) < 4 * expected * math.sqrt(2 / x.numel())


def test_the_flow_keeps_the_order_of_the_particles_and_the_reverse_sde_forgets_it():
    """On the line the flow is increasing, so that ranks stay exactly; laws agree with exact draws at both ends."""
    times, paths = sde.ways(count=600, steps=150, seed=0)
    assert {name: path.shape for name, path in paths.items()} == dict.fromkeys(paths, (len(times), 600))
    assert (paths["noising"][0] == paths["reverse SDE"][0]).all()
    assert (paths["noising"][0] == paths["probability flow"][0]).all()
    assert sde.order(paths["probability flow"][0], paths["probability flow"][-1]) == pytest.approx(1, abs=1e-12)
    for name in ("reverse SDE", "noising"):
        assert abs(sde.order(paths[name][0], paths[name][-1])) < 4 / 600**0.5
    for k in (0, len(times) // 2, len(times) - 1):
        exact = sde.law().blurred(VP(), times[k].item()).sample((600,), generator=torch.Generator().manual_seed(1))
        for path in paths.values():
            apart = mmd(path[k][:, None], exact, bandwidth=0.5)
            assert abs(apart.value) < 4 * apart.standard_error


def test_noising_by_exact_transitions_has_the_laws_of_the_schedule():
    """From one point: mean alpha x and variance sigma² at every time, whatever the grid."""
    times, noise, x = torch.tensor([1e-3, 0.2, 0.5], dtype=torch.float64), VP(), torch.full((20_000, 1), 2.0).double()
    path = sde.forward(x, noise, times, generator=torch.Generator().manual_seed(0))
    for t, state in zip(times, path, strict=True):
        alpha, sigma = noise.alpha(t).item(), noise.sigma(t).item()
        assert abs(state.mean().item() - 2 * alpha) < 4 * sigma / len(x) ** 0.5
        assert abs(state.var().item() - sigma**2) < 4 * sigma**2 * math.sqrt(2 / len(x))


def test_order_is_one_for_equal_ranks_and_minus_one_for_reversed_ones():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert sde.order(x, x.exp()) == pytest.approx(1) and sde.order(x, -x) == pytest.approx(-1)


def test_each_term_alone_does_not_learn_and_both_together_do():
    """Together: near ½E|s|² and -E|s|² of the truth. The square alone falls to nothing, the trace alone grows."""
    x = objectives.law().sample((5000,), generator=torch.Generator().manual_seed(1))
    power = objectives.law().score(x).square().sum(1).mean().item()
    ends = {}
    for name, parts in objectives.PARTS.items():
        seen, _ = objectives.course(parts, steps=150, seed=0)
        assert len(seen) == 150 and seen[0] == pytest.approx((seen[0][0], -2.0), rel=1e-5)  # starts at s = -x
        ends[name] = torch.tensor(seen[-20:], dtype=torch.float64).mean(0)
    assert ends["both terms"].tolist() == pytest.approx([power / 2, -power], rel=0.15)
    assert ends["½‖s‖² alone"][0] < 0.01 * power
    assert ends["tr ∇s alone"][1] < -20 * power and ends["tr ∇s alone"][0] > 20 * power


def test_regions_of_the_exact_score_show_no_error_and_of_its_opposite_all():
    """Shares of the data and of the box sum to 1; the relative error of -s is 2, and every arrow is off."""
    law = low_density.law()
    for learned, error, away in ((law.score, 0.0, 0.0), (lambda x: -law.score(x), 2.0, 1.0)):
        rows = low_density.regions(learned, seed=0)
        assert sum(row[1] for row in rows) == pytest.approx(1) and sum(row[2] for row in rows) == pytest.approx(1)
        assert all(row[3] == pytest.approx(error) and row[4] == away for row in rows)
    area = -2 * math.pi * math.log(1 - 0.5 / 0.8) / 256  # the densest half is a disc: 0.8 (1 - exp(-r²/2)) = 1/2
    error = math.hypot((area / low_density.POINTS) ** 0.5, 2 * math.pi * 0.0025 / 0.3 / 256)  # of points, of the level
    assert abs(rows[0][2] - area) < 4 * error
    assert rows[-1][2] > 0.5


def test_the_difference_of_fields_is_zero_for_the_truth():
    law = low_density.law()
    x = law.sample((20,), generator=torch.Generator().manual_seed(0))
    assert (gap(law.score, law)(x) == 0).all()
    assert torch.allclose(gap(lambda x: 3 * law.score(x), law)(x), 2 * law.score(x))


def test_a_learned_score_is_read_in_the_units_of_the_data():
    """Where the network sees N(0, I) the data are N(m, diag c²), whose score is -(x - m)/c²."""
    mean, scale = torch.tensor([3.0, -1.0]).double(), torch.tensor([2.0, 0.5]).double()
    scaling = Scaling(mean.numpy(), scale.numpy())
    run = SimpleNamespace(dataset=SimpleNamespace(info=SimpleNamespace(scaling=scaling)), score=lambda u: -u)
    x = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(in_data_units(run)(x), -(x - mean) / scale**2, rtol=1e-5, atol=1e-6)


def test_what_was_trained_is_found_again_and_more_steps_go_on(tmp_path):
    """Interrupted after three of six steps and gone on with, the weights are those of an unbroken run."""
    data = rows_of(low_density.law(), tmp_path / "data" / "data.npy", count=200, seed=0)
    recipe = Recipe(data, steps=6, objective="sliced", mlp=MLPSize(8, 1), batch_size=32, precision="fp32")
    whole = trained(recipe, tmp_path / "whole")
    assert whole.finished and rows_of(low_density.law(), tmp_path / "data" / "data.npy", count=9, seed=1) == data
    from scorefield.runs import Run

    steps = Run.create(recipe, tmp_path / "broken").train()
    for _ in range(3):
        next(steps)
    steps.close()
    assert Run.open(tmp_path / "broken").step == 3
    again = trained(recipe, tmp_path / "broken")
    for a, b in zip(whole.load_model().parameters(), again.load_model().parameters(), strict=True):
        assert torch.equal(a, b)
    stamps = [p.stat().st_mtime_ns for p in sorted((tmp_path / "whole").rglob("*.safetensors"))]
    trained(recipe, tmp_path / "whole")
    assert [p.stat().st_mtime_ns for p in sorted((tmp_path / "whole").rglob("*.safetensors"))] == stamps


SMALL = {
    "fields": {"BOXES": {"rings": (-3.8, 3.8, -3.8, 3.8)}, "STEPS": 3, "ROWS": 300, "JUDGED": 50},
    "objectives": {"STEPS": 15},
    "low-density": {"ROWS": 300, "STEPS": 3, "POINTS": 2000},
    "mixing": {"COUNT": 60, "STEPS": 5, "WALK": 20, "OTHERS": ((2, 1),), "TRAINED": 3},
    "sde": {"COUNT": 60, "STEPS": 40},
    "optimisation": {"COUNT": 60, "WALK": 30},
    "lyu": {"PARTICLES": 500, "BLURS": (0.05, 0.1)},
}


@pytest.fixture
def small(monkeypatch):
    """Every experiment with its sizes cut down."""
    for name, sizes in SMALL.items():
        page = importlib.import_module(f"scorefield.experiments.{name.replace('-', '_')}")
        for size, value in sizes.items():
            monkeypatch.setattr(page, size, value)


@pytest.mark.parametrize("name", SMALL)
def test_an_experiment_leaves_pictures_a_table_and_words(name, small, tmp_path):
    """Every picture is a PNG with a description; every row has a cell per column, numbers finite."""
    outcome, before = run_experiment(name, tmp_path / "out", seed=1)
    assert not before and outcome.pictures and outcome.rows and outcome.said
    for shown, file in outcome.pictures.items():
        assert len(shown) > 40 and file.startswith(name)
        with Image.open(tmp_path / "out" / file) as image:
            assert min(image.size) > 300
    for row in outcome.rows:
        assert len(row) == len(outcome.columns)
        assert all(isinstance(cell, str) or math.isfinite(cell) for cell in row)


def test_an_experiment_is_found_again_equal_and_done_anew_by_fresh(small, tmp_path, capsys):
    """The command, twice and with --fresh: the same table each time, made once and once more."""
    folder = tmp_path / "sde"
    outputs = []
    for extra in ([], [], ["--fresh"]):
        assert main(["experiment", "sde", "-o", str(folder), "--json", *extra]) == 0
        outputs.append(json.loads(capsys.readouterr().out))
        stamp = (folder / "sde.png").stat().st_mtime_ns
        outputs[-1]["stamp"] = stamp
    assert outputs[0] == outputs[1] and outputs[0]["stamp"] != outputs[2]["stamp"]
    assert outputs[0]["rows"] == outputs[2]["rows"]
    assert main(["experiment", "sde", "-o", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "--fresh" in shown and "sde.png" in shown and "reverse SDE" in shown


def test_unknown_names_and_folders_of_something_else_are_refused(small, tmp_path, capsys):
    """With the nearest name; with what the folder holds; with the way out of a damaged outcome."""
    with pytest.raises(ValueError, match="did you mean 'mixing'|mixing"):
        run_experiment("mixin", tmp_path / "a")
    assert main(["experiment", "mixin", "-o", str(tmp_path / "a")]) == 2
    assert "mixing" in capsys.readouterr().err and not (tmp_path / "a").exists()
    run_experiment("sde", tmp_path / "b")
    with pytest.raises(ValueError, match="holds another experiment.*sde.*choose another folder"):
        run_experiment("optimisation", tmp_path / "b")
    with pytest.raises(ValueError, match="holds another experiment.*choose another folder"):
        run_experiment("sde", tmp_path / "b", seed=1)
    (tmp_path / "b" / "experiment.json").write_text("{")
    with pytest.raises(ValueError, match="damaged; delete it, or add --fresh"):
        run_experiment("sde", tmp_path / "b")
    assert run_experiment("sde", tmp_path / "b", fresh=True)[1] is False
    with pytest.raises(ValueError, match="seed must be >= 0"):
        run_experiment("sde", tmp_path / "c", seed=-1)
