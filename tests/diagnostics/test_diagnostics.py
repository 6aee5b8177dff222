"""Each measurement against what it is known to be."""

import math

import numpy as np
import pytest
import torch

from scorefield.calculus import score_of
from scorefield.densities import GaussianMixture
from scorefield.diagnostics import (
    Atoms,
    Corrected,
    Gaussian,
    Lookup,
    at_level,
    atoms,
    constant_columns,
    copied,
    disagreement,
    energy_bounds,
    energy_shortfall,
    flat_directions,
    jacobian_parts,
    kernel_density,
    levina_bickel,
    log_widths,
    mode_weights,
    neighbour_distances,
    neighbour_scale,
    overlap,
    prior_gap,
    repeated_rows,
    ripple,
    rows_among,
    rows_not_finite,
    signal_to_noise,
    tail_share,
    two_nn,
)
from scorefield.diagnostics.rows import evenly
from scorefield.noise import VE, VP, overlap_ratio

MIX = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[1.0, 1.0], [-1.0, 0.5]], dtype=torch.float64),
    torch.stack([torch.eye(2, dtype=torch.float64) * v for v in (0.05, 0.2)]),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def exact(noise):
    """The score of MIX at every level."""
    return lambda x, t: MIX.blurred(noise, t.flatten()[0].item()).score(x)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_dimension_of_normal_rows_is_that_of_their_space(d):
    """Within 4 standard errors and 3 %, the bias of ten neighbours in a density that is not flat."""
    x = normal(4000, d)
    for found in (levina_bickel(x), two_nn(x)):
        assert abs(found.value - d) < 4 * found.standard_error + 0.03 * d
    for found, logs in ((levina_bickel(x), 9), (two_nn(x), 1)):  # 1,000 rows, logs of exponential law each
        assert found.standard_error == pytest.approx(found.value / math.sqrt(1000 * logs), rel=0.2)


def test_dimension_of_a_torus_in_five_dimensions_is_two():
    """A rotation and an embedding change nothing."""
    u = 2 * math.pi * torch.rand(4000, 2, generator=seeded(), dtype=torch.float64)
    torus = torch.stack(
        [(2 + u[:, 1].cos()) * u[:, 0].cos(), (2 + u[:, 1].cos()) * u[:, 0].sin(), u[:, 1].sin()], dim=1
    )
    rotation = torch.linalg.qr(normal(5, 5)).Q[:3]
    for found in (levina_bickel(torus @ rotation), two_nn(torus @ rotation)):
        assert abs(found.value - 2) < 4 * found.standard_error + 0.05
    plane, turned = two_nn(torus), two_nn(3 * torus @ rotation)
    assert plane.value == pytest.approx(turned.value, rel=0.1)  # the rows asked are in another order


def test_the_mean_of_inverses_is_unbiased_where_the_density_is_flat():
    """Three neighbours suffice: the mean of the estimates themselves would be twice too large for k = 3."""
    x = torch.rand(10_000, 2, generator=seeded(), dtype=torch.float64)
    near = neighbour_distances(x, 3)
    inverse = (near[:, -1:] / near[:, :-1]).log().mean(1)
    found = levina_bickel(x, neighbours=3)
    assert abs(found.value - 2) < 4 * found.standard_error + 0.02
    assert (1 / inverse).mean().item() > 3


def test_copies_do_not_hide_the_dimension():
    """Rows that are there twice have no distance of zero."""
    x = normal(500, 2)
    assert levina_bickel(torch.cat([x, x])).value == pytest.approx(levina_bickel(x).value)
    with pytest.raises(ValueError, match="more than 10 different rows, got 1"):
        levina_bickel(torch.ones(50, 2))


def test_neighbours_are_those_of_all_distances():
    """Against the whole matrix of distances, with a copy, far from the origin; as many neighbours as there are rows."""
    x = 1e4 + normal(60, 3)
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sort(1).values
    asked = x.unique(dim=0, return_inverse=True)[1].argsort()  # in the order of the different rows
    assert torch.allclose(neighbour_distances(torch.cat([x, x[:1]]), 4), distances[asked, 1:5])
    assert torch.allclose(neighbour_distances(x[:3], 2).sum(), torch.cdist(x[:3], x[:3]).sum())


def test_rows_are_taken_evenly():
    """From the first to the last; all where there are no more."""
    assert evenly(11, 3).tolist() == [0, 5, 10] and evenly(3, 9).tolist() == [0, 1, 2] and not len(evenly(0, 4))


