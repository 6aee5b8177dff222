"""What a training step costs beyond the network itself, and what the U-Net's layout and the fused loop gain.

Run: .venv/bin/python benchmarks/train_step.py [--threads 1] [--repeats 30]
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable

import torch
from timing import best_times, machine, report
from torch import Tensor, nn

from scorefield.data.batches import Batch
from scorefield.fields import ScoreModel
from scorefield.networks import MLP, UNet
from scorefield.networks.unet import SampleNorm
from scorefield.noise import VE
from scorefield.objectives import noise_conditional
from scorefield.runs import LabelledNoise
from scorefield.settings import MLPSize, TrainSettings, UNetSize
from scorefield.training import Engine, train

NOISE = VE(0.03, 13.0)


def stepper(model: nn.Module, objective: object, batch: Batch, precision: str, size: int) -> Callable[[], object]:
    """One step of `scorefield.training.train` per call."""
    config = TrainSettings(steps=10**9, batch_size=size, precision=precision)
    steps = train(model, objective, lambda step: batch, config, engine=Engine(alone=True))  # type: ignore[arg-type]
    return lambda: next(steps)


def bare(network: nn.Module, x: Tensor, y: Tensor | None, bf16: bool) -> Callable[[], object]:
    """Forward and backward of the network alone, at the same precision."""
    c = torch.zeros(len(x))

    def step() -> None:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = network(x, c, y)
        out.square().mean().backward()

    return step


def groupnorm_twin(network: UNet) -> UNet:
    """The same network with GroupNorm in contiguous memory, as most code bases have it."""
    twin = copy.deepcopy(network)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, SampleNorm):
                setattr(module, name, nn.GroupNorm(min(32, child.channels // 4), child.channels))
    return twin.to(memory_format=torch.contiguous_format)


def contiguous_forward(network: UNet) -> UNet:
    """Keep the twin's activations contiguous: its entrance returns them so."""
    network.entrance.register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
    return network


def plain_loop(model: ScoreModel, x: Tensor) -> Callable[[], object]:
    """What a tutorial does: Adam as it comes, and a moving average in a Python loop."""
    optimizer, average = torch.optim.Adam(model.parameters(), lr=2e-3), copy.deepcopy(model)

    def step() -> None:
        loss = noise_conditional(model, x, noise=NOISE).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters(), strict=True):
                a.mul_(0.997).add_(b, alpha=0.003)
        loss.item()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(machine())

    size = 128
    x, y = torch.randn(size, 1, 8, 8), torch.randint(10, (size,))
    batch = Batch(x, y, torch.arange(size))
    network = UNet((1, 8, 8), UNetSize(), classes=10)
    objective = LabelledNoise(NOISE, "log-normal", 0.1)
    for precision in ("bf16", "fp32"):
        times = best_times(
            {
                "step of train()": stepper(
                    ScoreModel(copy.deepcopy(network), NOISE), objective, batch, precision, size
                ),
                "bare network, forward and backward": bare(copy.deepcopy(network), x, y, precision == "bf16"),
            },
            repeats=options.repeats,
        )
        step, alone = times.values()
        rows = {name: f"{1e3 * t:8.2f} ms" for name, t in times.items()} | {
            "ratio (target <= 1.05)": f"{step / alone:.3f}"
        }
        report(f"digits U-Net, batch {size}, {precision}", rows)

    for width, blocks in ((32, 2), (64, 1)):
        network = UNet((1, 8, 8), UNetSize(width, blocks), classes=10)
        twin = contiguous_forward(groupnorm_twin(network))
        times = best_times(
            {
                f"{name}, {precision}": stepper(
                    ScoreModel(copy.deepcopy(net), NOISE), objective, batch, precision, size
                )
                for name, net, precision in (
                    ("channels-last, one norm per sample", network, "bf16"),
                    ("channels-last, one norm per sample", network, "fp32"),
                    ("NCHW, GroupNorm", twin, "fp32"),
                )
            },
            repeats=options.repeats,
        )
        ours, _, theirs = times.values()
        rows = {name: f"{1e3 * t:8.2f} ms" for name, t in times.items()}
        report(
            f"the U-Net's step and its twin's, width {width}", rows | {"ratio (target >= 1.7)": f"{theirs / ours:.2f}"}
        )

    x = torch.randn(size, 2)
    batch = Batch(x, None, torch.arange(size))
    tiny = ScoreModel(MLP(2, MLPSize(64, 3)), NOISE)

    def uniform(model: nn.Module, batch: Batch, generator: object) -> Tensor:
        return noise_conditional(model, batch.x, noise=NOISE, generator=generator)  # type: ignore[arg-type]

    times = best_times(
        {
            "train(): fused AdamW, foreach average": repeated(
                stepper(copy.deepcopy(tiny), uniform, batch, "fp32", size)
            ),
            "plain Adam, average in Python": repeated(plain_loop(copy.deepcopy(tiny), x)),
        },
        repeats=options.repeats,
    )
    ours, theirs = times.values()
    rows = {name: f"{1e3 * t / 20:8.3f} ms" for name, t in times.items()} | {
        "ratio (target >= 1.2)": f"{theirs / ours:.2f}"
    }
    report(f"tiny MLP 3 x 64, batch {size}", rows)


def repeated(function: Callable[[], object], count: int = 20) -> Callable[[], object]:
    """Twenty calls as one, so that short steps are timed well."""
    return lambda: [function() for _ in itertools.repeat(None, count)]


if __name__ == "__main__":
    main()
