"""The Fréchet distance and its limit: closed forms, another library, a bias that is known, errors that cover."""

import math

import pytest
import torch
from torch import Generator

from scorefield.metrics import frechet_distance, frechet_limit


def normal(n, k, g):
    return torch.randn(n, k, dtype=torch.float64, generator=g)


def test_the_frechet_distance_equals_torchmetrics_on_any_features():
    """The library that computes FID, given the same features, from the eigenvalues of the covariances' product."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    g, given = Generator().manual_seed(0), torch.nn.Identity()
    a, b = normal(90, 7, g) @ normal(7, 7, g), normal(60, 7, g) + 1
    given.num_features = 7
    theirs = FrechetInceptionDistance(feature=given).set_dtype(torch.float64)
    theirs.update(b, real=True)
    theirs.update(a, real=False)
    assert abs(frechet_distance(a, b, bootstrap=0).value - theirs.compute().item()) < 1e-9


def test_constant_features_and_equal_sets_are_no_distance_apart():
    """Singular covariances cost no accuracy: a set is 0 from itself, also with features that never fire."""
    a = normal(50, 4, Generator().manual_seed(1))
    a = torch.cat([a, torch.zeros(50, 3), a[:, :1]], 1)
    assert abs(frechet_distance(a, a, bootstrap=0).value) < 1e-12
    assert frechet_distance(a + 2.0, a, bootstrap=0).value == pytest.approx(4 * 8)


def test_the_limit_takes_off_the_bias_of_gaussians():
    r"""For equal normal laws the bias is (k + k (k + 1) / 4) (1/n + 1/m) to first order: 0.35 here.

    |mean difference|^2 gives k (1/n + 1/m); the roots of two Wishart matrices give a quarter of the expected squared
    difference of the covariances, k (k + 1) (1/n + 1/m) / 4. Beyond first order a sixth is left to itself.
    """
    g, k, n, repeats = Generator().manual_seed(2), 8, 160, 60
    plain, limits = [], []
    for _ in range(repeats):
        a, b = normal(n, k, g), normal(n, k, g)
        plain.append(frechet_distance(a, b, bootstrap=0).value)
        limits.append(frechet_limit(a, b, splits=4, generator=g))
    expected = (k + k * (k + 1) / 4) * 2 / n
    assert torch.tensor(plain).mean() == pytest.approx(expected, rel=0.06)
    values = torch.tensor([e.value for e in limits])
    assert abs(values.mean()) < 0.05 * expected + 4 * values.std() / math.sqrt(repeats)
    error = torch.tensor([e.standard_error for e in limits]).square().mean().sqrt()
    assert 1.1 < error / values.std() < 1.8  # equal laws: said to be about sqrt(2) too large


def test_the_limit_of_laws_apart_is_their_distance_and_its_error_covers():
    """N(0, I) and N(m, 4 I): |m|^2 + k, with a standard error that is the spread of repetitions."""
    g, k, repeats = Generator().manual_seed(3), 3, 80
    shift, truth = torch.tensor([1.0, 0.0, 0.0]).double(), 1 + k
    limits = [
        frechet_limit(2 * normal(100, k, g) + shift, normal(140, k, g), splits=6, generator=g) for _ in range(repeats)
    ]
    z = torch.tensor([(e.value - truth) / e.standard_error for e in limits])
    assert abs(z.mean()) < 4 / math.sqrt(repeats) and 0.75 < z.std() < 1.3


@pytest.mark.parametrize("distance", [frechet_distance, frechet_limit])
def test_fewer_rows_than_twice_the_features_are_refused(distance):
    """Whichever set is short, with the numbers and the way out; exactly twice is enough."""
    g = Generator().manual_seed(4)
    for a, b, name in ((15, 16, "a"), (16, 15, "b")):
        with pytest.raises(ValueError, match=rf"{name} must have at least 2 x 8 = 16 rows .* got 15; give more rows"):
            distance(normal(a, 8, g), normal(b, 8, g))
    assert distance(normal(16, 8, g), normal(16, 8, g)).n == 16


def test_halves_of_rows_chosen_class_by_class_keep_the_classes():
    """With two classes far apart, exactly half of each: without strata the halves' classes differ and the limit is low.

    The distance of the means between the classes is 10, so that a half whose classes are off moves the mean by much
    more than its size says.
    """
    g = Generator().manual_seed(5)

    def rows(n, y):
        return normal(n, 3, g) + 10 * y[:, None]

    y = torch.arange(100) % 2
    found = []
    for _ in range(30):
        a, b = rows(400, torch.rand(400, generator=g) < 0.5), rows(100, y)
        found.append([frechet_limit(a, b, splits=4, strata=s, generator=g).value for s in (y, None)])
    with_strata, without = torch.tensor(found).T
    se = with_strata.std() / math.sqrt(30)
    assert abs(with_strata.mean()) < 4 * se + 0.05 and without.mean() < -10 * se
    with pytest.raises(ValueError, match="one class per row of b"):
        frechet_limit(normal(20, 2, g), normal(20, 2, g), strata=y)
