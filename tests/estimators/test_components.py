"""Independent components: the objective by autodiff, known mixings, overcomplete populations, photographs, checks."""

import math
import warnings

import numpy as np
import pytest
import torch
from numpy.exceptions import RankWarning
from scipy.optimize import approx_fprime, brentq
from scipy.stats import kurtosis
from sklearn.datasets import load_sample_images
from sklearn.decomposition import FastICA
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.utils.estimator_checks import check_estimator

from scorefield.estimators.components import IndependentComponents, split, value_and_gradient, whitened
from scorefield.estimators.gaussian import standardise

LAWS = {"laplace": lambda rng, size: rng.laplace(size=size), "logistic": lambda rng, size: rng.logistic(size=size)}


def amari(product: np.ndarray) -> float:
    """Amari's distance of filters times mixing to a scaled permutation, in [0, 1]."""
    p, m = np.abs(product), len(product)
    return float(((p.sum(1) / p.max(1) - 1).sum() + (p.sum(0) / p.max(0) - 1).sum()) / (2 * m * (m - 1)))


def mixed(law: str, n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.geomspace(0.01, 100, d)[:, None]
    return LAWS[law](rng, (n, d)) @ mixing.T + 7.0, mixing


def test_the_objective_is_the_implicit_one():
    """J against ½|s|² + tr ∇s with both derivatives by autodiff, and its gradient against differences."""
    rng = np.random.default_rng(0)
    z, w, theta = rng.normal(size=(20, 3)), rng.uniform(size=20), rng.normal(size=5 * 4)
    w /= w.sum()
    filters, alphas = (torch.from_numpy(a) for a in split(theta, 5))

    def log_density(x):
        return -(alphas * torch.log(torch.cosh(filters @ x))).sum()

    rho = []
    for row in torch.from_numpy(z):
        s = torch.autograd.functional.jacobian(log_density, row)
        rho.append(float(s @ s / 2 + torch.autograd.functional.hessian(log_density, row).trace()))
    value, gradient = value_and_gradient(theta, z, w, 5)
    assert math.isclose(value, w @ rho, rel_tol=1e-12)
    assert np.abs(gradient - approx_fprime(theta, lambda at: value_and_gradient(at, z, w, 5)[0], 1e-7)).max() < 1e-5


@pytest.mark.parametrize("law", ["laplace", "logistic"])
def test_a_known_mixing_is_found(law):
    """5 columns of very different units, 5,000 rows: Amari's distance below 0.06, and not twice FastICA's."""
    x, mixing = mixed(law, 5000, 5, 0)
    fit = IndependentComponents().fit(x)
    fast = FastICA(whiten="unit-variance", random_state=0, tol=1e-6, max_iter=1000).fit(x)
    ours, theirs = amari(fit.filters_ @ mixing), amari(fast.components_ @ mixing)
    assert ours < (0.03 if law == "laplace" else 0.06)
    assert ours < 2 * theirs
    assert np.allclose(fit.transform(x) @ fit.mixing_.T + fit.mean_, x)


def test_the_error_falls_with_the_rows():
    """At the rate n^-1/2: 16 times the rows, a fourth of the distance (mean of 6 sets each, between 0.15 and 0.4)."""
    errors = [
        np.mean(
            [
                amari(IndependentComponents().fit(x).filters_ @ m)
                for x, m in (mixed("laplace", n, 3, s) for s in range(6))
            ]
        )
        for n in (500, 8000)
    ]
    assert 0.15 < errors[1] / errors[0] < 0.4


def test_the_units_do_not_matter():
    x, _ = mixed("laplace", 800, 3, 1)
    one, two = (
        IndependentComponents().fit(x),
        IndependentComponents().fit(x * [1e-200, 1.0, 1e150] - 3.0 * np.array([0, 1, 0])),
    )
    assert np.allclose(one.transform(x), two.transform(x * [1e-200, 1.0, 1e150] - 3.0 * np.array([0, 1, 0])), atol=1e-6)


@pytest.mark.parametrize("m", [3, 4])
def test_the_population_minimiser_is_the_truth_with_more_components_than_columns(m):
    """m filters evenly around the circle, alpha for variance 1; nodes of a grid as X, the density as weights."""
    side = np.linspace(-12, 12, 97)
    z = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    angles = 0.3 + np.pi * np.arange(m) / m
    u = z @ np.stack([np.cos(angles), np.sin(angles)])

    def law(alpha):
        p = np.exp(-alpha * np.logaddexp(u, -u).sum(1) + alpha * m * math.log(2))
        return p / p.sum()

    alpha = brentq(lambda a: law(a) @ z[:, 0] ** 2 - 1, 0.3, 5)
    fit = IndependentComponents(n_components=m, restarts=3, tol=1e-9).fit(z, sample_weight=law(alpha))
    found = np.sort(np.arctan2(fit.filters_[:, 1], fit.filters_[:, 0]) % np.pi)
    assert np.abs(found - angles).max() < 1e-3
    assert np.abs(fit.alphas_ - alpha).max() < 1e-3 * alpha


def test_whitened_rows_are_uncorrelated_with_variance_one():
    x, _ = mixed("laplace", 400, 4, 3)
    w = np.random.default_rng(0).uniform(size=400)
    w /= w.sum()
    z = standardise(x, w)[0]
    white = z @ whitened(z, w, 3).T
    assert np.allclose((white * w[:, None]).T @ white, np.eye(3), atol=1e-12)


def test_photographs_have_sparse_components():
    """8 x 8 patches of the two photographs: the responses are heavier-tailed than those of principal directions."""
    images = [image.mean(2) for image in load_sample_images().images]
    patches = np.concatenate([extract_patches_2d(i, (8, 8), max_patches=1500, random_state=0) for i in images]).reshape(
        -1, 64
    )
    x = patches - patches.mean(1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 40 iterations do not end it
        fit = IndependentComponents(rank=16, max_iter=40).fit(x)
    assert fit.filters_.shape == (16, 64)
    _, _, directions = np.linalg.svd((x - x.mean(0)) / x.std(0), full_matrices=False)
    principal = (x / x.std(0)) @ directions[:16].T
    assert np.median(kurtosis(fit.transform(x))) > 1.5 * np.median(kurtosis(principal))


def test_what_is_fitted_has_its_own_score():
    """Score and objective in the units of the data, by differences of the log-density; samples keep the covariance."""
    x, _ = mixed("laplace", 3000, 3, 2)
    fit = IndependentComponents().fit(x)
    row, steps = x[:1], x.std(0) * 1e-4
    moved = [(fit.log_density(row + h)[0], fit.log_density(row - h)[0]) for h in np.diag(steps)]
    here = fit.log_density(row)[0]
    s = np.array([(a - b) / 2 for a, b in moved]) / steps
    trace = (np.array([a + b - 2 * here for a, b in moved]) / steps**2).sum()
    assert np.allclose(fit.score_function(row)[0], s, rtol=1e-5)
    assert math.isclose(fit.score(row), -(s @ s / 2 + trace), rel_tol=1e-4)
    u = fit.transform(fit.sample(2000, random_state=0))
    assert np.abs(u.mean(0)).max() < 4 * u.std() / math.sqrt(2000 / 10)  # at least a tenth of the draws is independent
    assert np.abs(u.std(0) / fit.transform(x).std(0) - 1).max() < 0.5


def test_bad_settings_say_what_to_do():
    x, _ = mixed("laplace", 100, 3, 0)
    assert IndependentComponents(n_components=2).fit(x).rank_ == 2
    with pytest.raises(ValueError, match="rank must be at most 3"):
        IndependentComponents(rank=4).fit(x)
    with pytest.warns(RankWarning, match="3 columns have rank 2 on these 100 rows.*give that rank"):
        assert IndependentComponents().fit(x[:, [0, 1, 1]]).rank_ == 2
    with pytest.raises(ValueError, match="the filters overflow in float64; rescale"):
        IndependentComponents().fit(x * 1e-316)
    fit = IndependentComponents(rank=2).fit(x[:, :2] * 1e-200)
    with pytest.raises(ValueError, match="the objective overflows in float64; rescale"):
        fit.score(x[:, :2] * 1e-200)
    with pytest.raises(ValueError, match="all columns of X are constant"):
        IndependentComponents().fit(np.ones((5, 2)))
    with pytest.warns(UserWarning, match="not converged in 2 iterations"):
        IndependentComponents(max_iter=2).fit(x)


def test_scikit_learns_checks_pass():
    """No expected failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(IndependentComponents(max_iter=15), on_fail=None)
    failed = [(r["check_name"], r["exception"]) for r in found if r["status"] not in ("passed", "skipped")]
    assert not failed, failed
