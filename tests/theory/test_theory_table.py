"""Every theorem holds, and none of the checks is one that cannot fail: with a broken ingredient each does."""

import math

import pytest
import torch

from scorefield.calculus import inner, score_of
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.fields import denoise
from scorefield.objectives import denoising as denoising_loss
from scorefield.objectives import explicit, implicit_terms, noise_conditional, sliced_terms
from scorefield.samplers import Langevin, reverse
from scorefield.theory import THEOREMS, Claim, check, denoising, dynamics, likelihood, matching, scores, table
from scorefield.theory.claim import paired, pointwise
from scorefield.theory.quadrature import draw_on_line

NAMES = [theorem.name for theorem in THEOREMS]


@pytest.fixture(scope="module")
def rows():
    """All theorems, checked once."""
    return {row.theorem.name: row for row in check(seed=0)}


@pytest.mark.parametrize("name", NAMES)
def test_the_theorem_holds(rows, name):
    """Within 4 s.e. and the tolerance: of the 21 random ones a true claim fails by chance in 0.1 % of all seeds."""
    claim = rows[name].claim
    assert claim.holds, claim


@pytest.mark.parametrize("name", [n for n in NAMES if n != "flux-vanishes"])
def test_the_check_has_the_power_to_see_a_lost_factor(rows, name):
    """What is allowed between the sides is at most a twelfth of them, so that a lost 1/2 cannot hide."""
    claim = rows[name].claim
    assert claim.allowed < abs(claim.right) / 12


def times(factor, function):
    return lambda *given, **named: factor * function(*given, **named)


def half_on_both(score, x, **named):
    half, trace = sliced_terms(score, x, **named)
    return half + trace / 2


def half_on_neither(score, x, **named):
    half, trace = sliced_terms(score, x, **named)
    return 2 * half + trace


def short_probes(score, x, **named):
    """Probes of length 1: both terms divided by D."""
    half, trace = sliced_terms(score, x, **named)
    return (half + trace) / x.shape[1]


def implicit_with(half, trace):
    def broken(score, x):
        terms = implicit_terms(score, x)
        return half * terms[0] + trace * terms[1]

    return broken


def half_trace(score, x):
    s, trace = matching_divergence(score, x)
    return s, trace / 2


matching_divergence = matching.divergence


class LessNoise:
    """Langevin with the noise of one dW in place of sqrt(2) dW."""

    def __init__(self, step_size):
        self.kernel = Langevin(step_size)

    def step(self, target, x, *, generator=None):
        still, _ = self.kernel.step(target, x, generator=dynamics._Constant(0.0))
        moved, info = self.kernel.step(target, x, generator=generator)
        return still + (moved - still) / math.sqrt(2), info


def plain_sum(log_density):
    """The score of `in_plane` as the plain sum of its components' scores."""
    law = table.in_plane()
    parts = [Gaussian(m, c) for m, c in zip(law.means, law.covariances, strict=True)]
    return lambda x: sum(part.score(x) for part in parts)


def from_the_data(log_density, n, *, reach, generator=None):
    """Samples of the data where samples of the model are needed."""
    return draw_on_line(table.on_line().log_density, n, reach=reach, generator=generator)


def scaled_score(factor):
    def broken(score, noise, x, **named):
        return reverse(lambda x, t: factor * score(x, t), noise, x, **named)

    return broken


def sigma_not_squared(score, noise, x_t, t):
    return x_t + noise.sigma(t) * score(x_t, t)


def without_alpha(score, noise, x_t, t):
    return noise.alpha(t) * denoise(score, noise, x_t, t)


def flipped_target(score, x, **named):
    return denoising_loss(lambda at: -score(at), x, **named)


def sigma2_weight(score, x, **named):
    return noise_conditional(score, x, **(named | {"weight": "sigma2"}))


