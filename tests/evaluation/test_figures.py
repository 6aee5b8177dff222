"""The judgement of a run: figures with known answers on runs whose samples are planted."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from conftest import trained
from scorefield.calculus import score_of
from scorefield.densities import toy
from scorefield.evaluation import Row, evaluate, loss_by_level
from scorefield.evaluation.sets import choose_sets
from scorefield.metrics import Estimate
from scorefield.samplers import Samples
from scorefield.settings import MLPSize, Recipe

FRECHET = "Fréchet distance on 32 principal components"
LIMIT = f"{FRECHET}, n → ∞"


class Planted:
    """A run whose samples are given: everything else is the real run's."""

    def __init__(self, run, x, y=None):
        self._run, self._x, self._y = run, x, y

    def __getattr__(self, name):
        return getattr(self._run, name)

    def sample(self, n, seed=0, **how):
        return Samples(self._x[:n], None, {} if self._y is None else {"y": self._y[:n]})


def figures(run, **how) -> dict[str, Row]:
    return {row.name: row for row in evaluate(run, **how)}


@pytest.fixture(scope="module")
def digits(digits_run):
    """All digits in data units with their classes, shuffled."""
    order = np.random.default_rng(0).permutation(len(digits_run.dataset))
    x = torch.from_numpy(np.array(digits_run.dataset.x))[order].float()
    return x, digits_run.dataset.labels(order)


@pytest.fixture(scope="module")
def judged(digits_run, digits):
    """The figures of real digits in place of samples."""
    return figures(Planted(digits_run, *digits))


def test_real_images_pass_as_real(judged):
    """Real digits in place of samples: agreement near 1, Fréchet ratio about or below 1, nearest neighbour at 0."""
    rows = judged
    assert rows["class agreement"].samples.value > 0.98
    limit = rows[LIMIT].samples
    assert rows[FRECHET].ratio < 1.1 and abs(limit.value) < 3 * limit.standard_error < rows[FRECHET].samples.value
    kernel = rows["kernel distance"].samples
    assert abs(kernel.value) < 4 * kernel.standard_error
    for name in ("precision", "recall", "density", "coverage"):
        assert rows[name].ratio > 0.9 and rows[name].samples.n == 180
    # nine in ten of them are the training images: two of the three tests say so, of the third blurs or sharpness decide
    assert rows["nearest training image"].samples.value < 1e-6
    assert rows["copies of training images"].samples.value > 0.8
    assert rows["copies of training images"].samples.p_value < 1e-6
    assert rows["data-copying score"].samples.value < -10
    assert rows["data-copying score"].samples.p_value < 1e-6
    assert rows["nearest real image is a training image"].real.value == pytest.approx(0.9, abs=1e-3)


def test_images_of_few_pixels_are_judged_by_as_many_components(tmp_path):
    """Images of 4 x 4 pixels have 16 principal components, and their own rows pass as real."""
    x = np.random.default_rng(0).normal(size=(400, 1, 4, 4)).astype(np.float32)
    np.save(tmp_path / "small.npy", x)
    run = trained(Recipe(str(tmp_path / "small.npy"), network="mlp", mlp=MLPSize(8, 1), steps=1), tmp_path / "run")
    rows = figures(Planted(run, torch.from_numpy(x)), count=100)
    limit = rows["Fréchet distance on 16 principal components, n → ∞"].samples
    assert abs(limit.value) < 4 * limit.standard_error


def test_only_all_held_out_rows_keep_their_classes_shares(digits_run):
    """A part of the held-out rows is drawn at random, so that halves of it are not taken class by class."""
    data = digits_run.dataset
    held = len(data.held_out_rows)
    whole, part = (choose_sets(digits_run, torch.zeros(n, *data.shape), None, None, 0) for n in (held, held - 1))
    assert whole.strata is not None and torch.equal(whole.strata, whole.held_out_labels)
    assert part.strata is None and part.held_out_labels is not None


def test_held_out_images_are_no_copies(digits_run):
    """Held-out rows as samples, judged by others of their kind: no test of memorisation raises an alarm at 0.1 %."""
    data = digits_run.dataset
    half = data.held_out_rows[:100]
    info = dataclasses.replace(data.info, held_out=180)
    rest = type(data)(info, data.x, data.y)
    rest.held_out_rows = data.held_out_rows[100:]
    planted = Planted(digits_run, torch.from_numpy(np.array(data.x[half])).float(), data.labels(half))
    planted.dataset = rest
    rows = figures(planted, count=100)
    for name in ("nearest real image is a training image", "data-copying score", "copies of training images"):
        assert rows[name].samples.p_value > 1e-3, name


def test_noise_and_wrong_labels_are_found(digits_run, digits):
    """Shifted labels agree at 0; blurred and noised images raise the Fréchet and neighbour ratios."""
    x, y = digits
    assert figures(Planted(digits_run, x, (y + 1) % 10))["class agreement"].samples.value < 0.02
    noised = x + 6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    rows = figures(Planted(digits_run, noised, y))
    assert rows[FRECHET].ratio > 2 and rows["nearest training image"].ratio > 1.6
    kernel = rows["kernel distance"].samples
    assert kernel.value > 4 * kernel.standard_error


def test_every_figure_has_an_error_and_a_number_of_samples(judged):
    """No figure without n and its standard error, for the samples and, but for a score that needs none, real data."""
    for row in judged.values():
        assert row.real is not None or row.name == "data-copying score"
        for estimate in (row.samples, row.real or row.samples):
            assert estimate.n >= 100 and estimate.standard_error is not None
            assert estimate.interval[0] <= estimate.value <= estimate.interval[1]


