"""Laws of noise: their samples, scores and information, and what is refused because its score is not what it says."""

import math

import pytest
import torch
from closed_forms import close, normal
from scipy import stats
from scipy.integrate import quad
from torch import Generator

from scorefield.calculus import PerSample, randn_like
from scorefield.objectives import Gaussian, Laplace, Student, denoising, noise_kernel
from scorefield.objectives.kernels import kernel_of

LAWS = {
    "gaussian": (Gaussian(), stats.norm()),
    "laplace": (Laplace(), stats.laplace(scale=1 / math.sqrt(2))),
    "student": (Student(), stats.t(5)),
    "student 1.5": (Student(1.5), stats.t(1.5)),
}
EACH = pytest.mark.parametrize("law", LAWS)


@EACH
def test_samples_follow_the_law_and_coordinates_are_independent(law):
    """Kolmogorov-Smirnov on 10,000 draws of each of two coordinates, and Spearman's correlation of their sizes."""
    kernel, known = LAWS[law]
    z = kernel.sample(torch.zeros(10_000, 2, 1, dtype=torch.float64), Generator().manual_seed(0)).flatten(1)
    for j in range(2):
        assert stats.kstest(z[:, j].numpy(), known.cdf).pvalue > 1e-4
    assert stats.spearmanr(z[:, 0].abs().numpy(), z[:, 1].abs().numpy()).pvalue > 1e-4
    assert stats.spearmanr(z[:, 0].numpy(), z[:, 1].numpy()).pvalue > 1e-4


@EACH
def test_the_score_is_the_derivative_of_the_log_density(law):
    """Central differences of scipy's log-density, to 1e-6; and each coordinate by itself."""
    kernel, known = LAWS[law]
    z = torch.tensor([[-3.0, 0.4], [-0.2, 11.0], [0.7, 2.5]], dtype=torch.float64)
    slope = (known.logpdf(z.numpy() + 1e-5) - known.logpdf(z.numpy() - 1e-5)) / 2e-5
    close(kernel.score(z), torch.from_numpy(slope), 1e-6)


@EACH
def test_the_score_integrates_by_parts_and_has_the_information_it_says(law):
    r"""$E[z\,\partial\log q] = -1$ and $E[(\partial\log q)^2]$ by quadrature over half the line; the law is even."""
    kernel, known = LAWS[law]

    def mean(power):
        def integrand(z):
            return (
                z**power * kernel.score(torch.tensor([[z]], dtype=torch.float64)).item() ** (2 - power) * known.pdf(z)
            )

        return 2 * quad(integrand, 0, math.inf)[0]

    assert abs(mean(1) + 1) < 1e-7
    assert abs(mean(0) - kernel.information) < 1e-7


def test_variances_are_those_that_the_names_promise():
    """Gaussian and Laplace noise has variance 1; Student's, of scale 1, has df/(df - 2): within 4 s.e."""
    for name, variance in (("gaussian", 1.0), ("laplace", 1.0), ("student", 5 / 3)):
        z = LAWS[name][0].sample(torch.zeros(40_000, 1, dtype=torch.float64), Generator().manual_seed(1))
        assert abs(z.square().mean() - variance) < 4 * z.square().std() / 200


def test_student_noise_of_many_degrees_of_freedom_is_gaussian():
    """As df grows the very draws become the first of the normals they are made of, and the score -z."""
    x = torch.zeros(100, 3, dtype=torch.float64)
    z = Student(1e9).sample(x, Generator().manual_seed(0))
    close(z, randn_like(x, Generator().manual_seed(0)), 1e-7)
    close(Student(1e9).score(z), -z, 1e-7)


@EACH
def test_noise_is_like_x_and_belongs_to_its_sample(law):
    """Shape and dtype of x, and under PerSample one stream per sample."""
    kernel = LAWS[law][0]
    x = torch.zeros(6, 1, 2, 2)
    assert kernel.sample(x).dtype == torch.float32 and kernel.sample(x).shape == x.shape
    assert kernel.sample(x).isfinite().all()
    whole, part = kernel.sample(x, PerSample(0, range(6))), kernel.sample(x[4:], PerSample(0, [4, 5]))
    assert torch.equal(whole[4:], part)


def by_quantile(inverse):
    """Noise of independent coordinates by inversion of the distribution function."""
    return lambda x, g: inverse(torch.special.ndtr(randn_like(x, g)))


def triangular(u):
    return torch.where(u < 0.5, (2 * u).sqrt() - 1, 1 - (2 * (1 - u)).sqrt())


def ball(power):
    """The law with density proportional to (1 - z^2)^power on [-1, 1]: z by a ratio of gammas, from normals alone."""

    def sample(x, g):
        n = torch.stack([randn_like(x, g) for _ in range(2 * power + 3)])
        return n[0] / n.square().sum(0).sqrt()

    return sample, lambda z: -2 * power * z / (1 - z**2)


ROOT = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)

