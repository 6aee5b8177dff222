"""The functions behind the table on other laws, whose answers are known in closed form."""

import math

import pytest
import torch
from torch import Generator

from scorefield.calculus import LAWS
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.noise import VE, VP, Cosine, SubVP
from scorefield.objectives import implicit
from scorefield.samplers import Ancestral
from scorefield.theory import (
    autoencoder,
    bounded_domain,
    by_parts,
    consistency,
    constant_gradient,
    denoising_explicit,
    explicit_implicit,
    flux,
    flux_through_sphere,
    gaussian_divergence,
    gaussian_kl,
    gaussian_minimiser,
    langevin_bias,
    langevin_order,
    langevin_stationary,
    likelihood_bound,
    likelihood_gradient,
    log_constant,
    lyu,
    lyu_at_zero,
    matching_gradient,
    mixture_score,
    score_without_constant,
    shared_marginal,
    sliced_implicit,
    tweedie,
    variance_ratio,
    weighted_divergence,
    weighted_objective,
)
from scorefield.theory.quadrature import ball, draw_on_line, interval, sphere


def seeded(seed=0):
    return Generator().manual_seed(seed)


def normal(mean, variance):
    return Gaussian([mean], [[variance]])


def column(*points):
    return torch.tensor(points, dtype=torch.float64)[:, None]


def parabola(x, theta):
    """The energy of N(0, 1/theta)."""
    return theta * x[:, 0] ** 2 / 2


SPACE = GaussianMixture([0.3, 0.7], [[0.5, 0.0, 0.0], [-0.5, 0.2, 0.1]], [torch.eye(3).tolist()] * 2)


def test_quadratures_integrate_what_they_can_exactly():
    """Polynomials on an interval; x^2 y^2 and z^4 over the sphere; the volume and the second moment of a ball."""
    x, w = interval(-1.0, 3.0, panels=2)
    assert (w @ x[:, 0] ** 5).item() == pytest.approx((3**6 - 1) / 6, rel=1e-13)
    n, w = sphere(8)
    assert w.sum().item() == pytest.approx(4 * math.pi, rel=1e-13)
    assert (w @ (n[:, 0] * n[:, 1]) ** 2).item() == pytest.approx(4 * math.pi / 15, rel=1e-13)
    assert (w @ n[:, 2] ** 4).item() == pytest.approx(4 * math.pi / 5, rel=1e-13)
    x, w = ball(2.0, 8)
    assert w.sum().item() == pytest.approx(4 / 3 * math.pi * 8, rel=1e-13)
    assert (w @ x.square().sum(1)).item() == pytest.approx(4 / 5 * math.pi * 32, rel=1e-13)


def test_draws_on_the_line_have_the_moments_of_their_law():
    """Mean 0, variance 1/2 and kurtosis 3 of exp(-x^2), 4 s.e. each (2e-4)."""
    x = draw_on_line(lambda x: -(x[:, 0] ** 2), 100_000, reach=6.0, generator=seeded())
    assert x.shape == (100_000, 1) and x.abs().max() < 6
    assert len(x.unique()) > 99_000, "draws must lie between the points of the grid too"
    assert abs(x.mean()) < 4 * math.sqrt(0.5 / 1e5)
    assert abs(x.square().mean() - 0.5) < 4 * math.sqrt(0.5 / 1e5)
    assert abs((x**4).mean() - 0.75) < 4 * math.sqrt((105 / 16 - 9 / 16) / 1e5)


def test_the_constant_and_both_gradients_of_a_gaussian_model_are_their_closed_forms():
    r"""With precision $\theta$ and data N(0, v): $\log Z = \frac12\log(2\pi/\theta)$; the gradients of likelihood,
    $v/2 - 1/2\theta$, and of score matching, $\theta v - 1$, vanish at $\theta = 1/v$ both.
    """
    theta, v = 2.0, 0.8
    assert log_constant(parabola, theta).item() == pytest.approx(math.log(2 * math.pi / theta) / 2, rel=1e-12)
    constant = constant_gradient(parabola, theta, n=20_000, generator=seeded())
    assert constant.holds and constant.left == pytest.approx(-1 / (2 * theta), rel=1e-8)
    likelihood = likelihood_gradient(parabola, theta, normal(0.0, v), n=20_000, generator=seeded())
    assert likelihood.holds and likelihood.left == pytest.approx(v / 2 - 1 / (2 * theta), rel=1e-8)
    matching = matching_gradient(parabola, theta, normal(0.0, v), n=20_000, generator=seeded())
    assert matching.holds and matching.left == pytest.approx(theta * v - 1, rel=1e-8)
    for claim in (likelihood_gradient, matching_gradient):
        assert claim(parabola, 1 / v, normal(0.0, v), n=20_000, generator=seeded()).left == pytest.approx(0, abs=1e-8)


