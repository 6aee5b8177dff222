"""Estimators by name, domains in one word, and the command `fit`."""

import json

import numpy as np
import pytest

from scorefield.cli import main
from scorefield.estimators import ExponentialFamily, Gaussian, named
from scorefield.estimators.names import domain_named
from scorefield.settings import FAMILIES


@pytest.mark.parametrize("model", FAMILIES)
def test_every_name_makes_an_estimator(model):
    """Not fitted, with its own domain."""
    assert hasattr(named(model), "fit")


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("real", "real"),
        ("half-line", "half-line"),
        ("interval:0:1.5", ("interval", 0.0, 1.5)),
        ("box:0,-1:1,2", ("box", [0.0, -1.0], [1.0, 2.0])),
        ("ball:0,0:3", ("ball", [0.0, 0.0], 3.0)),
        ("polygon:0,0:1,0:0,1", ("polygon", [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])),
    ],
)
def test_domains_in_one_word(text, domain):
    """As `region_of` takes them."""
    assert domain_named(text) == domain


@pytest.mark.parametrize("text", ["interval:0", "interval:a:b", "ball:0,0", "ball:0,0:1,2", "real:1", "interval:0:1:2"])
def test_words_that_are_no_domain_are_refused(text):
    """The forms are named."""
    with pytest.raises(ValueError, match="domain must be"):
        domain_named(text)


@pytest.fixture
def table(tmp_path):
    """Two columns of numbers and one of names."""
    rng = np.random.default_rng(0)
    rows = "\n".join(f"{a:.6f},{b:.6f},cat" for a, b in rng.normal([170, 70], [8, 9], (500, 2)))
    (tmp_path / "people.csv").write_text("height,weight,pet\n" + rows + "\n")
    return tmp_path / "people.csv"


def test_the_command_prints_the_summary_and_writes_json(table, tmp_path, capsys):
    """The table of the estimator itself, by the names of the columns; JSON on request."""
    output = tmp_path / "fit.json"
    argv = ["fit", "gaussian", str(table), "--columns", "weight,height", "--level", "0.9", "-o", str(output)]
    assert main(argv) == 0
    said = capsys.readouterr().out
    x = np.genfromtxt(table, delimiter=",", skip_header=1, usecols=(1, 0))
    expected = Gaussian().fit(x)
    assert "mean[weight]" in said and "P[weight, height]" in said
    written = json.loads(output.read_text())
    assert [row["estimate"] for row in written["rows"]] == pytest.approx(expected.theta_, rel=1e-9)
    assert written["level"] == 0.9 and written["warnings"] == []
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == written["rows"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["gausian"], "did you mean 'gaussian'"),
        (["gaussian"], "column 'pet', row 1 (line 2) must be a number, got 'cat'"),
        (["gaussian", "--columns", "height,wight"], "did you mean 'weight'"),
        (["gaussian", "--columns", "height,height"], "columns must differ, got height, height"),
        (["gaussian", "--columns", "height", "--domain", "real"], "domain must not be given for gaussian"),
        (["gamma", "--columns", "height", "--domain", "interval:0:100"], "outside"),
        (["gaussian", "--columns", "height", "--level", "2"], "level"),
    ],
)
def test_fits_that_cannot_be_end_in_one_line(table, capsys, argv, words):
    """Code 2, the value, the rule, the way out."""
    assert main(["fit", argv[0], str(table), *argv[1:]]) == 2
    err = capsys.readouterr().err
    assert words in err and err.startswith("error:")


def test_the_gamma_of_the_command_is_the_familys(tmp_path, capsys):
    """Shape and rate of 2,000 gamma numbers, at 4 standard errors."""
    x = np.random.default_rng(1).gamma(2.5, 3.0, 2000)
    np.savetxt(tmp_path / "wait.csv", x, header="wait", comments="")
    assert main(["fit", "gamma", str(tmp_path / "wait.csv"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    for row, truth in zip(rows, (1.5, -1 / 3), strict=True):
        assert abs(row["estimate"] - truth) < 4 * row["standard_error"]
    assert isinstance(named("gamma"), ExponentialFamily)


@pytest.mark.parametrize("model", ["graphical", "non-negative-graphical"])
def test_a_graph_is_chosen_and_then_fitted_without_the_penalty(tmp_path, capsys, model):
    """A chain of three: the absent edge is fixed at 0, the others have intervals, and the choice is owned up to."""
    precision = np.array([[2.0, -0.8, 0.0], [-0.8, 2.0, -0.8], [0.0, -0.8, 2.0]])
    x = np.random.default_rng(2).multivariate_normal([0, 0, 0], np.linalg.inv(precision), 4000)
    x = np.abs(x) if model == "non-negative-graphical" else x
    np.savetxt(tmp_path / "chain.csv", x, header="a,b,c", comments="", delimiter=",")
    assert main(["fit", model, str(tmp_path / "chain.csv"), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert any("chosen on these very rows" in text for text in written["warnings"])
    assert any(row["standard_error"] > 0 for row in written["rows"])


def test_tables_that_cannot_be_written_to_are_read(tmp_path, capsys):
    """A data frame's own memory is read-only: no warning of torch's."""
    np.savetxt(tmp_path / "wait.csv", np.random.default_rng(1).gamma(2.5, 3.0, 200), header="wait", comments="")
    assert main(["fit", "gamma", str(tmp_path / "wait.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []
