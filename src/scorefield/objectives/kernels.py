r"""Laws of the noise that denoising may add: $\tilde x = x + \sigma z$ with $z \sim q$, and their scores.

Denoising needs $\nabla\log q$ alone. It equals the explicit objective of the blurred law up to a constant exactly when
q is absolutely continuous and its Fisher information $\int \|\nabla q\|^2/q$ is finite; then
$\mathbb E[\nabla\log q(z)] = 0$ and $\mathbb E[z^\top \nabla\log q(z)] = -D$.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from scorefield.calculus import Generator, inner, randn_like
from scorefield.checks import check_choice, check_count, check_positive, check_score

FALSE_ALARM = 1e-6


class NoiseKernel(Protocol):
    """A law q of noise with its score."""

    @property
    def symmetric(self) -> bool:
        """Whether z and -z have the same law, which antithetic noise needs."""
        ...

    @property
    def information(self) -> float | None:
        r"""The Fisher information per dimension, $\mathbb E\|\nabla\log q\|^2 / D$; None where it is not known."""
        ...

    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Noise z with the shape, dtype and device of `x` (B, *D), independent between samples."""
        ...

    def score(self, z: Tensor) -> Tensor:
        r"""$\nabla\log q(z)$, (B, *D) -> (B, *D)."""
        ...


@dataclass(frozen=True)
class Gaussian:
    r"""Standard normal noise: $\nabla\log q(z) = -z$."""

    symmetric = True
    information = 1.0

    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Noise like `x`."""
        return randn_like(x, generator)

    def score(self, z: Tensor) -> Tensor:
        """-z, (B, *D)."""
        return -z


@dataclass(frozen=True)
class Laplace:
    r"""Independent Laplace coordinates of variance 1: $q \propto e^{-\sqrt2\,|z|}$, score $-\sqrt2\,\mathrm{sign}(z)$.

    Drawn from one normal n by inversion: $|z| = -\log(2\,\Phi(-|n|))/\sqrt2$.
    """

    symmetric = True
    information = 2.0

    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Noise like `x`."""
        n = randn_like(x, generator)
        return -n.sign() * (math.log(2) + torch.special.log_ndtr(-n.abs())) / math.sqrt(2)

    def score(self, z: Tensor) -> Tensor:
        r"""$-\sqrt2\,\mathrm{sign}(z)$, (B, *D)."""
        return -math.sqrt(2) * z.sign()


@dataclass(frozen=True)
class Student:
    r"""Independent Student coordinates of scale 1: $q(z) \propto (1 + z^2/\nu)^{-(\nu+1)/2}$, $\nu$ = df.

    The score $-(\nu+1)\,z/(\nu + z^2)$ is bounded, so the target of denoising never exceeds
    $(\nu+1)/(2\sqrt\nu\,\sigma)$. The variance of z is $\nu/(\nu-2)$ for $\nu > 2$ and infinite below; the Fisher
    information, $(\nu+1)/(\nu+3)$ per dimension, is always finite. Sampling: Bailey 1994.
    """

    df: float = 5.0
    symmetric = True

    def __post_init__(self) -> None:
        """Refuse df that is not a finite number > 0."""
        check_positive("df", self.df)

    @property
    def information(self) -> float:
        r"""$(\nu+1)/(\nu+3)$."""
        return (self.df + 1) / (self.df + 3)

    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        r"""Noise like `x`: $n\sqrt{\nu\,(e^{r^2/\nu} - 1)/r^2}$ with $r^2 = n^2 + m^2$ for two normals n, m."""
        n, m = randn_like(x, generator).double(), randn_like(x, generator).double()
        r2 = (n**2 + m**2).clamp_min(1e-300)
        return (n * torch.sqrt(self.df * torch.expm1(r2 / self.df) / r2)).to(x)

    def score(self, z: Tensor) -> Tensor:
        r"""$-(\nu+1)\,z/(\nu + z^2)$, (B, *D)."""
        return -(self.df + 1) * z / (self.df + z**2)


@dataclass(frozen=True)
class OwnKernel:
    """A kernel of the user's that passed the checks of `noise_kernel`; `.reasons` says with which figures."""

    sample: Callable[[Tensor, Generator], Tensor]
    score: Callable[[Tensor], Tensor]
    symmetric: bool
    reasons: tuple[str, ...] = field(default=(), compare=False)
    information = None


NAMED = {"gaussian": Gaussian, "laplace": Laplace, "student": Student}
REFUSED = {
    "uniform": "its density jumps at the edge, so it is not absolutely continuous: its score is 0 inside, and "
    "E[z . grad log q(z)] = 0 instead of -D",
    "triangular": "its Fisher information, the integral of |q'|^2 / q, is infinite: so is the mean of the loss",
}


def kernel_of(kernel: str | NoiseKernel) -> NoiseKernel:
    """The kernel of this name, or the kernel itself; uniform and triangular noise are refused with the reason."""
    if isinstance(kernel, str):
        if kernel in REFUSED:
            raise ValueError(f"kernel must not be {kernel!r}: {REFUSED[kernel]}; use one of {', '.join(NAMED)}")
        check_choice("kernel", kernel, NAMED)
        return NAMED[kernel]()
    if not all(hasattr(kernel, name) for name in ("sample", "score", "symmetric", "information")):
        raise TypeError(f"kernel must be one of {', '.join(NAMED)}, or come from noise_kernel, got {kernel!r}")
    return kernel


