"""`ScoreDensity`: closed forms where the network is silent, what it learns where it is not, frames, folders, checks."""

import copy
import math
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from scorefield.cli import main
from scorefield.data import Scaling
from scorefield.densities import Gaussian
from scorefield.guidance import masked
from scorefield.neural import ScoreDensity
from scorefield.neural.coordinates import decorrelated
from scorefield.neural.imputing import impute
from scorefield.neural.search import resample, same_rates, trial
from scorefield.neural.tables import Frame
from scorefield.noise import VE
from scorefield.runs import Run
from scorefield.runs.restoring import restore
from scorefield.settings import MLPSize, Recipe, TrainSettings
from scorefield.training.loop import learning_rate

SILENT = {"steps": 1, "learning_rate": 1e-12, "width": 8, "depth": 1, "batch_size": 8}  # the network stays at zero
TINY = {"steps": 3, "decorrelate": 0.0, "width": 8, "depth": 1, "batch_size": 16}


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


def test_score_function_at_a_level_is_that_of_noised_rows(silent):
    """For a normal law N(m, N) and noise sigma² N: -N^-1 (x - m)/(1 + sigma²); outside of the levels it is refused."""
    fit, x, law = silent
    for sigma in (0.5, 2.0):
        expected = -np.linalg.solve(fit.noise_covariance_, (x - law.mean).T).T / (1 + sigma**2)
        assert np.allclose(fit.score_function(x, sigma), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max(0))
    with pytest.raises(ValueError, match="sigma must lie in"):
        fit.score_function(x, 1e6)


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
        assert np.allclose(fit.denoise(x, sigma), expected, rtol=0, atol=1e-9 * x.std(0).min())
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
    """At p = 1 noise has the shrunk covariance of the data, at p = 0 its diagonal; every column has variance 1."""
    x = correlated(2000)
    w = np.full(2000, 1 / 2000)
    full, half, none = (decorrelated(x, w, p) for p in (1.0, 0.5, 0.0))
    assert np.allclose(np.cov(full.apply(x).T, bias=True), np.eye(3), atol=0.02)  # but for the shrinkage
    assert np.allclose(none.apply(x), (x - x.mean(0)) / x.std(0), atol=1e-6)
    assert none.root is None
    for scaling in (full, half):
        assert np.allclose(scaling.apply(x).double().std(0, correction=0), 1, atol=1e-6)


