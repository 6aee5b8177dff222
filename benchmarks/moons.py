"""Every objective of `scorefield train` on two moons, fields and energies: error of the score, samples, cost of a step.

Run: .venv/bin/python benchmarks/moons.py [--steps 2000] [--only energy/sliced …]     (about 20 minutes on one core)
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import torch
from timing import machine
from torch import Tensor

from scorefield.densities import GaussianMixture, toy
from scorefield.metrics import c2st, mmd
from scorefield.runs import Run
from scorefield.settings import CONTRASTIVE, OBJECTIVES, Recipe

SIGMA = 0.1  # the level at which models of all levels are judged
PAIRS = [f"{m}/{o}" for m in ("score", "energy") for o in OBJECTIVES if m == "energy" or o not in CONTRASTIVE]


def truth(run: Run, sigma: float, width: float = 0.1, nodes: int = 400) -> GaussianMixture:
    """The moons in scaled units, blurred by sigma: a mixture of Gaussians along them, finer than their width."""
    angle = math.pi * (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    moons = torch.cat([upper, torch.tensor([1.0, 0.5], dtype=torch.float64) - upper])
    mean, scale = (torch.as_tensor(v) for v in (run.dataset.info.scaling.mean, run.dataset.info.scaling.scale))
    covariance = torch.diag((width / scale) ** 2 + sigma**2).expand(2 * nodes, 2, 2)
    return GaussianMixture(torch.full((2 * nodes,), 0.5 / nodes), (moons - mean) / scale, covariance)


def figures(pair: str, steps: int, folder: Path) -> str:
    """Train with the default settings and judge."""
    model, objective = pair.split("/")
    run = Run.create(
        Recipe("two-moons", model=model, objective=objective, steps=steps), folder / pair.replace("/", "-")
    )
    seconds = sorted(step.seconds for step in run.train())
    levels = run.recipe.at_all_levels
    sigma = SIGMA if levels else run.sigma
    law, score = truth(run, sigma), run.score
    t = run.noise.time_at(torch.tensor(SIGMA, dtype=torch.float64)) if levels else None
    x = law.sample((2000,), generator=torch.Generator().manual_seed(0))
    learned: Tensor = (score(x.float(), t) if levels else score(x.float())).double()
    error = (learned - law.score(x)).square().sum() / law.score(x).square().sum()
    drawn = run.dataset.info.scaling.apply(run.sample(1000).x.numpy()).double()
    held = run.dataset.x_scaled(run.dataset.held_out_rows).double()
    test, distance = c2st(drawn, held, generator=torch.Generator().manual_seed(0)), mmd(drawn, held)
    return (
        f"{pair:<34} sigma {sigma:.2g}  error {error:.3f}  two-sample test {test.value:.3f}  "
        f"MMD² {distance.value:8.5f} ± {distance.standard_error or math.nan:.5f}  "
        f"{1e3 * seconds[len(seconds) // 10]:6.2f} ms per step"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", nargs="+", choices=PAIRS, default=PAIRS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    print(toy("two-moons"))
    with tempfile.TemporaryDirectory() as folder:
        for pair in options.only:
            print(figures(pair, options.steps, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
