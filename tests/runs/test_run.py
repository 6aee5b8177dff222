"""Run folders: created whole, resumed bit for bit, locked, verified, sampled from."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import small_recipe, trained
from scorefield.runs import Damaged, Locked, Run, versions
from scorefield.runs import checkpoints as store
from scorefield.runs.log import read
from scorefield.runs.samples import choose_labels
from scorefield.settings import DIFFUSIONS, FLOWS, MLPSize, Recipe
from scorefield.training import Diverged


def weights(run: Run) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint, by part and name."""
    newest = store.complete(run.path / "checkpoints")[-1]
    return {f"{p}.{k}": v for p in store.PARTS for k, v in load_file(newest / f"{p}.safetensors").items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def copied(digits_run, tmp_path):
    """A copy of the small finished run, free to be damaged."""
    shutil.copytree(digits_run.path, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_resumed_in_pieces_equals_an_unbroken_one(digits_run, tmp_path):
    """Stopped after 3 and after 7 of 12 steps: weights, average, moments and log are the unbroken run's."""
    Run.create(small_recipe(), tmp_path / "pieces")
    for stop in (3, 7, 12):
        run = Run.resume(small_recipe(), tmp_path / "pieces")
        steps = run.train(checkpoint_seconds=1e9)
        for step in steps:
            if step.step == stop:
                steps.close()
    assert equal(weights(Run.open(tmp_path / "pieces")), weights(digits_run))
    logs = [(p / "metrics.jsonl").read_text().splitlines() for p in (tmp_path / "pieces", digits_run.path)]
    timeless = [
        [{k: v for k, v in json.loads(line).items() if k != "training_seconds"} for line in log] for log in logs
    ]
    assert timeless[0] == timeless[1]


def test_the_clock_of_checkpoints_changes_nothing(digits_run, tmp_path):
    """A checkpoint at every step gives the same weights, and only the last three are kept."""
    run = trained(small_recipe(), tmp_path / "often", checkpoint_seconds=0.0)
    assert equal(weights(run), weights(digits_run))
    assert [p.name for p in store.complete(run.path / "checkpoints")] == ["000010", "000011", "000012"]


def test_a_larger_number_of_steps_extends_and_a_smaller_is_refused(copied):
    """Steps may only grow; the recipe on disk follows."""
    run = Run.resume(small_recipe(steps=15), copied)
    assert not run.finished and [s.step for s in run.train()] == [13, 14, 15]
    assert Run.open(copied).finished
    with pytest.raises(ValueError, match="steps must be >= 15, what this run was made for, got 4"):
        Run.resume(small_recipe(steps=4), copied)


def test_any_other_change_is_refused_by_name(copied):
    """The message names the setting with both values and the way out."""
    with pytest.raises(ValueError, match="learning_rate was 0.002 in this run, got 0.1; choose a new folder"):
        Run.resume(small_recipe(learning_rate=0.1), copied)


def test_a_second_writer_is_refused_and_readers_are_not(copied):
    """The lock is taken by writers alone and freed with them."""
    run = Run.resume(small_recipe(steps=20), copied)
    steps = run.train(checkpoint_seconds=1e9)
    next(steps)
    other = Run.open(copied)
    assert other.sample(2).x.shape == (2, 1, 8, 8)
    with pytest.raises(Locked, match="being written by another process"):
        next(other.train())
    steps.close()
    assert next(Run.open(copied).train()).step == 14


@pytest.mark.parametrize("source", ["no-such-file.npy", "bad.csv", "digits"])
def test_a_refused_recipe_leaves_no_folder(tmp_path, source):
    """Neither the run folder nor its parents nor a staging folder remain."""
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n3,oops\n")
    name = source if source == "digits" else str(tmp_path / source)
    recipe = Recipe(name, network="mlp" if source != "digits" else "unet", batch_size=7 if source == "digits" else 8,
                    accumulate=2)  # fmt: skip
    with pytest.raises(ValueError, match="must|neither|oops|number"):
        Run.create(recipe, tmp_path / "deep" / "down" / "run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.csv"]


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    """Nothing in it is touched."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="does not exist yet"):
        Run.create(small_recipe(), tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_what_is_open_is_settled_once_and_stored(digits_run):
    """The recipe on disk holds the schedule's ends, the network, precision and steps; nothing is left to the clock."""
    content = yaml.safe_load((digits_run.path / "recipe.yaml").read_text())
    assert set(content) == {"version", "recipe", "resolved"}
    assert content["resolved"]["network"] == "unet" and content["resolved"]["training"]["steps"] == 12
    assert content["resolved"]["noise"]["sigma_min"] == digits_run.noise.sigma_min


def test_a_time_budget_becomes_a_number_of_steps_before_step_one(tmp_path):
    """`seconds` is measured once; resuming the same command keeps the stored number."""
    recipe = small_recipe(steps=None, seconds=0.5)
    run = Run.create(recipe, tmp_path / "timed")
    steps = run.resolved.training.steps
    assert steps >= 10
    assert Run.resume(recipe, tmp_path / "timed").resolved.training.steps == steps


DAMAGES = [(f"{part}.safetensors", how) for part in store.PARTS for how in ("truncate", "flip", "remove")]


@pytest.mark.parametrize(("part", "damage"), [*DAMAGES, ("manifest.json", "truncate"), ("manifest.json", "remove")])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(copied, part, damage):
    """Truncated, changed or missing: the file is named and the earlier checkpoint serves."""
    shutil.copytree(store.complete(copied / "checkpoints")[-1], copied / "checkpoints" / "000099")
    file = copied / "checkpoints" / "000099" / part
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    opened = Run.open(copied)
    assert opened.step == 12 and part in opened.notes[0] and "the checkpoint before it is used" in opened.notes[0]


def test_no_whole_checkpoint_left_stops(copied):
    """When every checkpoint is damaged the run says which file and does not go on from step 0 in silence."""
    for path in store.complete(copied / "checkpoints"):
        (path / "ema.safetensors").write_bytes(b"")
    with pytest.raises(Damaged, match=r"ema\.safetensors is damaged.*no whole checkpoint is left"):
        Run.open(copied)


def test_damaged_data_stop_training_by_name(copied):
    """A byte changed in the stored data is noticed before the next step."""
    content = bytearray((copied / "x.npy").read_bytes())
    content[-5] ^= 1
    (copied / "x.npy").write_bytes(content)
    with pytest.raises(RuntimeError, match=r"x\.npy"):
        next(Run.resume(small_recipe(steps=20), copied).train())


def test_a_full_disk_leaves_the_last_checkpoint_whole(copied, monkeypatch):
    """Writing fails half-way: the error says so, no partial folder stays, the checkpoint before opens."""
    calls = []

    def failing(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"half")

    run = Run.resume(small_recipe(steps=14), copied)
    monkeypatch.setattr(store, "save_file", failing)
    with pytest.raises(OSError, match="No space left on device.*the one before it is whole"):
        for _ in run.train():
            pass
    assert Run.open(copied).step == 12
    assert not list((copied / "checkpoints").glob(".partial*"))


def test_sample_i_is_the_same_in_any_batch(digits_run):
    """Sample i of a seed equals itself to rounding for any n, and differs from others and from other seeds."""
    many, few = digits_run.sample(7, seed=5, label=3).x, digits_run.sample(3, seed=5, label=3).x
    assert torch.allclose(many[:3], few, atol=1e-4)
    assert (many[0] - many[1]).abs().max() > 0.1
    assert (digits_run.sample(1, seed=6, label=3).x - few[:1]).abs().max() > 0.1


def test_labels_are_those_asked_for_or_drawn_by_frequency(digits_run):
    """A given label fills y; else classes come in the data's proportions (chi-square, false alarms 1e-4)."""
    assert digits_run.sample(4, label="7").info["y"].tolist() == [7] * 4
    frequencies = digits_run.dataset.class_frequencies
    drawn = choose_labels(5000, 0, None, digits_run.classes, frequencies)
    expected = 5000 * frequencies / frequencies.sum()
    counts = np.bincount(drawn.numpy(), minlength=10)
    assert ((counts - expected) ** 2 / expected).sum() < 33.7  # 9 degrees of freedom
    assert choose_labels(3, 0, None, digits_run.classes, frequencies).tolist() == drawn[:3].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be >= 1, got 0"),
        ({"n": 2, "label": 12}, "label must be one of .*got 12"),
        ({"n": 2, "sampler": "hoin"}, "sampler must be one of .*did you mean 'heun'"),
        ({"n": 2, "steps": 0}, "steps must be >= 1, got 0"),
        ({"n": 2, "sampler": "adaptive-ode", "steps": 5}, "adaptive-ode chooses its own steps, got steps 5"),
        ({"n": 2, "epsilon": 1e-3}, "epsilon is an option of sampler annealed-langevin"),
        ({"n": 2, "seed": -1}, "seed must be >= 0"),
    ],
)
def test_bad_requests_for_samples_are_refused(digits_run, arguments, message):
    """The value, the rule, the way out."""
    with pytest.raises(ValueError, match=message):
        digits_run.sample(**arguments)