def test_the_folder_itself_knows_the_units(tmp_path):
    """On the command line, 2,000 samples of a saved table with correlations above 0.9 have its mean and covariance.

    Within 4 standard errors and 2 % of steps and shrinkage. `likelihood` is `score_samples` to the last bit.
    """
    x = correlated()
    fit = ScoreDensity(decorrelate=1.0, **SILENT).fit(pd.DataFrame(x, columns=["a", "b", "c"]))
    run, drawn, nats = str(fit.save(tmp_path / "run")), tmp_path / "drawn.npz", tmp_path / "nats.npz"
    assert main(["sample", run, "-n", "2000", "-o", str(drawn)]) == 0
    with np.load(drawn) as found:
        z = (found["x"] - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
        assert found["columns"].tolist() == ["a", "b", "c"]
    assert np.abs(z.mean(0)).max() < 4 / math.sqrt(2000)
    assert np.abs(np.cov(z.T) - np.eye(3)).max() < 4 * math.sqrt(2 / 2000) + 0.02
    np.save(tmp_path / "rows.npy", x[:30])
    assert main(["likelihood", run, str(tmp_path / "rows.npy"), "-o", str(nats)]) == 0
    with np.load(nats) as found:
        assert np.array_equal(found["nats"], fit.score_samples(pd.DataFrame(x[:30], columns=["a", "b", "c"])))
    stored = Run.open(run)
    assert stored.recipe.data == stored.dataset.info.source == "rows given to ScoreDensity.fit"
    assert np.array_equal(stored.dataset.x, x)


def test_restore_undoes_the_mixing_of_columns(silent):
    """x1 unknown in a run of a normal law, at p = 0, ½, 1: the closed form, within 4 standard errors of 200 draws."""
    fit, x, law = silent
    known = np.array([True, False, True])
    found = restore(fit.run_, np.where(known, x[0], 0), masked(torch.from_numpy(known)), n=200)
    mean, variance = conditional(law, x[0], known)
    assert np.allclose(found.draws[:, known], x[0, known], rtol=0, atol=0.02 * x.std(0)[known])
    assert abs(found.mean[1] - mean[0]) < 4 / math.sqrt(200) * math.sqrt(variance[0, 0]) + 0.02 * x.std(0)[1]


def conditional(law, row: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the unknown columns of a normal law given the known ones."""
    covariance = law.cov_object.covariance
    gain = covariance[np.ix_(~known, known)] @ np.linalg.inv(covariance[np.ix_(known, known)])
    mean = law.mean[~known] + gain @ (row[known] - law.mean[known])
    return mean, covariance[np.ix_(~known, ~known)] - gain @ covariance[np.ix_(known, ~known)]


def check_moments(drawn: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> None:
    """Mean and covariance within 4 standard errors, and 3 % for the steps and for the blur that Tweedie takes away."""
    n, z = len(drawn), (drawn - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert np.abs(z.mean(0)).max() < 4 / math.sqrt(n) + 0.03
    assert np.abs(np.cov(z.T) - np.eye(len(mean))).max() < 4 * math.sqrt(2 / n) + 0.03


@pytest.mark.parametrize("known", [[True, False, False], [False, True, True]])
def test_imputed_values_follow_the_conditional_law(silent, known):
    """Where the network is silent the law is normal in the units of the data: the conditional law in closed form."""
    fit, x, law = silent
    known, n = np.array(known), 1000
    gaps = np.where(known, x[0], np.nan)
    drawn = fit.impute(np.repeat(gaps[None], n, 0), random_state=1)
    assert np.array_equal(drawn[:, known], np.repeat(x[:1, known], n, 0))
    check_moments(drawn[:, ~known], *conditional(law, x[0], known))


@pytest.mark.parametrize("root", [None, np.array([[1.0, -0.6, 0.0], [0.3, 0.8, 0.2], [0.0, 0.5, 1.1]])])
def test_imputing_with_an_exact_score_is_exact_for_normal_laws(root):
    """Columns that are correlated in the learned coordinates, with the exact score put in the network's place."""
    x = correlated()
    law, scaling = multivariate_normal(x.mean(0), np.cov(x.T, bias=True)), Scaling(x.mean(0), x.std(0), root)
    mixing = (np.eye(3) if root is None else root) / scaling.scale
    exact = Gaussian(np.zeros(3), mixing @ law.cov_object.covariance @ mixing.T)
    known, noise = np.array([True, True, False]), VE(0.005, 20.0)
    rows = np.repeat(np.where(known, x[0], np.nan)[None], 1000, 0)
    drawn = impute(exact.noisy_score(noise), noise, scaling, rows, seed=2)
    check_moments(drawn[:, ~known], *conditional(law, x[0], known))


def test_imputing_leaves_alone_what_is_whole(silent):
    fit, x, _ = silent
    whole = fit.impute(x[:4])
    assert np.array_equal(whole, x[:4])
    assert not np.shares_memory(whole, x)
    gaps = np.where(np.eye(4, 3) > 0, np.nan, x[:4])
    drawn = fit.impute(gaps, n_draws=3, random_state=5)
    assert drawn.shape == (3, 4, 3)
    assert np.array_equal(drawn[:, 3], np.repeat(x[None, 3], 3, 0))
    assert len(np.unique(drawn[:, 0, 0])) == 3
    assert np.array_equal(drawn, fit.impute(gaps, n_draws=3, random_state=5))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1.0, 2.0, 3.0], [math.nan] * 3], "row 1 of X misses every value"),
        ([[1.0, math.nan]], "2 features, but ScoreDensity is expecting 3"),
        ([[1.0, math.inf, math.nan]], "infinity"),
    ],
)
def test_what_cannot_be_imputed_says_why(silent, rows, said):
    with pytest.raises(ValueError, match=said):
        silent[0].impute(np.array(rows))
    with pytest.raises(ValueError, match="n_draws must be >= 1"):
        silent[0].impute(np.zeros((1, 3)), n_draws=0)


