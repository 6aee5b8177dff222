"""`ScoreDensity`: closed forms where the network is silent, what it learns where it is not, frames, folders, checks."""

import copy
import math
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from scorefield.neural import ScoreDensity
from scorefield.neural.coordinates import Coordinates
from scorefield.neural.search import resample, same_rates, trial
from scorefield.neural.tables import Frame
from scorefield.runs import Run
from scorefield.settings import MLPSize, Recipe, TrainSettings
from scorefield.training.loop import learning_rate

SILENT = {"steps": 1, "learning_rate": 1e-12, "width": 8, "depth": 1, "batch_size": 8}  # the network stays at zero
TINY = {"steps": 3, "decorrelate": 0.0, "width": 8, "depth": 1, "batch_size": 16}

EXPECTED = {
    "check_methods_subset_invariance": "the steps of the probability flow are chosen for up to 100 rows together, so "
    "that a row's log-density depends on the others within the tolerance of the flow, 1e-4",
}


def correlated(n: int = 300, seed: int = 0) -> np.ndarray:
    """Three columns of different units, far from the origin."""
    mix = np.array([[1.0, 0.0, 0.0], [60.0, 30.0, 0.0], [0.1, -0.2, 0.1]])
    return np.random.default_rng(seed).normal(size=(n, 3)) @ mix.T + [5.0, -300.0, 0.1]


@pytest.fixture(scope="module", params=[0.0, 0.5, 1.0])
def silent(request):
    """A fit whose network is zero: its law is normal, with the covariance (1 + sigma²) N."""
    x = correlated()
    fit = ScoreDensity(decorrelate=request.param, **SILENT).fit(x)
    sigma = fit.noise_range_[0]
    return fit, x, multivariate_normal(x.mean(0), (1 + sigma**2) * fit.noise_covariance_)


def test_log_density_is_in_the_units_of_the_data(silent):
    """Against scipy's normal law; the flow's tolerance is 1e-4."""
    fit, x, law = silent
    assert np.abs(fit.score_samples(x[:20]) - law.logpdf(x[:20])).max() < 5e-3
    assert np.array_equal(fit.log_density(x[:20]), fit.score_samples(x[:20]))


def test_score_function_is_the_gradient_in_the_units_of_the_data(silent):
    """-Sigma^-1 (x - m), to the float32 precision of what training left in the head."""
    fit, x, law = silent
    expected = -np.linalg.solve(law.cov_object.covariance, (x - law.mean).T).T
    assert np.allclose(fit.score_function(x), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max(0))


def test_score_is_minus_the_implicit_objective(silent):
    fit, x, law = silent
    precision = np.linalg.inv(law.cov_object.covariance)
    s = (x - law.mean) @ precision
    w = np.random.default_rng(1).uniform(size=len(x))
    expected = -(w / w.sum()) @ ((s**2).sum(1) / 2 - np.trace(precision))
    assert math.isclose(fit.score(x, sample_weight=w), expected, rel_tol=1e-6)


def test_denoise_is_the_posterior_mean(silent):
    """For a normal law N(m, N) and noise sigma² N: m + (x - m)/(1 + sigma²)."""
    fit, x, law = silent
    for sigma in (fit.noise_range_[0], 0.5, 2.0):
        expected = law.mean + (x - law.mean) / (1 + sigma**2)
        assert np.allclose(fit.denoise(x, sigma), expected, rtol=0, atol=1e-5 * x.std(0).max())
    with pytest.raises(ValueError, match="sigma must lie in"):
        fit.denoise(x, 1e3)


def test_samples_have_the_moments_of_the_law(silent):
    """4,000 draws with the last blur removed: mean and covariance within 4 standard errors and 2 % of steps."""
    fit, _, law = silent
    drawn = fit.sample(4000, random_state=3)
    z = (drawn - law.mean) @ np.linalg.inv(np.linalg.cholesky(fit.noise_covariance_)).T
    assert np.abs(z.mean(0)).max() < 4 / math.sqrt(4000)
    assert np.abs(np.cov(z.T) - np.eye(3)).max() < 4 * math.sqrt(2 / 4000) + 0.02
    assert np.array_equal(fit.sample(5, random_state=3), drawn[:5])