def test_rows_are_counted():
    """Gaps, constants, copies: as planted, also where zero has a sign."""
    x = np.array([[0.0, 5.0, 1.0], [-0.0, 5.0, 1.0], [2.0, 5.0, np.nan], [3.0, 5.0, np.inf]])
    assert rows_not_finite(x).tolist() == [False, False, True, True]
    assert constant_columns(x[:2]).tolist() == [0, 1, 2] and constant_columns(x[[0, 2], :2]).tolist() == [1]
    assert repeated_rows(x[:2]).tolist() == [False, True]
    assert rows_among(x[:2, :2], x[2:, :2]).tolist() == [False, False]
    assert rows_among(x[:2, :2], x[1:, :2]).tolist() == [True, True]
    images = np.zeros((3, 1, 2, 2), dtype=np.uint8)
    images[2, 0, 1, 1] = 7
    assert repeated_rows(images).tolist() == [False, True, False]


def test_flat_directions_are_the_planted_relation():
    """x2 = x0 + 2 x1, whatever the units; a constant column is left out."""
    x = normal(300, 2).numpy()
    table = np.column_stack([x, x @ [1, 2], np.full(300, 4.0)])
    (direction,) = flat_directions(table)
    weights = direction / table.std(0).clip(1e-9)
    assert direction[3] == 0 and np.allclose(weights[:3] / weights[2], [-1, -2, 1])
    assert not len(flat_directions(x))


def test_atoms_and_their_grid():
    """Rounded values lie on the grid they were rounded to; a mixture of a point and a density has atoms without one."""
    x = normal(2000).numpy()
    assert atoms(x) == Atoms(0, 0.0)
    rounded = atoms(np.round(4 * x) / 4 + 0.1)
    assert rounded.tied > 1980 and rounded.spacing == pytest.approx(0.25)
    assert atoms(np.where(np.arange(2000) < 500, 0.0, x)) == Atoms(500, 0.0)


def test_the_grid_of_the_numbers_themselves_is_none():
    """Uniform numbers in float32 are multiples of 2⁻²⁴, some of them equal; sixteen bits of a scanner are a grid."""
    x = np.random.default_rng(0).random(60_000, dtype=np.float32)
    found = atoms(x)
    assert found.tied > 0 and found.spacing == 0
    assert atoms((x.astype(float) * 65535).round() / 65535).spacing == pytest.approx(1 / 65535, rel=1e-3)


def test_tail_share_of_a_normal_law_and_of_one_number_far_out():
    """E[z²; |z| > 3.29] = 0.0127 for one row in a thousand; a sentinel holds all."""
    x = normal(100_000).numpy()
    assert tail_share(x) == pytest.approx(0.0127, abs=0.001)
    assert tail_share(np.append(x[:2000], -999.0)) > 0.99 and tail_share(np.ones(5)) == 0


@pytest.mark.parametrize("d", [20, 64, 3072])
def test_overlap_is_a_half_at_the_ratio_the_schedules_take(d):
    """The root of technique 2."""
    assert overlap(overlap_ratio(d)[0], d) == pytest.approx(0.5, abs=1e-9)


def test_ripple_is_the_height_of_a_blurred_lattice():
    """Against the sum of the kernels itself."""
    h, sigma = 0.7, 0.3
    at = np.array([0.0, h / 2])[:, None] - h * np.arange(-40, 41)
    density = np.exp(-(at**2) / (2 * sigma**2)).sum(1) * h / (sigma * math.sqrt(2 * math.pi))
    assert (density[0] - density[1]) / 2 == pytest.approx(ripple(h, sigma), rel=1e-3)


def test_neighbour_scale_of_a_grid():
    """Rows of a square grid lie one spacing apart: over sqrt 2."""
    grid = torch.cartesian_prod(*(torch.arange(20, dtype=torch.float64),) * 2)
    assert neighbour_scale(grid) == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize("noise", [VE(0.01, 30.0), VP()])
def test_log_widths_integrate_the_flow_of_information(noise):
    r"""Of N(0, v), ∫ (D - σ²E‖s‖²) dlog(σ/α) = ½ log(1 + v α²/σ²) between the ends, for every schedule."""
    v, times = 0.7, noise.rho_times(4000)
    ratio = (noise.sigma(times) / noise.alpha(times)).square()
    gap = 1 - ratio / (v + ratio)
    ends = [0.5 * math.log(1 + v / ratio[k].item()) for k in (-1, 0)]
    assert (log_widths(noise, times) * gap).sum().item() == pytest.approx(ends[0] - ends[1], rel=1e-4)