def noise_kernel(
    sample: Callable[[Tensor, Generator], Tensor],
    score: Callable[[Tensor], Tensor],
    shape: int | Sequence[int],
    *,
    draws: int = 50_000,
    seed: int = 0,
) -> OwnKernel:
    r"""A kernel of one's own for `denoising`, admitted after a check that its score belongs to its samples.

    On `draws` samples, in float64:

    * the Fisher information is finite: Hill's estimate of the tail index of $\max_j (\partial_j\log q)^2$, from the
      largest hundredth of the draws (k of them), exceeds $1 + 5/\sqrt k$. An index of 1, the triangular law's, passes
      with probability 3e-7; a finite information with an index below about 1.4 may be refused: give more `draws`.
    * $\mathbb E[z^\top\nabla\log q(z)] = -D$, and coordinate by coordinate $\mathbb E[z_j\,\partial_j\log q] = -1$ and
      $\mathbb E[\partial_j \log q] = 0$. A right kernel is refused with probability about 1e-6 in all.

    The kernel counts as symmetric, so that it may be `antithetic`, where its score is odd (on a connected support).

    Args:
        sample: (x, generator) -> noise like `x` (B, *D), independent between samples.
        score: $\nabla\log q$, (B, *D) -> (B, *D).
        shape: shape (*D) of one sample, or its dimension, at which to check.
        draws: how many samples the check takes, >= 1000.
        seed: of the check's generator.

    Returns:
        the kernel; `.reasons` says what was measured.

    Raises:
        ValueError: the score does not belong to the samples, or the Fisher information is infinite.

    Source: Vincent 2011, for kernels other than the Gaussian; Hill 1975.
    """
    check_count("draws", draws, least=1000)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    g, dimension = torch.Generator().manual_seed(seed), math.prod(shape)
    total, squares, peaks, odd = torch.zeros(2 * dimension + 1), torch.zeros(2 * dimension + 1), [], True
    for rows in torch.arange(draws).split(max(1, 2**20 // dimension)):
        z = sample(torch.zeros(len(rows), *shape, dtype=torch.float64), g)
        check_score(z, torch.zeros(len(rows), *shape, dtype=torch.float64))
        s = score(z)
        check_score(s, z)
        if not (z.isfinite().all() and s.isfinite().all()):
            raise ValueError("sample and score must be finite, got nan or infinity; is q positive where it is sampled?")
        odd = odd and torch.allclose(score(-z), -s, rtol=1e-9, atol=1e-9)
        statistics = torch.cat([inner(z, s)[:, None], (z * s).flatten(1), s.flatten(1)], 1)
        total, squares = total + statistics.sum(0), squares + statistics.square().sum(0)
        peaks.append(s.flatten(1).square().amax(1))
    reasons = (_check_information(torch.cat(peaks)), _check_identity(total / draws, squares / draws, draws))
    return OwnKernel(sample, score, odd, reasons)


def _check_information(peaks: Tensor) -> str:
    """Refuse a score whose largest squares have a mean that does not exist."""
    k = len(peaks) // 100
    top = peaks.topk(k + 1).values
    spread = (top[:-1] / top[-1]).log().mean() if top[-1] > 0 else torch.tensor(0.0)
    index, least = (1 / spread).item(), 1 + 5 / math.sqrt(k)
    if not index > least:
        raise ValueError(
            f"the kernel must have a finite Fisher information E|grad log q|^2: the tail index of the score's square "
            f"must exceed 1, clearly ({least:.2f} with {len(peaks)} draws), got {index:.2f}; then the mean of the loss "
            f"is infinite. Use a kernel that vanishes more smoothly at its edge, or one of {', '.join(NAMED)}"
        )
    return f"tail index of the score's square {index:.2f}, beyond 1: the Fisher information is finite"


def _check_identity(mean: Tensor, square: Tensor, draws: int) -> str:
    """Refuse a score that does not integrate by parts against its own samples."""
    dimension = (len(mean) - 1) // 2
    expected = torch.cat([torch.tensor([-float(dimension)]), -torch.ones(dimension), torch.zeros(dimension)]).to(mean)
    error = ((square - mean**2).clamp_min(0) / draws).sqrt() + 1e-12 * dimension
    off = (mean - expected).abs() / error
    allowed = -torch.special.ndtri(torch.tensor(FALSE_ALARM / (2 * len(mean)))).item()
    names = ["E[z . grad log q(z)]", *["E[z_j d_j log q(z)]"] * dimension, *["E[d_j log q(z)]"] * dimension]
    worst = 0 if off[0] > allowed else int(off.argmax())
    if off[worst] > allowed:
        raise ValueError(
            f"the score must belong to the noise: {names[worst]} must be {expected[worst]:g}, got "
            f"{mean[worst]:.4g} +- {error[worst]:.2g}; check the sign, the factors and the scale of grad log q"
        )
    return f"E[z . grad log q(z)] = {mean[0]:.4g} +- {error[0]:.2g}, as it must be: -D = {-dimension}"
