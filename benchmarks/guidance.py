"""Every method for an observation against exact posteriors: Gaussians and their mixtures given y = A x + noise.

Run: .venv/bin/pip install --no-deps --target .peers --requirement benchmarks/peers.txt
     PYTHONPATH=.peers .venv/bin/python benchmarks/guidance.py [--only NAME …] [--again]    (10 minutes, one core)

The scores are exact, float64, VP; data of variance 1. For one y of each problem (of fifty drawn from its own law the
one whose posterior is shared most evenly by the components), N draws of every method by every sampler: sliced
Wasserstein distance to exact draws (beside that between two exact sets of N), errors of mean and covariance in the
posterior's own units, weights of the modes, and score calls with the products with its Jacobian. Calibration: for other
(x, y) from the joint law, the rank of x among draws given y, in two directions, should be uniform (chi-squared).
Particles: RUNS runs of PARTICLES, a t-test of six known numbers over the runs; where the least effective number is
below 100 the cell is marked. azula's methods beside, on the same score. Writes guidance.json, guidance.md and the
picture of error against particles; `--again` does so from guidance.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from guidance_peers import azula_methods
from guidance_problems import GRID, N, Problem, Truth, make, normals
from guidance_tables import picture, tables
from scipy.stats import chi2
from scipy.stats import t as student
from timing import machine
from torch import Tensor, nn

from scorefield.calculus import NoisyScore
from scorefield.fields import ScoreModel, given
from scorefield.guidance import classifier_free, inpaint, posterior, smc
from scorefield.networks import MLP, UNet
from scorefield.noise import VP, Noise
from scorefield.samplers import AdaptiveODE, DPMSolver, Heun, Predictor, SDEDPMSolver, reverse, time_grid
from scorefield.settings import MLPSize, UNetSize

RESULTS = Path(__file__).parent / "results"
STEPS = 60  # of samplers with a fixed number
PAIRS, RANKS = 256, 7  # of calibration: draws from the joint law, and of each posterior
RUNS, PARTICLES, PARTICLE_STEPS = 8, 512, 200
NOISE: Noise = VP()
SAMPLERS: dict[str, tuple[Predictor, int]] = {
    "DPMSolver(3)": (DPMSolver(3), STEPS),
    "SDE": (SDEDPMSolver(predicts="velocity"), STEPS),
    "adaptive": (AdaptiveODE(rtol=1e-3, atol=1e-4, most=150), 1),
}
Draw = Callable[[NoisyScore, Tensor, Tensor, torch.Generator], Tensor]  # score, y, x at t_max -> draws
Row = dict[str, Any]


class Counted:
    """The score, its calls, and the products with its Jacobian (seen as gradients that arrive at its output)."""

    def __init__(self, score: NoisyScore) -> None:
        self._score, self.calls, self.products = score, 0, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The score, counted."""
        self.calls += 1
        out = self._score(x, t)
        if out.requires_grad:
            out.register_hook(self._seen)
        return out

    def _seen(self, _: Tensor) -> None:
        self.products += 1


def begun(problem: Problem, n: int, g: torch.Generator) -> Tensor:
    """States at t_max, from the prior's own mean and variances."""
    law = NOISE.prior((problem.a.shape[1],), problem.prior.mean, problem.prior.covariance.diagonal())
    z = torch.randn(n, problem.a.shape[1], generator=g, dtype=torch.float64)
    return law.mean + law.stddev * z


def guided(problem: Problem, score: NoisyScore, y: Tensor, method: str) -> NoisyScore:
    """The posterior's score by one of the three covariances."""
    return posterior(score, NOISE, problem.a, y, sigma=problem.sigma, method=method)


def ours(problem: Problem) -> Iterator[tuple[str, str, Draw]]:
    """(method, sampler, draw) of everything but particles."""

    def through(method: str, name: str) -> Draw:
        predictor, steps = SAMPLERS[name]

        def draw(score: NoisyScore, y: Tensor, x: Tensor, g: torch.Generator) -> Tensor:
            hooks: dict[str, Any] = {}
            if method.startswith("inpaint "):
                d = x.shape[1]
                observed = nn.functional.pad(y, (0, d - y.shape[-1]))
                known, how = torch.arange(d) < y.shape[-1], {"method": method.removeprefix("inpaint ")}
                more = {"sigma": problem.sigma} if method.endswith("posterior") else {"generator": g}
                made = inpaint(score, NOISE, known, observed, **how, **more)  # pyright: ignore[reportArgumentType]
                score, hooks = made.score, made.hooks
            else:
                score = guided(problem, score, y, method)
            times = time_grid(NOISE, steps, predictor)
            moved = reverse(score, NOISE, x, times=times, predictor=predictor, **hooks, nonfinite="report", generator=g)
            return moved.x / NOISE.alpha(times[-1])

        return draw

    for method in ("dps", "pigdm", "moments"):
        for name in SAMPLERS:
            yield method, name, through(method, name)
    if problem.masked:
        for method in ("inpaint replace", "inpaint repaint", "inpaint posterior"):
            for name in list(SAMPLERS)[:2]:  # replacement acts at the times of a grid
                yield method, name, through(method, name)


