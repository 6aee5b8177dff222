"""`features` and `evaluate` from the command line: what they print, and bad input with the way out."""

import json

import pytest

from scorefield.__main__ import main
from scorefield.evaluation import learn_features
from scorefield.settings import DataSettings


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "digits"
    list(learn_features(DataSettings("digits"), path, steps=20))
    return path


def say(capsys, *arguments):
    code = main(list(arguments))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_features_are_learned_and_their_accuracy_is_told(tmp_path, monkeypatch, capsys):
    """As a sentence with the next command, and as JSON; the folder is named after the data."""
    monkeypatch.chdir(tmp_path)
    code, out, _ = say(capsys, "features", "digits", "--steps", "3")
    assert code == 0 and "Test accuracy" in out and "scorefield evaluate RUN --features features/digits" in out
    code, out, _ = say(capsys, "features", "digits", "--steps", "2", "-o", "other", "--json")
    assert code == 0 and json.loads(out)["accuracy"]["n"] == 180 and json.loads(out)["folder"] == "other"
    code, _, err = say(capsys, "features", "digits", "--steps", "2", "-o", "other")
    assert code == 2 and "need a folder that does not exist yet, got other" in err


def test_evaluate_prints_every_interval_as_json_and_a_table(digits_run, features, capsys):
    """The JSON holds value, error, interval, n and p-values of both columns; the table names the features."""
    common = ("evaluate", str(digits_run.path), "-n", "130", "--features", str(features), "--likelihood-rows", "0")
    code, out, _ = say(capsys, *common, "--json")
    content = json.loads(out)
    rows = {row["name"]: row for row in content["rows"]}
    assert code == 0 and content["features"] == str(features) and content["against"] is None
    assert len(rows["precision"]["samples"]["interval"]) == 2 and rows["precision"]["real"]["n"] == 130
    assert 0 < rows["nearest real image is a training image"]["samples"]["p_value"] <= 1
    assert "inception score" in rows and "bits/dim" not in rows
    code, out, _ = say(capsys, *common[:-1], "2", "--against", "digits")
    assert code == 0 and "bits/dim" in out and "digits' features" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "here"], "root is for --against only, got 'here'"),
        (["--features", "nowhere"], "must be a folder that scorefield features wrote"),
        (["--against", "nowhere"], "source 'nowhere' is neither a file or folder nor one of"),
        (["--against", "two-moons"], r"against must hold rows of shape (1, 8, 8)"),
        (["--likelihood-rows", "-1"], "likelihood_rows must be >= 0, got -1"),
    ],
)
def test_bad_requests_end_with_code_2(digits_run, arguments, message, capsys):
    code, _, err = say(capsys, "evaluate", str(digits_run.path), "-n", "100", *arguments)
    assert code == 2 and message in err
