"""Warm-up: the step size by dual averaging, and a preconditioner from the states on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from scorefield.calculus import Generator
from scorefield.checks import check_choice, check_count, check_floating
from scorefield.samplers.chains import Info, Watch
from scorefield.samplers.targets import Counted, Target


class Adjusted(Protocol):
    """A kernel that can be tuned: a dataclass with a step size and a preconditioner that reports its acceptance."""

    target_acceptance: ClassVar[float]

    @property
    def step_size(self) -> float:
        """The step size."""
        ...

    @property
    def preconditioner(self) -> float | Tensor:
        """The preconditioner."""
        ...


K = TypeVar("K", bound=Adjusted)


@dataclass
class DualAveraging:
    r"""Steers $\log \epsilon$ until the mean acceptance is $\delta$.

    With the errors $\delta - \alpha_i$ seen so far, $t_0 = 10$, $\gamma = 0.05$, $\kappa = 0.75$ and
    $\mu = \log(10 \epsilon_0)$,

    $$ \log \epsilon_{m+1} = \mu - \frac{\sqrt m}{\gamma}\,\frac{1}{m + t_0} \sum_{i \le m} (\delta - \alpha_i), \qquad
       \log \bar\epsilon_{m+1} = m^{-\kappa} \log \epsilon_{m+1} + (1 - m^{-\kappa}) \log \bar\epsilon_m . $$

    Args:
        step_size: $\epsilon_0 > 0$.
        acceptance: $\delta$ in (0, 1).

    Source: Hoffman & Gelman 2014 (arXiv:1111.4246), algorithm 5.
    """

    step_size: float
    acceptance: float

    def __post_init__(self) -> None:
        """Begin at the first step size."""
        self._mu, self._error, self._moves, self._mean = math.log(10 * self.step_size), 0.0, 0, 0.0

    def update(self, seen: float) -> float:
        """The next step size to try, after a move with the mean acceptance `seen`."""
        self._moves += 1
        self._error += self.acceptance - seen
        m = self._moves
        log_step = self._mu - math.sqrt(m) / 0.05 * self._error / (m + 10)
        self._mean = m**-0.75 * log_step + (1 - m**-0.75) * self._mean
        return math.exp(log_step)

    @property
    def mean(self) -> float:
        r"""$\bar\epsilon$, the step size to keep."""
        return math.exp(self._mean) if self._moves else self.step_size


@torch.no_grad()
def warm_up(
    kernel: K,
    target: Target,
    x: Tensor,
    *,
    steps: int,
    acceptance: float | None = None,
    preconditioner: str = "keep",
    generator: Generator = None,
) -> tuple[K, Tensor]:
    """Tune a kernel on many chains at once, while they find the law.

    One step size serves all chains: the mean acceptance over them steers it. A preconditioner is estimated from the
    states of all chains in two windows, moves 20 to 50 % and 50 to 80 %, and the step size is found anew after each.
    The moves of a warm-up are not samples of the law: discard them, and run `chain` with the kernel returned.

    Args:
        kernel: `MALA` or `HMC`; its step size is where the search begins, its other settings are kept.
        target: as for `chain`.
        x: where the chains start, (B, *D), finite.
        steps: how many moves, >= 20.
        acceptance: the mean acceptance to reach, in (0, 1); None takes the kernel's own.
        preconditioner: `"keep"`, or estimate the `"diagonal"` of the covariance, or all of it, `"dense"`.
        generator: source of the noise; the global one when None.

    Returns:
        the kernel with its step size and preconditioner, and the states the chains have reached, (B, *D).

    Raises:
        ValueError: steps < 20, acceptance outside (0, 1), no chain, or a start that is not finite.
        TypeError: a kernel that accepts every move.
        RuntimeError: no step size gives the acceptance.

    Source: Hoffman & Gelman 2014 (arXiv:1111.4246), section 3.2; the windows after Stan's.
    """
    check_floating("x", x)
    check_count("steps", steps, least=20)
    check_choice("preconditioner", preconditioner, ("keep", "diagonal", "dense"))
    if not hasattr(kernel, "target_acceptance"):
        raise TypeError(f"warm_up tunes kernels that accept or refuse (MALA, HMC), got {type(kernel).__name__}")
    wanted = kernel.target_acceptance if acceptance is None else acceptance
    if not 0 < wanted < 1:
        raise ValueError(f"acceptance must lie strictly between 0 and 1, got {wanted!r}")
    if not len(x):
        raise ValueError("x must hold at least one chain, got shape " + str(tuple(x.shape)))
    Watch(x)
    score, mover = Counted(target), _Mover(kernel)
    ends = [steps] if preconditioner == "keep" else [steps // 5, steps // 2, 4 * steps // 5, steps]
    state, moves = mover.start(score, x, generator), 0
    for window, end in enumerate(ends):
        mover.first_step_size(score, state.x, generator)
        tuner, moments = DualAveraging(mover.kernel.step_size, wanted), Moments(preconditioner == "dense")
        while moves < end:
            state, info = mover.advance(score, state, generator)
            mover.set(step_size=tuner.update(info["acceptance"].mean().item()))
            if preconditioner != "keep" and 0 < window < 3:
                moments.add(state.x)
            moves += 1
        mover.set(step_size=tuner.mean)
        if moments.count:
            mover.set(preconditioner=moments.covariance())
    return mover.kernel, state.x


class _Mover:
    """A kernel whose settings change from move to move."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def set(self, **changes: float | Tensor) -> None:
        """Replace settings of the kernel."""
        self.kernel = replace(self.kernel, **changes)

    def start(self, target: Counted, x: Tensor, generator: Generator) -> Any:
        return self.kernel.start(target, x, generator=generator)

    def advance(self, target: Counted, state: Any, generator: Generator) -> tuple[Any, Info]:
        return self.kernel.advance(target, state, generator=generator)

    def first_step_size(self, target: Counted, x: Tensor, generator: Generator) -> None:
        """Double or halve the step size until the mean acceptance of one move crosses one half."""
        grow = self._acceptance(target, x, generator) > 0.5
        for _ in range(100):
            self.set(step_size=self.kernel.step_size * (2.0 if grow else 0.5))
            if (self._acceptance(target, x, generator) > 0.5) != grow:
                return
        raise RuntimeError(
            f"no step size down to {self.kernel.step_size:.3g} is accepted half of the time"
            if not grow
            else f"every move is accepted up to the step size {self.kernel.step_size:.3g}: the target looks flat"
        )

    def _acceptance(self, target: Counted, x: Tensor, generator: Generator) -> float:
        _, info = self.kernel.step(target, x, generator=generator)
        return info["acceptance"].mean().item()


