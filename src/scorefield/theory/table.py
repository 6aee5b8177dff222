"""The theorems as a lecturer would project them: each with its statement and an example on which it is checked."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from scorefield.checks import check_choice, check_count
from scorefield.densities import Gaussian
from scorefield.noise import VE, VP, Noise
from scorefield.samplers import EulerMaruyama, Heun, Predictor
from scorefield.theory import denoising, dynamics, likelihood, matching, scores
from scorefield.theory.claim import Claim
from scorefield.theory.examples import (
    broad,
    coarse,
    column,
    diagonal,
    double_well,
    five_atoms,
    in_plane,
    in_space,
    near,
    normal,
    on_line,
    wave,
    with_mean,
)

Run = Callable[[torch.Generator], Claim]


class Theorem(NamedTuple):
    """One line of the table.

    Attributes:
        part: the chapter: score, matching, denoising, dynamics or likelihood.
        name: what `scorefield check --only` calls it.
        statement: the formula in a line of plain text.
        run: the check, given the source of its samples.
    """

    part: str
    name: str
    statement: str
    run: Run


class Row(NamedTuple):
    """A theorem that was checked."""

    theorem: Theorem
    claim: Claim

    def to_json(self) -> dict[str, str | float | bool | None]:
        """What can be written as JSON; None for a side that is not finite."""
        numbers = {
            name: value if math.isfinite(value) else None
            for name, value in self.claim._asdict().items()
            if name != "relation"
        }
        return {
            "part": self.theorem.part,
            "name": self.theorem.name,
            "statement": self.theorem.statement,
            "relation": self.claim.relation,
            **numbers,
            "holds": self.claim.holds,
        }


def check(seed: int = 0, only: str | None = None) -> Iterator[Row]:
    """Check the theorems one after the other.

    Args:
        seed: seed of all samples, >= 0; each theorem has its own stream, so that it gives the same with and without
            the others.
        only: the name of one theorem, or of a part; None for all.

    Returns:
        the rows, each as soon as it is checked.

    Raises:
        ValueError: an unknown name; the nearest one is offered.
    """
    check_count("seed", seed, least=0)
    if only is not None:
        check_choice("only", only, dict.fromkeys(name for t in THEOREMS for name in (t.part, t.name)))
    chosen = [t for t in THEOREMS if only in (None, t.part, t.name)]
    return (Row(t, t.run(torch.Generator().manual_seed(zlib.crc32(f"{t.name} {seed}".encode())))) for t in chosen)


def _unnormalised(g: torch.Generator) -> Claim:
    z = scores.log_constant(double_well, -1.0).item()
    return scores.score_without_constant(lambda x: -double_well(x, x.new_tensor(-1.0)), column(-2, 2), log_constant=z)


def _sliced(probe_law: str, variance_reduced: bool = False) -> Run:
    return lambda g: matching.sliced_implicit(
        in_space(), near().score, probe_law=probe_law, variance_reduced=variance_reduced, generator=g
    )


def _denoised(kernel: str) -> Run:
    return lambda g: denoising.denoising_explicit(
        five_atoms(), lambda x: -x, lambda x: x.sin() - x / 3, kernel=kernel, sigma=0.7, generator=g
    )


def _marginal(noise: Noise, predictor: Predictor, steps: int) -> Run:
    return lambda g: dynamics.shared_marginal(
        on_line(), noise, predictor, t=0.25, steps=steps, tolerance=0.01, generator=g
    )


def _bound(factor: float) -> Run:
    return lambda g: likelihood.likelihood_bound(normal(1.0, 0.5), normal(0.0, 2.0), VP(), factor=factor)


_SCORE = (
    Theorem("score", "free-of-z", "∇ log(p/Z) = ∇ log p: the score does not see Z", _unnormalised),
    Theorem(
        "score",
        "log-z",
        "∂θ log Z = −E_model[∂θ E]: samples of the model",
        lambda g: scores.constant_gradient(double_well, -1.0, generator=g),
    ),
    Theorem(
        "score",
        "likelihood-sees-z",
        "∂θ E_data[−log p_θ] = E_data[∂θ E] − E_model[∂θ E]",
        lambda g: scores.likelihood_gradient(double_well, -1.0, on_line(), generator=g),
    ),
    Theorem(
        "score",
        "matching-does-not",
        "∂θ ½D_F(p‖p_θ) = E_data[∂θ(½s_θ² + s_θ′)]",
        lambda g: scores.matching_gradient(double_well, -1.0, on_line(), generator=g),
    ),
    Theorem(
        "score",
        "mixture",
        "∇ log Σ wₖpₖ = Σ rₖ ∇ log pₖ, rₖ = wₖpₖ / Σ wⱼpⱼ",
        lambda g: scores.mixture_score(in_plane(), in_plane().sample((500,), generator=g)),
    ),
)

_MATCHING = (
    Theorem(
        "matching",
        "implicit",
        "½E‖s − ∇ log p‖² = E[½‖s‖² + tr ∇s] + C",
        lambda g: matching.explicit_implicit(in_space(), near().score, coarse().score, generator=g),
    ),
    Theorem(
        "matching",
        "by-parts",
        "∫ p s (log p)′ dx = [p s] − ∫ p s′ dx",
        lambda g: matching.by_parts(on_line(), broad().score, -1.0, 2.0),
    ),
    Theorem(
        "matching",
        "flux",
        "∫ p (tr ∇s + s·∇ log p) dx = ∮ p s·n dA, ‖x‖ < 2",
        lambda g: matching.flux_through_sphere(in_space(), near().score, 2.0),
    ),
    Theorem(
        "matching",
        "flux-vanishes",
        "|∮ p s·n dA| → 0 as ‖x‖ → ∞; here ‖x‖ = 8",
        lambda g: matching.flux_vanishes(in_space(), near().score, 8.0),
    ),
    Theorem(
        "matching",
        "half-line",
        "ESM − ISM − C = p(0) s(0) ≠ 0 for p = exp(−x), x > 0",
        lambda g: matching.bounded_domain(lambda x: -x[:, 0], lambda x: -(x - 1.5) / 2, 0.0, 60.0),
    ),
    Theorem(
        "matching",
        "sliced-rademacher",
        "E[vᵀ∇s v + ½(vᵀs)²] = tr ∇s + ½‖s‖², v = ±1",
        _sliced("rademacher"),
    ),
    Theorem(
        "matching",
        "sliced-gaussian",
        "E[vᵀ∇s v + ½(vᵀs)²] = tr ∇s + ½‖s‖², v normal",
        _sliced("gaussian"),
    ),
    Theorem(
        "matching",
        "sliced-sphere",
        "E[vᵀ∇s v + ½(vᵀs)²] = tr ∇s + ½‖s‖², ‖v‖ = √D",
        _sliced("sphere"),
    ),
    Theorem(
        "matching",
        "sliced-reduced",
        "E[vᵀ∇s v] + ½‖s‖² = tr ∇s + ½‖s‖²: less variance",
        _sliced("sphere", variance_reduced=True),
    ),
    Theorem(
        "matching",
        "consistency",
        "argmin_θ E[½s_θ² + s_θ′] = θ*",
        lambda g: matching.consistency(with_mean, 1.5, -4.0, 4.0),
    ),
    Theorem(
        "matching",
        "elsewhere",
        "½D_F(p‖q) = ½tr[(Q−P)C(Q−P)] + ½‖Q(m−μ)‖² > 0, p ≠ q",
        lambda g: matching.positive_elsewhere(
            Gaussian([0.0, 1.0], [[1.0, 0.3], [0.3, 0.5]]), Gaussian([0.5, 0.0], diagonal(1.5, 1.0)), generator=g
        ),
    ),
    Theorem(
        "matching",
        "gaussian",
        "argmin_M E[½‖M(x−m)‖² − tr M] = S⁻¹, not S",
        lambda g: matching.gaussian_minimiser(in_space().sample((1000,), generator=g)),
    ),
)

_DENOISING = (
    Theorem(
        "denoising",
        "denoising-gaussian",
        "½E‖s − ∇ log q‖² = ½E‖s − ∇ log p_σ‖² + C, normal",
        _denoised("gaussian"),
    ),
    Theorem(
        "denoising",
        "denoising-laplace",
        "½E‖s − ∇ log q‖² = ½E‖s − ∇ log p_σ‖² + C, Laplace",
        _denoised("laplace"),
    ),
    Theorem(
        "denoising",
        "denoising-student",
        "½E‖s − ∇ log q‖² = ½E‖s − ∇ log p_σ‖² + C, Student",
        _denoised("student"),
    ),
    Theorem(
        "denoising",
        "variances",
        "Var DSM / Var ESM = (ρ/k)² at equal n; here 4",
        lambda g: denoising.variance_ratio(1.0, 1.0, generator=g),
    ),
    Theorem(
        "denoising",
        "autoencoder",
        "argmin_r E‖r(x + σz) − x‖² = x̃ + σ² ∇ log p_σ(x̃)",
        lambda g: denoising.autoencoder(in_plane(), 0.7, torch.tensor([0.8, 0.6], dtype=torch.float64), generator=g),
    ),
    Theorem(
        "denoising",
        "tweedie",
        "(x_t + σ² ∇ log p_t(x_t)) / α = E[x₀|x_t], α ≠ 1",
        lambda g: denoising.tweedie(on_line(), VP(), 0.3, column(-2, 2)),
    ),
)

_DYNAMICS = (
    Theorem(
        "dynamics",
        "lyu",
        "d/dt KL(p_t‖q_t) = −½D_F(p_t‖q_t), t the variance",
        lambda g: dynamics.lyu(on_line(), broad(), 0.5),
    ),
    Theorem(
        "dynamics",
        "lyu-at-zero",
        "d/dt KL(p_t‖q_t) = −½D_F(p‖q) at t = 0",
        lambda g: dynamics.lyu_at_zero(coarse(), Gaussian([0.0, 0.0, 0.0], diagonal(1.5, 1.0, 0.8))),
    ),
    Theorem(
        "dynamics",
        "langevin",
        "E[∇f·s] = −E[Δf]: dx = s dt + √2 dW keeps p",
        lambda g: dynamics.langevin_stationary(in_plane(), wave, generator=g),
    ),
    Theorem(
        "dynamics",
        "langevin-bias",
        "Var = 1/(1 − h/2) on N(0, 1), steps of size h = ½",
        lambda g: dynamics.langevin_bias(0.5, generator=g),
    ),
    Theorem(
        "dynamics",
        "langevin-order",
        "log₂[bias(h)/bias(h/2)] → 1: the bias is of order h",
        lambda g: dynamics.langevin_order(on_line(), 0.005),
    ),
    Theorem(
        "dynamics",
        "reverse-sde-ve",
        "dx = [fx − g²s]dt + g dW̄, dt < 0, has the law p_t; VE",
        _marginal(VE(0.1, 4.0), EulerMaruyama(), 100),
    ),
    Theorem(
        "dynamics",
        "reverse-sde-vp",
        "dx = [fx − g²s]dt + g dW̄, dt < 0, has the law p_t; VP",
        _marginal(VP(), EulerMaruyama(), 100),
    ),
    Theorem(
        "dynamics",
        "flow-ve",
        "dx = [fx − ½g²s]dt, dt < 0, has the law p_t; VE",
        _marginal(VE(0.1, 4.0), Heun(), 40),
    ),
    Theorem(
        "dynamics",
        "flow-vp",
        "dx = [fx − ½g²s]dt, dt < 0, has the law p_t; VP",
        _marginal(VP(), Heun(), 40),
    ),
)

_LIKELIHOOD = (
    Theorem(
        "likelihood",
        "bound",
        "KL(p₀‖q₀) ≤ ½∫g² E‖∇ log p_t − s_θ‖² dt + KL(p₁‖π)",
        _bound(0.7),
    ),
    Theorem(
        "likelihood",
        "bound-is-tight",
        "KL(p₀‖q₀) = ½∫g² D_F(p_t‖q_t) dt + KL(p₁‖q₁)",
        _bound(1.0),
    ),
    Theorem(
        "likelihood",
        "weighted",
        "½E g²‖s_θ + z/σ‖² = ½∫g² E‖∇ log p_t − s_θ‖² dt + C",
        lambda g: likelihood.weighted_objective(normal(1.0, 0.5), normal(0.0, 2.0), VP(), factor=0.7, generator=g),
    ),
)

THEOREMS: tuple[Theorem, ...] = (*_SCORE, *_MATCHING, *_DENOISING, *_DYNAMICS, *_LIKELIHOOD)