def test_decorrelated_columns_follow_the_correlations():
    """At p = 1 noise has the shrunk covariance of the data, at p = 0 its diagonal."""
    x = correlated(2000)
    w = np.full(2000, 1 / 2000)
    full, none = (Coordinates.of(x, w, p) for p in (1.0, 0.0))
    assert np.allclose(np.cov(full.apply(x).T, bias=True), np.eye(3), atol=0.02)  # but for the shrinkage
    assert np.allclose(none.apply(x), (x - x.mean(0)) / x.std(0))
    for c in (full, none):
        assert np.allclose(c.undo(c.apply(x)), x, rtol=1e-12)
        volume = np.linalg.slogdet((c.apply(x[1:4]) - c.apply(x[:1])) @ np.linalg.inv(x[1:4] - x[:1]))[1]
        assert math.isclose(c.log_volume, volume, rel_tol=1e-9)


@pytest.fixture(scope="module")
def mixture():
    """Two clusters, weights 0.3 and 0.7, and a fit to 800 rows of them."""
    rng = np.random.default_rng(0)
    left = rng.uniform(size=1300) < 0.3
    x = np.where(left, rng.normal(-3, 0.5, 1300), rng.normal(2, 1.0, 1300))[:, None]
    return ScoreDensity(steps=500).fit(x[:800]), x[800:]


def test_what_is_learned_is_a_density(mixture):
    """It integrates to 1, by the trapezoid rule on a grid that holds all of it."""
    fit, _ = mixture
    grid = np.linspace(-8, 8, 401)[:, None]
    assert abs(np.trapezoid(np.exp(fit.score_samples(grid)), grid[:, 0]) - 1) < 0.01


def test_two_clusters_are_learned(mixture):
    """Held-out log-density within 0.1 nats of the truth's, where one normal law loses 0.4 and more."""
    fit, x = mixture
    truth = np.log(0.3 * norm.pdf(x[:, 0], -3, 0.5) + 0.7 * norm.pdf(x[:, 0], 2, 1.0)).mean()
    assert fit.score_samples(x).mean() > truth - 0.1
    assert norm.logpdf(x[:, 0], x.mean(), x.std()).mean() < truth - 0.4
    drawn = fit.sample(1000, random_state=0)
    assert abs((drawn < -0.5).mean() - 0.3) < 4 * math.sqrt(0.21 * (1 / 1000 + 1 / 800))


def test_noise_is_left_alone():
    """60 rows of normal noise: the training ends early, and what comes is no worse than one normal law by 0.3 nats."""
    x = np.random.default_rng(1).normal(size=(60, 4))
    fit = ScoreDensity(width=32, depth=2, batch_size=64, decorrelate=0.0).fit(x)
    fresh = np.random.default_rng(2).normal(size=(100, 4))
    best = norm.logpdf(fresh).sum(1).mean()
    gaussian = multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(fresh).mean()
    assert fit.steps_ < 400
    assert gaussian - 0.3 < fit.score_samples(fresh).mean() < best


def test_the_coordinates_are_chosen_by_the_held_out_rows():
    """Two columns that are nearly one, spread 0.002 apart: only p = 1 sees what is between them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1)) + 0.001 * rng.normal(size=(200, 2))
    fit = ScoreDensity(steps=20, width=16, depth=1, batch_size=64).fit(x)
    assert fit.decorrelate_ == 1.0
    truth = multivariate_normal([0, 0], np.ones((2, 2)) + 1e-6 * np.eye(2)).logpdf(x).mean()
    assert abs(fit.score_samples(x).mean() - truth) < 0.2


def test_a_trial_tells_the_density_of_the_held_out_rows(tmp_path):
    """Of a silent network: the normal law of its rows, in their units, within the 1 % of its few steps."""
    rng, w = np.random.default_rng(0), np.repeat([0.03, 0.01], 25)
    rows, held = rng.normal(size=(100, 2)) * [20, 0.1], rng.normal(size=(50, 2)) * [20, 0.1]
    size = {"batch_size": 8, "mlp": MLPSize(8, 1), "held_out": 0.0, "precision": "fp32"}
    recipe = Recipe("", steps=1, learning_rate=1e-12, **size)
    found = trial(recipe, tmp_path / "run", rows, held, w, early=True)
    expected = w @ norm.logpdf(held, rows.mean(0), rows.std(0)).sum(1)
    assert abs(found.log_density - expected) < 0.03
    assert found.steps == same_rates(1, 1) == 1


@pytest.mark.parametrize("steps", [1, 300, 1000, 1500, 2000])
def test_a_whole_run_has_the_rates_of_a_part(steps):
    """`same_rates` against the sum of the trainer's own learning rates (warm-up aside), within 1 %."""
    most = TrainSettings(steps=2000, warmup=0)
    part = sum(learning_rate(most, k) for k in range(steps))
    whole = TrainSettings(steps=same_rates(steps, 2000), warmup=0)
    total = sum(learning_rate(whole, k) for k in range(whole.steps))
    assert abs(total - part) < 0.01 * part + most.learning_rate


