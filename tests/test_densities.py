"""Densities: normalised, scores that are gradients, samples and blurred laws that are what they say."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Generator
from torch.distributions import Categorical, Dirichlet, Independent, MultivariateNormal, Normal

from scorefield.calculus import PerSample, divergence, score_of
from scorefield.densities import TOYS, Curve, Gaussian, GaussianMixture, Rings, TwoMoons, known, toy
from scorefield.fields import at
from scorefield.noise import VE, VP, Cosine, SubVP

NOISES = (VE(0.01, 5.0), VP(), SubVP(), Cosine())
DENSE = [name for name in TOYS if name != "curve"]


def close(a, b, tolerance):
    return torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def normal(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=Generator().manual_seed(seed))


def spread_mixture(d=3):
    """Three components in d dimensions with unequal weights and unequal, correlated covariances."""
    roots = torch.randn(3, d, d, dtype=torch.float64, generator=Generator().manual_seed(5)) / math.sqrt(d)
    covariances = roots @ roots.mT + 0.1 * torch.eye(d, dtype=torch.float64)
    return GaussianMixture([0.6, 0.3, 0.1], 2 * normal(3, d, seed=6), covariances)


@pytest.mark.parametrize("name", DENSE)
def test_the_toys_integrate_to_one_on_a_grid(name):
    """The trapezoidal rule is precise beyond these digits once its step is half the narrowest width."""
    axis = torch.linspace(-8, 8, 321, dtype=torch.float64) + 1e-3
    total = toy(name).log_density(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(total.item() - 1) < 1e-9


def test_rings_cut_at_the_origin_are_still_normalised():
    law = Rings([0.3, 1.0], 0.4, [0.7, 0.3])

    def radial(r):
        return 2 * math.pi * r * law.log_density(torch.tensor([[r, 0.0]], dtype=torch.float64)).exp().item()

    assert abs(quad(radial, 1e-9, 5, epsabs=1e-11, limit=200)[0] - 1) < 1e-8


@pytest.mark.parametrize("law", [*map(toy, DENSE), Rings([0.3], 0.4), TwoMoons(0.3), spread_mixture()], ids=str)
def test_scores_are_the_gradients_of_the_log_densities(law):
    d = law.means.shape[1] if isinstance(law, GaussianMixture) else 2
    x = 3 * normal(64, d)
    close(law.score(x), score_of(law.log_density)(x), 1e-10)


def test_the_score_of_a_mixture_is_the_responsibility_weighted_sum_and_not_the_plain_sum():
    law, x = spread_mixture(), normal(20, 3)
    parts = [MultivariateNormal(m, c) for m, c in zip(law.means, law.covariances, strict=True)]
    log_joint = torch.stack([p.log_prob(x) for p in parts]) + law.weights.log()[:, None]
    scores = torch.stack([-torch.linalg.solve(p.covariance_matrix, (x - p.mean).T).T for p in parts])
    close(law.log_density(x), log_joint.logsumexp(0), 1e-12)
    close(law.score(x), (log_joint.softmax(0)[..., None] * scores).sum(0), 1e-11)
    assert (law.score(x) - scores.sum(0)).abs().max() > 1


@pytest.mark.parametrize("law", [spread_mixture(), spread_mixture(8), Gaussian([1.0, -2.0], [[2.0, 0.5], [0.5, 1.0]])])
def test_the_divergence_of_a_mixture_is_that_of_its_derivatives(law):
    """The closed form against the sum over the basis, near the components and far away; of a Gaussian it is -tr P."""
    x = 3 * normal(40, len(law.mean))
    s, exact = law.with_divergence(x)
    generic, div, how = divergence(lambda at: law.score(at), x, explain=True)
    assert how.products == len(law.mean)
    close(s, generic, 1e-12)
    close(exact, div, 1e-10)
    if isinstance(law, Gaussian):
        close(exact, -torch.linalg.inv(law.covariance).trace().expand(40), 1e-12)


@pytest.mark.parametrize("noise", NOISES)
def test_the_noisy_score_carries_its_divergence_at_any_time(noise):
    """One time, or one per sample; through `at`, `divergence` finds it and takes no product with the Jacobian."""
    law, x = spread_mixture(), 2 * normal(40, 3)
    score = law.noisy_score(noise)
    for t in (
        torch.tensor(0.4, dtype=torch.float64),
        torch.linspace(noise.t_min, noise.t_max, 40, dtype=torch.float64),
    ):
        s, exact, how = divergence(at(score, t), x, explain=True)
        assert how.products == 0
        generic, div = divergence(lambda at, t=t: score(at, t), x)
        close(s, generic, 1e-12)
        close(exact, div, 1e-10)


def test_the_closed_divergence_can_be_differentiated():
    """Its gradient against central differences: samplers and objectives may ask for it."""
    law, x, h = spread_mixture(), normal(5, 3).requires_grad_(), 1e-5
    (slope,) = torch.autograd.grad(law.with_divergence(x)[1].sum(), x)
    with torch.no_grad():
        for i, e in enumerate(torch.eye(3, dtype=torch.float64)):
            step = (law.with_divergence(x + h * e)[1] - law.with_divergence(x - h * e)[1]) / (2 * h)
            close(slope[:, i], step, 1e-6)


@pytest.mark.parametrize("width", [0.03, 0.1, 1.0])
def test_the_quadrature_of_the_moons_is_precise_to_nine_digits(width):
    """Against adaptive integration in scipy, near the moons, between them and ten away."""
    law = TwoMoons(width)
    for point in ([1.0, 0.0], [-1.0, 0.05], [0.5, 0.25], [2.0, 0.6], [0.9, 3.0], [-7.0, -5.0]):
        x = np.array(point)
        total = 0.0
        for centre, sign in ((np.zeros(2), 1.0), (np.array([1.0, 0.5]), -1.0)):
            direction = sign * (x - centre)
            best = float(np.clip(math.atan2(direction[1], direction[0]), 0, math.pi))
            if direction[1] < 0:
                best = 0.0 if direction[0] > 0 else math.pi

            def exponent(a, centre=centre, sign=sign, x=x):
                c = centre + sign * np.array([math.cos(a), math.sin(a)])
                return -((x - c) ** 2).sum() / (2 * width**2)

            peak, w = exponent(best), 8 * width / math.sqrt(np.linalg.norm(direction))
            grid = sorted({0.0, math.pi, *np.clip([best - w, best - w / 4, best, best + w / 4, best + w], 0, math.pi)})
            mass = sum(
                quad(lambda a, e=exponent, p=peak: math.exp(e(a) - p), low, high, epsrel=1e-13, epsabs=0)[0]
                for low, high in zip(grid, grid[1:], strict=False)
                if max(exponent(low), exponent(high)) - peak > -50
            )
            total = np.logaddexp(total, peak + math.log(mass)) if total else peak + math.log(mass)
        expected = total - math.log(2 * math.pi) - math.log(2 * math.pi * width**2)
        got = law.log_density(torch.tensor([point], dtype=torch.float64)).item()
        assert abs(got - expected) < 1e-9 * max(1, abs(expected) * 1e-3)


@pytest.mark.parametrize("noise", NOISES, ids=str)
@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_a_blurred_gaussian_has_the_closed_form(noise, t):
    m, c = torch.tensor([1.0, -2.0]).double(), torch.tensor([[2.0, 0.6], [0.6, 0.5]]).double()
    at = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = noise.alpha(at), noise.sigma(at)
    expected = MultivariateNormal(alpha * m, alpha**2 * c + sigma**2 * torch.eye(2).double())
    law, x = Gaussian(m, c).blurred(noise, t), 3 * normal(30, 2)
    close(law.log_density(x), expected.log_prob(x), 1e-12)
    close(law.score(x), -(x - expected.mean) @ expected.precision_matrix, 1e-12)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_a_blurred_mixture_is_the_convolution_estimated_by_monte_carlo(noise):
    """p_t(x) = E_{x_0} N(x; alpha x_0, sigma^2 I), estimated with samples of the mixture itself."""
    law, t = toy("gaussian-mixture"), torch.tensor(0.4, dtype=torch.float64)
    x0 = law.sample((100_000,), generator=Generator().manual_seed(1))
    alpha, sigma = noise.alpha(t), noise.sigma(t)
    x = alpha * x0[:5] + sigma * normal(5, 2)
    for point, expected in zip(x, law.blurred(noise, 0.4).log_density(x).exp(), strict=True):
        kernel = Independent(Normal(alpha * x0, sigma), 1).log_prob(point).exp()
        assert abs(kernel.mean() - expected) < 4 * kernel.std() / math.sqrt(len(x0))


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_the_noisy_score_is_the_blurred_score_sample_by_sample(noise):
    law, x = spread_mixture(), 2 * normal(12, 3)
    t = torch.linspace(0.001, 1, 12, dtype=torch.float64)
    field = law.noisy_score(noise)
    rows = [law.blurred(noise, at.item()) for at in t]
    close(field(x, t), torch.cat([row.score(x[i : i + 1]) for i, row in enumerate(rows)]), 1e-10)
    close(field.log_density(x, t), torch.cat([row.log_density(x[i : i + 1]) for i, row in enumerate(rows)]), 1e-10)
    close(field(x, t[3]), rows[3].score(x), 1e-10)
    close(field(x, t), score_of(lambda x: field.log_density(x, t))(x), 1e-10)


def test_the_moments_of_a_mixture_are_those_of_its_samples():
    law, n = spread_mixture(), 200_000
    x = law.sample((n,), generator=Generator().manual_seed(2))
    assert ((x.mean(0) - law.mean).abs() < 4 * (law.covariance.diagonal() / n).sqrt()).all()
    products = (x - law.mean)[:, :, None] * (x - law.mean)[:, None, :]
    assert ((products.mean(0) - law.covariance).abs() < 4 * products.std(0) / math.sqrt(n)).all()


@pytest.mark.parametrize("name", DENSE)
def test_samples_have_the_law_of_the_density(name):
    """E_p s = 0 and E_p [x . s(x)] = -d (Stein's identity) for samples of p: both the law and its score are right."""
    law, n = toy(name), 20_000
    x = law.sample((n,), generator=Generator().manual_seed(3))
    s = law.score(x)
    stein = (x * s).sum(1)
    assert (s.mean(0).abs() < 4 * s.std(0) / math.sqrt(n)).all()
    assert abs(stein.mean() + 2) < 4 * stein.std() / math.sqrt(n)


def test_rings_have_their_radii_and_weights():
    law, n = Rings([1.0, 3.0], 0.1, [0.2, 0.8]), 50_000
    r = law.sample((n,), generator=Generator().manual_seed(4)).norm(dim=1)
    inner = r < 2
    assert abs(inner.double().mean() - 0.2) < 4 * math.sqrt(0.16 / n)
    assert abs(r[inner].mean() - 1) < 4 * 0.1 / math.sqrt(0.2 * n)
    assert abs(r[~inner].var() / 0.01 - 1) < 4 * math.sqrt(2 / (0.8 * n))


def test_the_moons_lie_where_scikit_learn_puts_them():
    from sklearn.datasets import make_moons

    theirs, n = torch.from_numpy(make_moons(1000, noise=None)[0]), 50_000
    ours = TwoMoons(1e-2).sample((n,), generator=Generator().manual_seed(5))
    assert torch.cdist(ours, theirs).min(1).values.max() < 0.06
    assert torch.cdist(theirs, ours).min(1).values.max() < 0.06
    assert ((ours.mean(0) - torch.tensor([0.5, 0.25])).abs() < 4 * ours.std(0) / math.sqrt(n)).all()


def test_known_wraps_a_torch_distribution_and_equals_our_gaussian():
    m, c = torch.tensor([1.0, -2.0]).double(), torch.tensor([[2.0, 0.6], [0.6, 0.5]]).double()
    theirs, ours, x = known(MultivariateNormal(m, c)), Gaussian(m, c), 3 * normal(30, 2)
    close(theirs.log_density(x), ours.log_density(x), 1e-12)
    close(theirs.score(x), ours.score(x), 1e-11)
    single = known(MultivariateNormal(m.float(), c.float()))
    assert single.score(x).dtype == torch.float64 and theirs.score(x.float()).dtype == torch.float32


@pytest.mark.parametrize("make", [lambda: Generator().manual_seed(7), lambda: PerSample(7, range(6))])
def test_known_samples_by_the_generator_and_leaves_the_global_one_alone(make):
    law = known(Dirichlet(torch.tensor([2.0, 3.0, 4.0])))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    a, b = law.sample((6,), generator=make()), law.sample((6,), generator=make())
    assert a.shape == (6, 3) and torch.equal(a, b) and len(a.unique(dim=0)) == 6
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", TOYS)
def test_a_sample_keeps_its_noise_whatever_the_batch(name):
    law = toy(name)
    whole = law.sample((8,), generator=PerSample(1, range(8)))
    torch.testing.assert_close(law.sample((3,), generator=PerSample(1, range(5, 8))), whole[5:])


def test_a_curve_can_be_sampled_but_has_no_density():
    law = Curve(4)
    assert not hasattr(law, "log_density") and not hasattr(law, "score")
    x = law.sample((1000,), generator=Generator().manual_seed(0))
    radii = torch.stack([x[:, :2].norm(dim=1), x[:, 2:].norm(dim=1)], 1)
    close(radii, torch.tensor([1.0, 0.5], dtype=torch.float64).expand(1000, 2), 1e-12)
    close(x[:, 2], (x[:, 0] ** 2 - x[:, 1] ** 2) / 2, 1e-12)  # cos 2a
    assert Curve(3).sample((2,)).shape == (2, 3)


@pytest.mark.parametrize("law", [*map(toy, DENSE), spread_mixture()], ids=str)
def test_answers_have_the_dtype_of_x_and_are_computed_in_float64(law):
    x = normal(9, law.means.shape[1] if isinstance(law, GaussianMixture) else 2).float()
    assert torch.equal(law.log_density(x), law.log_density(x.double()).float())
    assert torch.equal(law.score(x), law.score(x.double()).float())
    assert law.sample((2,)).dtype == torch.float64


def test_lists_keep_all_their_digits():
    assert Gaussian([0.1], [[0.3]]).mean.item() == 0.1
    assert Rings([0.1], 1).radii.item() == 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy("two-moon"), "did you mean 'two-moons'"),
        (lambda: GaussianMixture([0.5, 0.6], [[0.0], [1.0]], [[[1.0]], [[1.0]]]), "divide them by their sum"),
        (lambda: GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0]]]), "covariances must have shape"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "positive definite, got an eigenvalue -1"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: Gaussian([0.0, math.nan], torch.eye(2)), "mean must be finite"),
        (lambda: GaussianMixture([1.0], [[0.0], [1.0, 2.0]], [[[1.0]]]), "rectangular"),
        (lambda: Rings([1.0, -1.0], 0.1), "radii must be a row of numbers > 0"),
        (lambda: Rings([1.0], 0.0), "width must be"),
        (lambda: TwoMoons(-0.1), "width must be"),
        (lambda: Curve(1), "dimension must be >= 2"),
        (lambda: toy("rings").sample(5), r"write sample\(\(n,\)\)"),
        (lambda: toy("rings").score(torch.zeros(3, 3)), r"x must have shape \(3, 2\)"),
        (lambda: toy("gaussian-mixture").blurred(VP(), 0.0), "t must lie in"),
        (lambda: toy("gaussian-mixture").noisy_score(VP())(torch.zeros(3, 2), torch.ones(2)), "one time per sample"),
        (lambda: known(Normal(torch.zeros(3), torch.ones(3))), r"Independent\(distribution, 1\)"),
        (lambda: known(Normal(0.0, 1.0)), r"expanding it with .expand\(\(d,\)\)"),
    ],
)
def test_bad_settings_are_refused_with_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_has_no_score_is_refused():
    with pytest.raises(TypeError, match="must be a torch.distributions.Distribution"):
        known(torch.zeros(3))
    with pytest.raises(TypeError, match="discrete"):
        known(Independent(Categorical(torch.ones(2, 3)), 1))
