"""Fisher errors of the kernel estimators and of ScoreDensity on Gaussian, mixture and ring data, with time and memory.

Run: .venv/bin/python benchmarks/kernel_estimators.py [--most 20000] [--only NAME]

Each estimator is fitted in its default settings and with everything chosen by held-out rows, in a process of its own,
to n rows of laws whose score is known. The Fisher error is the mean of |s - grad log p|^2, without 1/2, over 4,000
fresh rows; the share is that over the mean of |grad log p|^2, which the field 0 has. Seconds are of the processor, for
fit and for the 4,000 scores; megabytes are the growth of the process's peak memory. Where n d > 2,000 (n, for the
diagonal kernel) the fits are Nystrom's. ScoreDensity, up to n = 2,000, is read where `score_function` reads it, at its
smallest noise level, and at the level that rows left out of the fit like best (`AtLevel`). Writes
kernel_estimators.json and kernel_estimators.md to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import machine

from scorefield.densities import Density, Gaussian, Rings, toy
from scorefield.estimators.kernels import (
    KernelExponentialFamily,
    KernelScore,
    NuMethodScore,
    SpectralScore,
    SteinScore,
)
from scorefield.neural import ScoreDensity

RESULTS = Path(__file__).parent / "results"
LAWS: dict[str, Callable[[], Any]] = {
    "Gaussian, d = 2": lambda: Gaussian([1.0, -1.0], [[1.0, 0.6], [0.6, 1.0]]),
    "mixture of 3, d = 2": lambda: toy("gaussian-mixture"),
    "ring, d = 2": lambda: Rings([2.0], 0.3),
    "Gaussian, d = 8": lambda: Gaussian(torch.zeros(8), 0.5 * torch.eye(8) + 0.5),
}
NEURAL_MOST = 2000  # rows; a fit takes half a minute, whatever n


class AtLevel:
    """ScoreDensity fitted to 85 % of the rows and read at one of 12 noise levels.

    The level is the one of the least implicit objective, plus one standard error, on the other rows; the divergence is
    found by central differences.
    """

    def fit(self, x: np.ndarray) -> AtLevel:
        """Rows are independent, so that the last ones are as good as any to leave out."""
        cut = round(0.85 * len(x))
        self.density = ScoreDensity().fit(x[:cut])
        bounds = []
        for level in np.geomspace(*self.density.noise_range_, 12).clip(*self.density.noise_range_):
            rho = self._objective(x[cut:], level)
            bounds.append((rho.mean() + rho.std() / np.sqrt(len(rho)), level))
        self.level_ = float(min(bounds)[1])
        return self

    def score_function(self, x: np.ndarray) -> np.ndarray:
        """At the level that was chosen."""
        return self.density.score_function(x, self.level_)

    def _objective(self, x: np.ndarray, level: float) -> np.ndarray:
        rho = np.square(self.density.score_function(x, level)).sum(1) / 2
        for j, step in enumerate(np.diag(1e-4 * x.std(0))):
            rho += (self._along(x + step, level, j) - self._along(x - step, level, j)) / (2 * step[j])
        return rho

    def _along(self, x: np.ndarray, level: float, j: int) -> np.ndarray:
        return self.density.score_function(x, level)[:, j]


# A name and how to make it: fit(X), score_function(X).
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "KernelScore": lambda: KernelScore(),
    "KernelScore, held-out": lambda: KernelScore("held-out", random_state=0),
    "KernelExponentialFamily": lambda: KernelExponentialFamily(random_state=0),
    "KernelExponentialFamily, held-out": lambda: KernelExponentialFamily("held-out", "held-out", random_state=0),
    "SteinScore": lambda: SteinScore(random_state=0),
    "SteinScore, held-out": lambda: SteinScore("held-out", "held-out", random_state=0),
    "SpectralScore": lambda: SpectralScore(random_state=0),
    "SpectralScore, held-out": lambda: SpectralScore("held-out", "held-out", random_state=0),
    "NuMethodScore": lambda: NuMethodScore(random_state=0),
    "NuMethodScore, held-out": lambda: NuMethodScore("held-out", "held-out", random_state=0),
    "ScoreDensity": lambda: ScoreDensity(),
    "ScoreDensity, held-out": lambda: AtLevel(),
}
SIZES = (500, 2000, 20_000)


def rows_of(law: Density, n: int, seed: int) -> torch.Tensor:
    """Independent rows."""
    return law.sample((n,), generator=torch.Generator().manual_seed(seed))


def measure(law_name: str, name: str, n: int) -> dict[str, Any]:
    """One fit and its scores, judged."""
    torch.set_num_threads(1)
    law = LAWS[law_name]()
    x, judged = rows_of(law, n, 1).numpy(), rows_of(law, 4000, 2)
    truth, before = law.score(judged).numpy(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    estimator, start = ESTIMATORS[name](), time.process_time()
    estimator.fit(x)
    fitted = time.process_time()
    found = estimator.score_function(judged.numpy())
    squares = np.square(found - truth).sum(1)
    return {
        "law": law_name,
        "estimator": name,
        "n": n,
        "fisher": float(squares.mean()),
        "standard_error": float(squares.std() / np.sqrt(len(squares))),
        "share": float(squares.mean() / np.square(truth).sum(1).mean()),
        "fit_seconds": round(fitted - start, 3),
        "score_seconds": round(time.process_time() - fitted, 3),
        "megabytes": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        "bandwidth": getattr(estimator, "bandwidth_", None),
        "level": getattr(estimator, "level_", getattr(estimator, "noise_range_", (None,))[0]),
    }


def tables(rows: list[dict[str, Any]], made_on: str) -> str:
    """Markdown: a table per law, an estimator per line."""
    lines = [
        "<!-- made by benchmarks/kernel_estimators.py -->",
        "Fisher error (mean squared distance to the true score, without ½, on 4,000 fresh rows), its share of what the",
        "field 0 has, processor seconds to fit and to score 4,000 rows, and growth of peak memory.",
        f"One process each; {made_on}. Default settings, then everything chosen by held-out rows; for",
        "ScoreDensity, which always chooses its training by them, that is the noise level at which its score is read.",
    ]
    sizes = sorted({row["n"] for row in rows})
    for law in dict.fromkeys(row["law"] for row in rows):
        cells = {(row["estimator"], row["n"]): row for row in rows if row["law"] == law}
        heads = [f"n = {n:,}: error | share | fit, score (s) | MB" for n in sizes]
        lines += ["", f"**{law}**", "", "| estimator | " + " | ".join(heads) + " |", "|---|" + "---|" * 4 * len(sizes)]
        for name in dict.fromkeys(row["estimator"] for row in rows):
            parts = []
            for n in sizes:
                row = cells.get((name, n))
                parts.append(
                    "— | — | — | —"
                    if row is None
                    else f"{row['fisher']:.3g} ± {row['standard_error']:.1g} | {row['share']:.1%} | "
                    f"{row['fit_seconds']:.2g}, {row['score_seconds']:.2g} | {row['megabytes']:.0f}"
                )
            lines.append(f"| {name} | " + " | ".join(parts) + " |")
    return "\n".join(lines) + "\n"


def kept(folder: Path) -> list[dict[str, Any]]:
    """The rows of an earlier run, which must be of this kind of machine; none where there was none."""
    path = folder / "kernel_estimators.json"
    earlier: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"machine": machine(), "rows": []}
    if earlier["machine"] != machine():
        raise SystemExit(f"the other rows were made on {earlier['machine']}; run without --only, or with another --out")
    return earlier["rows"]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the largest n")
    parser.add_argument("--only", default="", help="a part of the names of estimators; other rows are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    jobs = [
        (law, name, n)
        for law in LAWS
        for n in SIZES
        if n <= options.most and not (n > 2000 and "d = 8" in law)
        for name in ESTIMATORS
        if options.only.lower() in name.lower() and not (n > NEURAL_MOST and "ScoreDensity" in name)
    ]
    others = kept(options.out) if options.only else []
    rows = [row for row in others if (row["law"], row["estimator"], row["n"]) not in jobs]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # peak memory is a process's own
        for job in jobs:
            row = pool.apply(measure, job)
            rows.append(row)
            print(
                f"{row['law']:20} n {row['n']:6} {row['estimator']:34} {row['fisher']:8.4f} ({row['share']:6.1%}) "
                f"{row['fit_seconds']:7.2f} + {row['score_seconds']:5.2f} s {row['megabytes']:7.1f} MB",
                flush=True,
            )
    order = [list(LAWS), list(ESTIMATORS)]
    rows.sort(key=lambda row: (order[0].index(row["law"]), row["n"], order[1].index(row["estimator"])))
    options.out.mkdir(exist_ok=True)
    (options.out / "kernel_estimators.json").write_text(
        json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n"
    )
    (options.out / "kernel_estimators.md").write_text(tables(rows, machine()))


if __name__ == "__main__":
    main()
