"""Log-densities of data under a run: the truth of a trained law, the change of units, the errors, what is refused."""

import math

import numpy as np
import pytest
import torch

from conftest import small_recipe, trained
from scorefield.cli import main
from scorefield.densities import toy
from scorefield.runs import Run
from scorefield.runs.density import run_likelihood, write_likelihood
from scorefield.settings import MLPSize, Recipe


def linear(run: Run) -> torch.Tensor:
    """The scales by which the run's data were divided, (d,)."""
    return torch.from_numpy(np.asarray(run.dataset.info.scaling.scale))


def test_a_trained_run_gives_the_density_of_its_law_in_data_units(vector_run):
    """On 300 fresh rows: its mean lies at most 0.15 nats (1,500 steps of training) below the truth's, and never above
    it by more than 4 standard errors of the paired difference: no other density has a larger mean log-density."""
    law = toy("gaussian-mixture")
    x = law.sample((300,), generator=torch.Generator().manual_seed(9))
    found = run_likelihood(vector_run, x)
    gap = found.nats - law.log_density(x)
    assert -0.15 < gap.mean() < 4 * gap.std() / math.sqrt(300)
    assert gap.abs().median() < 0.4  # the figures of a short training; a wrong volume or prior shifts all by more
    assert found.method == "exact" and (found.probe_se == 0).all() and found.step_error.max() < 0.03
    assert found.log_z is None and found.bits is None and "0.00" in found.law


def test_scaling_the_data_shifts_the_log_density_by_the_log_of_the_volume(tmp_path):
    """The same data in other units, trained from the same seed: log p(x) + log|c| is the same number."""
    rows = np.random.default_rng(0).normal(size=(400, 2))
    found = []
    for name, unit in (("one", [1.0, 1.0]), ("other", [1000.0, 0.01])):
        np.save(tmp_path / f"{name}.npy", rows * unit)
        recipe = Recipe(str(tmp_path / f"{name}.npy"), steps=20, mlp=MLPSize(16, 1), batch_size=32)
        run = trained(recipe, tmp_path / name)
        nats = run_likelihood(run, rows[:20] * unit).nats
        found.append(nats + math.log(unit[0] * unit[1]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-3)


def test_an_energy_of_one_law_is_normalised_by_importance_sampling(tmp_path):
    """Correlated normal data: mean log-density within 0.1 nats of the truth's, log Z's s.e. below 0.1."""
    covariance = np.array([[1.0, 0.6], [0.6, 0.8]])
    rows = np.random.default_rng(0).multivariate_normal([3.0, -1.0], covariance, size=4000)
    np.save(tmp_path / "gauss.npy", rows)
    recipe = Recipe(str(tmp_path / "gauss.npy"), steps=300, model="energy", objective="implicit", batch_size=128,
                    mlp=MLPSize(32, 2), learning_rate=5e-3)  # fmt: skip
    run = trained(recipe, tmp_path / "run")
    found = run_likelihood(run, rows[:500])
    true = torch.distributions.MultivariateNormal(
        torch.tensor([3.0, -1.0], dtype=torch.float64), torch.tensor(covariance)
    )
    assert (found.nats - true.log_prob(torch.tensor(rows[:500]))).mean().abs() < 0.1
    assert found.method == "importance" and found.law == "the data"
    assert found.log_z is not None and found.log_z.standard_error < 0.1 and found.log_z.effective_samples > 200
    with pytest.raises(ValueError, match="method is an option of runs with all noise levels, got 'exact'"):
        run_likelihood(run, rows[:2], method="exact")


def test_bits_per_dimension_of_images_are_those_of_the_nats(digits_run):
    """-(log p + D log Δ)/(D log 2) with uniform noise; every row's own probes, so that fewer rows change nothing."""
    x = digits_run.dataset.x[digits_run.dataset.held_out_rows[:6]]
    many = run_likelihood(digits_run, x, bin_width=1.0, probes=4, rtol=1e-2)
    assert many.method == "hutchinson" and (many.probe_se > 0).all()
    assert many.bits is not None and many.bits.dequantisation == "uniform"
    torch.testing.assert_close(many.bits.per_sample, -many.nats / (64 * math.log(2)), rtol=1e-12, atol=0)
    few = run_likelihood(digits_run, x[:2].astype(np.float32), probes=4, rtol=1e-2)
    other = run_likelihood(digits_run, x[:2].astype(np.float32), probes=4, rtol=1e-2, seed=1)
    assert few.bits is None and (few.nats - other.nats).abs().max() > 1e-4


def test_a_label_asks_for_its_own_law(digits_run):
    """Another class, another density; and the law without labels is a third."""
    x, how = digits_run.dataset.x[:2], {"probes": 2, "rtol": 1e-2}
    three, seven, all_classes = (run_likelihood(digits_run, x, label=label, **how).nats for label in (3, "7", None))
    assert not torch.equal(three, seven) and not torch.equal(three, all_classes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.zeros((2, 3))}, r"rows of shape \(2,\), as the run's, got \(3,\)"),
        ({"x": np.array([[0.0, np.nan]])}, "x must be finite, got nan or infinity"),
        ({"x": np.zeros((2, 2)), "label": 1}, "without labels, got 1"),
        ({"x": np.zeros((2, 2)), "method": "exakt"}, "did you mean 'exact'"),
        ({"x": np.zeros((2, 2)), "bin_width": 0.0}, "bin_width must be a finite number > 0, got 0.0"),
        ({"x": np.zeros((2, 2)), "seed": -1}, "seed must be >= 0"),
        ({"x": np.zeros((2, 2)), "rtol": 0.0}, "rtol must be a finite number > 0, got 0.0"),
    ],
)
def test_bad_requests_for_densities_are_refused(vector_run, arguments, message):
    """The value, the rule, the way out."""
    with pytest.raises(ValueError, match=message):
        run_likelihood(vector_run, **arguments)


