"""Every example is short, runs as it stands, and prints a fact."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_short_and_run(example, capsys, tmp_path, monkeypatch):
    """Under 60 lines, no error, and something finite said."""
    monkeypatch.chdir(tmp_path)
    assert len(example.read_text().splitlines()) < 60
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.strip()
    assert "nan" not in printed.split()
    assert not list(tmp_path.iterdir()), "an example leaves no files behind"