def test_weights_draw_rows_in_proportion():
    """A row of share w comes 4 n w times, up to rounding; equal weights leave the rows as they are."""
    x, w = np.arange(50.0)[:, None], np.random.default_rng(0).uniform(size=50)
    w /= w.sum()
    drawn = resample(x, w, np.random.RandomState(0))
    counts = np.bincount(drawn[:, 0].astype(int), minlength=50)
    assert np.abs(counts - 200 * w).max() < 1 + 1e-9
    assert resample(x, np.full(50, 1 / 50), np.random.RandomState(0)) is x


def test_weights_move_the_law():
    """Weight 0 leaves rows out; weights 3 to 1 move the mean of a silent fit."""
    x = correlated(200)
    w = np.repeat([3.0, 1.0, 0.0], [80, 80, 40])
    fit = ScoreDensity(decorrelate=0.0, **SILENT).fit(x, sample_weight=w)
    mean = np.average(x, axis=0, weights=w)
    centre = fit.denoise(mean[None], 1.0)[0]  # the mean of the law is the fixed point, up to the rounding of counts
    assert np.abs((centre - mean) / x.std(0)).max() < 0.01
    with pytest.raises(ValueError, match="must be >= 0"):
        fit.fit(x, sample_weight=-w)


def frame(n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    colour = rng.choice(["red", "green", "blue"], size=n, p=[0.6, 0.3, 0.1])
    size = pd.Categorical(rng.choice([38, 40, 42], size=n), categories=[38, 40, 42])
    return pd.DataFrame(
        {
            "length": rng.normal(10, 2, n) + (colour == "red"),
            "colour": colour,
            "new": rng.uniform(size=n) < 0.5,
            "size": size,
        }
    )


def test_a_frame_comes_back_as_it_was():
    """Encoded and decoded: names, categories, truth values and numbers."""
    table = frame()
    how = Frame.of(table)
    x = how.encode(table)
    assert how.names == [
        *["length", "colour=blue", "colour=green", "colour=red"],
        *["new=False", "new=True", "size=38", "size=40", "size=42"],
    ]
    assert np.array_equal(x[:, 1:4].sum(1), np.ones(200))
    back = Frame.from_json(how.to_json()).decode(x + np.random.default_rng(1).uniform(0, 0.4, x.shape) * how.one_hot)
    pd.testing.assert_frame_equal(back, table, check_dtype=False, check_categorical=False)
    assert back["new"].dtype == bool
    assert back["size"].dtype == "category"
    assert Frame.of(table[["length"]]) is None


@pytest.fixture(scope="module")
def categorical():
    return ScoreDensity(steps=300, decorrelate=0.0, width=32, depth=2, batch_size=64).fit(frame())


def test_categories_are_learned(categorical):
    """Shares of categories within 0.12 (4 standard errors of 400 draws are 0.1), and the number that goes with one."""
    drawn, table = categorical.sample(400, random_state=0), frame()
    assert list(drawn.columns) == list(table.columns)
    for name in ("colour", "new", "size"):
        shares = [t[name].astype(str).value_counts(normalize=True) for t in (drawn, table)]
        assert (shares[0] - shares[1]).abs().fillna(1).max() < 0.12
    assert categorical.score_function(table).shape == (200, 9)
    assert len(categorical.get_feature_names_out()) == 9


def test_one_hot_columns_have_no_density(categorical):
    table = frame()
    for call in (categorical.score_samples, categorical.log_density, categorical.score):
        with pytest.raises(ValueError, match=r"dequantise=True.*leave out the columns colour, new, size"):
            call(table)
    with pytest.raises(ValueError, match="cannot carry normal noise"):
        categorical.denoise(table, 0.5)
    with pytest.raises(ValueError, match=r"column 'colour' must hold categories seen in fit.*got 'pink' in row 2"):
        categorical.score_function(table.assign(colour=["red", "blue", "pink"] + ["red"] * 197))
    fit = ScoreDensity(dequantise=True, **TINY).fit(table)
    assert np.array_equal(fit.score_samples(table[:9]), fit.score_samples(table[:9]))
    assert np.isfinite(fit.score(table))


def test_folders_and_pickles_hold_the_whole_estimator(tmp_path, categorical):
    x = correlated(60)
    fit = ScoreDensity(**{**TINY, "decorrelate": 0.5}).fit(pd.DataFrame(x, columns=["a", "b", "c"]))
    rows = pd.DataFrame(x[:5], columns=["a", "b", "c"])
    expected = fit.score_samples(rows)
    path = fit.save(tmp_path / "kept")
    assert Run.open(path).finished
    for other in (ScoreDensity.load(path), pickle.loads(pickle.dumps(fit)), copy.deepcopy(fit)):
        assert np.array_equal(other.score_samples(rows), expected)
        assert list(other.feature_names_in_) == ["a", "b", "c"]
        assert np.array_equal(other.sample(3, 0), fit.sample(3, 0))
        assert other.noise_range_ == fit.noise_range_
    with pytest.raises(ValueError, match="choose another"):
        fit.save(path)
    again = ScoreDensity.load(categorical.save(tmp_path / "frame"))
    pd.testing.assert_frame_equal(again.sample(5, 1), categorical.sample(5, 1))
    (path / "estimator.json").unlink()
    with pytest.raises(ValueError, match="not written by ScoreDensity.save"):
        ScoreDensity.load(path)


def test_the_seed_decides_everything():
    x = correlated(60)
    one, two, other = (ScoreDensity(**TINY, random_state=s).fit(x).score_samples(x[:4]) for s in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_images_are_learned_as_images():
    """(n, H, W) gains its channel; bytes are taken as they are; a score has the shape of the images."""
    x = np.random.default_rng(0).integers(0, 256, size=(40, 8, 8)).astype(np.uint8)
    fit = ScoreDensity(steps=2, width=8, batch_size=8).fit(x)
    assert fit.shape_ == (1, 8, 8)
    assert fit.sample(3, 0).shape == (3, 1, 8, 8)
    assert fit.score_function(x[:2]).shape == (2, 1, 8, 8)
    assert fit.denoise(x[:2], 0.5).shape == (2, 1, 8, 8)
    nats = fit.score_samples(x[:2])
    assert np.allclose(nats, norm.logpdf(x[:2].astype(float), x.mean(), x.std()).sum((1, 2)), rtol=0.1)
    assert fit.noise_covariance_.shape == ()
    with pytest.raises(ValueError, match=r"rows of shape \(1, 8, 8\)"):
        fit.score_function(x[:2, :, :4])


def test_pipelines_and_searches():
    x = correlated(80)
    piped = make_pipeline(StandardScaler(), ScoreDensity(**TINY)).fit(x)
    assert piped.score_samples(x[:3]).shape == (3,)
    search = GridSearchCV(ScoreDensity(**TINY), {"width": [4, 8]}, cv=2).fit(x)
    assert search.best_params_["width"] in (4, 8)
    assert clone(search.best_estimator_).get_params()["steps"] == 3


def test_scales_far_out_end_in_a_fit_or_an_error():
    """1e-300 and 1e300 are units like any other; what overflows says so."""
    x = correlated(40)
    nats = ScoreDensity(**TINY).fit(x).score_samples(x[:3])
    for unit in (1e-300, 1e300):
        fit = ScoreDensity(**TINY).fit(x * unit)
        assert np.allclose(fit.score_samples(x[:3] * unit), nats - 3 * math.log(unit), atol=0.01)
    with pytest.raises(ValueError, match="rescale the columns"):
        ScoreDensity(**TINY).fit(x * 1e-300).score(x * 1e-300)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((20, 2)), "column 'x1' is constant"),
        (correlated(50)[:, [0, 1, 1]], "columns x2, x3 are linear functions of each other"),
        (correlated(4), "minimum of 5 is required"),
        (np.array([["a", 1], ["b", 2]], dtype=object), "drop or encode its text columns"),
        (pd.DataFrame({"a": ["x", None] * 5, "b": range(10)}), "column 'a' must not miss values, got 5"),
        (pd.DataFrame({"a": ["x", "y"] * 5, "b": [math.nan] * 10}), "NaN"),
        (np.full((20, 2), np.inf), "infinity"),
    ],
)
def test_bad_data_say_what_to_do(x, said):
    with pytest.raises(ValueError, match=said):
        ScoreDensity(**TINY).fit(x)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"held_out": 1.0}, "held_out must lie in"),
        ({"decorrelate": 2.0}, "decorrelate must lie in"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"steps": 0}, "steps must be >= 1"),
    ],
)
def test_bad_settings_are_named(setting, said):
    with pytest.raises(ValueError, match=said):
        ScoreDensity(**setting).fit(correlated(20))


def test_scikit_learns_checks_pass_but_one():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(ScoreDensity(**TINY), on_fail=None, expected_failed_checks=EXPECTED)
    status = {r["check_name"]: r["status"] for r in found}
    assert [name for name, s in status.items() if s not in ("passed", "skipped", "xfail")] == []
    assert status["check_methods_subset_invariance"] == "xfail"