def test_a_row_has_the_same_log_density_in_any_company(silent):
    fit, x, _ = silent
    alone = np.array([fit.score_samples(row[None])[0] for row in x[:3]])
    assert np.allclose(fit.score_samples(np.vstack([x[:3], 50 * x[3:150]]))[:3], alone, rtol=1e-12)


@pytest.fixture(scope="module")
def mixture():
    """Two clusters, weights 0.3 and 0.7, and a fit to 800 rows of them."""
    rng = np.random.default_rng(0)
    left = rng.uniform(size=1300) < 0.3
    x = np.where(left, rng.normal(-3, 0.5, 1300), rng.normal(2, 1.0, 1300))[:, None]
    return ScoreDensity(steps=500, width=64).fit(x[:800]), x[800:]


def test_what_is_learned_is_a_density(mixture):
    """It integrates to 1, by the trapezoid rule on a grid that holds all of it."""
    fit, _ = mixture
    grid = np.linspace(-8, 8, 201)[:, None]
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


def test_missing_categories_are_drawn(categorical):
    """Known values stay, missing ones become categories that were seen, in their shares (4 standard errors, 0.05)."""
    table = frame()
    gaps = table.assign(
        colour=table["colour"].where(np.arange(200) % 2 == 1),
        length=table["length"].where(np.arange(200) % 4 > 0),
        size=table["size"].where(np.arange(200) != 0),
    )
    one, two = categorical.impute(gaps, n_draws=2, random_state=0)
    known = gaps.notna()
    for name in table:
        kept = known[name]
        assert (one[name].astype(str) == table[name].astype(str))[kept].all()
        assert one[name].notna().all()
    assert not one.equals(two)
    share = (one["colour"][::2] == "red").mean()
    assert abs(share - (table["colour"] == "red").mean()) < 4 * math.sqrt(0.24 * (1 / 100 + 1 / 200)) + 0.05
    with pytest.raises(ValueError, match="must hold categories seen in fit"):
        categorical.impute(gaps.assign(colour="pink"))


def test_the_command_line_names_the_columns_of_categories(tmp_path, categorical):
    run, drawn = categorical.save(tmp_path / "run"), tmp_path / "drawn.npz"
    assert main(["sample", str(run), "-n", "20", "-o", str(drawn)]) == 0
    with np.load(drawn) as found:
        assert found["columns"].tolist() == categorical.get_feature_names_out().tolist()
        assert abs(found["x"][:, 1:4].sum(1).mean() - 1) < 0.2


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
    (path / "estimator.json").write_text('{"coordinates": {}}')
    with pytest.raises(ValueError, match="of an earlier scorefield"):
        ScoreDensity.load(path)
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
    nats = fit.score_samples(x[:1])
    assert np.allclose(nats, norm.logpdf(x[:1].astype(float), x.mean(), x.std()).sum((1, 2)), rtol=0.1)
    assert fit.noise_covariance_.shape == ()
    gaps = np.where(np.arange(8)[:, None] < 4, x[:2], np.nan)
    filled = fit.impute(gaps, random_state=0)
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[:, 0, :4], x[:2, :4])
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
        (pd.DataFrame({"a": ["x", "y"] * 5, "b": [math.nan] * 10}), "NaN.\nScoreDensity does not accept missing"),
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


def test_scikit_learns_checks_pass():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(ScoreDensity(**TINY), on_fail=None)
    assert [r["check_name"] for r in found if r["status"] not in ("passed", "skipped")] == []