def test_prior_gap_of_normal_data_is_the_divergence_of_two_normal_laws():
    """Data N(0, 16 I) under a prior for variance 1: ½ D (r - 1 - log r), less what 2,000 rows cannot show."""
    noise, d = VE(0.01, 5.0), 2
    train, held = 4 * normal(4000, d), 4 * normal(5_000, d, seed=1)
    found = prior_gap(noise, train, held, generator=seeded())
    r = (25 + 16) / (25 + 1)
    expected = d / 2 * (r - 1 - math.log(r))
    assert abs(found.value - expected) < 4 * found.standard_error + 5e-3
    assert found.value > 4 * found.standard_error > 0


def test_the_bounds_hold_for_the_exact_score_and_are_met_by_a_normal_law():
    """σ² tr(α²C + σ²I)⁻¹ <= σ²E‖s‖² <= D on a mixture; equality below for N(0, C)."""
    noise = VE(0.05, 5.0)
    x = MIX.sample((4000,), generator=seeded())
    frame = Gaussian(MIX.sample((2000,), generator=seeded(1)))
    for sigma in (0.06, 0.3, 1.0, 4.0):
        level = at_level(exact(noise), noise, x, noise.time_at(torch.tensor(sigma, dtype=torch.float64)))
        low, high = energy_bounds(level, frame)
        mine = sigma**2 * level.s.square().sum(1)
        error = mine.std().item() / math.sqrt(len(x))
        assert low - 4 * error < mine.mean().item() < high + 4 * error
        assert energy_shortfall(level, frame, 4.0) == 0
    covariance = torch.tensor([[2.0, 0.5], [0.5, 0.4]], dtype=torch.float64)
    rows = normal(4000, 2) @ torch.linalg.cholesky(covariance).T
    t = noise.time_at(torch.tensor(0.5, dtype=torch.float64))
    precision = torch.linalg.inv(covariance + 0.25 * torch.eye(2))
    level = at_level(lambda x, t: -x @ precision, noise, rows, t, generator=seeded(2))
    low, _ = energy_bounds(level, Gaussian(rows[:2000]))
    mine = 0.25 * level.s.square().sum(1).mean().item()
    assert low == pytest.approx(mine, rel=0.02) and low == pytest.approx(0.25 * precision.trace().item(), rel=0.08)


def test_a_score_of_half_the_length_falls_short_by_the_squared_difference_of_the_roots():
    """(√low - √measured)² with no allowance for errors."""
    noise, x = VE(0.05, 5.0), normal(2000, 2, seed=7)
    t = noise.time_at(torch.tensor(1.0, dtype=torch.float64))
    level = at_level(lambda x, t: -0.5 * x / 2, noise, x, t, generator=seeded())
    frame = Gaussian(normal(2000, 2, seed=3))
    low, _ = energy_bounds(level, frame)
    mine = level.s.square().sum(1).mean().item()
    assert energy_shortfall(level, frame, 0.0) == pytest.approx((math.sqrt(low) - math.sqrt(mine)) ** 2)
    assert energy_shortfall(level, frame, 0.0) == pytest.approx(0.25, rel=0.1)  # (1 - ½)² of σ²E‖s‖² = 1


def test_a_correction_finds_a_factor_and_nothing_on_the_exact_score():
    """Half the exact score is doubled; the exact score gains nothing on other rows."""
    noise = VE(0.05, 5.0)
    frame = Gaussian(MIX.sample((2000,), generator=seeded(1)))
    fit_on, judge_on = (MIX.sample((4000,), generator=seeded(k)) for k in (2, 3))
    t = noise.time_at(torch.tensor(0.4, dtype=torch.float64))
    for factor, gain in ((1.0, 0.0), (0.5, 1.0)):
        score = lambda x, t, factor=factor: factor * exact(noise)(x, t)  # noqa: E731
        fit = Corrected(at_level(score, noise, fit_on, t, generator=seeded(4)), frame)
        level = at_level(score, noise, judge_on, t, generator=seeded(5))
        saved = level.loss - level.loss_of(fit.score(level))
        error = saved.std().item() / math.sqrt(len(saved))
        assert abs(fit.gain - gain) < 0.12
        least = (1 - factor) ** 2 * 0.16 * exact(noise)(level.x_t, t).square().sum(1).mean().item()
        assert saved.mean().item() == pytest.approx(least, abs=4 * error + 0.02)