def test_a_score_of_one_law_has_no_density(tmp_path):
    """Neither a flow nor an energy: refused, with what to train."""
    recipe = Recipe("two-moons", steps=2, objective="sliced", mlp=MLPSize(8, 1), count=100)
    run = trained(recipe, tmp_path / "run")
    with pytest.raises(
        ValueError, match="learned a score at one law by objective sliced. Train with objective noise-c"
    ):
        run_likelihood(run, np.zeros((1, 2)))


def test_a_run_that_never_hid_its_labels_wants_one(tmp_path):
    """Without label dropout the law of all classes was not learned."""
    run = trained(small_recipe(label_dropout=0.0, steps=2), tmp_path / "run")
    with pytest.raises(ValueError, match="label must be given: this run never learned the law of all classes"):
        run_likelihood(run, run.dataset.x[:1])


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_the_command_prints_and_writes_every_row(vector_run, tmp_path, capsys, suffix):
    """Held-out rows by name, and a file of one column for the log-density and one for each error."""
    output = tmp_path / f"rows.{suffix}"
    argv = ["likelihood", str(vector_run.path), "held-out", "-n", "7", "-o", str(output)]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "nats, mean of 7 rows" in said and "exact divergence" in said and "7 rows ->" in said
    rows = vector_run.dataset.held_out_rows
    x = vector_run.dataset.x[rows[np.linspace(0, len(rows) - 1, 7).round().astype(int)]]
    expected = run_likelihood(vector_run, x).nats.numpy()
    if suffix == "csv":
        written = np.genfromtxt(output, delimiter=",", names=True)
    else:
        written = np.load(output, allow_pickle=False)
    np.testing.assert_allclose(written["nats"], expected, rtol=1e-8)
    assert (written["step_error"] > 0).all() and (written["probe_se"] == 0).all()


def test_another_file_name_is_refused(vector_run, tmp_path):
    """Only .npz and .csv are written."""
    found = run_likelihood(vector_run, np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"written as .npz or .csv, got the output .*rows.txt; name it rows.csv"):
        write_likelihood(tmp_path / "rows.txt", found)
