"""What closed-form fits cost: against the bare matrix products, by structure, by autodiff, and in memory.

Run: .venv/bin/python benchmarks/estimators.py [--rows 1000000] [--repeats 5]

Processor time of one thread, what is compared in turn, the minimum of the repetitions. The derivatives that are "given"
cost nothing: callables that return the same block again and again. The bare products are T T' of that block, laid out
as BLAS likes it, and the mean of its Laplacians, chunk by chunk: what no route can avoid. Memory is by how much a fit
lifts the peak of a fresh process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timing import best_times, machine, report
from torch import Tensor

from scorefield.estimators import ExponentialFamily, Gaussian, NotNormalisable, Quadratic
from scorefield.estimators.linear import _NUMBERS

STATISTICS, COLUMNS = 50, 5
ROWS = 50_000  # of the quadratic family
CHUNK = _NUMBERS // (STATISTICS * COLUMNS)


def ready(count: int, d: int) -> tuple[Callable[[Tensor], Tensor], ...]:
    """A statistic whose values, gradients and Laplacians are there already, whatever x."""
    g = torch.Generator().manual_seed(0)
    block = [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((CHUNK, count), (CHUNK, count, d))]
    return (lambda x: block[0][: len(x)]), (lambda x: block[1][: len(x)]), (lambda x: block[0][: len(x)])


def bare(n: int, parts: tuple[Callable[[Tensor], Tensor], ...]) -> Callable[[], np.ndarray]:
    """One symmetric product and one mean per chunk, one solve."""
    probe = torch.empty(CHUNK, 1)
    tall = parts[1](probe).transpose(1, 2).reshape(-1, STATISTICS).numpy().copy()
    trace, ones = parts[2](probe).numpy(), np.ones(CHUNK)

    def run() -> np.ndarray:
        w, d = np.zeros((STATISTICS, STATISTICS)), np.zeros(STATISTICS)
        for start in range(0, n, CHUNK):
            rows = min(CHUNK, n - start)
            part = tall[: rows * COLUMNS]
            w += part.T @ part
            d -= ones[:rows] @ trace[:rows]
        return np.linalg.solve(w, d)

    return run


def waves(x: Tensor) -> Tensor:
    """Fifty statistics cos(a_k . x + c_k), for autodiff."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(STATISTICS, x.shape[1], generator=g, dtype=torch.float64)
    return torch.cos(x @ a.T + torch.arange(STATISTICS))


def wave_derivatives() -> tuple[Callable[[Tensor], Tensor], ...]:
    """The same with its derivatives written out."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(STATISTICS, COLUMNS, generator=g, dtype=torch.float64)
    size, phase = a.square().sum(1), torch.arange(STATISTICS)
    return (
        waves,
        lambda x: torch.sin(x @ a.T + phase)[:, :, None] * -a,
        lambda x: -size * torch.cos(x @ a.T + phase),
    )


def data(n: int, d: int) -> np.ndarray:
    """Correlated normal rows."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * np.tri(d))


def given(rows: int, repeats: int) -> None:
    """One pass over many rows with derivatives given."""
    x, parts = data(rows, COLUMNS), ready(STATISTICS, COLUMNS)
    products = bare(rows, parts)
    fit, whole = ExponentialFamily(parts, inference=False), ExponentialFamily(parts)
    np.testing.assert_allclose(products(), fit.fit(x).theta_, rtol=1e-6)
    times = best_times(
        {"bare": products, "fit": lambda: fit.fit(x), "both": lambda: whole.fit(x)},
        repeats=repeats,
        warmup=1,
        clock=time.process_time,
    )
    few = x[: max(1000, rows // 20)]
    written, auto = (ExponentialFamily(t, inference=False) for t in (wave_derivatives(), waves))
    np.testing.assert_allclose(written.fit(few).theta_, auto.fit(few).theta_, rtol=1e-6, atol=1e-9)
    found = best_times(
        {"written": lambda: written.fit(few), "autodiff": lambda: auto.fit(few)},
        repeats=repeats,
        warmup=1,
        clock=time.process_time,
    )
    report(
        f"{STATISTICS} statistics of {COLUMNS} columns, {rows} rows",
        {
            "bare matrix products": f"{times['bare']:8.2f} s",
            "fit, one pass": f"{times['fit']:8.2f} s, {times['fit'] / times['bare']:.2f} x (target <= 1.5)",
            "with standard errors, two passes": f"{times['both']:8.2f} s, {times['both'] / times['bare']:.2f} x",
            f"cosines by autodiff, {len(few)} rows": f"{found['autodiff']:8.2f} s, "
            f"{found['autodiff'] / found['written']:.2f} x the fit with their derivatives written out",
        },
    )


def pairs(x: Tensor) -> Tensor:
    """The statistics of the quadratic family, for autodiff."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1])
    return torch.cat([x, -x[:, i] * x[:, j] * torch.where(i == j, 0.5, 1.0)], dim=1)


def structure(repeats: int) -> None:
    """The quadratic family by its moments, and by the inverse of the covariance, against the generic route."""
    known, rows = Quadratic(), {}
    written = (known, lambda x: known.derivatives(x).gradient, lambda x: known.derivatives(x).second)
    for d in (8, 16, 24):
        x = data(ROWS, d)
        few = x[: ROWS // 20]
        fits = {
            "generic": (ExponentialFamily(written, inference=False), x),
            "moments": (ExponentialFamily(inference=False), x),
            "Gaussian": (Gaussian(inference=False), x),
            "generic, few": (ExponentialFamily(written, inference=False), few),
            "autodiff, few": (ExponentialFamily(pairs, inference=False), few),
        }
        times = best_times(
            {name: lambda f=f, part=part: f.fit(part) for name, (f, part) in fits.items()},
            repeats=repeats,
            warmup=1,
            clock=time.process_time,
        )
        rows[f"p = {d}"] = (
            f"generic {times['generic']:6.2f} s   autodiff {times['autodiff, few'] / times['generic, few']:5.1f} x   "
            f"moments: generic / {times['generic'] / times['moments']:6.0f}   "
            f"Gaussian: generic / {times['generic'] / times['Gaussian']:6.0f}"
        )
    report(f"quadratic family, {ROWS} rows, estimate alone (target at p = 16: generic / 100)", rows)


def memory(rows: int) -> None:
    """Peak resident memory beyond that before the fit, in fresh processes."""
    found = {}
    for n in (rows // 10, rows):
        command = [sys.executable, __file__, "--peak", str(n)]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        found[f"{n} rows, data {8e-6 * n * COLUMNS:.0f} MB"] = f"{float(peak):7.1f} MB"
    report(f"memory of a fit with standard errors beyond the data, {STATISTICS} statistics", found)


def peak(n: int) -> None:
    """Print by how many MB a fit lifts the peak of this process (Linux)."""
    x, parts = data(n, COLUMNS), wave_derivatives()
    ExponentialFamily(parts).fit(x[:5000])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = high_water()
    ExponentialFamily(parts).fit(x)
    print((high_water() - before) / 1024)


def high_water() -> int:
    """The largest resident size so far, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", type=int, default=None, help="measure memory alone, for so many rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NotNormalisable)  # of statistics that are random numbers
    if options.peak is not None:
        return peak(options.peak)
    print(machine())
    given(options.rows, options.repeats)
    structure(options.repeats)
    memory(options.rows)
    return None


if __name__ == "__main__":
    main()