def test_looking_up_is_the_score_of_the_blurred_rows():
    """A mixture with a narrow component at every row; and its closed-form divergence is autograd's."""
    rows, noise = normal(30, 2), VP()
    t = torch.tensor(0.4, dtype=torch.float64)
    level = at_level(lambda x, t: torch.zeros_like(x), noise, normal(20, 2, seed=1), t, generator=seeded())
    points = GaussianMixture(
        torch.full((30,), 1 / 30, dtype=torch.float64), rows, 1e-12 * torch.eye(2, dtype=torch.float64).expand(30, 2, 2)
    )
    assert torch.allclose(Lookup(rows).score(level), points.blurred(noise, t.item()).score(level.x_t), atol=1e-6)
    s, div = kernel_density(level.x_t, rows, 0.5)

    def log_density(x):
        return torch.logsumexp(-(x[:, None] - rows).square().sum(2) / 0.5, dim=1)

    assert torch.allclose(s, score_of(log_density)(level.x_t))
    eye = torch.func.vmap(torch.func.jacrev(lambda u: score_of(log_density)(u[None])[0]))(level.x_t)
    assert torch.allclose(div, eye.diagonal(dim1=1, dim2=2).sum(1))


@pytest.mark.parametrize("shift", [0.7, -0.7])
def test_parts_of_a_jacobian_are_those_of_the_matrix(shift):
    """A linear field: both squared norms and the trace, in the mean over directions; the shift enters only one."""
    a = normal(6, 6)
    x = torch.zeros(4000, 6, dtype=torch.float64)
    turning, other, trace = jacobian_parts(lambda u: u @ a.T, x, shift=shift, probes=4, generator=seeded())
    symmetric = (a + a.T) / 2 + shift * torch.eye(6)
    for found, expected in (
        (turning, ((a - a.T) / 2).square().sum()),
        (other, symmetric.square().sum()),
        (trace, a.trace()),
    ):
        assert abs(found.mean() - expected).item() < 4 * found.std().item() / math.sqrt(len(x))


def test_a_gradient_does_not_turn():
    """The score of a mixture, to rounding."""
    turning, other, _ = jacobian_parts(MIX.score, normal(20, 2), generator=seeded())
    assert turning.max() < 1e-20 * other.max()


def test_mode_weights_are_equal_or_off_by_the_factor():
    """Equal weights are rarely refused; a missing mode is, at once; the factor is tolerated."""
    random = np.random.default_rng(0)
    p = np.array([mode_weights(random.integers(0, 4, 300), random.integers(0, 4, 900)).p_value for _ in range(400)])
    assert abs((p < 0.1).mean() - 0.1) < 4 * math.sqrt(0.09 / 400)
    data = random.integers(0, 4, 900)
    assert mode_weights(random.integers(0, 3, 300), data).p_off < 1e-9
    off, data = random.choice(4, 3000, p=[0.34, 0.22, 0.22, 0.22]), np.arange(9000) % 4
    assert mode_weights(off, data).p_off == 1 and mode_weights(off, data, factor=1.0).p_off < 1e-6


def test_a_mode_without_data_is_off_by_the_binomial_tail_of_all_modes():
    """Ten samples and no data in the first, at even odds: P(10 of 10) = 2^-10, times both sides of three modes."""
    few = mode_weights(np.repeat([0, 1, 2], [10, 5, 5]), np.repeat([1, 2], 10), factor=1.0)
    assert few.p_off == pytest.approx(6 / 2**10)


def test_copied_rows_are_seen_and_others_at_the_rate_of_chance():
    """A fresh row is three times nearer to its first neighbour than to the next with probability (1/3)^d."""
    train = torch.rand(5000, 2, generator=seeded(), dtype=torch.float64)
    fresh = copied(0.1 + 0.8 * torch.rand(1500, 2, generator=seeded(1), dtype=torch.float64), train).double().mean()
    assert abs(fresh.item() - 1 / 9) < 4 * math.sqrt(8 / 81 / 1500) + 0.005
    assert copied(torch.cat([train, train])[:100] + 1e-6, torch.cat([train, train])).all()
    with pytest.raises(ValueError, match="train must have at least 2 rows, got 1"):
        copied(train, torch.cat([train[:1], train[:1]]))


def test_disagreement_is_per_coordinate():
    """A shift of 0.2 in every coordinate is 0.2."""
    a = normal(5, 1, 3, 3)
    assert torch.allclose(disagreement(a, a + 0.2), torch.full((5,), 0.2, dtype=torch.float64))


def test_signal_to_noise_of_a_normal_law():
    """h λ / 2, which gives ULA's stationary variance 1/(λ(1 - hλ/2))."""
    x = 0.5 * normal(20_000, 3)
    assert signal_to_noise(lambda x: -4 * x, x, 0.1) == pytest.approx(0.2, rel=0.03)