def test_a_label_for_data_without_labels_is_refused(vector_run):
    """An argument is honoured or refused."""
    with pytest.raises(ValueError, match="without labels, got 1"):
        vector_run.sample(2, label=1)


@pytest.mark.parametrize("sampler", [*FLOWS, *DIFFUSIONS])
def test_every_sampler_recovers_a_trained_mixture_in_data_units(vector_run, sampler):
    """Mean and covariance of 1,000 samples are the data's within 5 % of its spread and 15 % of its variance."""
    x = vector_run.sample(1000, seed=1, sampler=sampler).x.double()
    data = torch.from_numpy(np.array(vector_run.dataset.x))
    spread = data.std(0)
    assert ((x.mean(0) - data.mean(0)).abs() < 4 * spread / 1000**0.5 + 0.05 * spread).all()
    assert ((x.var(0) / data.var(0) - 1).abs() < 0.2).all()


def test_data_far_away_with_tiny_spread_train_as_well(table, tmp_path):
    """Mean 100 spread 0.5, and mean 3 spread 1e-6: samples come back with those means and spreads."""
    recipe = Recipe(str(table), steps=600, mlp=MLPSize(32, 2), batch_size=64, learning_rate=5e-3)
    x = trained(recipe, tmp_path / "far").sample(500).x
    assert x.dtype == torch.float64
    assert x.mean(0).tolist() == pytest.approx([100.0, 3.0], abs=0.2)
    assert (x.std(0) / torch.tensor([0.5, 1e-6]))[0].item() == pytest.approx(1, abs=0.25)
    assert (x.std(0) / torch.tensor([0.5, 1e-6]))[1].item() == pytest.approx(1, abs=0.25)