def test_a_score_is_free_of_the_constant_on_images_too():
    """Any trailing shape: exp(-|x|^4) over (2, 2, 1)."""
    x = torch.randn(3, 2, 2, 1, dtype=torch.float64, generator=seeded())
    assert score_without_constant(lambda x: -(x.flatten(1).square().sum(1) ** 2), x, log_constant=3.7).holds


def test_a_mixture_of_one_has_the_score_of_its_component():
    """The responsibility is 1: -C^{-1}(x - m)."""
    claim = mixture_score(normal(1.0, 0.5), column(2.0))
    assert claim.holds and claim.left == pytest.approx(-2.0)


def test_objectives_differ_by_a_constant_for_scores_of_no_density():
    """ESM = ISM + C asks nothing of the model but smoothness: a rotation field against a cubic one, in 3-D."""
    turn = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.5], [0.0, -0.5, 0.0]], dtype=torch.float64)
    assert explicit_implicit(SPACE, lambda x: x @ turn, lambda x: -(x**3) / 3, n=20_000, generator=seeded()).holds


@pytest.mark.parametrize("radius", [1.0, 2.5])
def test_the_flux_of_a_gaussian_is_its_closed_form(radius):
    r"""p = N(0, I), s = -Mx in 3-D: $-\frac{\operatorname{tr} M}3 R^3 \sqrt{2/\pi}\, e^{-R^2/2}$."""
    law, m = Gaussian([0.0] * 3, torch.eye(3)), torch.tensor([[1.0, 0.3, 0.0], [-0.2, 0.5, 0.1], [0.0, 0.0, 2.0]])
    expected = -3.5 / 3 * radius**3 * math.sqrt(2 / math.pi) * math.exp(-(radius**2) / 2)
    assert flux(law, lambda x: -x @ m.T.double(), radius) == pytest.approx(expected, rel=1e-10)
    assert flux_through_sphere(law, lambda x: -x @ m.T.double(), radius).holds


def test_the_flux_falls_to_zero_on_growing_spheres():
    """Beyond the law's width each doubling of the radius takes more than the last, down to nothing."""
    flows = [abs(flux(SPACE, lambda x: -x, radius)) for radius in (2.0, 4.0, 8.0, 16.0)]
    assert flows[1] < flows[0] / 5 and flows[2] < flows[1] / 1e6 and flows[3] < 1e-40


def test_on_a_bounded_domain_the_gap_is_the_boundary_term():
    """Uniform on [1, 3] with s = -x: -[p s] = 1. N(0, 1) cut to [-1, 2] with s = tanh: by its density at both ends."""
    uniform = bounded_domain(lambda x: 0 * x[:, 0] - math.log(2), lambda x: -x, 1.0, 3.0)
    assert uniform.holds and uniform.right == pytest.approx(1.0)
    mass = math.erf(2 / math.sqrt(2)) / 2 + math.erf(1 / math.sqrt(2)) / 2
    log_scale = math.log(mass * math.sqrt(2 * math.pi))
    cut = bounded_domain(lambda x: -(x[:, 0] ** 2) / 2 - log_scale, torch.tanh, -1.0, 2.0)
    expected = -(math.exp(-2) * math.tanh(2) + math.exp(-0.5) * math.tanh(1)) / (mass * math.sqrt(2 * math.pi))
    assert cut.holds and cut.right == pytest.approx(expected, rel=1e-12)


def test_where_the_density_vanishes_at_the_boundary_the_gap_vanishes():
    """Beta(3, 3) on [0, 1]: p s = 0 at both ends."""
    claim = bounded_domain(lambda x: (30 * (x * (1 - x)) ** 2)[:, 0].log(), lambda x: 2 - 3 * x, 0.0, 1.0)
    assert claim.holds and claim.right == 0 and abs(claim.left) < 1e-9


def test_on_the_half_line_the_implicit_objective_has_the_wrong_minimiser():
    """For p = exp(-x) and s = -theta it is theta^2/2, least at 0; the truth is theta = 1."""
    x, w = interval(0.0, 60.0)
    p = w * (-x[:, 0]).exp()
    values = [(p @ implicit(lambda x, theta=theta: 0 * x - theta, x)).item() for theta in (0.0, 0.5, 1.0)]
    assert values == pytest.approx([0.0, 0.125, 0.5])
    claim = bounded_domain(lambda x: -x[:, 0], lambda x: 0 * x - 1.0, 0.0, 60.0)
    assert claim.holds and claim.right == pytest.approx(-1.0)


def test_integration_by_parts_on_the_whole_line_has_no_boundary_term():
    """N(0, 1) with s = -x/2: E[s (log p)'] = 1/2."""
    claim = by_parts(normal(0.0, 1.0), lambda x: -x / 2, -12.0, 12.0)
    assert claim.holds and claim.left == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("variance_reduced", [False, True])
