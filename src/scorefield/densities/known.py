"""`Density`, the protocol, and torch's distributions as densities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from scorefield.calculus import Generator, rand_rows, score_of
from scorefield.checks import check_floating, check_shape
from scorefield.densities.parameters import count


class Density(Protocol):
    """What has an exact log-density, its score, and samples."""

    def log_density(self, x: Tensor) -> Tensor:
        r"""$\log p(x)$, (B, *D) -> (B,)."""
        ...

    def score(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$, (B, *D) -> (B, *D)."""
        ...

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        """Independent samples, (n,) -> (n, *D)."""
        ...


@dataclass(frozen=True)
class Known:
    """A torch distribution seen as a density; made by `known`."""

    distribution: Distribution

    def log_density(self, x: Tensor) -> Tensor:
        r"""$\log p(x)$, shape (B,); torch refuses points outside the support."""
        check_floating("x", x)
        check_shape("x", x, (len(x), *self.distribution.event_shape), "one sample of the distribution per row")
        dtype = getattr(_a_parameter(self.distribution), "dtype", x.dtype)
        return self.distribution.log_prob(x.to(dtype)).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        r"""$\nabla_x \log p(x)$ by one backward pass, shape (B, *D)."""
        return score_of(self.log_density)(x)

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        """Samples (n, *D) from `distribution.sample`.

        Torch's distributions draw from the global generator. One that is given here is honoured all the same: it
        gives the seed (with `PerSample`, one seed per row) under which the distribution draws, and the global state
        is put back afterwards.
        """
        n = count(shape)
        if generator is None:
            return self.distribution.sample(torch.Size((n,)))
        blocks = [n] if isinstance(generator, torch.Generator) else [1] * n
        draws = []
        for block, u in zip(blocks, rand_rows(torch.empty(len(blocks), 1), generator).tolist(), strict=True):
            with _seeded(int(u * 2**53)):
                draws.append(self.distribution.sample(torch.Size((block,))))
        return torch.cat(draws)


def known(distribution: Distribution) -> Known:
    """Turn any continuous torch distribution over vectors or arrays into a density.

    Args:
        distribution: without batch axes, and with an event of at least one axis.

    Returns:
        a density with `log_density`, `score` and `sample`.

    Raises:
        TypeError: not a torch distribution, or a discrete one, which has no score.
        ValueError: batch axes, or scalar events.
    """
    if not isinstance(distribution, Distribution):
        raise TypeError(f"distribution must be a torch.distributions.Distribution, got {type(distribution).__name__}")
    batch, event = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    if batch or not event:
        raise ValueError(
            "distribution must have batch_shape () and an event_shape of at least one axis, got "
            f"{batch} and {event}; wrap it as torch.distributions.Independent(distribution, {max(len(batch), 1)})"
            + ("" if batch else " after expanding it with .expand((d,))")
        )
    if _is_discrete(distribution):
        raise TypeError(f"{type(distribution).__name__} is discrete and has no score; use a continuous distribution")
    return Known(distribution)


def _a_parameter(distribution: Distribution) -> Tensor | None:
    """A tensor in whose dtype the distribution computes, found in its parameters or in what it wraps."""
    for value in vars(distribution).values():
        found = _a_parameter(value) if isinstance(value, Distribution) else value
        if isinstance(found, Tensor) and found.is_floating_point():
            return found
    return None


def _is_discrete(distribution: Distribution) -> bool:
    try:
        return bool(getattr(distribution.support, "is_discrete", False))
    except NotImplementedError:  # a distribution of one's own need not say
        return False


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's global generators seeded, and put back afterwards; a sleeping GPU is not woken."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield
