"""The exact implicit objective, loss and gradient: by the network's structure and by every generic way.

Run: .venv/bin/python benchmarks/divergence.py [--repeats 5] [--only score|energy]

`PYTHONPATH=.peers` adds torchebm's ScoreMatching("exact") where it is installed (it takes energies). Peak memory is
that of torch's own profiler: the most bytes alive at once beyond those at the start. A way that takes seconds is run
once, and that counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable

import torch
from timing import machine
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from scorefield.calculus import divergence, inner
from scorefield.fields import EnergyModel
from scorefield.networks import MLP
from scorefield.objectives import implicit, sliced
from scorefield.settings import MLPSize

Way = Callable[[Tensor], Tensor]


class Plain(nn.Module):
    """An MLP as a field: no noise level, no labels; it knows its own divergence."""

    def __init__(self, network: MLP) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """The field at x."""
        return self.network(x)

    def with_divergence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The field and its exact divergence, by the network's structure."""
        return self.network.with_trace(x)


def loop(score: nn.Module, x: Tensor) -> Tensor:
    """One backward pass per dimension: what most code does."""
    x = x.detach().requires_grad_()
    s = score(x)
    trace = sum(torch.autograd.grad(s[:, j].sum(), x, create_graph=True)[0][:, j] for j in range(x.shape[1]))
    return inner(s, s) / 2 + trace


def jacrev(score: nn.Module, x: Tensor) -> Tensor:
    """vmap(jacrev) per sample."""

    def one(point: Tensor) -> tuple[Tensor, Tensor]:
        s = score(point[None])[0]
        return s, s

    jacobian, s = torch.func.vmap(torch.func.jacrev(one, has_aux=True))(x)
    return inner(s, s) / 2 + torch.diagonal(jacobian, dim1=1, dim2=2).sum(1)


def batched_jvp(score: nn.Module, x: Tensor) -> Tensor:
    """Our generic way: forward-mode derivatives along all basis vectors, batched."""
    s, trace = divergence(lambda at: score(at), x)
    return inner(s, s) / 2 + trace


def measure(way: Callable[[], Tensor], parameters: list[nn.Parameter], repeats: int) -> tuple[float, float]:
    """Seconds of loss and gradient, best of some, and peak bytes."""

    def run() -> None:
        torch.autograd.grad(way().mean(), parameters, allow_unused=True)

    start = time.perf_counter()
    run()
    best, most = time.perf_counter() - start, 0
    for _ in range(repeats if best < 2 else 0):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    if best > 20:
        return best, float("nan")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    alive = 0
    for event in record.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return best, float(most)


def table(name: str, ways: dict[str, Callable[[], Tensor]], parameters: list[nn.Parameter], repeats: int) -> None:
    """Print every way's time and memory, and the ratio to the best of the others."""
    figures = {k: measure(way, parameters, repeats) for k, way in ways.items()}
    ours = figures["structured"]
    best = min(t for k, (t, _) in figures.items() if k not in ("structured", "one sliced probe"))
    print(f"\n{name}: {best / ours[0]:.1f} x the best generic way")
    for way, (seconds, peak) in figures.items():
        print(f"  {way:<22}{1e3 * seconds:10.2f} ms {peak / 2**20:10.1f} MiB   {seconds / ours[0]:8.2f} x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("score", "energy"), default=None)
    parser.add_argument("--dimensions", type=int, nargs="*", default=[16, 64, 256, 784])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    for depth, width in ((2, 128), (3, 256), (3, 512)):
        for d in options.dimensions:
            x = torch.randn(256 if d < 256 else 64, d)
            if options.only != "energy":
                network = MLP(d, MLPSize(width, depth))
                nn.init.normal_(network.head.weight, std=0.05)
                score = Plain(network)
                ways: dict[str, Callable[[], Tensor]] = {
                    "structured": lambda s=score, x=x: implicit(s, x),
                    "one sliced probe": lambda s=score, x=x: sliced(s, x),
                    "loop over dimensions": lambda s=score, x=x: loop(s, x),
                    "vmap(jacrev)": lambda s=score, x=x: jacrev(s, x),
                    "batched jvp": lambda s=score, x=x: batched_jvp(s, x),
                }
                table(
                    f"score {depth} x {width}, d = {d}, batch {len(x)}",
                    ways,
                    list(network.parameters()),
                    options.repeats,
                )
            if options.only != "score" and width < 512:
                network = MLP(d, MLPSize(width, depth), energy=True)
                energy = EnergyModel(network)
                ways = {
                    "structured": lambda s=energy, x=x: implicit(s, x),
                    "one sliced probe": lambda s=energy, x=x: sliced(s, x),
                    "loop over dimensions": lambda s=energy, x=x: loop(s, x),
                    "vmap(jacrev)": lambda s=energy, x=x: jacrev(s, x),
                    "batched jvp": lambda s=energy, x=x: batched_jvp(s, x),
                }
                ways |= torchebm_way(energy, x)
                table(
                    f"energy {depth} x {width}, d = {d}, batch {len(x)}",
                    ways,
                    list(network.parameters()),
                    options.repeats,
                )


def torchebm_way(energy: EnergyModel, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Torchebm's exact score matching on the same network, where the library is there."""
    if importlib.util.find_spec("torchebm") is None:
        return {}
    from torchebm.core import BaseModel
    from torchebm.losses import ScoreMatching

    class Wrapped(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.network = energy.network

        def forward(self, at: Tensor) -> Tensor:
            return self.network(at)

    loss = ScoreMatching(Wrapped(), hessian_method="exact")
    return {"torchebm exact": lambda: loss(x)}


if __name__ == "__main__":
    main()