def test_a_trained_mixture_is_close_to_the_truth(vector_run):
    """On vectors: MMD² near 0, the two-sample test near chance, a small part of the score's energy wrong."""
    rows = figures(vector_run)
    assert rows["two-sample test"].samples.value < 0.6 and rows["two-sample test"].real.value < 0.6
    assert rows["MMD²"].samples.value < 0.01
    assert rows["Fisher divergence"].ratio < 0.2
    assert abs(rows["Fréchet distance on 2 columns, n → ∞"].samples.value) < 0.1
    for name in ("precision", "recall", "density", "coverage"):
        assert rows[name].ratio > 0.9
    for name in ("nearest real row is a training row", "data-copying score"):
        assert rows[name].samples.p_value > 1e-4


def test_draws_of_the_truth_pass_and_others_do_not(vector_run):
    """Exact draws cannot be told from held-out data; draws moved by one spread can."""
    x = toy("gaussian-mixture").sample((1000,), generator=torch.Generator().manual_seed(7))
    good, bad = figures(Planted(vector_run, x)), figures(Planted(vector_run, x + x.std(0)))
    assert abs(good["MMD²"].samples.value) < 4 * good["MMD²"].samples.standard_error
    assert bad["MMD²"].samples.value > 10 * bad["MMD²"].samples.standard_error
    assert bad["two-sample test"].samples.value > 0.65 > good["two-sample test"].samples.value


def test_loss_by_level_of_a_zero_field_is_one(digits_run, monkeypatch):
    """sigma² ||z/sigma||² / D = 1 in expectation when the score is 0, at every level (4 standard errors)."""

    class Zero(torch.nn.Module):
        def forward(self, x, t, y=None):
            return torch.zeros_like(x)

    monkeypatch.setattr(type(digits_run), "load_model", lambda self: Zero())
    sigma, mean, error = loss_by_level(digits_run, digits_run.dataset.train_rows[:200], levels=5)
    assert ((mean - 1).abs() < 4 * error).all()
    assert sigma[0].item() == pytest.approx(digits_run.noise.sigma_min)
    assert sigma[-1].item() == pytest.approx(digits_run.noise.sigma_max)


def test_rows_go_to_json_and_back():
    """What is stored beside a run is what was measured."""
    row = Row("name", Estimate(1.5, 0.1, 10, (1.3, 1.7), "m"), Estimate(3.0, None, 5, None, "m"), "reading")
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
    assert math.isclose(row.to_json()["ratio"], 0.5)


def test_bad_requests_are_refused(vector_run, digits_run):
    """Too few samples, and vectors without held-out rows to judge by."""
    with pytest.raises(ValueError, match="count must be >= 100, got 5"):
        evaluate(digits_run, count=5)
    info = dataclasses.replace(vector_run.dataset.info, held_out=0)
    without = type(vector_run.dataset)(info, vector_run.dataset.x, None)
    planted = Planted(vector_run, torch.zeros(200, 2))
    planted.dataset = without
    with pytest.raises(ValueError, match="at least 8 held-out rows, got 0; hold out more, or give others"):
        evaluate(planted)


@pytest.fixture(
    scope="module", params=[("gaussian-mixture", 0.3), ("gaussian-mixture", 0.0), ("two-moons", 0.0)], ids=str
)
def one_law_run(request, tmp_path_factory):
    """A run of one law that has hardly begun, with the exact score of its law in scaled units."""
    data, sigma = request.param
    recipe = Recipe(data, steps=2, objective="sliced", sigma=sigma, mlp=MLPSize(8, 1), count=2000)
    run = trained(recipe, tmp_path_factory.mktemp("one-law") / "run")
    mean, scale = (torch.as_tensor(v) for v in (run.dataset.info.scaling.mean, run.dataset.info.scaling.scale))
    law = toy(data)

    def log_mixture(u):
        cs = law.covariances / (scale[:, None] * scale) + sigma**2 * torch.eye(2)
        parts = [
            torch.distributions.MultivariateNormal((m - mean) / scale, c) for m, c in zip(law.means, cs, strict=True)
        ]
        return torch.stack([w.log() + p.log_prob(u) for w, p in zip(law.weights, parts, strict=True)]).logsumexp(0)

    exact = score_of(log_mixture if data != "two-moons" else lambda u: law.log_density(mean + scale * u))
    return run, exact


def test_one_law_is_held_against_the_truth_of_its_own_blur(one_law_run):
    """The exact score of the law that was learned has Fisher divergence 0 to single precision; the begun run's not."""
    run, exact = one_law_run
    planted = Planted(run, run.sample(200, steps=5).x)
    planted.score = lambda x: exact(x.double())
    assert figures(planted)["Fisher divergence"].ratio < 1e-9
    begun = figures(Planted(run, planted._x))["Fisher divergence"]
    assert begun.ratio > 0.1 and f"at noise {run.sigma:.3g};" in begun.reading


def test_the_objective_of_one_law_stands_beside_its_value_on_training_rows(one_law_run):
    """Nearly a normal law's: half of D minus D, on held-out rows with their error and on training rows."""
    run, _ = one_law_run
    row = figures(Planted(run, run.sample(200, steps=5).x))["objective, held out"]
    expected = -1.0 + run.sigma**2  # k = 1 in k² (1 + sigma²) D/2 - k D, D = 2
    assert row.samples.n == len(run.dataset.held_out_rows) == 200 and row.real is None
    assert abs(row.samples.value - expected) < 5 * row.samples.standard_error + 0.1
    assert row.reading.startswith("sliced; -") and "on training rows" in row.reading


def test_a_run_of_levels_has_no_objective_to_show(vector_run):
    """Its loss depends on the levels drawn; the pictures of the demo show it level by level."""
    assert "objective, held out" not in figures(vector_run)