RIGHT = {
    "Gaussian": (Gaussian().sample, Gaussian().score, (1, 2, 2)),
    "Laplace": (Laplace().sample, Laplace().score, (3,)),
    "Student": (Student(3).sample, Student(3).score, (3,)),
    "logistic": (by_quantile(torch.logit), lambda z: -torch.tanh(z / 2), (3,)),
    "correlated": (lambda x, g: randn_like(x, g) @ ROOT.T, lambda z: -torch.cholesky_solve(z.T, ROOT).T, (2,)),
    "(1 - z^2)^3 on [-1, 1]": (*ball(3), (2,)),
    "a shifted pair": (
        lambda x, g: randn_like(x, g) + 2 * (randn_like(x, g) < 0.5244),  # N(2, 1) with probability 0.7
        lambda z: -z + 2 * torch.sigmoid(2 * z - 2 + math.log(0.7 / 0.3)),
        (1,),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_kernels_are_admitted_with_what_was_measured(name):
    """Light and heavy tails, correlation, bounded support, a law that is not even: on each of three seeds."""
    sample, score, shape = RIGHT[name]
    for seed in range(3):
        kernel = noise_kernel(sample, score, shape, seed=seed)
        assert kernel.symmetric == (name != "a shifted pair") and kernel.information is None
        assert "tail index" in kernel.reasons[0] and "E[z . grad log q(z)]" in kernel.reasons[1]
    x = normal(5, *shape)
    assert denoising(lambda x: -x, x, sigma=1.0, kernel=kernel).shape == (5,)


WRONG = {
    "the sign": lambda z: z,
    "a factor 2": lambda z: -2 * z,
    "a factor 1/2": lambda z: -z / 2,
    "the density in place of its logarithm's slope": lambda z: -z * torch.exp(-(z**2) / 2),
    "a shift": lambda z: -(z - 0.1),
    "a scale of 5 %": lambda z: -z / 1.05,
    "coordinates that make up for each other": lambda z: -z * torch.tensor([1.5, 0.5], dtype=z.dtype),
    "the coordinates' order": lambda z: -z.flip(1),
    "zero": torch.zeros_like,
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_score_that_does_not_belong_to_its_noise_is_refused(mistake):
    """Beside samples of N(0, I) in two dimensions."""
    with pytest.raises(ValueError, match="the score must belong to the noise"):
        noise_kernel(Gaussian().sample, WRONG[mistake], 2)


def test_the_refusal_names_the_identity_the_value_and_the_dimension():
    """E[z . grad log q] of the wrong sign is +2 where it must be -2."""
    with pytest.raises(ValueError, match=r"E\[z \. grad log q\(z\)\] must be -2, got 2\.0\d+ \+- 0\.00\d+; check the"):
        noise_kernel(Gaussian().sample, lambda z: z, 2)


@pytest.mark.parametrize(("dimension", "draws", "seeds"), [(1, 50_000, 5), (64, 20_000, 1)])
def test_kernels_of_infinite_information_are_refused_though_they_integrate_by_parts(dimension, draws, seeds):
    r"""Triangular and Epanechnikov noise: $E[z\,\partial\log q] = -1$ holds, $E[(\partial\log q)^2] = \infty$."""
    u = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)

    def score(z):
        return -z.sign() / (1 - z.abs())

    assert abs((triangular(u) * score(triangular(u))).mean() + 1) < 0.1
    for sample, slope in ((by_quantile(triangular), score), ball(1)):
        for seed in range(seeds):
            with pytest.raises(ValueError, match=r"finite Fisher information .* must exceed 1, clearly \(1\.\d\d with"):
                noise_kernel(sample, slope, dimension, draws=draws, seed=seed)


def test_uniform_noise_is_refused_by_name_and_by_its_score():
    """Its score is zero inside: the identity fails, and the names say why."""
    with pytest.raises(ValueError, match="E.z . grad log q.z.. must be -1, got 0"):
        noise_kernel(by_quantile(lambda u: 2 * u - 1), torch.zeros_like, 1)
    for name, reason in (
        ("uniform", "not absolutely continuous"),
        ("triangular", r"integral of \|q'\|\^2 / q, is infinite"),
    ):
        with pytest.raises(ValueError, match=f"kernel must not be '{name}'.*{reason}.*use one of gaussian, laplace"):
            denoising(lambda x: x, normal(4, 3), sigma=1.0, kernel=name)


def test_bad_arguments_are_refused():
    """Too few draws, samples and scores of another shape, values that are not finite, df, and what is no kernel."""
    g = Gaussian()
    with pytest.raises(ValueError, match="draws must be >= 1000, got 10"):
        noise_kernel(g.sample, g.score, 2, draws=10)
    with pytest.raises(ValueError, match="must return the shape of x"):
        noise_kernel(lambda x, g: x[:, :1], g.score, 2)
    with pytest.raises(ValueError, match="must return the shape of x"):
        noise_kernel(g.sample, lambda z: z.sum(1), 2)
    with pytest.raises(ValueError, match="must be finite, got nan or infinity"):
        noise_kernel(g.sample, lambda z: z.log(), 2)
    with pytest.raises(ValueError, match="df must be a finite number > 0, got 0"):
        Student(0)
    for kernel in (3, torch.nn.Identity()):
        with pytest.raises(
            TypeError, match="kernel must be one of gaussian, laplace, student, or come from noise_kernel"
        ):
            kernel_of(kernel)
