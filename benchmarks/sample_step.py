"""What a step of `reverse` costs beyond its network calls, on the digits U-Net and on a score that does nothing.

Run: .venv/bin/python benchmarks/sample_step.py [--threads 1] [--repeats 20]

The processor's time, what is compared in turn: medians of pairs with the U-Net, minima elsewhere. On the score that
does nothing (one sample in two dimensions, 200 steps in a call of `reverse`, whose own beginning and end are shared by
them) the noise is given and not drawn. What `ScoreModel` adds to a network is measured beside.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from timing import best_times, machine, report
from torch import Tensor, nn

from scorefield.fields import ScoreModel, given
from scorefield.networks import UNet
from scorefield.noise import VE
from scorefield.samplers import (
    DDIM,
    DDPM,
    Ancestral,
    ChurnedHeun,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    Predictor,
    SDEDPMSolver,
    StochasticHeun,
    UniPC,
    reverse,
)
from scorefield.settings import UNetSize

NOISE, STEPS, NULL_STEPS, SIZE = VE(0.03, 13.0), 10, 200, 100
PREDICTORS: dict[str, tuple[Predictor, int]] = {  # and its score calls a step
    "Euler": (Euler(), 1),
    "DDIM, eta 0": (DDIM(), 1),
    "Heun": (Heun(), 2),
    **{f"DPMSolver({k})": (DPMSolver(k), 1) for k in (1, 2, 3)},
    **{f"UniPC({k})": (UniPC(k), 1) for k in (1, 2, 3)},
    "UniPC(3), velocity": (UniPC(3, predicts="velocity"), 1),
    "EulerMaruyama": (EulerMaruyama(), 1),
    "Ancestral": (Ancestral(), 1),
    "DDPM": (DDPM(), 1),
    "DDIM, eta 0.5": (DDIM(0.5), 1),
    "SDEDPMSolver(2)": (SDEDPMSolver(2), 1),
    "SDEDPMSolver(2), velocity": (SDEDPMSolver(2, "velocity"), 1),
    "StochasticHeun": (StochasticHeun(), 2),
    "ChurnedHeun": (ChurnedHeun(10.0, NULL_STEPS), 2),
}


class Null(nn.Module):
    """A network that returns its input."""

    def forward(self, x: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        """The input."""
        return x


class Given:
    """Noise that costs nothing: none."""

    def __init__(self, nothing: Tensor) -> None:
        self.nothing = nothing

    def normal(self, x: Tensor) -> Tensor:
        """Zeros like x."""
        return self.nothing

    def uniform(self, x: Tensor) -> Tensor:
        """No predictor here asks for it."""
        raise NotImplementedError


def sampler(network: nn.Module, predictor: Predictor, x: Tensor, y: Tensor | None) -> Callable[[], object]:
    """Ten steps of `reverse`."""
    score, times = given(ScoreModel(network, NOISE), y), NOISE.rho_times(STEPS)
    return lambda: reverse(score, NOISE, x, times=times, predictor=predictor)


def bare(network: nn.Module, calls: int, x: Tensor, y: Tensor | None) -> Callable[[], object]:
    """As many calls of the network alone."""
    c = torch.zeros(len(x))

    @torch.no_grad()
    def run() -> None:
        for _ in range(calls):
            network(x, c, y)

    return run


def turns(ours: Callable[[], object], alone: Callable[[], object], repeats: int) -> list[tuple[float, float]]:
    """Processor seconds of both in turn, the first pair left out; whatever goes first changes with every pair."""
    pairs = []
    for k in range(repeats + 1):
        times = {}
        for function in (ours, alone) if k % 2 else (alone, ours):
            start = time.process_time()
            function()
            times[function] = time.process_time() - start
        pairs.append((times[ours], times[alone]))
    return pairs[1:]


def null_steps(repeats: int) -> dict[str, float]:
    """Microseconds of `reverse` for a step of each predictor, beyond the calls of a score that does nothing."""
    x, grid = torch.randn(1, 2), NOISE.rho_times(NULL_STEPS)
    nothing = torch.zeros_like(x)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return nothing

    def calls() -> None:
        for _ in range(NULL_STEPS):
            score(x, grid[0])

    def run(predictor: Predictor) -> Callable[[], object]:
        return lambda: reverse(score, NOISE, x, times=grid, predictor=predictor, generator=Given(nothing))

    functions = {name: run(predictor) for name, (predictor, _) in PREDICTORS.items()}
    times = best_times(functions | {"calls": calls}, repeats=repeats, clock=time.process_time)
    alone = times.pop("calls")
    return {name: 1e6 * (t - PREDICTORS[name][1] * alone) / NULL_STEPS for name, t in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(machine())
    x, y = torch.randn(SIZE, 1, 8, 8), torch.randint(10, (SIZE,))
    network = UNet((1, 8, 8), UNetSize(), classes=10).eval()
    for name in ("Euler", "Heun", "UniPC(3), velocity"):
        predictor, calls = PREDICTORS[name]
        pairs = turns(sampler(network, predictor, x, y), bare(network, calls * STEPS, x, y), options.repeats)
        ours, alone = (1e3 * min(column) / STEPS for column in zip(*pairs, strict=True))
        low, ratio, high = statistics.quantiles([a / b for a, b in pairs], n=4)
        rows = {"reverse": f"{ours:8.2f} ms a step", "bare calls": f"{alone:8.2f} ms"}
        rows["median ratio (target <= 1.03)"] = f"{ratio:.3f}, half of the pairs in {low:.3f} to {high:.3f}"
        report(f"digits U-Net, {SIZE} samples, {name}", rows)

    found = null_steps(2 * options.repeats)
    report("reverse's own time for a step (target <= 60 µs)", {name: f"{us:8.0f} µs" for name, us in found.items()})
    tiny, at, score = torch.randn(1, 2), NOISE.times(1)[0], given(ScoreModel(Null(), NOISE), None)

    @torch.no_grad()
    def model() -> None:
        for _ in range(STEPS):
            score(tiny, at)

    alone = best_times({"model": model}, repeats=options.repeats, clock=time.process_time)["model"]
    report("a call of ScoreModel on a network that does nothing", {"": f"{1e6 * alone / STEPS:8.0f} µs"})


if __name__ == "__main__":
    main()
