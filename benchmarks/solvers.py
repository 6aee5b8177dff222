"""Error against network calls: every deterministic solver on every schedule, beside azula, diffusers and k-diffusion.

Run: .venv/bin/pip install --no-deps --target .peers --requirement benchmarks/peers.txt
     PYTHONPATH=.peers .venv/bin/python benchmarks/solvers.py [--batch 128]

The scores are exact (a mixture of five correlated Gaussians, and one correlated Gaussian with standard deviations from
0.1 to 2), in d = 2, 8, 64, float64. The error is the root-mean-square one of a coordinate at t_min, beside a run of 800
steps from the same draws of the prior. Every solver, ours and theirs, has the same number of score calls. Theirs is the
best of all their solvers, each on three grids (even in t, in log-SNR, EDM's rho = 7). Writes the tables of the
documentation, solvers.md, and solvers.json to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from solver_peers import Problem, all_peers
from torch import Tensor

from scorefield.densities import Gaussian, GaussianMixture
from scorefield.noise import VE, VP, Cosine, Noise, SubVP
from scorefield.samplers import DPMSolver, Euler, Heun, Predictor, UniPC, fit_solver, reverse, time_grid

RESULTS = Path(__file__).parent / "results"
NOISES: dict[str, Noise] = {"VE": VE(0.01, 50.0), "VP": VP(), "SubVP": SubVP(), "Cosine": Cosine()}
CALLS = (10, 20, 35)
OURS: dict[str, tuple[Predictor, str, int, int]] = {  # a predictor, its grid, calls a step, and calls beside the steps
    "Euler": (Euler(), "log-snr", 1, 0),
    "Heun, rho": (Heun(), "rho", 2, 0),
    "DPMSolver(2)": (DPMSolver(2), "log-snr", 1, 0),
    "DPMSolver(3)": (DPMSolver(3), "log-snr", 1, 1),
    "UniPC(2)": (UniPC(2), "log-snr", 1, 0),
    "UniPC(3)": (UniPC(3), "log-snr", 1, 0),
    "UniPC(3), velocity, angle": (UniPC(3, predicts="velocity"), "angle", 1, 0),
    "UniPC(3), velocity, root-angle": (UniPC(3, predicts="velocity"), "root-angle", 1, 0),
}
Row = dict[str, float | str | int]


def laws(d: int) -> dict[str, GaussianMixture]:
    """The two targets in d dimensions."""
    g = torch.Generator().manual_seed(d)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    means, roots = normal(5, d), normal(5, d, d) / math.sqrt(d)
    covariances = 0.02 * torch.eye(d, dtype=torch.float64) + 0.15 * roots @ roots.mT
    axes, _ = torch.linalg.qr(normal(d, d))
    widths = torch.logspace(-1, math.log10(2), d, dtype=torch.float64)
    return {
        "mixture": GaussianMixture([0.1, 0.15, 0.2, 0.25, 0.3], means, covariances),
        "Gaussian": Gaussian(torch.full((d,), 0.5), (axes * widths**2) @ axes.T),
    }


def draws(noise: Noise, law: GaussianMixture, count: int, seed: int) -> Tensor:
    """States at t_max."""
    prior = noise.prior((len(law.mean),), law.mean, law.covariance.diagonal())
    z = torch.randn(count, len(law.mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return prior.mean + prior.stddev * z


def measure(d: int, target: str, schedule: str, batch: int) -> Iterator[Row]:
    """The errors of all solvers on one target under one schedule."""
    law, noise = laws(d)[target], NOISES[schedule]
    score, x = law.noisy_score(noise), draws(noise, law, batch, seed=1)
    exact = reverse(score, noise, x, times=time_grid(noise, 800, spacing="log-snr"), predictor=UniPC(3)).x
    problem, pilot = Problem(score, noise, x), draws(noise, law, 32, seed=2)

    def error(end: Tensor) -> float:
        found = (end - exact).square().mean().sqrt().item()
        return found if math.isfinite(found) else math.inf

    for calls in CALLS:
        row: Row = {"d": d, "target": target, "schedule": schedule, "calls": calls}
        for name, (predictor, spacing, each, extra) in OURS.items():
            times = time_grid(noise, (calls - extra) // each, spacing=spacing)
            end = reverse(score, noise, x, times=times, predictor=predictor, nonfinite="report")
            assert end.evaluations <= calls
            row[name] = error(end.x)
        fitted = fit_solver(score, noise, pilot, calls)
        end = reverse(score, noise, x, times=fitted.times, predictor=fitted.predictor)
        assert end.evaluations == calls
        row |= {"fitted": error(end.x), "fitted solver": str(fitted.predictor), "fit calls": fitted.evaluations}
        theirs: dict[str, float] = {}
        for name, each, run in all_peers():
            for spacing in ("time", "log-snr", "rho"):
                end, used = run(problem, time_grid(noise, calls // each, spacing=spacing))
                assert used <= calls, f"{name} used {used} calls"
                theirs[f"{name} ({spacing})"] = error(end)
        best = min(theirs, key=lambda name: theirs[name])
        for house in ("azula", "diffusers", "k-diffusion"):
            row[house] = min(value for name, value in theirs.items() if name.startswith(house))
        yield row | {"their best": best, "theirs": theirs[best], "ratio": float(row["fitted"]) / theirs[best]}


def tables(rows: list[Row]) -> str:
    """Markdown: the ratio to the best of theirs, then every solver's error, the median over targets and schedules."""
    lines = [
        "<!-- made by benchmarks/solvers.py -->",
        "Error of the end state (root mean square of a coordinate) at 10, 20, 35 calls; *fitted* is what `fit_solver`",
        "found on 32 pilot samples, *best peer* the best of 19 solvers of azula, diffusers and k-diffusion on three",
        "grids, none of them fitted.",
        "",
        "| d | target | schedule | " + " | ".join(f"fitted, {c} | best peer | ratio" for c in CALLS) + " |",
        "|---|---|---|" + "---|---|---|" * len(CALLS),
    ]
    cells = {(r["d"], r["target"], r["schedule"], r["calls"]): r for r in rows}
    for d, target, schedule in dict.fromkeys((r["d"], r["target"], r["schedule"]) for r in rows):
        parts = []
        for calls in CALLS:
            r = cells[d, target, schedule, calls]
            ratio = float(r["ratio"])
            shown = f"{ratio:.2f}" if ratio <= 0.8 else f"**{ratio:.2f}**"
            parts.append(f"{float(r['fitted']):.1e} | {float(r['theirs']):.1e} | {shown}")
        lines.append(f"| {d} | {target} | {schedule} | " + " | ".join(parts) + " |")
    met = sum(float(r["ratio"]) <= 0.8 for r in rows)
    lines += ["", f"The ratio is at most 0.8 in {met} of {len(rows)} cases; what is bold is above.", ""]
    lines += ["Every solver without fitting, the error's median over the targets and dimensions:", ""]
    names = [*OURS, "fitted", "azula", "diffusers", "k-diffusion"]
    lines += ["| solver, grid | " + " | ".join(f"{s}, {c}" for s in NOISES for c in CALLS) + " |"]
    lines += ["|---|" + "---|" * (len(NOISES) * len(CALLS))]
    for name in names:
        medians = [
            statistics.median(float(r[name]) for r in rows if r["schedule"] == s and r["calls"] == c)
            for s in NOISES
            for c in CALLS
        ]
        label = f"best of {name}" if name in ("azula", "diffusers", "k-diffusion") else name
        lines.append(f"| {label} | " + " | ".join(f"{m:.1e}" for m in medians) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for d in (2, 8, 64):
        for target in ("mixture", "Gaussian"):
            for schedule in NOISES:
                for row in measure(d, target, schedule, options.batch):
                    rows.append(row)
                    print(
                        f"d {d:2} {target:8} {schedule:6} {row['calls']:2} calls: {row['fitted']:.1e} by "
                        f"{row['fitted solver']}, theirs {row['theirs']:.1e} {row['their best']}, "
                        f"ratio {row['ratio']:.2f}",
                        flush=True,
                    )
    options.out.mkdir(exist_ok=True)
    (options.out / "solvers.json").write_text(json.dumps(rows, indent=1) + "\n")
    (options.out / "solvers.md").write_text(tables(rows))


if __name__ == "__main__":
    main()
