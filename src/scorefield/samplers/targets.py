"""What a kernel moves towards: a score, alone or with its log-density, and the calls that are made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.calculus import Score, ScoreOf
from scorefield.checks import check_rows, check_score
from scorefield.densities import Density

Target = Score | Density


def as_score(target: Target) -> Callable[..., Tensor]:
    """A score as it is; a density as its score, which then carries the log-density."""
    return target if callable(target) else _Scored(target)


class _Scored:
    """The score of a density, with the density."""

    def __init__(self, law: Density) -> None:
        if not hasattr(law, "score"):
            raise TypeError(
                f"target must be a score x -> s(x) or a density with .score and .log_density, got {type(law).__name__}"
            )
        self.score = law.score
        for name in ("log_density", "with_log_density"):
            if hasattr(law, name):
                setattr(self, name, getattr(law, name))

    def __call__(self, x: Tensor) -> Tensor:
        return self.score(x)


class Counted:
    """A score that counts its calls and answers the first one only if it has the right shape and dtype.

    A density may stand in the score's place; what carries `log_density` goes on carrying it.
    """

    log_density: Callable[..., Tensor]
    with_log_density: Callable[..., tuple[Tensor, Tensor]]

    def __init__(self, target: Any) -> None:
        self.score, self.calls = as_score(target), 0
        if hasattr(self.score, "log_density"):
            self.log_density = getattr(self.score, "log_density")  # noqa: B009  (pyright knows functions have none)
            self.with_log_density = self._with_log_density

    def __call__(self, x: Tensor, *t: Tensor) -> Tensor:
        """The score at x; counted."""
        s = self.score(x, *t)
        self._count(s, x)
        return s

    def _with_log_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s, log_density = with_density(self.score, x)
        self._count(s, x)
        return s, log_density

    def _count(self, s: Tensor, x: Tensor) -> None:
        if self.calls == 0:
            check_score(s, x)
        self.calls += 1


def has_density(target: Score) -> bool:
    """Whether a score carries its log-density."""
    return hasattr(target, "log_density")


def with_density(target: Score, x: Tensor) -> tuple[Tensor, Tensor]:
    """The score (B, *D) and the log-density (B,) at x, in one evaluation where the target allows it.

    Raises:
        TypeError: the target is a bare score.
    """
    both = getattr(target, "with_log_density", None)
    if both is not None:
        return both(x)
    log_density = getattr(target, "log_density", None)
    if log_density is None:
        raise TypeError(
            "this kernel needs a log-density and the target is a bare score; pass score_of(log_density), an "
            'EnergyModel or the density itself, adjust="line" for a learned score, or an unadjusted kernel (Langevin)'
        )
    if not isinstance(target, (ScoreOf, nn.Module)):
        value = log_density(x)
        check_rows("log_density(x)", value, x)
        return target(x), value
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        value = log_density(at)
        check_rows("log_density(x)", value, x)
        (s,) = torch.autograd.grad(value.sum(), at)
    return s, value.detach()
