r"""Adams' predictor and corrector for a flow and what it gathers, and what steps of twice the length would change.

Steps may have any lengths. From the slopes at the last four nodes: predict with the polynomial through them, call the
slope once at the new node, correct with the polynomial through all five. The state is z = (y, q), (B, D + K): y decides
where the flow goes, q only adds up along it. Steps are taken for the whole batch, and accepted when no sample's error
is beyond the tolerance.

Steps of twice the length need no second run. Their slopes are those at every second node, and where $\log p(y)$ is what
is left to gather, an error $(\delta y, \delta q)$ moves the answer by $\nabla_y \log p \cdot \delta y + \delta q$.

Source: Hairer, Nørsett & Wanner 1993, Solving ordinary differential equations I, section III.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from scipy.special import roots_legendre
from torch import Tensor

from scorefield.samplers.pair import combine

ORDER = 4  # of the predictor; the corrector's is one more
SAFETY = 0.75  # of the step that the error would allow: fewer are refused (measured)
MOST_STEPS = 10_000
_GAUSS = [(float(x), float(w)) for x, w in zip(*roots_legendre(3), strict=True)]  # exact up to degree 5


class Place(NamedTuple):
    """A point of the clock: its value, and the level there."""

    u: float
    t: Tensor
    alpha: float
    sigma: float

    @property
    def log_ratio(self) -> float:
        r"""$\log(\sigma/\alpha)$."""
        return math.log(self.sigma / self.alpha)


class Field(Protocol):
    """The right-hand side, on a clock from `low` to `high`."""

    low: float
    high: float

    def place(self, u: float) -> Place:
        """The point of the clock at u, or close to it."""
        ...

    def __call__(self, place: Place, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""The slope dz/du (B, D + K), and $\nabla_y \log p$ there, (B, D)."""
        ...


class Past(NamedTuple):
    """A state with the nodes and slopes that lead to it, newest first."""

    z: Tensor
    nodes: list[float]
    slopes: list[Tensor]

    def ahead(self, u: float, slope: Tensor | None = None) -> Tensor:
        """The state at u by the polynomial through the slopes, of which one may be at u itself."""
        nodes, slopes = (self.nodes, self.slopes) if slope is None else ([u, *self.nodes], [slope, *self.slopes])
        return self.z + combine(integrals(nodes, self.nodes[0], u), slopes, 1.0)

    def then(self, z: Tensor, u: float, slope: Tensor) -> Past:
        """With one more node; the oldest is forgotten."""
        return Past(z, [u, *self.nodes][:ORDER], [slope, *self.slopes][:ORDER])


class Walk:
    """The way so far: its state `past.z`, the steps `taken`, and what steps of twice the length would have changed."""

    def __init__(self, field: Field, z: Tensor) -> None:
        place = field.place(field.low)
        slope, _ = field(place, z)
        self.field, self.past = field, Past(z, [place.u], [slope])
        self.paired, self.taken = self.past, list[float]()
        self.error = torch.zeros(len(z), dtype=z.dtype, device=z.device)
        self.last = (torch.zeros_like(z), torch.zeros_like(z[:, :0]))

    @property
    def steps(self) -> int:
        """How many were taken."""
        return len(self.taken)

    def step(self, u: float, rtol: float = math.inf) -> float:
        """Try a step to u; how large its error is beside the tolerance. It is taken if that is at most 1."""
        place = self.field.place(u)
        guess = self.past.ahead(place.u)
        slope, pull = self.field(place, guess)
        z = self.past.ahead(place.u, slope)
        error = z - guess
        size = _size(error, z, pull.shape[1], rtol)
        if size <= 1:
            self.past = self.past.then(z, place.u, slope)
            self.taken.append(u)
            if self.steps % 2 == 0:
                self.error += _moved(z - self.paired.ahead(place.u, slope), pull)
                self.paired = self.paired.then(z, place.u, slope)
            self.last = (error, pull)
        return size

    def step_error(self) -> Tensor:
        """What steps of twice the length would have changed, added up, (B,); a last odd one by its predictor."""
        return self.error + _moved(*self.last) if self.steps % 2 else self.error


def adaptive(field: Field, z: Tensor, rtol: float) -> Walk:
    """The walk to the end of the clock, with steps chosen by the error.

    A sample's error is the root mean square of (corrected - predicted)/(rtol + rtol |z|), over y and over q; the larger
    counts, and the worst finite sample decides.

    Raises:
        RuntimeError: the step shrinks to nothing, or 10,000 steps do not reach the end.
    """
    walk, whole, here = Walk(field, z), field.high - field.low, field.low
    h = whole / 256
    for _ in range(MOST_STEPS):
        here, order = walk.past.nodes[0], len(walk.past.nodes)
        last = here + h >= field.high - 1e-9 * whole
        h = field.high - here if last else h
        size = walk.step(field.high if last else here + h, rtol)
        if size <= 1 and last:
            return walk
        h *= min(2.0, max(0.3, SAFETY * max(size, 1e-12) ** (-1 / (order + 1))))
        if size > 1 and h < 1e-10 * whole:
            break
    raise RuntimeError(
        f"the probability flow needs steps that are too small at log(sigma/alpha) = {field.place(here).log_ratio:.3f}; "
        f"the score may be rough there: take a larger rtol (now {rtol:g}), or give steps"
    )


def along(field: Field, z: Tensor, steps: int | Sequence[float]) -> Walk:
    """The walk in steps of equal length, or to given values of the clock, the last of them its end."""
    walk = Walk(field, z)
    for u in _even(field, steps) if isinstance(steps, int) else steps:
        walk.step(u)
    return walk


def _even(field: Field, steps: int) -> list[float]:
    """Steps of equal length, the first in seven parts that double: the low order there is not felt."""
    h = (field.high - field.low) / steps
    parts = (*(2.0**-i for i in range(6, 0, -1)), *range(1, steps))
    return [*(field.low + h * k for k in parts), field.high]


def integrals(nodes: Sequence[float], a: float, b: float) -> list[float]:
    """The integrals from a to b of the polynomials that are 1 at one node and 0 at the others (at most five nodes)."""
    weights = [0.0] * len(nodes)
    for x, w in _GAUSS:
        u = (a + b) / 2 + (b - a) / 2 * x
        for i, node in enumerate(nodes):
            value = (b - a) / 2 * w
            for other in nodes:
                if other != node:
                    value *= (u - other) / (node - other)
            weights[i] += value
    return weights


def _moved(error: Tensor, pull: Tensor) -> Tensor:
    """By how much an error in the state moves the answer, the mean over the probes, (B,)."""
    d = pull.shape[1]
    return ((error[:, :d] * pull).sum(1) + error[:, d:].mean(1)).abs()


def _size(error: Tensor, z: Tensor, d: int, rtol: float) -> float:
    """The error of the worst finite sample, in tolerances."""
    if rtol == math.inf:
        return 0.0
    relative = error / (1 + z.abs())
    flow, gathered = relative[:, :d].norm(dim=1) / math.sqrt(d), relative[:, d:].norm(dim=1)
    sizes = torch.maximum(flow, gathered / math.sqrt(error.shape[1] - d))
    worst = sizes.max().item()
    return (worst if math.isfinite(worst) else sizes.nan_to_num(0.0, posinf=0.0).max().item()) / rtol
