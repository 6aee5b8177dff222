"""Tweedie's formula: James and Stein, Efron and Morris, and priors that a line cannot follow."""

import numpy as np
import pytest
import torch

from scorefield.densities import GaussianMixture
from scorefield.estimators.empirical_bayes import tweedie
from scorefield.estimators.kernels import KernelScore

Z = np.random.default_rng(0).normal(size=9) * 2 + 1


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_the_gaussian_case_is_james_and_stein():
    """About 0, about another point, about the mean (Lindley), and with a noise of another size."""
    close(tweedie(Z, 1.0, centre=0.0), (1 - 7 / (Z @ Z)) * Z)
    close(tweedie(Z, 0.5, centre=0.0), (1 - 7 * 0.25 / (Z @ Z)) * Z)
    close(tweedie(Z, 1.0, centre=2.0), 2 + (1 - 7 / ((Z - 2) @ (Z - 2))) * (Z - 2))
    apart = Z - Z.mean()
    close(tweedie(Z, 1.0), Z.mean() + (1 - 6 / (apart @ apart)) * apart)


def test_in_several_dimensions_it_is_efron_and_morris():
    r"""$z (I - (n - d - 1)\sigma^2 (z^\top z)^{-1})$ about 0; n - d - 2 about the mean."""
    z = np.random.default_rng(1).normal(size=(12, 3)) @ np.diag([1.0, 2.0, 5.0]) + 1
    close(tweedie(z, 1.5, centre=0.0), z - (12 - 3 - 1) * 2.25 * z @ np.linalg.inv(z.T @ z))
    apart = z - z.mean(0)
    close(tweedie(z, 1.5), z - (12 - 3 - 2) * 2.25 * apart @ np.linalg.inv(apart.T @ apart))


def test_factors_below_zero_can_be_cut():
    """Where the data spread less than the noise alone, the positive part is the centre itself."""
    z = np.array([0.1, -0.2, 0.05, 0.0, 0.12])
    assert (np.sign(tweedie(z, 1.0, centre=0.0)) == -np.sign(z)).all()
    close(tweedie(z, 1.0, centre=0.0, positive_part=True), np.zeros(5))
    close(tweedie(z / 2, 0.5, centre=0.0, positive_part=True), np.zeros(5))
    close(tweedie(Z, 0.5, positive_part=True), tweedie(Z, 0.5))


def test_the_risk_at_the_origin_is_two():
    r"""For $\mu = 0$ and n means James and Stein's risk is $2\sigma^2$ whatever n; 2,000 draws, 4 standard errors."""
    random = np.random.default_rng(2)
    losses = [np.square(tweedie(z, 1.0, centre=0.0)).sum() for z in random.normal(size=(2000, 10))]
    assert abs(np.mean(losses) - 2) < 4 * np.std(losses) / np.sqrt(2000)


def two_points(n=500):
    r"""Means $\pm 2.5$ seen with noise 1, and the law of what is seen."""
    random = np.random.default_rng(3)
    mu = np.where(random.random(n) < 0.5, -2.5, 2.5)
    return mu, mu + random.normal(size=n), GaussianMixture([0.5, 0.5], [[-2.5], [2.5]], [[[1.0]], [[1.0]]])


def test_the_score_of_the_true_marginal_gives_the_posterior_mean():
    r"""For means $\pm a$ it is $a \tanh(a z/\sigma^2)$."""
    _, z, law = two_points()
    found = tweedie(z, 1.0, marginal=lambda x: law.score(torch.from_numpy(x)).numpy())
    close(found, 2.5 * np.tanh(2.5 * z), 1e-10)


@pytest.mark.parametrize("marginal", ["kernel", "kernel-exponential-family", KernelScore(0.4)], ids=str)
def test_other_marginals_follow_two_clusters(marginal):
    """The regret over the posterior mean is a small part of what the line loses."""
    mu, z, _ = two_points()

    def loss(estimate):
        return np.square(estimate - mu).mean()

    best, line = loss(2.5 * np.tanh(2.5 * z)), loss(tweedie(z, 1.0))
    bent = loss(tweedie(z, 1.0, marginal=marginal, random_state=0))
    assert best < bent < best + 0.3 * (line - best)


def test_shapes_are_kept():
    """(n,) in, (n,) out; (n, 1) likewise."""
    assert tweedie(list(Z), 1.0).shape == (9,)
    close(tweedie(Z[:, None], 1.0)[:, 0], tweedie(Z, 1.0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tweedie(Z, -1.0), ValueError, "sigma must be a finite number > 0, got -1"),
        (lambda: tweedie(Z, 1e200), ValueError, r"sigma must lie in \[1e-100, 1e\+100\]"),
        (lambda: tweedie(Z, 1.0, centre=[0.0, 1.0]), ValueError, "centre must be .* a number or 1 of them"),
        (lambda: tweedie(Z, 1.0, centre=1e300), ValueError, "within 1e100, got 1e\\+300"),
        (lambda: tweedie(Z, np.ones(9)), ValueError, "divide z by its standard deviations"),
        (lambda: tweedie(Z[:3], 1.0), ValueError, "needs at least 4 rows for 1 columns, got 3"),
        (lambda: tweedie(np.ones(9), 1.0), ValueError, "all observations are equal"),
        (lambda: tweedie(np.c_[Z, 2 * Z], 1.0), ValueError, "lie in a subspace"),
        (lambda: tweedie(Z, 1.0, marginal="gausian"), ValueError, "did you mean 'gaussian'"),
        (lambda: tweedie(Z, 1.0, marginal=3), TypeError, "a name, an estimator or a score"),
        (lambda: tweedie(Z, 1.0, marginal=lambda x: x[:4]), ValueError, "must have the shape of z"),
        (lambda: tweedie(Z, 1.0, centre="median"), ValueError, 'centre must be "mean", a number'),
        (lambda: tweedie(np.r_[Z, np.nan], 1.0), ValueError, "NaN.\ntweedie does not accept missing values"),
    ],
)
def test_bad_input_gets_a_clear_error(call, error, message):
    with pytest.raises(error, match=message):
        call()
