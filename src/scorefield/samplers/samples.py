"""`Samples`, what a driver returns, and the diagnostics of chains."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """What a driver returns.

    Attributes:
        x: the last state, (B, *D).
        path: states on the way, (K, B, *D), or None when they were not asked for.
        info: what the kernels reported, one entry per step, (steps, B); their sums (B,) with `totals`.
        evaluations: how many times the score was called on the batch.
        moves: how many moves the info stands for.
        lost: per sample the step at which its state stopped being finite, 0 where it never did, (B,); None when no
            driver watched.
    """

    x: Tensor
    path: Tensor | None = None
    info: dict[str, Tensor] = field(default_factory=dict)
    evaluations: int = 0
    moves: int = 0
    lost: Tensor | None = None

    @property
    def acceptance(self) -> Tensor:
        """The mean acceptance probability of each chain's moves, (B,)."""
        return self._sum("acceptance") / self.moves

    @property
    def divergences(self) -> Tensor:
        """How many of each chain's moves had an energy error above 1000, (B,): the step size is too large there."""
        return self._sum("divergent").long()

    def ess(self, *, method: str = "bulk") -> Tensor:
        """Effective sample size of every coordinate over all chains, (*D); chains that were lost are left out.

        Args:
            method: `"bulk"`, `"tail"`, `"mean"`, `"sd"` or another of arviz-stats; `"mean"` is for means.

        Raises:
            RuntimeError: no path of at least 4 states was kept.

        Source: Vehtari et al. 2021 (arXiv:1903.08008), by arviz-stats.
        """
        return self._diagnose("ess", method)

    def r_hat(self, *, method: str = "rank") -> Tensor:
        r"""Split $\hat R$ of every coordinate, (*D): near 1 where the chains agree; above 1.01 they do not.

        Args:
            method: `"rank"`, `"split"`, `"folded"` or another of arviz-stats.

        Raises:
            RuntimeError: no path of at least 4 states was kept.

        Source: Vehtari et al. 2021 (arXiv:1903.08008), by arviz-stats.
        """
        return self._diagnose("rhat", method)

    def to_arviz(self) -> Any:
        """The path and the info as arviz's data, with the variable `x`, (chain, draw, *D).

        Raises:
            ImportError: arviz is not installed.
            RuntimeError: no path was kept.
        """
        try:
            arviz = importlib.import_module("arviz")
        except ImportError:
            raise ImportError("to_arviz needs arviz: pip install arviz") from None
        path = self._kept(least=1)
        groups = {"posterior": {"x": path.transpose(0, 1).cpu().numpy()}}
        stats = {k: v.T.cpu().numpy() for k, v in self.info.items() if v.shape == path.shape[:2]}
        if stats:
            groups["sample_stats"] = {
                {"acceptance": "acceptance_rate", "divergent": "diverging"}.get(k, k): v for k, v in stats.items()
            }
        try:
            return arviz.from_dict(groups)
        except TypeError:  # arviz before 1.0 takes the groups by name
            return arviz.from_dict(**groups)

    def _sum(self, name: str) -> Tensor:
        if name not in self.info:
            raise RuntimeError(f"this kernel reports no {name!r}: it accepts every move; MALA and HMC report it")
        entry = self.info[name]
        return entry if entry.ndim == 1 else entry.sum(0)

    def _kept(self, least: int) -> Tensor:
        held = 0 if self.path is None else len(self.path)
        if self.path is None or held < least:
            raise RuntimeError(f"this needs a path of at least {least} states, got {held}; run chain(..., keep=1)")
        return self.path

    def _diagnose(self, name: str, method: str) -> Tensor:
        stats = importlib.import_module("arviz_stats.base").array_stats
        path = self._kept(least=4)
        whole = path.flatten(2).double().isfinite().all(2).all(0)
        if not whole.any():
            raise RuntimeError("every chain became non-finite; use a smaller step_size")
        array = path[:, whole].double().cpu().numpy()
        values = getattr(stats, name)(array, chain_axis=1, draw_axis=0, method=method)
        return torch.as_tensor(values, dtype=torch.float64)
