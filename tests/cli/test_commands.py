"""The command line: what it prints, writes, refuses, and with which exit code."""

import json
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from scorefield.cli import main
from scorefield.runs import Run

SMALL = ["--unet.width", "8", "--unet.blocks", "1", "--batch-size", "16", "--precision", "fp32"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(capsys, *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    try:
        code = main([str(a) for a in argv])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_train_sample_info_and_evaluate(here, capsys):
    """The four commands on the digits, from nothing to figures."""
    code, out, _ = say(capsys, "train", "digits", "--steps", "6", *SMALL)
    assert code == 0 and "1,797 images of shape (1, 8, 8)" in out and "scorefield sample runs/digits" in out
    code, out, _ = say(capsys, "train", "digits", "--steps", "6", *SMALL)
    assert code == 0 and "finished at step 6" in out and "a larger --steps extends it" in out
    code, out, _ = say(capsys, "train", "digits", "--steps", "8", *SMALL)
    assert code == 0 and "goes on from step 6" in out
    code, out, _ = say(capsys, "sample", "runs/digits", "-n", "3", "--label", "7", "-o", "sevens.npz", "--seed", "2")
    assert code == 0 and "sevens.npz" in out
    with np.load("sevens.npz", allow_pickle=False) as file:
        assert file["x"].shape == (3, 1, 8, 8) and file["y"].tolist() == [7, 7, 7]
    code, out, _ = say(capsys, "info", "runs/digits")
    assert code == 0 and all(word in out for word in ("8 of 8", "SHA-256", "torch", "VE(", "next"))
    code, out, _ = say(capsys, "evaluate", "runs/digits", "-n", "100", "--likelihood-rows", "2", "--json")
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    fixed = {"class agreement", "Fréchet distance on 32 principal components", "nearest training image", "bits/dim"}
    assert code == 0 and fixed <= set(rows)
    assert all(row["samples"]["standard_error"] is not None for row in rows.values())
    assert rows["class agreement"]["real"]["value"] > 0.95


def test_defaults_name_the_run_after_its_data(here, capsys, table):
    """`train path/to/table.npy` writes runs/table."""
    assert say(capsys, "train", table, "--steps", "2")[0] == 0
    assert Run.open("runs/table").finished


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["fly"], "got 'fly'"),
        (["trian"], "did you mean 'train'"),
        (["train"], "required: data"),
        (["train", "digits", "--stepz", "3"], "did you mean '--steps'"),
        (["train", "digits", "--steps", "many"], "--steps must be a whole number, got 'many'"),
        (["train", "digits", "--checkpoint-seconds", "soon"], "--checkpoint-seconds must be a number, got 'soon'"),
        (["train", "digitz"], "did you mean 'digits'"),
        (["train", "digits", "--noise", "vpp"], "did you mean 'vp'"),
        (["train", "digits", "--steps", "0"], "steps must be >= 1, got 0"),
        (["train", "digits", "--unet.width", "0"], "width must be >= 1, got 0"),
        (["train", "digits", "--steps", "3", "--seconds", "5"], "not both"),
        (["train", "mnist"], "root"),
        (["train", "digits", "--root", "."], "root"),
        (["train", "two-moons", "--network", "unet"], "images"),
        (["train", "digits", "--held-out", "2"], "held_out"),
        (["sample", "nowhere"], "a run folder holds recipe.yaml, got nowhere"),
        (["evaluate", "nowhere"], "a run folder holds recipe.yaml"),
    ],
)
def test_bad_requests_end_in_one_line_and_code_2(here, capsys, argv, words):
    """The value, the rule, the way out; no traceback, nothing written."""
    code, _, err = say(capsys, *argv)
    assert code == 2 and words in err and "Traceback" not in err and err.startswith("error:")
    assert not list(here.iterdir())


def test_bad_requests_of_a_run_are_refused(digits_run, capsys, here):
    """Unknown labels and samplers name the nearest; nothing is written."""
    for argv, words in (
        (["--label", "17"], "label must be one of 0, 1"),
        (["--sampler", "hein"], "did you mean 'heun'"),
        (["-n", "0"], "n must be >= 1, got 0"),
        (["--steps", "0"], "steps must be >= 1"),
    ):
        code, _, err = say(capsys, "sample", digits_run.path, "-o", here / "x.npz", *argv)
        assert code == 2 and words in err and not list(here.iterdir())


def test_another_writer_is_exit_code_3(digits_run, capsys, here):
    """A run that is being written answers 3 to a second writer."""
    shutil.copytree(digits_run.path, here / "run")
    with Run.open(here / "run").lock():
        code, _, err = say(capsys, "train", "digits", "-o", "run", "--steps", "30", *SMALL)
    assert code == 3 and "another process" in err


def test_non_finite_training_is_exit_code_1(here, capsys, monkeypatch):
    """Divergence is bad news, not bad input: three non-finite steps end with 1 and the last checkpoint whole."""
    import torch

    from scorefield.runs.objectives import LabelledNoise

    plain, calls = LabelledNoise._at_its_time, iter(range(10**6))

    def broken(*a):
        t, loss = plain(*a)
        return t, loss * (torch.nan if next(calls) > 3 else 1.0)

    monkeypatch.setattr(LabelledNoise, "_at_its_time", broken)
    code, _, err = say(capsys, "train", "digits", "--steps", "30", *SMALL)
    assert code == 1 and "was not finite" in err and "noise levels sigma" in err
    assert 4 <= Run.open("runs/digits").step <= 6


def test_interrupting_saves_and_says_how_to_go_on(here, capsys):
    """SIGINT finishes the step, saves, prints the same command, exits 130; the command then ends the run."""
    argv = ["train", "digits", "--steps", "400", *SMALL]
    killer = threading.Thread(target=_interrupt_after, args=("runs/digits/metrics.jsonl",))
    killer.start()
    code, out, _ = say(capsys, *argv)
    killer.join()
    assert code == 130 and "Interrupted; saved at step" in out and "Go on with" in out
    assert 0 < Run.open("runs/digits").step < 400


def _interrupt_after(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.02)
    time.sleep(0.3)
    signal.raise_signal(signal.SIGINT)


def test_options_come_from_a_file_too(here, capsys):
    """--print_config writes what --config reads; flags win over the file; a YAML tag runs nothing."""
    _, out, _ = say(capsys, "train", "digits", "--steps", "4", *SMALL, "--print_config")
    (here / "recipe.yaml").write_text(out)
    assert yaml.safe_load(out)["unet"]["width"] == 8
    assert say(capsys, "train", "--config", "recipe.yaml", "--steps", "2", "digits")[0] == 0
    assert Run.open("runs/digits").recipe.unet.width == 8 and Run.open("runs/digits").step == 2
    (here / "evil.yaml").write_text("steps: !!python/object/apply:os.system ['touch hacked']\n")
    code, _, err = say(capsys, "train", "--config", "evil.yaml", "digits", "-o", "other")
    assert code == 2 and err and not (here / "hacked").exists() and not (here / "other").exists()


def test_help_lists_every_option_with_dashes(capsys):
    """Flags are written with dashes, `--print_config` excepted, and each has its line of help."""
    code, out, _ = say(capsys, "train", "--help")
    assert "variance does not explode where the noise is small" in " ".join(out.split())  # a flag's second line
    assert code == 0
    for flag in (
        "--checkpoint-seconds",
        "--label-column",
        "--on-nonfinite",
        "--devices",
        "--unet.width",
        "--print_config",
    ):
        assert flag in out
    assert "--checkpoint_seconds" not in out
    assert say(capsys, "--version")[1].startswith("scorefield 0.")