def test_the_model_loads_in_plain_torch(digits_run):
    """The average and the last weights both load, in evaluation mode, and differ."""
    average, last = digits_run.load_model(), digits_run.load_model(ema=False)
    assert not average.training and not any(p.requires_grad for p in average.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(average.parameters(), last.parameters(), strict=True))
    x, t = torch.zeros(2, 1, 8, 8), torch.tensor(0.5)
    assert average(x, t, torch.tensor([1, -1])).shape == x.shape


def test_no_checkpoint_yet_says_what_to_run(tmp_path):
    """A run at step 0 has no model."""
    run = Run.create(small_recipe(), tmp_path / "new")
    assert run.step == 0
    with pytest.raises(RuntimeError, match="no checkpoint yet; run: scorefield train"):
        run.sample(1)


def test_written_samples_hold_data_units_and_class_names(digits_run, tmp_path):
    """x is (n, *D) in the data's units, y the labels as the data name them; no pickle is needed to read them."""
    drawn = digits_run.sample(5, label=4)
    with np.load(digits_run.write_samples(drawn, tmp_path / "s.npz"), allow_pickle=False) as file:
        assert np.array_equal(file["x"], drawn.x.numpy()) and file["y"].tolist() == [4] * 5


def test_unlabelled_recipes_differ_only_where_said(vector_run):
    """Samples of unlabelled data carry no y, and the folder opens by its path alone."""
    assert "y" not in vector_run.sample(2).info
    assert Run.open(vector_run.path).recipe == dataclasses.replace(vector_run.recipe)


def test_a_run_that_ends_in_bad_steps_is_not_done(tmp_path, monkeypatch):
    """However short the rest, non-finite last steps are no success, and are saved as no checkpoint; again and again."""
    from scorefield.runs.objectives import LabelledNoise

    plain = LabelledNoise._at_its_time

    def at_its_time(self, *a):
        t, loss = plain(self, *a)
        return t, loss * (torch.nan if self.bad else 1.0)

    monkeypatch.setattr(LabelledNoise, "_at_its_time", at_its_time)
    monkeypatch.setattr(LabelledNoise, "bad", False, raising=False)
    Run.create(small_recipe(steps=4), tmp_path / "run")
    for start in (0, 3, 3):
        seen = []
        with pytest.raises(Diverged, match="was not finite"):
            for step in Run.open(tmp_path / "run").train():
                seen.append(step.step)
                LabelledNoise.bad = step.step >= 3
        assert seen == list(range(start + 1, 5)) and Run.open(tmp_path / "run").step == 3
        LabelledNoise.bad = True


