"""Metrics: closed forms, independent libraries, and standard errors that cover."""

import math

import pytest
import torch
from torch import Generator

from scorefield.calculus import score_of
from scorefield.metrics import (
    Estimate,
    c2st,
    class_agreement,
    fisher_divergence,
    frechet_distance,
    inception_score,
    kernel_distance,
    mmd,
    nearest_distances,
)


def normal(n, d, generator=0):
    g = generator if isinstance(generator, Generator) else Generator().manual_seed(generator)
    return torch.randn(n, d, dtype=torch.float64, generator=g)


def with_moments(mean, covariance, n=50, seed=0):
    """A sample whose mean and covariance (over n - 1) are exactly these."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (n - 1)), x.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def random_covariance(k, seed):
    root = normal(k, k, seed)
    return root @ root.T + 0.1 * torch.eye(k, dtype=torch.float64)


def z_scores(estimates, truth):
    return torch.tensor([(e.value - truth) / e.standard_error for e in estimates])


def root(c):
    values, axes = torch.linalg.eigh(c)
    return axes * values.sqrt() @ axes.T


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_the_frechet_distance_of_exact_moments_is_the_closed_form(shift):
    m1, m2, c1, c2 = normal(1, 6, 1)[0], normal(1, 6, 2)[0], random_covariance(6, 3), random_covariance(6, 4)
    half = root(c1)
    expected = (m1 - m2).square().sum() + (c1 + c2 - 2 * root(half @ c2 @ half)).trace()
    a, b = with_moments(m1 + shift, c1, seed=5), with_moments(m2 + shift, c2, n=70, seed=6)
    result = frechet_distance(a, b, bootstrap=0)
    assert abs(result.value - expected) < (1e-8 if shift == 0 else 1e-6)
    assert result.n == 50 and result.standard_error is None and result.interval is None


def test_the_standard_error_of_the_frechet_distance_is_the_spread_over_repetitions():
    g = Generator().manual_seed(0)
    shift = torch.tensor([2.0, 0.0]).double()
    results = [
        frechet_distance(normal(150, 2, g) + shift, normal(150, 2, g), bootstrap=12, generator=g) for _ in range(40)
    ]
    spread = torch.tensor([r.value for r in results]).std()
    assert 0.75 < torch.tensor([r.standard_error for r in results]).mean() / spread < 1.3


@pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")
def test_the_kernel_distance_equals_torchmetrics_on_all_rows():
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b, given = normal(40, 5, 1) + 0.3, normal(40, 5, 2), torch.nn.Identity()
    given.num_features = 5
    theirs = KernelInceptionDistance(feature=given, subsets=1, subset_size=40).set_dtype(torch.float64)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    assert abs(kernel_distance(a, b).value - theirs.compute()[0].item()) < 1e-10


def test_the_kernel_distance_is_unbiased_and_its_error_calibrated_for_equal_laws():
    g = Generator().manual_seed(1)
    results = [kernel_distance(normal(60, 4, g), normal(80, 4, g)) for _ in range(200)]
    values = torch.tensor([r.value for r in results])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(200)
    assert 0.8 < z_scores(results, 0.0).std() < 1.25


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_mmd_is_unbiased_for_gaussians_and_its_standard_error_calibrated(shift):
    r"""For $N(0, I)$ and $N(m, I)$: $2 c^{d/2} (1 - e^{-\|m\|^2 / 2(h^2 + 2)})$ with $c = h^2/(h^2 + 2)$."""
    g, h, d = Generator().manual_seed(2), 1.5, 2
    m = torch.tensor([shift, 0.0]).double()
    truth = 2 * (h**2 / (h**2 + 2)) ** (d / 2) * (1 - math.exp(-(shift**2) / (2 * (h**2 + 2))))
    results = [mmd(normal(50, d, g) + m, normal(70, d, g), bandwidth=h) for _ in range(200)]
    values = torch.tensor([r.value for r in results])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(200)
    if shift:
        assert 0.8 < z_scores(results, truth).std() < 1.25
    else:  # where it is said to err on the safe side
        assert 1 < torch.tensor([r.standard_error for r in results]).square().mean().sqrt() / values.std() < 1.5


def test_mmd_takes_the_median_distance_and_any_shape():
    a, b = normal(30, 4, 1).reshape(30, 2, 2), normal(30, 4, 2).reshape(30, 2, 2)
    h = torch.pdist(torch.cat([a, b]).flatten(1)).median().item()
    assert mmd(a, b).value == mmd(a.flatten(1), b.flatten(1), bandwidth=h).value


def test_the_kernel_sums_do_not_depend_on_the_block(monkeypatch):
    a, b = normal(30, 3, 1), normal(41, 3, 2)
    whole, distances = mmd(a, b, bandwidth=1.0), nearest_distances(a, a, exclude_self=True)
    monkeypatch.setattr("scorefield.metrics.pairs._BLOCK", 200)
    parts = mmd(a, b, bandwidth=1.0)
    assert abs(parts.value - whole.value) < 1e-12 and abs(parts.standard_error - whole.standard_error) < 1e-12
    torch.testing.assert_close(nearest_distances(a, a, exclude_self=True), distances)


def test_the_inception_score_is_1_for_useless_and_k_for_confident_balanced_predictions():
    assert inception_score(torch.full((100, 7), 1 / 7)).value == pytest.approx(1, abs=1e-6)
    confident = torch.eye(5, dtype=torch.float64).repeat(40, 1)
    result = inception_score(confident, splits=1)
    assert abs(result.value - 5) < 1e-12 and result.standard_error < 1e-12
    assert inception_score(confident, splits=4, generator=Generator().manual_seed(0)).value > 4.7


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_inception_score_equals_torchmetrics():
    from torchmetrics.image.inception import InceptionScore

    logits = 2 * normal(90, 4)
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(logits)
    assert abs(inception_score(logits.softmax(1), splits=1).value - theirs.compute()[0].item()) < 1e-10


@pytest.mark.parametrize("splits", [1, 10])
def test_the_standard_error_of_the_inception_score_is_calibrated(splits):
    g = Generator().manual_seed(3)
    results = [inception_score((2 * normal(400, 3, g)).softmax(1), splits=splits, generator=g) for _ in range(200)]
    spread = torch.tensor([r.value for r in results]).std()
    assert 0.8 < torch.tensor([r.standard_error for r in results]).square().mean().sqrt() / spread < 1.25


def test_c2st_is_one_half_for_equal_laws_and_its_standard_error_calibrated():
    g = Generator().manual_seed(4)
    results = [c2st(normal(100, 2, g), normal(100, 2, g), generator=g) for _ in range(100)]
    values = torch.tensor([r.value for r in results])
    assert abs(values.mean() - 0.5) < 0.02
    assert 0.75 < z_scores(results, 0.5).std() < 1.3


def test_c2st_is_near_one_for_disjoint_laws_and_sees_more_than_the_mean():
    g = Generator().manual_seed(5)
    a = normal(200, 2, g)
    assert c2st(a, normal(200, 2, g) + 10, generator=g).value == 1
    ring = a / a.norm(dim=1, keepdim=True)
    assert c2st(a, ring, generator=g).interval[0] > 0.6


def test_the_fisher_divergence_of_shifted_gaussians_is_the_squared_shift():
    m = torch.tensor([1.0, -2.0, 0.5]).double()
    result = fisher_divergence(lambda x: m - x, lambda x: -x, normal(50, 3))
    assert abs(result.value - m.square().sum()) < 1e-12 and result.standard_error < 1e-12


def test_the_fisher_divergence_of_scaled_gaussians_has_its_closed_form_and_a_calibrated_error():
    """E |(1 - p) x|^2 = (1 - p)^2 d for the score -p x; one of the scores may need gradients inside."""
    g, p, d = Generator().manual_seed(6), 1.5, 3
    truth = score_of(lambda x: -x.square().sum(1) / 2)
    results = [fisher_divergence(lambda x: -p * x, truth, normal(100, d, g)) for _ in range(200)]
    z = z_scores(results, (1 - p) ** 2 * d)
    assert 0.8 < z.std() < 1.25 and abs(z.mean()) < 0.4
    covered = [r.interval[0] <= (1 - p) ** 2 * d <= r.interval[1] for r in results]
    assert 0.88 <= sum(covered) / 200 <= 0.99


def test_nearest_distances_are_those_of_a_full_search_and_exactly_zero_for_copies():
    a, b = normal(50, 6, 1), normal(80, 6, 2)
    full = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(nearest_distances(a, b), full.min(1).values, rtol=1e-13, atol=0)
    b[7] = a[3]
    assert nearest_distances(a + 1e4, b + 1e4)[3] == 0
    assert nearest_distances(b.float(), b.float()).max() == 0
    itself = nearest_distances(b.reshape(80, 2, 3), b.reshape(80, 2, 3), exclude_self=True)
    expected = torch.cdist(b, b).fill_diagonal_(math.inf).min(1).values
    torch.testing.assert_close(itself, expected)


def test_class_agreement_has_wilsons_interval():
    """Newcombe 1998, table I: 81 of 263 has the 95 % Wilson interval 0.2553 to 0.3662."""
    predicted = torch.arange(263) < 81
    result = class_agreement(predicted.long(), torch.ones(263, dtype=torch.long))
    assert result.value == 81 / 263 and result.n == 263
    assert result.interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert class_agreement(torch.ones(5), torch.ones(5)).interval[0] == pytest.approx(0.5655, abs=1e-4)


def test_an_estimate_reads_as_a_sentence():
    assert str(Estimate(0.12345, 0.004321, 898, (0.115, 0.132), "how")) == "0.1235 ± 0.0043 (n = 898; how)"
    assert str(Estimate(1.5, None, 3, None, "how")) == "1.5 (n = 3; how)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: frechet_distance(normal(1, 3), normal(5, 3)), "a must have at least 2 rows, got 1"),
        (lambda: frechet_distance(normal(5, 3), normal(5, 4)), "rows like those of a"),
        (lambda: mmd(normal(5, 3) / 0, normal(5, 3)), "a must be finite, got 5 of 5"),
        (lambda: mmd(normal(5, 3), normal(5, 3), bandwidth=-1.0), "bandwidth must be"),
        (lambda: mmd(torch.zeros(5, 3), torch.zeros(5, 3)), "median distance between rows is 0"),
        (lambda: c2st(normal(10, 3), normal(11, 3)), "drop rows of the longer one"),
        (lambda: inception_score(torch.ones(10, 3)), "apply softmax to logits"),
        (lambda: inception_score(torch.ones(10, 1), splits=6), "use fewer splits"),
        (lambda: fisher_divergence(lambda x: x[:, :1], lambda x: x, normal(5, 3)), "must return the shape of x"),
        (lambda: fisher_divergence(lambda x: x / 0, lambda x: x, normal(5, 3)), "scores must be finite, got 5 of 5"),
        (lambda: nearest_distances(normal(5, 3), normal(6, 3), exclude_self=True), "for exclude_self"),
        (lambda: class_agreement(torch.ones(3), torch.ones(4)), "one class per prediction"),
    ],
)
def test_bad_input_is_refused_with_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()
