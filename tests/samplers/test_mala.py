"""The acceptance step: laws left exactly invariant, line integrals of a score, and what is refused."""

import math

import pytest
import torch
from scipy.stats import ks_2samp, kstest
from torch import Generator
from torch.distributions import Independent, StudentT

from scorefield.calculus import score_of
from scorefield.densities import Funnel, Gaussian, GaussianMixture, known
from scorefield.samplers import HMC, MALA, chain, circulation, line_integral

GAUSSIAN = Gaussian([1.0, -2.0], [[1.0, 0.8], [0.8, 2.0]])
MIXTURE = GaussianMixture([0.7, 0.3], [[-1.0, 0.0], [2.0, 1.0]], [[[0.5, 0.2], [0.2, 0.6]], [[1.0, 0.0], [0.0, 0.3]]])
STUDENT = known(Independent(StudentT(3.0).expand((2,)), 1))
DENSE = torch.tensor([[1.0, 0.5], [0.5, 1.5]], dtype=torch.float64)
SEED = 0


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def p_values(law, moved, fresh):
    """Two-sample Kolmogorov-Smirnov: every marginal, the log-density, and the square of the score."""
    statistics = [*(lambda x, i=i: x[:, i] for i in range(fresh.shape[1])), law.log_density]
    statistics.append(lambda x: law.score(x).square().sum(1))
    return [ks_2samp(f(moved).numpy(), f(fresh).numpy()).pvalue for f in statistics]


@pytest.mark.parametrize(
    ("kernel", "law"),
    [
        (MALA(0.5), GAUSSIAN),
        (MALA(0.5, DENSE), GAUSSIAN),
        (MALA(0.3, torch.tensor([1.0, 2.0])), MIXTURE),
        (MALA(0.15), Funnel(3, 1.5)),
        (MALA(1.5), STUDENT),
        (MALA(0.6, adjust="line"), MIXTURE),
        (HMC(0.9, 3), GAUSSIAN),
        (HMC(0.9, 3, DENSE, jitter=0.5), MIXTURE),
        (HMC(0.7, 4, torch.tensor([1.0, 2.0])), MIXTURE),
        (HMC(0.5, 5), Funnel(3, 1.5)),
        (HMC(1.5, 3), STUDENT),
        (HMC(0.9, 3, adjust="line"), MIXTURE),
    ],
    ids=lambda v: type(v).__name__,
)
def test_exact_draws_stay_exact(kernel, law):
    """8,000 exact draws, 5 moves, against fresh draws: each kernel's false-alarm rate is 1e-4 over its tests."""
    g = Generator().manual_seed(SEED)
    start, fresh = law.sample((8000,), generator=g), law.sample((24_000,), generator=g)
    samples = chain(kernel, law, start, steps=5, generator=g)
    assert 0.3 < samples.acceptance.mean() < 0.99
    values = p_values(law, samples.x, fresh)
    assert min(values) > 1e-4 / len(values)


def test_a_wrong_acceptance_is_seen():
    """The same test rejects Langevin's proposals accepted by the ratio of densities alone: it has the power to fail."""

    g = Generator().manual_seed(SEED)
    law, h = GAUSSIAN, 0.5
    x = law.sample((10_000,), generator=g)
    for _ in range(8):
        proposed = x + h * law.score(x) + math.sqrt(2 * h) * torch.randn(x.shape, dtype=x.dtype, generator=g)
        u = torch.rand(len(x), dtype=x.dtype, generator=g)
        x = torch.where((u.log() < law.log_density(proposed) - law.log_density(x))[:, None], proposed, x)
    assert min(p_values(law, x, law.sample((40_000,), generator=g))) < 1e-8


@pytest.mark.parametrize("preconditioner", [1.0, 0.5, torch.tensor([0.5, 2.0], dtype=torch.float64), DENSE], ids=str)
def test_the_acceptance_is_that_of_the_proposals_densities(preconditioner):
    r"""$\log\frac{p(x')\,q(x \mid x')}{p(x)\,q(x' \mid x)}$ with q a Gaussian of mean x + hPs and covariance 2hP."""
    h, x = 0.4, normal(50, 2)
    p = preconditioner * torch.eye(2, dtype=torch.float64) if not torch.is_tensor(preconditioner) else preconditioner
    p = torch.diag(p) if p.ndim == 1 else p
    z = normal(50, 2, seed=1)
    moved = x + h * MIXTURE.score(x) @ p + math.sqrt(2 * h) * z @ torch.linalg.cholesky(p).T

    def log_q(end, begin):
        mean = begin + h * MIXTURE.score(begin) @ p
        return torch.distributions.MultivariateNormal(mean, 2 * h * p).log_prob(end)

    expected = MIXTURE.log_density(moved) - MIXTURE.log_density(x) + log_q(x, moved) - log_q(moved, x)
    at, info = MALA(h, preconditioner).step(score_of(MIXTURE.log_density), x, generator=Generator().manual_seed(1))
    close(info["acceptance"], expected.clamp(max=0).exp(), 1e-10)
    stayed = (at == x).all(1)
    close(at[~stayed], moved[~stayed], 1e-12)
    assert 0 < stayed.sum() < 50


