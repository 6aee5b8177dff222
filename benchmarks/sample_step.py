"""What a Heun step costs beyond its two network calls, on the digits U-Net and on a network that does nothing.

Run: .venv/bin/python benchmarks/sample_step.py [--threads 1] [--repeats 20]
"""

from __future__ import annotations

import argparse

import torch
from timing import best_times, machine, report
from torch import Tensor, nn

from scorefield.fields import ScoreModel, given
from scorefield.networks import UNet
from scorefield.noise import VE
from scorefield.samplers import Euler, EulerMaruyama, Heun, Predictor, reverse
from scorefield.settings import UNetSize

NOISE, STEPS, SIZE = VE(0.03, 13.0), 10, 100


class Null(nn.Module):
    """A network that returns its input."""

    def forward(self, x: Tensor, c: Tensor, y: Tensor | None) -> Tensor:
        """The input."""
        return x


def sampler(network: nn.Module, predictor: Predictor, x: Tensor, y: Tensor | None) -> object:
    """Ten steps of `reverse`."""
    score, times = given(ScoreModel(network, NOISE), y), NOISE.rho_times(STEPS)
    return lambda: reverse(score, NOISE, x, times=times, predictor=predictor)


def bare(network: nn.Module, calls: int, x: Tensor, y: Tensor | None) -> object:
    """As many calls of the network alone."""
    c = torch.zeros(len(x))

    @torch.no_grad()
    def run() -> None:
        for _ in range(calls):
            network(x, c, y)

    return run


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
    times = best_times(
        {"reverse with Heun": sampler(network, Heun(), x, y), "two bare network calls": bare(network, 2 * STEPS, x, y)},  # type: ignore[dict-item]
        repeats=options.repeats,
    )
    ours, alone = times.values()
    rows = {name: f"{1e3 * t / STEPS:8.2f} ms a step" for name, t in times.items()}
    report(f"digits U-Net, {SIZE} samples", rows | {"ratio (target <= 1.05)": f"{ours / alone:.3f}"})

    tiny = torch.randn(1, 2)
    functions = {type(p).__name__: sampler(Null(), p, tiny, None) for p in (Euler(), Heun(), EulerMaruyama())}
    times = best_times(functions, repeats=options.repeats)  # type: ignore[arg-type]
    report("a step on a null network", {name: f"{1e6 * t / STEPS:8.0f} µs" for name, t in times.items()})


if __name__ == "__main__":
    main()
