"""`scorefield check`: the table a lecturer would project, its JSON, and its exit codes."""

import json
import re

import pytest
from rich.cells import cell_len

from scorefield.cli import main, show
from scorefield.objectives import implicit
from scorefield.theory import THEOREMS, Claim, Row, scores

SCORE = [theorem for theorem in THEOREMS if theorem.part == "score"]


def say(capsys, *argv):
    """Exit code, standard output and standard error of `check`."""
    code = main(["check", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_table_shows_both_sides_and_the_verdict(capsys, monkeypatch):
    """At 100 columns every statement stands on one line under its name; the summary says that all hold."""
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = say(capsys, "--only", "score")
    lines = [line.strip() for line in out.splitlines()]
    assert code == 0 and "5 theorems, all hold. Seed 0" in out
    for theorem in SCORE:
        (row,) = [line for line in lines if line.startswith(f"{theorem.name} ")]
        assert row.endswith("✓") and len(re.findall(r"-?\d\.\d{3}", row)) >= 2
        assert lines[lines.index(row) + 1] == theorem.statement
    (row,) = [line for line in lines if line.startswith("log-z ")]
    assert "-0.5209" in row and "0.00077" in row


def test_every_statement_fits_its_line_at_100_columns(capsys, monkeypatch):
    """Beside the widest figures; the summary counts what fails."""
    monkeypatch.setenv("COLUMNS", "100")
    claims = [Claim(-1.234e-12, 5.0, 0.00077, 0.05)] * len(THEOREMS)
    show.theorems(show.console(), [Row(*row) for row in zip(THEOREMS, claims, strict=True)], 0, 1.0)
    out = capsys.readouterr().out
    lines = [line.strip() for line in out.splitlines()]
    for theorem in THEOREMS:
        assert any(line.startswith(theorem.statement) for line in lines), theorem.statement
    assert f"35 theorems, 35 fail: {THEOREMS[0].name}, " in out and "✓ " not in out


def test_the_table_fits_80_columns(capsys, monkeypatch):
    """Statements wrap, figures stay whole."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = say(capsys, "--only", "dynamics")
    assert code == 0 and max(cell_len(line) for line in out.splitlines()) <= 80
    assert "…" not in out and "-0.07227" in out and "tol 0.05" in out and out.count("✓") == 9 + 1


def test_json_holds_the_same_rows(capsys):
    """Every row with its part, name, statement, sides, error and verdict; nothing else is printed."""
    code, out, _ = say(capsys, "--only", "score", "--seed", "3", "--json")
    content = json.loads(out)
    assert code == 0 and content["holds"] is True and content["seed"] == 3
    assert [row["name"] for row in content["rows"]] == [theorem.name for theorem in SCORE]
    for row in content["rows"]:
        assert row["holds"] is True and row["part"] == "score" and row["relation"] == "="
        assert abs(row["left"] - row["right"]) <= 4 * row["standard_error"] + row["tolerance"]


def test_one_that_fails_is_bad_news(capsys, monkeypatch):
    """Exit code 1, a cross, and its name."""
    monkeypatch.setattr(scores, "implicit", lambda score, x: 2 * implicit(score, x))
    code, out, _ = say(capsys, "--only", "score")
    assert code == 1 and "5 theorems, 1 fail: matching-does-not. Seed 0" in out
    (row,) = [line for line in out.splitlines() if " matching-does-not " in line]
    assert row.rstrip().endswith("✗")
    code, out, _ = say(capsys, "--only", "matching-does-not", "--json")
    assert code == 1 and json.loads(out)["holds"] is False


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--only", "fluks"], "did you mean 'flux'"),
        (["--seed", "-1"], "seed must be >= 0, got -1"),
    ],
)
def test_bad_requests_end_in_one_line_and_code_2(capsys, argv, words):
    """The value, the rule, the way out."""
    code, out, err = say(capsys, *argv)
    assert code == 2 and words in err and not out and "Traceback" not in err
