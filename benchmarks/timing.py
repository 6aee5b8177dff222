"""Paired timing: functions in turn, in one process, the best of many short repetitions of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def best_times(
    functions: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 30,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds per call of each function: the minimum over repetitions that alternate between them."""
    best = dict.fromkeys(functions, float("inf"))
    for k in range(warmup + repeats):
        for name, function in functions.items():
            start = clock()
            function()
            elapsed = clock() - start
            if k >= warmup:
                best[name] = min(best[name], elapsed)
    return best


def machine() -> str:
    """One line about where the figures were made."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {capabilities}, {torch.get_num_threads()} thread(s)"


def report(title: str, rows: Mapping[str, str]) -> None:
    """Print a small table."""
    print(f"\n{title}")
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        print(f"  {name:<{width}}  {value}")
