r"""Known pixels and known columns: the rest drawn given them, by three methods of different honesty.

| `method` | what it does | its law |
|---|---|---|
| `"replace"` | puts the blurred observation over the known part at every time | biased |
| `"repaint"` | the same, and climbs up and down again at each time | less biased, never exact |
| `"posterior"` | follows the posterior's score, by `posterior(method="moments")` | exact for Gaussian priors |

Replacement is biased because the unknown part was moved by a score that saw a known part from another path.

Sources: Song et al. 2021 (arXiv:2011.13456), appendix I.2; Lugmayr et al. 2022 (arXiv:2201.09865), algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.calculus import Generator, NoisyScore, randn_like
from scorefield.checks import check_choice, check_count, check_non_negative, check_shape
from scorefield.guidance.linear import posterior
from scorefield.guidance.operators import check_mask, masked
from scorefield.noise import Noise
from scorefield.samplers import Ancestral, Predictor
from scorefield.samplers.tables import raised

METHODS = ("replace", "repaint", "posterior")


@dataclass(frozen=True, eq=False)
class Inpainting:
    """What `reverse` needs to fill in: `reverse(i.score, noise, x, …, **i.hooks)`.

    Attributes:
        score: the prior's, or the posterior's.
        hooks: `project`, `corrector`, `corrections`, where the method has them.
    """

    score: NoisyScore
    hooks: dict[str, Any]


def inpaint(
    score: NoisyScore,
    noise: Noise,
    mask: Tensor,
    observed: Tensor,
    *,
    method: str = "posterior",
    sigma: float = 0.0,
    jumps: int = 5,
    generator: Generator = None,
) -> Inpainting:
    """Draw what is not known given what is.

    Args:
        score: noise-conditional score of the whole.
        noise: its schedule.
        mask: True where a value is known, (*D).
        observed: the known values, (*D) or (B, *D); what the mask leaves out is not read.
        method: `"replace"`, `"repaint"` or `"posterior"`.
        sigma: standard deviation of the noise on the known values, >= 0; `"posterior"` only.
        jumps: of `"repaint"`, how often it climbs at each time.
        generator: source of the noise on the known part, for `"replace"` and `"repaint"`.

    Returns:
        the score and the hooks for `reverse`. With `"replace"` and `"repaint"` known values come back as observed, with
        the schedule's least noise.

    Raises:
        ValueError: a mask that keeps everything or nothing, values of another shape or not finite where known, an
            unknown method, a sigma that the method does not read.
    """
    check_choice("method", method, METHODS)
    check_mask(mask)
    check_non_negative("sigma", sigma)
    check_count("jumps", jumps)
    check_shape("observed", observed[0] if observed.ndim > mask.ndim else observed, tuple(mask.shape), "as the mask")
    known = torch.where(mask, observed, 0.0)
    if not known.isfinite().all():
        raise ValueError("observed must be finite where the mask is True, got nan or infinity; mask those out")
    if method == "posterior":
        guided = posterior(score, noise, masked(mask), known, sigma=sigma, shape=tuple(mask.shape))
        return Inpainting(guided, {})
    if sigma:
        raise ValueError(f"sigma is an option of method posterior, got {sigma!r} for {method}; leave it out")
    project = replaced(noise, mask, known, generator)
    if method == "replace":
        return Inpainting(score, {"project": project})
    return Inpainting(score, {"project": project, "corrector": RePaint(project), "corrections": jumps})


def replaced(noise: Noise, mask: Tensor, known: Tensor, generator: Generator) -> Callable[[Tensor, Tensor], Tensor]:
    r"""A `project` hook that puts $\alpha_t y + \sigma_t z$ over the known part."""

    def project(x: Tensor, t: Tensor) -> Tensor:
        at = t.to(torch.float64)
        blurred = noise.alpha(at).to(x) * known.to(x) + noise.sigma(at).to(x) * randn_like(x, generator)
        return torch.where(mask.to(x.device), blurred, x)

    return project


@dataclass(frozen=True, eq=False)
class RePaint:
    r"""A corrector that climbs: noise is added up to $\sigma/\alpha$ times `factor`, and a predictor comes down again.

    Args:
        project: the hook that restores the known part after the descent.
        factor: > 1.
        predictor: the way down, in one step.

    Source: Lugmayr et al. 2022 (arXiv:2201.09865), algorithm 1, whose jump is one step of their grid.
    """

    project: Callable[[Tensor, Tensor], Tensor]
    factor: float = 1.3
    predictor: Predictor = Ancestral()

    def __post_init__(self) -> None:
        """Refuse a factor that does not climb."""
        if not 1 < self.factor < math.inf:
            raise ValueError(f"factor must be a finite number > 1, got {self.factor!r}")

    def step(
        self, score: NoisyScore, noise: Noise, x: Tensor, t: Tensor, *, generator: Generator = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Up from t by noise, down to t by the predictor, the known part restored."""
        t = t.to(torch.float64)
        up = raised(noise, t, self.factor)
        if not up > t:
            return x, {}  # nowhere to climb
        ratio = (noise.alpha(up) / noise.alpha(t)).item()
        spread = math.sqrt(max(noise.sigma(up).item() ** 2 - (ratio * noise.sigma(t).item()) ** 2, 0.0))
        climbed = torch.add(ratio * x, randn_like(x, generator), alpha=spread)
        down, _ = self.predictor.step(score, noise, climbed, up, t, None, generator=generator)
        return self.project(down, t), {}
