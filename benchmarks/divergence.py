"""The exact implicit objective, loss and gradient: by the network's structure and by every generic way.

Run: .venv/bin/python benchmarks/divergence.py [--repeats 5] [--only score|energy|black-box]

`PYTHONPATH=.peers` adds torchebm's ScoreMatching("exact") where it is installed (it takes energies). Peak memory is
that of torch's own profiler: the most bytes alive at once beyond those at the start. Time is that of the processor, of
one thread: neighbours on the machine slow it less than the clock's. Where a way takes seconds all are run three times.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable

import torch
from timing import best_times, machine
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
    """Forward-mode derivatives along all basis vectors, batched."""

    def directional(e: Tensor) -> tuple[Tensor, Tensor]:
        s, derivative = torch.func.jvp(score, (x,), (e.expand_as(x),))
        return s, inner(derivative, e.expand_as(x))

    s, diagonal = torch.func.vmap(directional)(torch.eye(x.shape[1])[:, None])
    return inner(s[0], s[0]) / 2 + diagonal.sum(0)


def generic(score: nn.Module, x: Tensor) -> Tensor:
    """Our way for a score that is a black box: batched derivatives, chunk by chunk."""
    s, trace = divergence(lambda at: score(at), x)
    return inner(s, s) / 2 + trace


def black_box(d: int, depth: int, width: int) -> nn.Module:
    """A multilayer perceptron as anyone would write it: nothing is known of it."""
    sizes = [d, *[width] * depth]
    layers = [nn.Sequential(nn.Linear(a, b), nn.SiLU()) for a, b in zip(sizes, sizes[1:], strict=False)]
    return nn.Sequential(*layers, nn.Linear(width, d))


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes alive at once while it runs, beyond those at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    alive = most = 0
    for event in record.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most


def table(name: str, ways: dict[str, Callable[[], Tensor]], parameters: list[nn.Parameter], repeats: int) -> None:
    """Print every way's time and memory, and the ratio to the best of the others; the first way is ours."""
    runs = {k: lambda w=way: torch.autograd.grad(w().mean(), parameters, allow_unused=True) for k, way in ways.items()}
    once = best_times(runs, repeats=1, warmup=0, clock=time.thread_time)
    repeats = repeats if max(once.values()) < 2 else 2
    again = best_times(runs, repeats=repeats, warmup=0, clock=time.thread_time, turn=0.05)
    times = {k: min(once[k], again[k]) for k in runs}
    first = next(iter(runs))
    best = min(seconds for k, seconds in times.items() if k not in (first, "one sliced probe"))
    print(f"\n{name}: {best / times[first]:.2f} x the best generic way", flush=True)
    for way, run in runs.items():
        ratio = times[way] / times[first]
        print(
            f"  {way:<22}{1e3 * times[way]:10.2f} ms {peak_bytes(run) / 2**20:10.1f} MiB   {ratio:8.2f} x", flush=True
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("score", "energy", "black-box"), default=None)
    parser.add_argument("--dimensions", type=int, nargs="*", default=[16, 64, 256, 784])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    for depth, width in ((2, 128), (3, 256), (3, 512)):
        for d in options.dimensions:
            x = torch.randn(256 if d < 256 else 64, d)
            if options.only in (None, "score"):
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
            if options.only in (None, "energy") and width < 512:
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
            if options.only in (None, "black-box") and width != 256:
                box = black_box(d, depth, width)
                ways = {
                    "ours, generic": lambda s=box, x=x: generic(s, x),
                    "one sliced probe": lambda s=box, x=x: sliced(s, x),
                    "loop over dimensions": lambda s=box, x=x: loop(s, x),
                    "vmap(jacrev)": lambda s=box, x=x: jacrev(s, x),
                    "batched jvp": lambda s=box, x=x: batched_jvp(s, x),
                }
                table(
                    f"black box {depth} x {width}, d = {d}, batch {len(x)}",
                    ways,
                    list(box.parameters()),
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
