"""Every planted fault is found, by the check that is there for it, and the exact score raises nothing."""

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import Changed, Exact, Remembered, scaled_mixture, without

from conftest import trained
from scorefield.cli import main
from scorefield.cli.parser import parse
from scorefield.doctor import CHECKS, FALSE_ALARMS, LEVEL, Finding, How, examine, examine_patient
from scorefield.doctor.drawing import _annealed, _modes
from scorefield.doctor.finding import PART, harm
from scorefield.doctor.patient import Patient, admit, train_command
from scorefield.doctor.rows import _discrete
from scorefield.runs import Run
from scorefield.settings import DataSettings, MLPSize, Recipe, Resolved, TrainOptions, TrainSettings

TINY = MLPSize(16, 2)


def barely(folder: Path, **changes) -> Run:
    """A run on the mixture after one step: a folder for models that were not trained."""
    given = {"data": "gaussian-mixture", "steps": 1, "mlp": TINY, "count": 6000, "batch_size": 16} | changes
    return trained(Recipe(**given), folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """One for each kind of schedule, and one law."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "ve": barely(folder / "ve"),
        "vp": barely(folder / "vp", noise="vp"),
        "levels": barely(folder / "levels", noise="levels"),
        "one": barely(folder / "one", objective="denoising", sigma=0.5),
    }


def with_model(run: Run, model: torch.nn.Module) -> Patient:
    """The run as if it had learned this model."""
    run.load_model = lambda **_: model.eval()  # pyright: ignore[reportAttributeAccessIssue]
    return Patient(str(run.path), run.recipe.data_settings(), run.dataset, run.recipe, run.resolved, run)


def exact(run: Run) -> Exact:
    noise = run.noise if run.recipe.at_all_levels else None
    return Exact(scaled_mixture(run), noise, 0.0 if noise else run.sigma)


def ill(found: list[Finding]) -> set[str]:
    return {finding.name for finding in found if not finding.healthy}


def told(found: list[Finding]) -> None:
    """Each finding is complete: evidence with numbers, a sentence why, a command of ours."""
    for finding in found:
        assert finding.part in CHECKS and finding.evidence
        assert finding.healthy == (finding.severity in ("ok", "skipped"))
        if not finding.healthy:
            assert finding.why.endswith((".", "data")) or finding.part == "folder"
            assert "scorefield" in finding.command


SLOW = [pytest.param(kind, marks=pytest.mark.certify) for kind in ("vp", "levels")]


@pytest.mark.parametrize("kind", ["ve", "one", *SLOW])
def test_the_exact_score_raises_nothing(runs, monkeypatch, kind):
    """Every check that applies is made, and none finds anything."""
    run = runs[kind]
    patient, loaded = with_model(run, exact(run)), []
    load, sample = run.load_model, run.sample
    monkeypatch.setattr(run, "load_model", lambda: loaded.append("model") or load())
    monkeypatch.setattr(run, "sample", lambda *n, **how: loaded.append("samples") or sample(*n, **how))
    found = examine_patient(patient, How())
    assert loaded.count("model") == 1 + loaded.count("samples")  # once, and by whatever draws
    assert ill(found) == set(), [f for f in found if not f.healthy]
    assert [f.name for f in found] == [n for n in PART if n in {f.name for f in found}]
    expected = set(PART) - set(CHECKS["folder"]) - (set() if kind != "one" else {*CHECKS["noise"]})
    assert {f.name for f in found} == expected


def flipped(s, x, t):
    return -s


def shrunk(s, x, t):
    return s / x.shape[1]


def turned(s, x, t):
    return s + 0.8 * torch.stack([-x[:, 1], x[:, 0]], 1) / (1 + x.square().sum(1, keepdim=True))


def shifted(s, x, t):
    return s + 0.8


FAULTS = {
    "a flipped sign": ("ve", flipped, {"divergence", "orthogonality", "trained"}),
    "divided by D": ("ve", shrunk, {"divergence", "orthogonality"}),
    "divided by D, levels": ("levels", shrunk, {"divergence"}),
    "a field that turns": ("ve", turned, {"curl"}),
    "a wrong mean": ("vp", shifted, {"orthogonality"}),
    "one law, a flipped sign": ("one", flipped, {"divergence", "orthogonality", "trained"}),
    "one law, a third of its length": ("one", lambda s, x, t: s / 3, {"divergence"}),
    "one law, a field that turns": ("one", lambda s, x, t: s + 2 * torch.stack([-x[:, 1], x[:, 0]], 1), {"curl"}),
}


ONCE_MORE = ("divided by D, levels", "one law, a flipped sign")  # by checks that others try too


@pytest.mark.parametrize("fault", [pytest.param(f, marks=[pytest.mark.certify] * (f in ONCE_MORE)) for f in FAULTS])
def test_a_changed_score_is_found(runs, fault):
    """By the identity it breaks; the sampling checks are not needed."""
    kind, change, names = FAULTS[fault]
    run = runs[kind]
    found = score_findings(run, Changed(exact(run), change))
    assert names <= ill(found), [f for f in found if f.part == "score"]
    told(found)


def score_findings(run: Run, model: torch.nn.Module) -> list[Finding]:
    from scorefield.doctor.law import examine_law
    from scorefield.doctor.levels import examine_levels

    patient = with_model(run, model)
    if run.recipe.at_all_levels:
        return examine_levels(patient, run, run.noise, model, run.dataset)
    return examine_law(patient, run, model, run.dataset)


def test_a_wrong_factor_of_the_signal_is_found(runs):
    """The score of x0 + σz on a schedule with α < 1."""
    run = runs["vp"]
    found = score_findings(run, Exact(scaled_mixture(run), run.noise, alpha=False))
    assert {"orthogonality", "trained"} <= ill(found)


def test_a_network_that_was_not_trained_is_found(runs):
    """One step of 16 rows: looking up the training rows denoises better."""
    run = Run.open(runs["ve"].path)
    assert "trained" in ill(score_findings(run, run.load_model()))


def test_weights_that_are_not_numbers_are_found_and_stop_the_examination(runs):
    """Nothing is drawn from them; the data are looked at all the same."""
    run = Run.open(runs["ve"].path)
    model = run.load_model()
    for parameter in model.parameters():
        parameter.fill_(float("nan"))
    found = examine_patient(with_model(run, model), How())
    assert ill(found) == {"weights"} and not {"samples", "modes"} & {f.name for f in found}
    assert "--learning-rate" in found[-1].command and "balance" in {f.name for f in found}


def test_a_network_that_learned_its_rows_by_heart_is_found(tmp_path):
    """It gains on training rows alone, and its samples are copies of them."""
    run = barely(tmp_path / "few", count=400, held_out=0.25)
    model = Remembered(run.dataset.x_scaled(run.dataset.train_rows), run.noise)
    found = examine_patient(with_model(run, model), How())
    assert {"overfit", "memorisation"} <= ill(found)
    told(found)


def test_a_missing_mode_is_found(runs):
    """The score of the mixture without one of its components."""
    run = runs["ve"]
    found = examine_patient(with_model(run, Exact(without(scaled_mixture(run), 0), run.noise)), How())
    assert "modes" in ill(found)


def test_a_missing_mode_is_found_where_the_rows_are_sorted(runs):
    """Two small modes that come last, side by side far from the rest; all of their samples lie in one of them."""
    run = runs["ve"]
    normal = torch.randn(6000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real, side = normal.clone(), torch.tensor([[30.0, 9.0]])
    real[5600:] += side
    real[5800:] -= 2 * side * torch.tensor([0.0, 1.0])
    drawn = real[::6].clone()
    assert _modes(with_model(run, exact(run)), run, drawn, real).healthy
    drawn[drawn[:, 1] < -5] += 2 * side * torch.tensor([0.0, 1.0])
    assert not _modes(with_model(run, exact(run)), run, drawn, real).healthy


def test_a_solver_with_too_few_steps_is_found(runs):
    """Three steps of Heun, on the exact score."""
    run = runs["ve"]
    assert ill(examine_patient(with_model(run, exact(run)), How(steps=3))) >= {"solver"}


def test_steps_that_are_too_long_are_found(runs):
    """A Langevin step of 1.5 inverse precisions, and an ε of annealed Langevin a hundred times too large or small."""
    run = runs["one"]
    found = examine_patient(with_model(run, exact(run)), How(step_size=1.2))
    assert "step-size" in ill(found)
    run = runs["levels"]
    for epsilon in (1.9 * run.noise.sigma(torch.zeros(())).item() ** 2, 1e-9):
        how = How(sampler="annealed-langevin", epsilon=epsilon)
        assert not _annealed(with_model(run, exact(run)), run.noise, run.dataset, how).healthy
    assert _annealed(with_model(run, exact(run)), run.noise, run.dataset, How()).healthy


def test_chains_that_have_not_forgotten_their_start_are_found(runs):
    """Forty moves of a short step."""
    run = runs["one"]
    assert ill(examine_patient(with_model(run, exact(run)), How(step_size=0.002, steps=40))) >= {"chains"}


NOISES = {
    "the widest noise too small": ({"sigma_max": 0.3}, "covers"),
    "the smallest noise too large": ({"sigma_min": 0.8}, "smallest"),
    "too few levels": ({"noise": "levels", "levels": 4}, "overlap"),
}


@pytest.mark.parametrize("fault", NOISES)
def test_a_schedule_that_does_not_fit_is_found(tmp_path, fault):
    """Before anything was trained; the command leaves the choice to the data."""
    changes, name = NOISES[fault]
    given = {"data": "gaussian-mixture", "mlp": TINY, "count": 2000} | changes
    Run.create(Recipe(**given), tmp_path / "run")
    found = examine(str(tmp_path / "run"))
    assert ill(found) == {name, "checkpoint"}
    (finding,) = [f for f in found if f.name == name]
    assert "--sigma-m" not in finding.command and "--levels" not in finding.command


def test_a_loss_that_one_tenth_of_the_levels_holds_is_found(runs):
    """A score that is wrong at the largest levels alone: theirs is the last tenth, and nearly all of the loss."""
    run = runs["ve"]
    wrong = Changed(exact(run), lambda s, x, t: s + 50 * (t.expand(len(x)) > 0.93).double()[:, None])
    (found,) = [f for f in score_findings(run, wrong) if f.name == "loss-share"]
    shares = re.findall(r"(\d+)%", found.evidence.split("hold")[1].split(";")[0])
    assert not found.healthy and len(shares) == 10 and int(shares[-1]) > 90, found.evidence
    low, high = re.search(r"σ from (\S+) to (\S+) ", found.evidence).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert run.noise.sigma(torch.tensor(0.3)) < float(low) < float(high) <= 1.01 * run.noise.sigma_max


def test_the_loss_of_paired_noise_is_not_shared_out(tmp_path):
    """Most of it is a constant that the tilt makes large at small noise: nothing to say, and no alarm."""
    run = barely(tmp_path / "run", noise="levels", antithetic=True, tilt=1.0)
    (found,) = [f for f in score_findings(run, exact(run)) if f.name == "loss-share"]
    assert found.healthy and "moves no weight" in found.evidence


def test_the_command_that_trains_anew_gives_the_recipe_back():
    """Through the parser of the command line: numbers, words, sizes, and flags that take no value."""
    recipe = Recipe(
        "a b.csv", steps=7, antithetic=True, compile=True, tilt=0.5, mlp=MLPSize(32, 2), label_column="kind"
    )
    _, _, *argv = shlex.split(train_command(recipe, "out"))
    assert parse("train", (Recipe, TrainOptions), {"output": "-o"}, ("data",), argv) == [
        recipe,
        TrainOptions(output="out"),
    ]


def table(change=lambda x: x) -> np.ndarray:
    return change(np.random.default_rng(0).normal(size=(600, 3)))


def repeated(x):
    return np.concatenate([x, x[:60]])


def sentinel(x):
    x[5, 1] = -9999.0
    return x


def circle(x):
    return np.column_stack([np.cos(9 * x[:, 0]), np.sin(9 * x[:, 0])])


DATA = {
    "rows that are there twice": (repeated, {"duplicates", "leak"}),
    "a constant column": (lambda x: x * [1, 0, 1] + 2.0, {"constant"}),
    "a column that follows from others": (lambda x: np.column_stack([x, x @ [1, 2, 3]]), {"redundant"}),
    "rounded numbers": (lambda x: np.round(x, 1), {"discrete"}),
    "a missing value coded as a number": (sentinel, {"range"}),
    "a curve": (circle, {"dimension"}),
    "missing numbers": (lambda x: np.where(x > 2.5, np.nan, x), {"finite"}),
}


@pytest.mark.parametrize("fault", DATA)
def test_faulty_data_are_found_and_the_command_mends_them(tmp_path, monkeypatch, fault):
    """Exactly the checks that are there for it; the mended file has nothing wrong."""
    change, names = DATA[fault]
    monkeypatch.chdir(tmp_path)
    np.savez("t.npz", x=table(change), y=np.arange(len(table(change))) % 2)
    found = examine("t.npz")
    extra = {"dimension"} if fault == "a column that follows from others" else set()
    assert names <= ill(found) <= names | extra, found
    told(found)
    (first, *_) = [f for f in found if f.name in names]
    if fault != "a curve":
        _, _, code, *_ = shlex.split(first.command)
        exec(code, {})
        assert ill(examine("t-mended.npz")) == set()


def framed(x) -> np.ndarray:
    """Images whose first three rows, and whose first and last column, are black."""
    x[:, :3], x[:, :, [0, -1]] = 0, 0
    return x


def grey(kind: str) -> np.ndarray:
    """So many images of 8 by 8 that their black pixels alone are more than are looked at."""
    random, shape = np.random.default_rng(0), (8500, 8, 8)
    if kind == "uniform":  # of float32: multiples of 2⁻²⁴
        return framed(random.random(shape, dtype=np.float32))
    if kind == "normal":
        return framed(random.normal(size=shape))
    levels = int(kind.removeprefix("k/"))
    return framed(random.integers(0, levels + 1, shape) / levels)


@pytest.mark.parametrize("kind", ["k/255", "k/16", "uniform", "normal"])
def test_a_grid_of_pixels_is_found_in_images_with_black_borders(tmp_path, kind):
    """The spacing is that of the grid, in standard deviations; noise of half of it hides it; what varies has none."""
    np.save(tmp_path / "t.npy", grey(kind))
    target = str(tmp_path / "t.npy")
    with admit(target, DataSettings(target), 0) as opened:
        data = opened.dataset
        assert data is not None and data.info.kind == "image"
        scale, x = float(data.info.scaling.scale), np.asarray(data.x)
        spacing = 1 / int(kind[2:]) / scale if "/" in kind else 0.0
        for sigma in (0.0, 0.49 * spacing, 0.51 * spacing):
            recipe = Recipe(target, objective="denoising", sigma=sigma or None)
            resolved = Resolved({"sigma": sigma}, "unet", "one", TrainSettings(1))
            found = _discrete(dataclasses.replace(opened, recipe=recipe, resolved=resolved), data, x)
            assert found.healthy == (2 * sigma >= spacing)
            assert (
                (f"on a grid of {spacing:.3g} standard" in found.evidence)
                == ("grid" in found.evidence)
                == (spacing > 0)
            )


@pytest.mark.parametrize("shape", [(3000, 4), (500, 4, 4)])
def test_data_are_scaled_as_in_training_also_where_they_do_not_vary(tmp_path, shape):
    """The mean and spread of all rows; a column of one value, even one that sums round, is 0 in units of 1."""
    x = 1e6 + np.random.default_rng(0).normal(size=shape)
    for name, values in (("varied", x), ("flat", x.copy())):
        if name == "flat":
            values[..., :] = values[..., :] * ([0, 1, 1, 1] if len(shape) == 2 else 0) + 0.1
        target = str(tmp_path / f"{name}.npy")
        np.save(target, values)
        with admit(target, DataSettings(target), 0) as opened:
            assert opened.dataset is not None
            scaling = opened.dataset.info.scaling
        axis = 0 if len(shape) == 2 else None
        spread = values.std(axis) if name == "varied" else np.where(np.ptp(values, axis) > 0, values.std(axis), 1)
        assert scaling.scale.shape == np.shape(spread) and np.allclose(scaling.scale, spread, rtol=1e-9)
        assert np.allclose(scaling.mean, values.mean(axis), rtol=1e-15)
        if name == "flat":
            assert not scaling.apply(values).reshape(len(values), -1)[:, 0].any()


def test_a_rare_class_and_rows_that_are_not_held_out_are_found(tmp_path, monkeypatch):
    """A class with 9 of 600 rows; a run that holds nothing out."""
    monkeypatch.chdir(tmp_path)
    np.savez("t.npz", x=table(), y=np.where(np.arange(600) < 9, 1, 0))
    (finding,) = [f for f in examine("t.npz") if not f.healthy]
    assert finding.name == "balance" and "9 rows, 0.03 of the average" in finding.evidence
    Run.create(Recipe("t.npz", held_out=0.0, mlp=TINY), "run")
    assert "held-out" in ill(examine("run"))


def test_damaged_folders_say_so_and_their_data_are_still_examined(runs, tmp_path):
    """No recipe, no whole checkpoint, changed data: each with the way out."""
    shutil.copytree(runs["ve"].path, tmp_path / "run")
    weights = next((tmp_path / "run" / "checkpoints").glob("*/ema.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8])
    found = examine(str(tmp_path / "run"))
    assert ill(found) == {"checkpoint"} and "scorefield train gaussian-mixture" in found[0].command
    assert "duplicates" in {f.name for f in found} and "covers" in {f.name for f in found}
    (tmp_path / "run" / "recipe.yaml").write_text("{")
    assert ill(examine(str(tmp_path / "run"))) == {"recipe"}
    (tmp_path / "run" / "x.npy").write_bytes(b"nothing")
    found = examine(str(tmp_path / "run"))
    assert ill(found) == {"recipe", "data-files"} and len(found) == 2
    told(found)


def test_the_command_line_says_it_in_words_and_in_json(tmp_path, monkeypatch, capsys):
    """Exit codes 0, 1 and 2; every command whole on one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["doctor", "two-moons", "--rows", "2000"]) == 0
    assert "nothing found" in capsys.readouterr().out
    np.savez("t.npz", x=table(repeated))
    assert main(["doctor", "t.npz"]) == 1
    out = capsys.readouterr().out
    assert "2 found: duplicates, leak" in out and "&& scorefield doctor t-mended.npz" in out
    assert main(["doctor", "t.npz", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["healthy"] is False and {f["name"] for f in content["findings"] if not f["healthy"]} == {
        "duplicates",
        "leak",
    }
    assert set(content["findings"][0]) == {"part", "name", "severity", "healthy", "evidence", "why", "command"}
    assert main(["doctor", "no-such-thing"]) == 2
    assert "neither a file or folder" in capsys.readouterr().err


def test_one_thread_examines_vectors_and_as_many_as_there_are_images(tmp_path, capsys):
    """Small networks lose by more; U-Nets keep what torch was given, as in `sample` and `evaluate`."""
    random = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", random.normal(size=(60, 4, 4)))
    np.save(tmp_path / "vectors.npy", random.normal(size=(600, 3)))
    before = torch.get_num_threads()
    try:
        for name, threads in (("images", 2), ("vectors", 1)):
            torch.set_num_threads(2)
            assert main(["doctor", str(tmp_path / f"{name}.npy")]) in (0, 1)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_classifier_has_no_score_to_examine(tmp_path, monkeypatch):
    """Its data and its noise are looked at."""
    monkeypatch.chdir(tmp_path)
    np.savez("t.npz", x=table(), y=np.arange(600) % 2)
    trained(Recipe("t.npz", classifier=True, steps=1, mlp=TINY, batch_size=16), tmp_path / "run")
    found = {finding.name: finding for finding in examine("run")}
    assert found["weights"].severity == "skipped" and "classifier" in found["weights"].evidence
    assert {"balance", "covers"} <= set(found) and "samples" not in found


def test_the_level_of_a_check_and_what_is_harmful():
    """Bonferroni over all checks; 2/9 nats, or 0.01 bits per dimension."""
    assert LEVEL * len(PART) == pytest.approx(FALSE_ALARMS)
    assert harm(2) == 2 / 9 and harm(3072) == pytest.approx(0.01 * 3072 * np.log(2))


HEALTHY = {
    "two moons": {"data": "two-moons"},
    "two moons, variance preserving": {"data": "two-moons", "noise": "vp"},
    "two moons, sub-VP": {"data": "two-moons", "noise": "subvp"},
    "two moons, cosine": {"data": "two-moons", "noise": "cosine"},
    "a mixture": {"data": "gaussian-mixture"},
    "a mixture, levels": {"data": "gaussian-mixture", "noise": "levels"},
    "a mixture, sliced at all levels": {"data": "gaussian-mixture", "objective": "noise-conditional-sliced"},
    "an energy at all levels": {"data": "gaussian-mixture", "model": "energy"},
    "a normal law, implicit": {"data": "normal.npy", "objective": "implicit"},
    "an energy of one law": {"data": "normal.npy", "objective": "sliced", "model": "energy"},
    "labels": {"data": "labelled.npz"},
    "digits": {"data": "digits"},
}


@pytest.mark.certify
@pytest.mark.parametrize("kind", HEALTHY)
def test_runs_of_default_length_are_healthy(tmp_path, monkeypatch, kind):
    """2,000 steps, as `train` gives when nothing is said."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.4, 0.0], [0.0, 0.8, 0.3], [0.2, 0.0, 0.5]])
    np.save("normal.npy", random.normal(size=(5000, 3)) @ mixing)
    y = random.integers(0, 3, 5000)
    np.savez("labelled.npz", x=random.normal(size=(5000, 2)) + 2 * y[:, None] * [1.0, -0.5], y=y)
    recipe = Recipe(**({"steps": 2000} | HEALTHY[kind]))
    trained(recipe, tmp_path / "run")
    found = examine("run")
    assert ill(found) == set(), [f for f in found if not f.healthy]