class Moments:
    """The running mean and covariance of samples, in float64 and in one pass (Chan et al. 1983)."""

    def __init__(self, dense: bool) -> None:
        self.count, self._dense, self._shape = 0, dense, torch.Size()
        self._mean = self._spread = torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Take in samples (B, *D)."""
        flat, n, self._shape = x.flatten(1).double(), len(x), x.shape[1:]
        mean = flat.mean(0)
        apart, shift = flat - mean, mean - self._mean
        weight = self.count * n / (self.count + n)
        if self._dense:
            self._spread = self._spread + apart.T @ apart + weight * torch.outer(shift.expand(mean.shape), shift)
        else:
            self._spread = self._spread + apart.square().sum(0) + weight * shift.square()
        self.count += n
        self._mean = self._mean + shift * (n / self.count)

    def covariance(self) -> Tensor:
        """Shrunk to 1e-3 of the mean variance by the weight of five samples: (D, D), or the diagonal (*D)."""
        n = self.count
        cov = self._spread / max(n - 1, 1)
        variance = cov.diagonal() if self._dense else cov
        floor = 1e-3 * variance.mean().clamp_min(1e-300) * 5 / (n + 5)
        cov = cov * (n / (n + 5))
        return (
            (cov + cov.T) / 2 + floor * torch.eye(len(cov)).to(cov)
            if self._dense
            else (cov + floor).reshape(self._shape)
        )