@pytest.mark.parametrize("probe_law", LAWS)
def test_sliced_is_implicit_for_every_law_of_probes_and_both_forms(probe_law, variance_reduced):
    """On a field with a skew part, which the mean over probes must not see."""
    m = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 0.5, 0.0], [0.3, 0.0, 0.2]], dtype=torch.float64)
    claim = sliced_implicit(
        SPACE,
        lambda x: x.sin() - x @ m,
        probe_law=probe_law,
        variance_reduced=variance_reduced,
        n=20_000,
        generator=seeded(),
    )
    assert claim.holds and claim.allowed < abs(claim.right) / 3


def test_the_weight_of_a_mixture_is_identified_too():
    """The minimiser over the weight of a component is the true 0.3."""
    claim = consistency(lambda w: GaussianMixture([w, 1 - w], [[-1.0], [1.5]], [[[0.5]], [[0.7]]]), 0.3, 0.05, 0.95)
    assert claim.holds and claim.right == 0.3


def test_the_divergence_of_gaussians_has_no_half():
    """N(0, 1) from N(1, 4): (3/4)^2 + (1/4)^2 per dimension."""
    assert gaussian_divergence(normal(0.0, 1.0), normal(1.0, 4.0)) == pytest.approx(10 / 16)
    assert gaussian_divergence(SIDE, SIDE) == pytest.approx(0, abs=1e-12)


def test_the_minimiser_of_four_numbers_is_one_over_their_variance():
    """1, 2, 3, 6: variance 3.5 (divided by n)."""
    claim = gaussian_minimiser(column(1.0, 2.0, 3.0, 6.0))
    assert claim.holds and claim.left == pytest.approx(1 / 3.5)


ATOMS = torch.tensor([[0.0, 1.0], [1.0, -1.0], [-1.5, 0.5]], dtype=torch.float64)


def test_denoising_takes_a_single_atom_and_refuses_unknown_kernels():
    """With one atom the target is the blurred score itself: both gaps are equal sample by sample, and C is 0."""
    for kernel in ("gaussian", "laplace", "student"):
        claim = denoising_explicit(
            ATOMS[:1], lambda x: -x, torch.sin, kernel=kernel, sigma=0.5, n=1000, generator=seeded()
        )
        assert claim.standard_error < 1e-12 and claim.left == pytest.approx(claim.right, rel=1e-12)
    with pytest.raises(ValueError, match="kernel must be one of gaussian, laplace, student; got 'laplase'; did you"):
        denoising_explicit(ATOMS, lambda x: -x, torch.sin, kernel="laplase", sigma=0.5)


def test_the_variance_of_denoising_grows_as_the_noise_vanishes():
    r"""Like $\sigma^{-4}$: 16 times for half the noise, where the model is not the truth; 4 for a = sigma = 1."""
    claims = [variance_ratio(sigma, 2.0, n=50_000, generator=seeded()) for sigma in (0.02, 0.01)]
    assert all(claim.holds for claim in claims)
    assert claims[1].right / claims[0].right == pytest.approx(16, rel=0.01)
    assert variance_ratio(1.0, 1.0, n=1000, generator=seeded()).right == 4


def test_the_best_autoencoder_of_a_gaussian_shrinks():
    """r*(x) = v x / (v + sigma^2): 1/(1 + 1/4) of the point."""
    point = torch.tensor([2.0, -1.0], dtype=torch.float64)
    claim = autoencoder(Gaussian([0.0, 0.0], torch.eye(2)), 0.5, point, n=20_000, generator=seeded())
    assert claim.holds and claim.right == pytest.approx(1.6)


@pytest.mark.parametrize("noise", [VE(0.05, 4.0), VP(), SubVP(), Cosine()], ids=str)
def test_tweedie_of_a_gaussian_is_its_closed_form(noise):
    r"""Data N(0, v): $\alpha v x/(\alpha^2 v + \sigma^2)$, for schedules that shrink and that do not."""
    t, v = 0.4, 0.8
    at = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = noise.alpha(at).item(), noise.sigma(at).item()
    claim = tweedie(normal(0.0, v), noise, t, column(0.7, -2.0))
    assert claim.holds and claim.left == pytest.approx(0.7 * alpha * v / (alpha**2 * v + sigma**2))


@pytest.mark.parametrize("t", [0.05, 1.0])
def test_lyu_of_two_gaussians_is_its_closed_form(t):
    r"""N(0, 1) and N(0, 2): $-\frac12 (\frac1{2+t} - \frac1{1+t})^2 (1 + t)$; at 0, $-\frac18$."""
    claim = lyu(normal(0.0, 1.0), normal(0.0, 2.0), t)
    assert claim.holds and claim.right == pytest.approx(-((1 / (2 + t) - 1 / (1 + t)) ** 2) * (1 + t) / 2)
    start = lyu_at_zero(normal(0.0, 1.0), normal(0.0, 2.0))
    assert start.holds and start.left == pytest.approx(-1 / 8)