# theorem, module, what is broken in it, and the broken thing
BREAKS = [
    ("free-of-z", scores, "score_of", lambda f: score_of(lambda x: f(x).exp())),
    ("log-z", scores, "draw_on_line", from_the_data),
    ("log-z", scores, "log_constant", lambda *given, **named: torch.tensor(1.0)),
    ("likelihood-sees-z", scores, "draw_on_line", from_the_data),
    ("likelihood-sees-z", scores, "log_constant", lambda *given, **named: torch.tensor(1.0)),
    ("matching-does-not", scores, "implicit", implicit_with(2, 1)),
    ("matching-does-not", scores, "implicit", implicit_with(1, 0.5)),
    ("matching-does-not", scores, "explicit", times(2, explicit)),
    ("mixture", scores, "score_of", plain_sum),
    ("implicit", matching, "implicit", implicit_with(2, 1)),
    ("implicit", matching, "implicit", implicit_with(1, -1)),
    ("implicit", matching, "implicit", implicit_with(1, 1 / 3)),
    ("implicit", matching, "explicit", times(2, explicit)),
    ("by-parts", matching, "divergence", half_trace),
    ("by-parts", matching, "_ends", lambda *given: 0.0),
    ("flux", matching, "divergence", half_trace),
    ("flux", matching, "flux", times(1 / 4, matching.flux)),
    ("flux-vanishes", table, "in_space", lambda: Gaussian([0.0] * 3, table.diagonal(9.0, 9.0, 9.0))),
    ("half-line", matching, "_ends", lambda *given: 0.0),
    ("half-line", matching, "implicit", implicit_with(2, 1)),
    ("sliced-rademacher", matching, "sliced", half_on_both),
    ("sliced-rademacher", matching, "sliced", half_on_neither),
    ("sliced-gaussian", matching, "sliced", half_on_both),
    ("sliced-gaussian", matching, "sliced", half_on_neither),
    ("sliced-sphere", matching, "sliced", half_on_both),
    ("sliced-sphere", matching, "sliced", short_probes),
    ("sliced-reduced", matching, "sliced", half_on_both),
    ("sliced-reduced", matching, "sliced", half_on_neither),
    ("consistency", matching, "implicit", implicit_with(2, 1)),
    ("consistency", matching, "implicit", implicit_with(1, 0.9)),
    ("elsewhere", matching, "explicit", times(2, explicit)),
    ("elsewhere", matching, "gaussian_divergence", times(2, matching.gaussian_divergence)),
    ("gaussian", matching, "implicit", implicit_with(2, 1)),
    ("gaussian", matching, "implicit", implicit_with(1, 1 / 3)),
    *[(f"denoising-{kernel}", denoising, "denoising", times(2, denoising_loss)) for kernel in denoising.LOG_KERNELS],
    *[(f"denoising-{kernel}", denoising, "denoising", flipped_target) for kernel in denoising.LOG_KERNELS],
    ("variances", denoising, "explicit", times(2, explicit)),
    ("autoencoder", denoising, "denoise", sigma_not_squared),
    ("tweedie", denoising, "denoise", without_alpha),
    ("lyu", dynamics, "explicit", times(2, explicit)),
    ("lyu-at-zero", dynamics, "gaussian_divergence", times(2, matching.gaussian_divergence)),
    ("lyu-at-zero", dynamics, "gaussian_kl", times(2, dynamics.gaussian_kl)),
    ("langevin", dynamics, "divergence", half_trace),
    ("langevin-bias", dynamics, "Langevin", LessNoise),
    ("langevin-order", dynamics, "Langevin", LessNoise),
    ("reverse-sde-ve", dynamics, "reverse", scaled_score(0.5)),
    ("reverse-sde-vp", dynamics, "reverse", scaled_score(0.5)),
    ("flow-ve", dynamics, "reverse", scaled_score(2.0)),
    ("flow-vp", dynamics, "reverse", scaled_score(2.0)),
    ("bound", likelihood, "weighted_divergence", times(1 / 2, likelihood.weighted_divergence)),
    ("bound-is-tight", likelihood, "weighted_divergence", times(2, likelihood.weighted_divergence)),
    ("bound-is-tight", likelihood, "gaussian_kl", times(2, dynamics.gaussian_kl)),
    ("weighted", likelihood, "noise_conditional", sigma2_weight),
    ("weighted", likelihood, "noise_conditional", times(2, noise_conditional)),
]


def test_every_theorem_is_broken_somewhere():
    """No check that cannot fail: each has a twin in the list."""
    assert {name for name, *_ in BREAKS} == set(NAMES)


@pytest.mark.parametrize(
    ("name", "module", "ingredient", "broken"), BREAKS, ids=[f"{b[0]}: {b[2]} {i}" for i, b in enumerate(BREAKS)]
)
def test_with_a_broken_ingredient_the_check_fails(monkeypatch, name, module, ingredient, broken):
    """A flipped sign, a lost 1/2 or sqrt 2, a division by D, a forgotten boundary or model sample is seen."""
    monkeypatch.setattr(module, ingredient, broken)
    (row,) = check(seed=0, only=name)
    assert not row.claim.holds, row.claim