def theirs(problem: Problem) -> Iterator[tuple[str, str, Draw]]:
    """The same of azula."""
    variances = problem.prior.covariance.diagonal()
    for name, sampler, run in azula_methods(NOISE, problem.a, problem.sigma, variances, problem.masked):
        steps = PARTICLE_STEPS if name == "TDS" else STEPS // 2 if sampler == "Heun" else STEPS

        def draw(score: NoisyScore, y: Tensor, x: Tensor, g: torch.Generator, run=run, steps=steps) -> Tensor:
            times = time_grid(NOISE, steps)
            return run(score, y, x, times, int(torch.randint(2**31, (1,), generator=g))) / NOISE.alpha(times[-1])

        yield f"azula {name}", sampler, draw


def calibration(problem: Problem, draw: Draw, seed: int = 5) -> float:
    """The p-value of uniform ranks, the lesser of two directions', doubled: one that A sees, one that it does not."""
    g, normal = normals(seed)
    x = problem.prior.sample((PAIRS,), generator=g)
    y = x @ problem.a.T + problem.sigma * normal(PAIRS, len(problem.a))
    unseen = normal(x.shape[1])
    unseen -= torch.linalg.pinv(problem.a) @ problem.a @ unseen
    directions = torch.stack([problem.a[0], unseen], 1)
    score = problem.prior.noisy_score(NOISE)
    drawn = draw(score, y.repeat_interleave(RANKS, 0), begun(problem, PAIRS * RANKS, g), g)
    below = (drawn @ directions).reshape(PAIRS, RANKS, 2) < (x @ directions)[:, None]
    return uniformity(below.sum(1))


def uniformity(ranks: Tensor) -> float:
    """The p-value of ranks (PAIRS, 2), of 0 to RANKS."""
    values = []
    for column in ranks.T:
        counts = torch.bincount(column, minlength=RANKS + 1).double()
        expected = len(column) / (RANKS + 1)
        values.append(float(chi2.sf(((counts - expected) ** 2 / expected).sum().item(), RANKS)))
    return min(1.0, 2 * min(values))


def measured(problem: Problem, truth: Truth, method: str, sampler: str, draw: Draw) -> Row:
    """One cell."""
    g, _ = normals(1)
    score, clock = Counted(problem.prior.noisy_score(NOISE)), time.process_time()
    row: Row = {"method": method, "sampler": sampler}
    try:
        x = draw(score, problem.y, begun(problem, N, g), g)
    except RuntimeError as error:  # an adaptive solver that gives up
        return row | {"failed": str(error).split(";")[0], "calls": score.calls, "products": score.products}
    row |= {"calls": score.calls, "products": score.products, "seconds": time.process_time() - clock}
    broken = int((~x.isfinite()).any(1).sum())
    if broken or x.abs().max() > 1e6:
        return row | {"failed": f"{broken or int((x.abs() > 1e6).any(1).sum())} of {N} draws diverged"}
    row |= truth.errors(x)
    if sampler not in ("adaptive", "particles"):
        row["p"] = calibration(problem, draw)
    return row


