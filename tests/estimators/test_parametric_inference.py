"""Standard errors, intervals, tests and tables: against the infinitesimal jackknife and values worked by hand."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm

from scorefield.estimators import ExponentialFamily, Gaussian, ScoreMatching, TruncatedGaussian


def data(n=40, d=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(3, 0.5, size=(n, d)) + 0.3 * rng.gamma(3, 0.5, size=(n, 1))


def gamma_energy(x, theta):
    return theta[0] * x.log().sum(1) + theta[1] * x.sum(1)


ESTIMATORS = {
    "Gaussian": Gaussian(),
    "TruncatedGaussian": TruncatedGaussian(),
    "TruncatedGaussian, box": TruncatedGaussian(("box", 0, 9)),
    "quadratic": ExponentialFamily(),
    "quadratic, ridge": ExponentialFamily(domain="half-line", ridge=0.3),
    "gamma": ExponentialFamily("gamma", domain="half-line"),
    "gamma, one fixed": ExponentialFamily("gamma", domain="half-line", fixed={0: 1.5}),
    "quartic": ExponentialFamily("quartic", domain=("interval", 0, 9)),
    "energy": ScoreMatching(gamma_energy, start=[1.0, -1.0], solver="newton", domain="half-line"),
    "default energy": ScoreMatching(solver="newton"),
}
EACH = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)


def shares(n=40, seed=1):
    w = np.random.default_rng(seed).uniform(0.2, 2, size=n)
    return w / w.sum()


@EACH
@pytest.mark.parametrize("weighted", [False, True])
def test_the_covariance_is_the_infinitesimal_jackknife(estimator, weighted):
    r"""$\sum_i (w_i\, \partial\hat\theta/\partial w_i)^2$ by moving each weight, for wrong models: within 1e-4."""
    n = 12 if isinstance(estimator, ScoreMatching) else 40
    x, w = data(n), shares(n) if weighted else np.full(n, 1 / n)
    fit = estimator.fit(x, sample_weight=w)
    covariance, pull = fit.covariance_.copy(), []
    for i in range(len(x)):
        ends = []
        for sign in (1, -1):
            moved = w.copy()
            moved[i] *= 1 + sign * 1e-4
            ends.append(estimator.fit(x, sample_weight=moved).theta_)
        pull.append((ends[0] - ends[1]) / 2e-4)
    np.testing.assert_allclose(covariance, np.array(pull).T @ np.array(pull), rtol=1e-4, atol=1e-6 * covariance.max())


@EACH
def test_the_criterion_is_the_objective_and_the_trace_of_the_sandwich(estimator):
    """SMIC = objective + tr(J H^-1) / n, J from the contributions; fixed parameters do not count."""
    x = data()
    fit = estimator.fit(x)
    if isinstance(fit, (Gaussian, TruncatedGaussian)):
        other = ExponentialFamily(domain=getattr(fit, "domain", "real")).fit(x)  # the same model, in other coordinates
        np.testing.assert_allclose(fit.information_criterion(), other.information_criterion(), rtol=1e-9)
    g = fit.contributions(x)
    free = fit.standard_error_ > 0
    ridge = getattr(fit, "ridge", 0.0)
    np.testing.assert_allclose(g[:, free].mean(0), -ridge * fit.theta_[free], atol=1e-11 * np.abs(g).max())
    j, h = np.cov(g[:, free].T, ddof=0), fit.hessian_[np.ix_(free, free)]
    penalty = np.trace(np.linalg.solve(h, np.atleast_2d(j))) / len(x)
    np.testing.assert_allclose(fit.information_criterion(), fit.objective_ + penalty, rtol=1e-9)


@EACH
def test_weights_are_of_a_sample(estimator):
    """Their unit does not matter, integers are repeated rows, zeros are rows left out."""
    x, w = data(), np.arange(40) % 4
    weighted = estimator.fit(x, sample_weight=w)
    theta, covariance = weighted.theta_.copy(), weighted.covariance_.copy()
    np.testing.assert_allclose(estimator.fit(np.repeat(x, w, axis=0)).theta_, theta, rtol=1e-8, atol=1e-10)
    same = estimator.fit(x[w > 0], sample_weight=1e-200 * w[w > 0])
    np.testing.assert_allclose(same.theta_, theta, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(same.covariance_, covariance, rtol=1e-6, atol=1e-12)
    assert same.n_samples_ == 30
    np.testing.assert_allclose(estimator.fit(x[w > 0], sample_weight=5e307 * w[w > 0]).theta_, theta, rtol=1e-9)


def test_intervals_and_the_table_say_what_normal_theory_says():
    """Estimate -+ z s.e.; z and p by hand; the table as text, HTML and JSON."""
    fit = ExponentialFamily("gamma", domain="half-line").fit(data(d=1))
    interval = fit.confidence_interval(0.9)
    np.testing.assert_allclose(interval[:, 1] - fit.theta_, norm.ppf(0.95) * fit.standard_error_, rtol=1e-12)
    np.testing.assert_allclose(interval.mean(1), fit.theta_, rtol=1e-12)
    table = fit.summary(0.9)
    for k, row in enumerate(table.rows):
        z = fit.theta_[k] / fit.standard_error_[k]
        assert row.name == fit.parameter_names_[k]
        np.testing.assert_allclose(
            row[1:], [fit.theta_[k], fit.standard_error_[k], z, 2 * norm.sf(abs(z)), *interval[k]]
        )
    text, read = str(table), json.loads(table.to_json())
    assert "shape[x1] - 1" in text
    assert "5 %" in text
    assert "95 %" in text
    assert read["rows"][0]["estimate"] == fit.theta_[0]
    assert read["n_samples"] == 40
    assert read["level"] == 0.9
    assert table._repr_html_().count("<tr>") == 3


def test_a_fixed_parameter_is_null_in_json_and_named_fixed():
    """No z, no p; nan is no JSON."""
    fit = ExponentialFamily("gamma", domain="half-line", fixed={0: 1.5}).fit(data(d=1))
    row = json.loads(fit.summary().to_json())["rows"][0]
    assert row["z"] is None
    assert row["p"] is None
    assert row["low"] == row["high"] == 1.5


def test_wald_by_hand_and_invariant():
    """One form: z squared. All parameters: the quadratic form, whatever basis R spans them in."""
    fit = Gaussian().fit(data())
    k = len(fit.theta_)
    one = fit.wald_test(np.eye(k)[2], 0.5)
    z = (fit.theta_[2] - 0.5) / fit.standard_error_[2]
    np.testing.assert_allclose(one, [z**2, 1, 2 * norm.sf(abs(z))], rtol=1e-10)
    gap = fit.theta_ - 0.1
    whole = fit.wald_test(np.eye(k), 0.1)
    np.testing.assert_allclose(whole.statistic, gap @ np.linalg.solve(fit.covariance_, gap), rtol=1e-8)
    np.testing.assert_allclose(whole.p_value, chi2.sf(whole.statistic, k), rtol=1e-10)
    basis = np.random.default_rng(0).normal(size=(k, k))
    np.testing.assert_allclose(fit.wald_test(basis, basis @ np.full(k, 0.1)).statistic, whole.statistic, rtol=1e-7)


def test_bad_questions_are_refused():
    """Levels outside (0, 1), forms of another size or rank, and fits without standard errors."""
    fit = Gaussian().fit(data())
    for level in (0, 1, 95, math.nan):
        with pytest.raises(ValueError, match="level must lie in"):
            fit.confidence_interval(level)
    with pytest.raises(ValueError, match=r"R must have shape \(m, 5\)"):
        fit.wald_test([1, 0])
    with pytest.raises(ValueError, match="q must be"):
        fit.wald_test(np.eye(5), [1, 2])
    with pytest.raises(ValueError, match="singular covariance"):
        fit.wald_test(np.ones((2, 5)))
    bare = Gaussian(inference=False).fit(data())
    for ask in (bare.summary, bare.confidence_interval, bare.information_criterion, lambda: bare.wald_test(np.eye(5))):
        with pytest.raises(RuntimeError, match="inference=True"):
            ask()
    with pytest.raises(ValueError, match="ddof must be below"):
        Gaussian(ddof=40).fit(data())


def test_ddof_divides_by_n_minus_ddof():
    """As stated, for all estimators alike."""
    for estimator in (Gaussian(), TruncatedGaussian(), ExponentialFamily(), ScoreMatching()):
        plain = estimator.fit(data()).covariance_.copy()
        np.testing.assert_allclose(estimator.set_params(ddof=5.0).fit(data()).covariance_, plain * 40 / 35, rtol=1e-9)
        estimator.set_params(ddof=0.0)


def test_the_criterion_prefers_the_model_that_predicts_better():
    """SMIC of gamma data is lower under the gamma family than under the exponential, as is minus the held-out score."""
    x, new = (np.random.default_rng(s).gamma(3, 0.5, size=(2000, 1)) for s in (0, 1))
    right = ExponentialFamily("gamma", domain="half-line").fit(x)
    wrong = ExponentialFamily("exponential", domain="half-line").fit(x)
    assert right.information_criterion() < wrong.information_criterion() - 0.1
    assert right.score(new) > wrong.score(new) + 0.1


def test_columns_of_a_data_frame_name_the_parameters():
    """Feature names go into the table; other names at prediction are refused."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(data(), columns=["height", "weight"])
    fit = Gaussian().fit(frame)
    assert fit.parameter_names_ == ["mean[height]", "mean[weight]"] + [
        f"P[{a}]" for a in ("height, height", "height, weight", "weight, weight")
    ]
    with pytest.raises(ValueError, match="feature names"):
        fit.score(frame.rename(columns={"height": "size"}))


def test_torch_parameters_are_named_by_their_module():
    """`bias` and `scale[0]` of a module with two parameters."""

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(()))
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.bias - self.scale * x

    assert ScoreMatching(Line()).fit(data(d=1)).parameter_names_ == ["bias", "scale[0]"]