def test_a_theorem_gives_the_same_alone_as_among_others_and_another_for_another_seed(rows):
    """Each has its own stream, a function of (seed, name)."""
    chosen = [row.theorem.name for row in check(only="score")]
    assert chosen == [theorem.name for theorem in THEOREMS if theorem.part == "score"]
    (alone,) = check(seed=0, only="weighted")
    assert alone.claim == rows["weighted"].claim
    assert rows["sliced-gaussian"].claim.right != rows["sliced-sphere"].claim.right, "the same mean of other samples"
    (other,) = check(seed=1, only="weighted")
    assert other.claim.holds and other.claim.left != alone.claim.left


def test_what_is_exact_says_so_and_what_is_random_carries_its_error(rows):
    """Exact rows agree to their tolerance with no error; random ones have a finite positive one."""
    exact = {name for name, row in rows.items() if row.claim.standard_error == 0}
    assert exact == {
        *("free-of-z", "mixture", "by-parts", "flux", "flux-vanishes", "half-line", "consistency", "gaussian"),
        *("tweedie", "lyu", "lyu-at-zero", "langevin-order", "bound", "bound-is-tight"),
    }
    assert all(0 < rows[name].claim.standard_error < math.inf for name in set(NAMES) - exact)


def test_statements_fit_a_line_and_are_all_different():
    """At most 53 characters (marks over letters take no room), so that a table of 100 columns has one line each."""
    lines = [theorem.statement for theorem in THEOREMS]
    assert len(set(lines)) == len(lines) and len(set(NAMES)) == len(NAMES)
    for line in lines:
        assert len(line.replace("\u0303", "").replace("\u0304", "")) <= 53, line


def test_unknown_names_and_seeds_are_refused_before_anything_runs():
    """The nearest name is offered."""
    with pytest.raises(ValueError, match="only must be one of score, free-of-z, .*; did you mean 'flux'"):
        check(only="fluks")
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        check(seed=-1)


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (Claim(1.0, 1.0), True),
        (Claim(1.0, 1.0 + 1e-15), False),
        (Claim(1.0, 1.39, 0.1), True),
        (Claim(1.0, 1.41, 0.1), False),
        (Claim(1.41, 1.0, 0.1), False),
        (Claim(1.41, 1.0, 0.1, 0.02), True),
        (Claim(1.0, 2.0, 0.1, relation="≤"), True),
        (Claim(2.0, 1.0, 0.1, relation="≤"), False),
        (Claim(math.nan, 1.0, 0.1), False),
        (Claim(1.0, math.nan, 0.1), False),
        (Claim(math.inf, math.inf), False),
        (Claim(1.0, 1.0, math.nan), False),
        (Claim(math.nan, 1.0, relation="≤"), False),
    ],
)
def test_a_claim_holds_within_four_standard_errors_and_the_tolerance(claim, holds):
    """Never where a side or the error is not a number."""
    assert claim.holds is holds


def test_paired_claims_carry_the_error_of_the_difference():
    """Of (1, 2, 3) and (1, 2, 6) the differences are 0, 0, -3: mean -1, s.e. sqrt(3)/sqrt(3) = 1."""
    claim = paired(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 6.0]))
    assert claim[:3] == pytest.approx((2.0, 3.0, 1.0))


def test_pointwise_claims_show_where_two_tensors_part():
    """The first entry that differs, or the first; an entry that is nan differs."""
    same, other = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [3.5, 9.0]])
    assert pointwise(same, same)[:2] == (1.0, 1.0) and pointwise(same, same).holds
    assert pointwise(same, other)[:2] == (3.0, 3.5) and not pointwise(same, other).holds
    assert not pointwise(same, torch.where(same == 4, torch.nan, same)).holds


def test_a_row_becomes_json_that_every_reader_can_read(rows):
    """Numbers are numbers, and what is not finite is null."""
    content = rows["bound"].to_json()
    assert content["relation"] == "≤" and content["holds"] is True and content["part"] == "likelihood"
    assert content["left"] == pytest.approx(0.7963, abs=1e-4) and content["standard_error"] == 0
    lost = rows["bound"]._replace(claim=Claim(math.nan, math.inf, 1.0))
    assert lost.to_json()["left"] is None and lost.to_json()["right"] is None and lost.to_json()["holds"] is False


def test_examples_are_what_the_table_says_they_are():
    """`on_line` is a member of its family, and a model differs from the truth."""
    assert isinstance(table.on_line(), GaussianMixture)
    assert torch.equal(table.on_line().means, table.with_mean(1.5).means)
    x = table.in_space().sample((10,), generator=torch.Generator().manual_seed(0))
    gap = table.near().score(x) - table.in_space().score(x)
    assert inner(gap, gap).min() > 1e-3
