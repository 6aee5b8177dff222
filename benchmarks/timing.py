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
    turn: float = 0.0,
) -> dict[str, float]:
    """Seconds per call of each function: the minimum over repetitions that alternate between them.

    A turn lasts at least `turn` seconds, in which a short function is called again and again and finds its data and
    memory as it left them, which is how it runs in training.
    """
    best = dict.fromkeys(functions, float("inf"))
    for k in range(warmup + repeats):
        for name, function in functions.items():
            end, until = clock(), clock() + turn
            while True:
                start = end
                function()
                end = clock()
                if k >= warmup:
                    best[name] = min(best[name], end - start)
                if end >= until:
                    break
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
