"""Seeded noise: from a generator, from one stream per sample, or one process's part of a batch's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scorefield.checks import check_choice, check_count

LAWS = ("rademacher", "gaussian", "sphere")


class Draws(Protocol):
    """What draws noise in place of a `torch.Generator`: one row per sample."""

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers like `x` (B, *D)."""
        ...

    def uniform(self, x: Tensor) -> Tensor:
        """One uniform number in [0, 1) per sample of `x`, (B,), float64."""
        ...


class PerSample:
    """One stream of noise per sample, keyed by (seed, index): sample i has the same noise in any batch.

    The n-th draw of sample `i` is a function of (seed, i, n) alone (Philox, Salmon et al. 2011), so samples do not
    change with the batch size or the number of devices. Stateful, like a generator.

    Args:
        seed: an integer >= 0.
        indices: which samples the batch holds, one integer >= 0 per row.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        check_count("seed", seed, least=0)
        for name, value in (("seed", seed), *(("index", int(i)) for i in indices)):
            if not 0 <= value < 2**64:
                raise ValueError(f"{name} must lie in [0, 2**64), got {value}")
        keys = [np.array([seed, int(i)], dtype=np.uint64) for i in indices]
        self._streams = [np.random.Generator(np.random.Philox(key=key)) for key in keys]

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers like `x`, one row from each sample's stream."""
        self._check(x)
        rows = np.empty((len(x), x[0].numel()))
        for row, stream in zip(rows, self._streams, strict=True):
            stream.standard_normal(out=row)
        return torch.from_numpy(rows).reshape(x.shape).to(x)

    def uniform(self, x: Tensor) -> Tensor:
        """One uniform number in [0, 1) from each sample's stream, float64."""
        self._check(x)
        return torch.tensor([stream.random() for stream in self._streams], dtype=torch.float64, device=x.device)

    def _check(self, x: Tensor) -> None:
        if len(x) != len(self._streams):
            raise ValueError(f"a batch of {len(x)} samples needs {len(x)} indices, got {len(self._streams)}")


class Share:
    """Rows `part` of the noise of a larger batch: what one process of several draws.

    Every process draws the noise of the whole batch and keeps its own rows, so that one process and many see the
    same numbers.
    """

    def __init__(self, generator: torch.Generator, total: int, part: slice) -> None:
        self._generator, self._total, self._part = generator, total, part

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers like `x`: this share of the whole batch's."""
        whole = x.new_empty(1).expand(self._total, *x.shape[1:])
        return randn_like(whole, self._generator)[self._part]

    def uniform(self, x: Tensor) -> Tensor:
        """One uniform number in [0, 1) per sample: this share of the whole batch's, float64."""
        return rand_rows(x.new_empty(self._total, 1), self._generator)[self._part]


Generator = torch.Generator | Draws | None


def randn_like(x: Tensor, generator: Generator = None) -> Tensor:
    """Standard normal noise with the shape, dtype and device of `x`."""
    if generator is None or isinstance(generator, torch.Generator):
        device = x.device if generator is None else generator.device
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)
    return generator.normal(x)


def rand_rows(x: Tensor, generator: Generator = None) -> Tensor:
    """One uniform number in [0, 1) per sample of `x`, shape (B,), float64."""
    if generator is None or isinstance(generator, torch.Generator):
        device = x.device if generator is None else generator.device
        return torch.rand(len(x), generator=generator, dtype=torch.float64, device=device).to(x.device)
    return generator.uniform(x)


def probe_like(x: Tensor, law: str = "rademacher", generator: Generator = None) -> Tensor:
    r"""Random directions like `x` with $\mathbb E[vv^\top] = I$, independent between samples.

    Args:
        x: gives shape (B, *D), dtype and device.
        law: `"rademacher"`, independent signs; `"gaussian"`, N(0, I); `"sphere"`, uniform at radius $\sqrt D$.
        generator: source of the noise; the global one when None.

    Returns:
        the directions, (B, *D).

    Raises:
        ValueError: an unknown law.
    """
    check_choice("law", law, LAWS)
    z = randn_like(x, generator)
    if law == "rademacher":
        return torch.ones_like(z).copysign_(z)
    if law == "gaussian":
        return z
    flat = z.flatten(1)
    return (flat * (math.sqrt(flat.shape[1]) / flat.norm(dim=1, keepdim=True))).reshape(x.shape)