def particles(problem: Problem, truth: Truth, method: str) -> Row:
    """RUNS runs of smc with one twist: pooled draws, the least effective number, and the t-test."""
    score, clock = Counted(problem.prior.noisy_score(NOISE)), time.process_time()
    times, known = time_grid(NOISE, PARTICLE_STEPS), []
    spread = (truth.axes.T @ truth.law.covariance @ truth.axes).diagonal()
    largest = int(truth.weights.argmax())
    drawn, least, inner = [], [], problem.prior.covariances.diagonal(dim1=1, dim2=2).mean().item()
    for seed in range(RUNS):
        g, _ = normals(100 + seed)
        guide = guided(problem, score, problem.y, method)
        found = smc(guide, NOISE, begun(problem, PARTICLES, g), times=times, variance=inner, generator=g)  # pyright: ignore[reportArgumentType]
        x, w = found.x / NOISE.alpha(times[-1]), found.log_weights.exp()
        along = (x - truth.law.mean) @ truth.axes
        share = (w * truth.modes(x)[:, largest]).sum()
        numbers = [w @ along / spread.sqrt(), w @ along**2 / spread, share[None]]
        known.append(torch.cat([*numbers, torch.tensor([found.log_evidence], dtype=torch.float64)]))
        drawn.append(x[torch.multinomial(w, N // RUNS, replacement=True, generator=g)])
        least.append(found.effective.min().item())
    values = torch.stack(known)
    right = torch.tensor([0, 0, 1, 1, truth.weights[largest], truth.log_evidence], dtype=torch.float64)
    apart, error = (values.mean(0) - right).abs(), values.std(0) / math.sqrt(RUNS)
    kept = error > 1e-9  # with one mode its share is 1
    worst = (apart[kept] / error[kept]).max().item()
    return {
        "method": f"smc, {method}",
        "sampler": "particles",
        "calls": score.calls // RUNS,
        "products": score.products // RUNS,
        "seconds": time.process_time() - clock,
        "effective": min(least),
        "t": worst,
        "within": bool(worst < student.isf(0.01 / 2 / int(kept.sum()), RUNS - 1)),
        "apart": apart.tolist(),
        "error": error.tolist(),
    } | truth.errors(torch.cat(drawn))


def particle_calibration(problem: Problem, method: str, pairs: int = 128) -> float:
    """As `calibration`, one run of smc for each y."""
    g, normal = normals(6)
    x = problem.prior.sample((pairs,), generator=g)
    unseen = normal(x.shape[1])
    unseen -= torch.linalg.pinv(problem.a) @ problem.a @ unseen
    directions, ranks = torch.stack([problem.a[0], unseen], 1), []
    times, score = time_grid(NOISE, 60), problem.prior.noisy_score(NOISE)
    for one in x:
        y = one @ problem.a.T + problem.sigma * normal(len(problem.a))
        guide = guided(problem, score, y, method)
        found = smc(guide, NOISE, begun(problem, 256, g), times=times, variance=0.1, generator=g)  # pyright: ignore[reportArgumentType]
        drawn = found.resample(RANKS, generator=g) / NOISE.alpha(times[-1])
        ranks.append((drawn @ directions < one @ directions).sum(0))
    return uniformity(torch.stack(ranks))


def by_particles(problem: Problem, truth: Truth) -> list[Row]:
    """Error against the number of particles, sixteen runs each: distance and weights of the modes."""
    rows, score = [], problem.prior.noisy_score(NOISE)
    for count in (32, 128, 512, 2048):
        found = []
        for seed in range(16):
            g, _ = normals(seed)
            guide = guided(problem, score, problem.y, "moments")
            times = time_grid(NOISE, 100)
            end = smc(guide, NOISE, begun(problem, count, g), times=times, variance=0.1, generator=g)  # pyright: ignore[reportArgumentType]
            found.append(truth.errors(end.resample(N, generator=g) / NOISE.alpha(times[-1])))
        keys = ("distance", "modes")
        rows.append({"particles": count} | {key: statistics.mean(one[key] for one in found) for key in keys})
    return rows


def free_cost(repeats: int = 21) -> dict[str, list[float]]:
    """Time of sampling with classifier-free guidance over a batch of twice the size without: quartiles of pairs."""
    labels, result = torch.arange(100) % 10, {}
    torch.manual_seed(0)
    networks = {
        "MLP of width 256, d = 16": (MLP(16, MLPSize(width=256), classes=10), (16,)),
        "digits U-Net": (UNet((1, 8, 8), UNetSize(width=32), classes=10), (1, 8, 8)),
    }
    for name, (network, shape) in networks.items():
        model = ScoreModel(network, NOISE).eval()
        x, times = torch.randn(200, *shape), time_grid(NOISE, 5)
        single = classifier_free(model, labels, 2.0)
        double = given(model, labels.repeat(2))

        def took(score: NoisyScore, start: Tensor, times: Tensor = times) -> float:
            clock = time.process_time()
            reverse(score, NOISE, start, times=times, predictor=Heun())
            return time.process_time() - clock

        ratios = [took(single, x[:100]) / took(double, x) for _ in range(repeats + 3)][3:]
        result[name] = statistics.quantiles(ratios)
    return result


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(GRID), default=list(GRID))
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = RESULTS / "guidance.json"
    if not options.again:
        before = json.loads(kept.read_text()) if kept.is_file() else {"cells": {}}
        results: dict[str, Any] = before | {"machine": machine(), "grid": GRID}
        for name in options.only:
            problem = make(name)
            truth = Truth(problem)
            cells = [{"method": "exact draws", "sampler": "", **truth.floor}]
            for method, sampler, draw in [*ours(problem), *theirs(problem)]:
                cells.append(measured(problem, truth, method, sampler, draw))
                show(name, cells[-1])
            for method in ("pigdm", "moments"):
                cells.append(particles(problem, truth, method))
                show(name, cells[-1])
            if name == "M2 mask":
                for cell, method in zip(cells[-2:], ("pigdm", "moments"), strict=True):
                    cell["p"] = particle_calibration(problem, method)
            if name == "M8 mask":
                results["by particles"] = {"problem": name, "rows": by_particles(problem, truth)}
            results["cells"][name] = cells
        results["free"] = free_cost()
        kept.write_text(json.dumps(results) + "\n")
    results = json.loads(kept.read_text())
    text = tables(results)
    (RESULTS / "guidance.md").write_text(text)
    picture(results)
    print(text)


def show(name: str, cell: Row) -> None:
    """One line."""
    values = {k: round(v, 3) if isinstance(v, float) else v for k, v in cell.items() if not isinstance(v, list)}
    print(name, values, flush=True)


if __name__ == "__main__":
    main()
