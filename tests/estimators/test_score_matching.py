"""`ScoreMatching` of modules and energies: the closed forms again, its solvers, its three objectives."""

import numpy as np
import pytest
import torch
from laws import MEAN, PRECISION, disc, gaussian, legendre, product
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from scorefield.estimators import ExponentialFamily, Gaussian, ScoreMatching
from scorefield.estimators.minimising import newton
from scorefield.fields import EnergyModel


def data(n=300, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2)) @ [[1, 0.5], [0, 1]] + 1


class Quartic(nn.Module):
    """log p = a x - exp(b) x^4 / 4 summed over columns, by its log-density or its score."""

    def __init__(self, gives):
        super().__init__()
        self.gives = gives
        self.a = nn.Parameter(torch.tensor(0.1))
        self.b = nn.Parameter(torch.zeros(1))
        self.kept = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x):
        return (
            (self.a * x - self.b.exp() * x**4 / 4).sum(1) if self.gives == "density" else self.a - self.b.exp() * x**3
        )


@pytest.mark.parametrize("gives", ["density", "score", "method"])
def test_modules_by_log_density_by_score_and_by_method_agree_with_the_closed_form(gives):
    """The quartic with exp(b) in place of a coefficient: theta_4 = -exp(b) / 4, and its error by the delta method."""
    module = EnergyModel(Minus(Quartic("density"))) if gives == "method" else Quartic(gives)
    x = data()
    fit = ScoreMatching(module, tol=1e-10).fit(x)
    exact = ExponentialFamily(lambda x: torch.stack([x.sum(1), (x**4).sum(1)], 1)).fit(x)
    np.testing.assert_allclose([fit.theta_[0], -np.exp(fit.theta_[1]) / 4], exact.theta_, rtol=1e-9)
    slope = np.diag([1, exact.theta_[1]])
    np.testing.assert_allclose(slope @ fit.covariance_ @ slope.T, exact.covariance_, rtol=1e-7)
    np.testing.assert_allclose(fit.objective_, exact.objective_, rtol=1e-10)
    np.testing.assert_allclose(fit.information_criterion(), exact.information_criterion(), rtol=1e-8)
    np.testing.assert_allclose(fit.score_function(x), exact.score_function(x), rtol=1e-8, atol=1e-8)
    assert hasattr(fit, "log_density") == hasattr(fit, "sample") == (gives != "score")
    assert len(fit.theta_) == 2


class Minus(nn.Module):
    """The energy of a log-density."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return -self.inner(x)


@pytest.mark.parametrize("solver", ["lbfgs", "newton", "sgd"])
def test_solvers_find_one_minimum(solver):
    """The Gaussian energy: lbfgs and Newton to 1e-9; Adam's last iterate within 0.03."""
    x = data()
    exact = ExponentialFamily().fit(x)
    fit = ScoreMatching(solver=solver, max_iter=500, learning_rate=0.05).fit(x)
    np.testing.assert_allclose(fit.theta_, exact.theta_, atol=3e-2 if solver == "sgd" else 1e-9)
    assert hasattr(fit, "covariance_") == (solver != "sgd")


def test_newton_goes_down_where_the_hessian_is_negative_and_leaves_what_is_flat():
    """x^4/4 - x^2/2 from 0.1, where H = -0.97: to 1 and not to the maximum at 0; y does not matter and stays."""
    found, steps = newton(
        lambda at: (at[0] ** 4 / 4 - at[0] ** 2 / 2, np.array([at[0] ** 3 - at[0], 0.0])),
        lambda at: np.diag([3 * at[0] ** 2 - 1, 0.0]),
        np.array([0.1, 7.0]),
        max_iter=50,
        tol=1e-14,
    )
    np.testing.assert_allclose(found, [1.0, 7.0], rtol=1e-14)
    assert 0 < steps < 12


def test_newton_reaches_the_minimum_of_an_energy_that_is_not_convex_in_its_parameters():
    """From b = 3, where the quartic's Hessian is far from the minimum's."""
    module = Quartic("density")
    module.b.data += 3
    x = data()
    found = [ScoreMatching(module, solver=solver, tol=1e-9).fit(x).theta_ for solver in ("newton", "lbfgs")]
    np.testing.assert_allclose(*found, atol=1e-8)


@pytest.mark.parametrize(
    ("domain", "weight", "rule"),
    [
        ("real", None, product(legendre(-9, 9, 90), legendre(-9, 9, 90))),
        (("box", [-1, -0.5], [0.8, 0.7]), None, product(legendre(-1, 0.8, 30), legendre(-0.5, 0.7, 30))),
        (("ball", [0.2, 0.1], 1.5), "x2", disc([0.2, 0.1], 1.5, 30)),
    ],
)
def test_the_population_returns_the_truth(domain, weight, rule):
    """As for the closed forms: to 1e-9."""
    x, w = rule
    fit = ScoreMatching(domain=domain, weight=weight, inference=False, tol=1e-12, solver="newton", max_iter=5).fit(
        x, sample_weight=w * gaussian(x)
    )
    np.testing.assert_allclose(fit.theta_, [*(PRECISION @ MEAN), 1.5, 0.4, 2.0], atol=1e-9)


def test_sliced_is_implicit_in_one_dimension_and_close_in_two():
    """With d = 1 a Rademacher probe changes nothing; with d = 2 estimates differ by less than 4 s.e. (6e-5)."""
    x = data(2000)
    one = [ScoreMatching(objective=o).fit(x[:, :1]) for o in ("implicit", "sliced")]
    np.testing.assert_allclose(one[0].theta_, one[1].theta_, rtol=1e-9)
    np.testing.assert_allclose(one[0].covariance_, one[1].covariance_, rtol=1e-9)
    exact, sliced = (ScoreMatching(objective=o).fit(x) for o in ("implicit", "sliced"))
    extra = np.sqrt(np.diag(sliced.covariance_) - np.diag(exact.covariance_))
    assert (np.abs(sliced.theta_ - exact.theta_) < 4 * extra).all()
    assert (sliced.theta_ != exact.theta_).all()