def test_kl_of_gaussians_is_its_closed_form():
    """N(1, 2) from N(0, 3): (2/3 - 1 + 1/3 + log(3/2))/2; of a law from itself 0."""
    p, q = normal(1.0, 2.0), normal(0.0, 3.0)
    expected = math.log(1.5) / 2
    assert gaussian_kl(p.mean, p.covariance, q.mean, q.covariance).item() == pytest.approx(expected)
    assert gaussian_kl(SIDE.mean, SIDE.covariance, SIDE.mean, SIDE.covariance).item() == pytest.approx(0, abs=1e-12)


SIDE = Gaussian([0.3, -0.1], [[1.0, 0.4], [0.4, 0.6]])


def test_langevin_keeps_the_mean_of_a_quadratic_for_a_closed_reason():
    """f = |x|^2/2: E[x.s] = -d, whatever the law."""
    claim = langevin_stationary(SIDE, lambda x: x.square().sum(1) / 2, n=20_000, generator=seeded())
    assert claim.holds and claim.right == pytest.approx(-2)


@pytest.mark.parametrize("step_size", [0.1, 1.0, 1.6])
def test_langevin_is_biased_as_stated_at_every_stable_step(step_size):
    """1/(1 - h/2), beyond h = 1 too, where the chain alternates."""
    assert langevin_bias(step_size, n=20_000, generator=seeded()).holds


@pytest.mark.parametrize("step_size", [0.0, 2.0, -1.0, math.nan])
def test_unstable_steps_are_refused(step_size):
    """The chain settles for h in (0, 2) only."""
    with pytest.raises(ValueError, match=r"step_size must lie in \(0, 2\), where .* got"):
        langevin_bias(step_size)


def test_the_measured_order_on_a_gaussian_is_that_of_the_closed_form():
    r"""On N(0, 1) the bias is $\frac{h}{2-h}$: $\log_2$ of the ratio at 0.02 and 0.01 is 1.0072."""
    h = 0.02
    expected = math.log2((h / (2 - h)) / ((h / 2) / (2 - h / 2)))
    assert langevin_order(normal(0.0, 1.0), h, reach=8.0).left == pytest.approx(expected, abs=1e-6)


def test_marginals_are_shared_by_the_ancestral_sampler_too():
    """Its steps are those of the reverse SDE; on one Gaussian under VP, halfway."""
    claim = shared_marginal(
        normal(1.0, 0.3), VP(), Ancestral(), t=0.3, steps=60, tolerance=0.01, n=10_000, generator=seeded()
    )
    assert claim.holds


NOISES = pytest.mark.parametrize("noise", [VE(0.05, 5.0), VP(), SubVP(), Cosine()], ids=str)


@NOISES
def test_the_bound_is_an_equality_for_the_score_of_a_diffusion_and_strict_otherwise(noise):
    """Between the two sides lies more than a thousandth as soon as the score is scaled, either way."""
    p, q = normal(1.0, 0.5), normal(0.0, 2.0)
    tight = likelihood_bound(p, q, noise, factor=1.0)
    assert tight.relation == "=" and tight.holds
    for factor in (0.7, 1.3):
        claim = likelihood_bound(p, q, noise, factor=factor)
        assert claim.relation == "≤" and claim.holds and claim.right - claim.left > 1e-3


@NOISES
def test_noise_takes_away_what_the_weighted_divergence_says(noise):
    r"""Lyu's identity summed over time: $\frac12\int g^2 D_F(p_t\|q_t)\,dt = KL(p_0\|q_0) - KL(p_1\|q_1)$."""
    p, q = normal(1.0, 0.5), normal(0.0, 2.0)
    ends = [(p.blurred(noise, t), q.blurred(noise, t)) for t in (noise.t_min, noise.t_max)]
    low, high = (gaussian_kl(a.mean, a.covariance, b.mean, b.covariance).item() for a, b in ends)
    assert weighted_divergence(p, q, noise, factor=1.0) == pytest.approx(low - high, abs=1e-8)
    assert weighted_divergence(p, p, noise, factor=1.0) == pytest.approx(0, abs=1e-12)


def test_the_weighted_objective_is_that_divergence_under_ve_as_well():
    """The likelihood's weight g^2 with a model that is too steep."""
    claim = weighted_objective(
        normal(0.0, 1.0), normal(0.0, 1.0), VE(0.1, 4.0), factor=1.5, n=50_000, generator=seeded()
    )
    assert claim.holds and claim.allowed < claim.right / 8