def test_the_line_integral_is_the_difference_of_log_densities_and_antisymmetric():
    """Exact for cubic log-densities with two nodes; to 1e-7 for a mixture with 16; the way back is minus the way."""
    x, end = normal(20, 2), normal(20, 2, seed=1)
    cubic = score_of(lambda x: (x**3).sum(1) / 3 - x.prod(1))
    close(line_integral(cubic, x, end, nodes=2), cubic.log_density(end) - cubic.log_density(x), 1e-12)
    assert (line_integral(cubic, x, end, nodes=1) - cubic.log_density(end) + cubic.log_density(x)).abs().max() > 1e-3
    difference = MIXTURE.log_density(end) - MIXTURE.log_density(x)
    close(line_integral(MIXTURE.score, x, end, nodes=16), difference, 1e-7)
    close(line_integral(MIXTURE.score, x, end), -line_integral(MIXTURE.score, end, x), 1e-14)


def test_the_circulation_is_the_curl_times_the_area():
    r"""Green: for $s = -x + \omega J x$ the work around a triangle is $2\omega$ times its area; 0 for a gradient."""
    x, end, g = normal(20, 2), normal(20, 2, seed=1), Generator().manual_seed(2)
    turned = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    size = (end - x).norm(dim=1) / (2 * math.sqrt(2))
    corner = (x + end) / 2 + size[:, None] * normal(20, 2, seed=2)
    area = torch.linalg.det(torch.stack([end - x, corner - x], 1)).abs() / 2
    close(circulation(lambda x: -x + 0.3 * x @ turned, x, end, generator=g), 2 * 0.3 * area, 1e-12)
    assert circulation(GAUSSIAN.score, x, end).max() < 1e-12
    samples = chain(MALA(0.3, adjust="line"), lambda x: -x + 0.3 * x @ turned, x, steps=3)
    assert samples.info["loop"].shape == (3, 20) and samples.info["loop"].mean() > 0.01
    assert samples.evaluations == 1 + 3 * (1 + 4 + 12)


def test_a_move_costs_one_evaluation_and_counts_it():
    """The score and the log-density of the last state are carried: steps + 1 calls, whatever carries the density."""
    x = normal(6, 2)
    for target in (GAUSSIAN, score_of(GAUSSIAN.log_density)):
        assert chain(MALA(0.1), target, x, steps=7).evaluations == 8
    one = chain(MALA(0.3), GAUSSIAN, x, steps=5, generator=Generator().manual_seed(3)).x
    other = chain(MALA(0.3), score_of(GAUSSIAN.log_density), x, steps=5, generator=Generator().manual_seed(3)).x
    close(one, other, 1e-10)


def test_a_bare_score_is_refused_with_the_way_out():
    x = normal(4, 2)
    for kernel in (MALA(0.1), HMC(0.1, 2)):
        with pytest.raises(TypeError, match="needs a log-density and the target is a bare score; pass score_of"):
            chain(kernel, lambda x: -x, x, steps=2)
    with pytest.raises(TypeError, match=r"target must be a score x -> s\(x\) or a density .* got int"):
        chain(MALA(0.1), 3, x, steps=2)


def test_bad_arguments_are_refused():
    for h in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"step_size must be a finite number > 0, got {h}"):
            MALA(h)
    with pytest.raises(ValueError, match="adjust must be one of density, line; got 'lines'; did you mean 'line'?"):
        MALA(0.1, adjust="lines")
    with pytest.raises(ValueError, match="nodes must be >= 1, got 0"):
        MALA(0.1, nodes=0)
    for p in (0.0, torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 2.0], [2.0, 1.0]])):
        with pytest.raises(ValueError, match="preconditioner must be"):
            MALA(0.1, p).step(score_of(GAUSSIAN.log_density), normal(4, 2))
    with pytest.raises(ValueError, match=r"preconditioner must have the shape of one sample, \(2,\), or \(2, 2\)"):
        chain(MALA(0.1, torch.ones(3)), GAUSSIAN, normal(4, 2), steps=1)


def test_where_the_density_is_not_a_number_no_move_is_accepted():
    """NaN above 1: every state stays below, and a refused move counts as a divergence of acceptance 0."""
    half = score_of(lambda x: torch.where(x[:, 0] < 1, -x[:, 0].square() / 2, math.nan))
    for kernel in (MALA(0.5), HMC(0.7, 2)):
        samples = chain(kernel, half, -normal(200, 1).abs(), steps=20, keep=1, generator=Generator().manual_seed(0))
        assert (samples.path < 1).all() and samples.divergences.sum() > 0
        assert (samples.info["acceptance"][samples.info["divergent"]] == 0).all()


def test_outside_the_support_is_never_entered_and_no_start():
    """A half line, log-density -inf below 0: every state stays above; a start below is named."""
    half = score_of(lambda x: torch.where(x[:, 0] > 0, -x[:, 0], -math.inf))
    x = normal(200, 1).abs()
    samples = chain(MALA(0.5), half, x, steps=30, keep=1, generator=Generator().manual_seed(0))
    assert (samples.path > 0).all() and samples.divergences.sum() > 0
    with pytest.raises(ValueError, match="log_density must be finite where a chain starts, but it is -inf at sample 1"):
        chain(MALA(0.5), half, torch.tensor([[1.0], [-1.0]]), steps=2)
    drawn = -torch.rand(20_000, 1, dtype=torch.float64, generator=Generator().manual_seed(1)).log()
    moved = chain(MALA(0.5), half, drawn, steps=8, generator=Generator().manual_seed(2)).x
    assert kstest(moved[:, 0].numpy(), "expon").pvalue > 1e-4