def test_sliced_under_a_weight_targets_the_same_parameters():
    """On a box: within 4 standard errors of the truth, which the weight must enter to reach (6e-5)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 2)) * 0.7 + 0.5
    x = x[(x > 0).all(1) & (x < 1).all(1)]
    fit = ScoreMatching(objective="sliced", domain=("box", 0, 1)).fit(x)
    truth = np.array([0.5, 0.5, 1, 0, 1]) / 0.49
    assert (np.abs(fit.theta_ - truth) < 4 * fit.standard_error_).all()
    assert fit.standard_error_.max() < 1


def test_denoising_targets_the_blurred_law():
    """Precision (S + sigma^2 I)^-1 within 4 standard errors (6e-5), and far from S^-1."""
    x, sigma = data(4000), 0.8
    fit = ScoreMatching(objective="denoising", sigma=sigma).fit(x)
    plain = Gaussian().fit(x)
    blurred = np.linalg.inv(plain.covariance_matrix_ + sigma**2 * np.eye(2))[np.triu_indices(2)]
    assert (np.abs(fit.theta_[2:] - blurred) < 4 * fit.standard_error_[2:]).all()
    assert (np.abs(fit.theta_[2:] - plain.theta_[2:]) > 4 * fit.standard_error_[2:]).all()


def test_seeds_decide_probes_and_noise():
    """The same seed gives the same fit; the global generator is left alone."""
    x = data(100)
    for objective in ("sliced", "denoising"):
        state = torch.random.get_rng_state()
        first, again, other = (
            ScoreMatching(objective=objective, random_state=seed).fit(x).theta_ for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).all()
        assert torch.equal(state, torch.random.get_rng_state())


def test_the_model_that_was_given_is_left_as_it_was():
    """`fit` trains a copy; `clone` makes an unfitted estimator with an equal module."""
    module = Quartic("density")
    estimator = ScoreMatching(module)
    fit = estimator.fit(data())
    assert module.a.item() == pytest.approx(0.1)
    assert fit.model_.a.item() == pytest.approx(fit.theta_[0])
    assert fit.model_.kept.tolist() == [1, 1, 1]
    assert not hasattr(clone(fit), "theta_")


def test_an_energy_can_be_sampled():
    """Mean and covariance of the fitted Gaussian energy from 4000 draws, within 5 standard errors."""
    fit = ScoreMatching().fit(data())
    exact = Gaussian().fit(data())
    y = fit.sample(4000, random_state=0)
    assert np.abs(y.mean(0) - exact.mean_).max() < 5 * np.sqrt(1.3 / 4000)
    assert np.abs(np.cov(y.T) - exact.covariance_matrix_).max() < 5 * np.sqrt(2 * 1.3**2 / 4000)


def test_what_stops_early_says_so():
    """One iteration of lbfgs is not enough."""
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        ScoreMatching(max_iter=1, inference=False).fit(data())


@pytest.mark.parametrize("solver", ["lbfgs", "newton"])
def test_a_fit_that_did_not_converge_has_no_standard_errors(solver):
    """Student's law can put its edge on rows that are equal; an earlier fit's errors do not stay behind."""

    def student(x, theta):
        freedom, scale = theta[0].exp(), theta[1].exp()
        return -(freedom + 1) / 2 * (1 + (x[:, 0] / scale) ** 2 / freedom).log()

    x = np.append(np.random.default_rng(0).standard_t(3, 60), np.full(40, 0.5))[:, None]
    model = ScoreMatching(student, start=[1.0, 0.0], solver=solver, max_iter=60)
    fit = model.fit(np.random.default_rng(1).standard_t(3, (500, 1)))
    assert (fit.standard_error_ > 0).all()
    with pytest.warns(ConvergenceWarning, match="so that there are no standard errors; raise max_iter"):
        fit = model.set_params(max_iter=2).fit(x)
    for ask in (fit.summary, fit.confidence_interval, fit.information_criterion, lambda: fit.wald_test(np.eye(2))):
        with pytest.raises(RuntimeError, match="did not reach a minimum: raise max_iter"):
            ask()
    assert not hasattr(fit, "standard_error_")
    assert fit.contributions(x).shape == (100, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"model": 3}, TypeError, "model must be"),
        ({"model": lambda x, theta: x[:, 0] * theta}, ValueError, "needs start"),
        ({"model": lambda x, theta: x * theta[0] @ torch.ones(2, 3).double(), "start": 1.0}, ValueError, "log-density"),
        ({"model": nn.Identity()}, ValueError, "parameters that are free"),
        ({"model": nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))}, ValueError, "ReLU"),
        ({"objective": "slicd"}, ValueError, "did you mean 'sliced'"),
        ({"solver": "adam"}, ValueError, "solver must be one of"),
        ({"sigma": 0.0}, ValueError, "sigma must be"),
        ({"objective": "denoising", "domain": ("box", -9, 9)}, ValueError, "over the boundary"),
        (
            {"model": lambda x, theta: theta * (x[:, 0] - 9).sqrt(), "start": 1.0},
            ValueError,
            "not finite where the model starts",
        ),
    ],
)
def test_bad_models_and_settings_are_refused(arguments, error, match):
    """Each with the rule and the way out."""
    with pytest.raises(error, match=match):
        ScoreMatching(**arguments).fit(data(50))
