"""Every objective from the command line: trained, drawn from, judged, described; what is refused, in one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from scorefield.cli import main
from scorefield.runs import one_law
from scorefield.settings import AT_ALL_LEVELS, CONTRASTIVE, OBJECTIVES

TINY = ["--mlp.width", "8", "--mlp.depth", "1", "--batch-size", "16", "--steps", "4", "--count", "1200"]
PAIRS = [(m, o) for m in ("score", "energy") for o in OBJECTIVES if m == "energy" or o not in CONTRASTIVE]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(capsys, *argv: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    try:
        code = main([str(a) for a in argv])
    except SystemExit as stop:
        code = int(str(stop.code))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(("model", "objective"), PAIRS)
def test_every_objective_trains_samples_and_is_judged(here, capsys, monkeypatch, model, objective):
    """`train`, `sample`, `evaluate` and `info` on two moons, for fields and for energies."""
    monkeypatch.setattr(one_law, "STEPS", 30)
    argv = ["train", "two-moons", "--model", model, "--objective", objective, "-o", "run", *TINY]
    code, out, err = say(capsys, *argv)
    assert code == 0, err
    assert "Done: run at step 4" in out and ("tr ∇s" in out) == (objective in ("implicit", "sliced"))
    code, out, err = say(capsys, "sample", "run", "-n", "3", "--steps", "5")
    assert code == 0, err
    (file,) = Path("run/samples").iterdir()
    assert file.name.startswith("heun-3" if objective in AT_ALL_LEVELS else "langevin-3")
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["x"].shape == (3, 2)
    code, out, err = say(capsys, "evaluate", "run", "-n", "100", "--json")
    assert code == 0, err
    names = [row["name"] for row in json.loads(out)["rows"]]
    assert names[:2] == ["MMD²", "two-sample test"]
    assert ("objective, held out" in names) == (objective in OBJECTIVES[2:7])
    code, out, _ = say(capsys, "info", "run")
    said = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert code == 0 and model in said["model"] and objective in said["objective"]
    assert ("one law" in said["noise"]) == (objective not in AT_ALL_LEVELS)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--objective", "slised"], "did you mean 'sliced'"),
        (["--model", "energie"], "did you mean 'energy'"),
        (["--objective", "persistent"], "give --model energy"),
        (["--objective", "implicit", "--noise", "vp"], "noise means nothing to objective implicit"),
        (["--objective", "sliced", "--sigma", "-1"], "sigma must be a finite number >= 0, got -1.0"),
    ],
)
def test_what_does_not_go_together_ends_in_one_line_and_code_2(here, capsys, argv, words):
    """The value, the rule, the way out; nothing written."""
    code, _, err = say(capsys, "train", "two-moons", *argv)
    assert code == 2 and words in err and err.startswith("error:") and not list(here.iterdir())


def test_a_sampler_that_does_not_fit_is_refused_and_langevins_step_is_an_option(here, capsys):
    """Another sampler names the one that fits; the step size stands in the file's name."""
    assert say(capsys, "train", "two-moons", "--objective", "sliced", "-o", "run", *TINY)[0] == 0
    code, _, err = say(capsys, "sample", "run", "--sampler", "heun")
    assert code == 2 and "sampler must be langevin, underdamped, mala, hmc for a run of objective sliced" in err
    assert say(capsys, "sample", "run", "-n", "2", "--steps", "3", "--step-size", "0.01")[0] == 0
    assert [p.name for p in Path("run/samples").iterdir()] == ["langevin-2-seed0-step4-3steps-h0.01.npz"]