def test_a_reader_survives_a_writer_that_replaces_checkpoints(copied):
    """The checkpoint seen at opening may be gone when the model is loaded: the newest one then serves, for good."""
    run = Run.open(copied)
    newest = store.complete(copied / "checkpoints")[-1]
    newest.rename(newest.with_name("000013"))
    run.load_model()
    shutil.rmtree(copied / "checkpoints")
    assert run.step == 13 and run.load_model() is not None


def test_a_log_with_half_a_line_or_none_is_read(copied):
    """Whole lines count, the rest is passed over; training goes on from a log that was cut."""
    log = copied / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 13, "lo')
    assert [entry["step"] for entry in read(log)] == list(range(1, 13))
    log.write_bytes(b"\xff\xfe{}\n3\n{}\n")
    assert read(log) == [] and [s.step for s in Run.resume(small_recipe(steps=13), copied).train()] == [13]


def test_samples_that_are_not_finite_are_refused(copied, monkeypatch):
    """A diverged model does not write NaN in silence."""
    model = Run.open(copied).load_model()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    monkeypatch.setattr(Run, "load_model", lambda self: model)
    with pytest.raises(Diverged, match="3 of 3 samples are not finite"):
        Run.open(copied).sample(3)


def test_samples_are_written_as_npz_alone(digits_run, tmp_path):
    """A name with another ending is refused, and what is there stays."""
    (tmp_path / "mine.csv").write_text("a")
    with pytest.raises(ValueError, match=r"written as \.npz.*name it .*mine\.npz"):
        digits_run.write_samples(digits_run.sample(1), tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "a"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("network: unet", "network: foo"), "network must be one of"),
        (("betas:\n    - 0.9\n    - 0.99", "betas: 3"), "not iterable"),
        (("    sigma_min:", "    sigma_mean:"), "sigma_mean"),
    ],
)
def test_a_recipe_that_was_edited_wrongly_is_refused_by_name(copied, change, words):
    """The file is named, with what is wrong in it."""
    file = copied / "recipe.yaml"
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(ValueError, match=rf"recipe\.yaml is not a recipe of this scorefield: .*{words}"):
        Run.open(copied)


def test_guidance_moves_samples_along_the_label(digits_run):
    """w = 1 is the conditional run, w = 0 does not see the label, w = 3 is another; labels drawn are guided too."""
    how = {"n": 3, "seed": 4, "steps": 3}
    plain = digits_run.sample(**how, label=7)
    assert torch.equal(digits_run.sample(**how, label=7, guidance=1.0).x, plain.x)
    none = digits_run.sample(**how, label=7, guidance=0.0)
    assert torch.equal(none.x, digits_run.sample(**how, label=2, guidance=0.0).x)
    strong = digits_run.sample(**how, label=7, guidance=3.0)
    assert not torch.equal(strong.x, plain.x) and strong.evaluations == plain.evaluations
    assert not torch.equal(digits_run.sample(**how, guidance=3.0).x, digits_run.sample(**how).x)


def test_guidance_without_labels_is_refused(digits_run, vector_run, tmp_path):
    """No labels, none hidden in training, one law, or a scale that is none."""
    with pytest.raises(ValueError, match="guidance needs a run with labels, got 2.0"):
        vector_run.sample(2, guidance=2.0)
    with pytest.raises(ValueError, match="scale must be a finite number >= 0, got -1.0"):
        digits_run.sample(2, guidance=-1.0)
    run = trained(small_recipe(label_dropout=0.0, steps=2), tmp_path / "all")
    with pytest.raises(ValueError, match="guidance, got 2.0, needs a run that saw some labels hidden"):
        run.sample(2, guidance=2.0)
    one = trained(small_recipe(objective="denoising", sigma=0.3, steps=2), tmp_path / "one")
    with pytest.raises(ValueError, match="guidance needs all noise levels, got 2.0 for a run of objective denoising"):
        one.sample(2, guidance=2.0)


def test_a_checkpoint_says_how_it_was_made(vector_run):
    """Versions, hardware and seconds, from the manifest of the newest checkpoint."""
    made = Run.open(vector_run.path).provenance
    assert made["versions"] == versions() and "cores" in made["hardware"] and made["training_seconds"] > 0
