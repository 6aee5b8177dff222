"""Images by four recipes that were given the same processor time: ours, Song & Ermon's of 2019, and two peers'.

Run: .venv/bin/pip install --no-deps --target .peers --requirement benchmarks/peers.txt
     PYTHONPATH=.peers .venv/bin/python benchmarks/images.py train mnist --root FOLDER [--only SYSTEM] [--seconds 900]
     .venv/bin/python benchmarks/images.py judge mnist --features FOLDER

Each system trains on one thread until it has used so many seconds of processor time (not of the clock, so that other
work beside it counts little), draws 500 samples and keeps them under build/images/DATA/SYSTEM; what is there is not
done again. Ours fixes the number of its steps after a few, and may use more time than was asked for: the others are
given what it used. The peers' networks are those of their tutorials, made narrower for more steps in as little time:
smalldiffusion's Unet (32 channels in place of 64; AdamW 7e-4, moving average 0.99, 20 steps at gam 1.6), azula's UNet
under its KarrasDenoiser (AdamW 1e-3, moving average 0.99, 20 steps of Heun). Everything is trained in bfloat16, which
is faster than float32 for the peers, and sampled in float32. Song & Ermon's recipe has our U-Net in place of their
RefineNet and is as printed otherwise: ten levels from 1 to 0.01 on pixels in [0, 1], no labels, Adam 1e-3, annealed
Langevin from uniform noise with epsilon 2e-5 and T = 100: 1,000 calls a sample.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scorefield import plots
from scorefield.data import Dataset, open_dataset, prepare
from scorefield.evaluation import open_features
from scorefield.fields import ScoreModel, given
from scorefield.metrics import class_agreement, frechet_distance, frechet_limit
from scorefield.metrics.pairs import nearest_rows
from scorefield.networks import UNet
from scorefield.noise import Levels
from scorefield.objectives import noise_conditional
from scorefield.runs import Run
from scorefield.samplers import annealed_langevin
from scorefield.settings import DataSettings, Recipe, UNetSize

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COUNT, BATCH, CLASSES, SIZE = 500, 128, 10, UNetSize(width=32, blocks=2, resolutions=2, patch=2)


def recipe(data: str, root: str | None, steps: int) -> Recipe:
    """Ours."""
    return Recipe(data, root=root, steps=steps, precision="bf16", unet=SIZE)


def pixels(folder: Path) -> tuple[Tensor, Tensor]:
    """The training images in [0, 1], (n, 1, 28, 28), and their classes."""
    data = open_dataset(folder)
    rows = data.train_rows
    labels = data.labels(rows)
    assert labels is not None
    return torch.from_numpy(np.asarray(data.x[rows], np.float32) / 255), labels


def batches(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Random batches without end."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            yield x[rows], y[rows]


def asked() -> Tensor:
    """The classes asked for, fifty of each."""
    return torch.arange(COUNT) % CLASSES


def plain_loop(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], data: Path, seconds: float, lr: float, decay: float
) -> tuple[nn.Module, int, float]:
    """A tutorial's loop: AdamW, a moving average of the weights; until the processor time is used.

    Returns:
        the averaged model, the steps, the seconds of processor time.
    """
    x, y = pixels(data)
    optimizer, average = torch.optim.AdamW(model.parameters(), lr=lr), copy.deepcopy(model)
    started, step = time.process_time(), 0
    for step, (images, labels) in enumerate(batches(x, y), start=1):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):  # a third less time a step for both peers, measured
            value = loss(images, labels)
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - min(decay, (1 + step) / (10 + step)))
        if time.process_time() - started >= seconds:
            break
    average.load_state_dict({**model.state_dict(), **dict(average.named_parameters())})
    return average.eval(), step, time.process_time() - started


def ours(name: str, root: str | None, folder: Path, data: Path, seconds: float) -> tuple[Tensor, dict]:
    """The recipe of this library; the number of steps is measured once, in processor time."""
    place = folder / "run"
    if not (place / "recipe.yaml").is_file():
        pilot = Run.create(recipe(name, root, 30), folder / f"pilot-{time.time_ns()}")
        times = [time.process_time() for _ in pilot.train(checkpoint_seconds=1e9)]
        a_step = float(np.median(np.diff(times)))
        Run.create(recipe(name, root, math.floor(seconds / a_step)), place)
    run, started = Run.open(place), time.process_time()
    for _ in run.train(checkpoint_seconds=120):
        pass
    used = time.process_time() - started
    started = time.process_time()
    by_class = [run.sample(COUNT // CLASSES, seed=k, label=k) for k in range(CLASSES)]
    drawn = torch.stack([samples.x for samples in by_class], 1).flatten(0, 1) / 255  # in the order of `asked`
    about = {"steps": run.resolved.training.steps, "training": used, "sampling": time.process_time() - started}
    return drawn, {**about, "calls": by_class[0].evaluations, "labels": True}


def printed(name: str, root: str | None, folder: Path, data: Path, seconds: float) -> tuple[Tensor, dict]:
    """Song & Ermon 2019 (arXiv:1907.05600), as printed."""
    noise = Levels(1.0, 0.01, 10)
    torch.manual_seed(0)
    model = ScoreModel(UNet((1, 28, 28), SIZE), noise, "score", data_scale=0.3)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        t = noise.times(9)[torch.randint(10, (len(x),))]
        return noise_conditional(model, x, noise=noise, t=t).mean()

    learned, steps, used = plain_loop(model, loss, data, seconds, 1e-3, 0.0)
    score, drawn, started = given(learned, None), [], time.process_time()
    for chunk in range(COUNT // 100):
        generator = torch.Generator().manual_seed(chunk)
        x = torch.rand(100, 1, 28, 28, generator=generator)
        with torch.no_grad():
            drawn.append(annealed_langevin(score, noise, x, epsilon=2e-5, steps_per_level=100, generator=generator).x)
    about = {"steps": steps, "training": used, "sampling": time.process_time() - started, "calls": 1000}
    return torch.cat(drawn), {**about, "labels": False}


def small(name: str, root: str | None, folder: Path, data: Path, seconds: float) -> tuple[Tensor, dict]:
    """Smalldiffusion's Unet, loss, schedule and sampler."""
    from peers import alone

    alone("smalldiffusion", "model")
    network, diffusion = alone("smalldiffusion", "model_unet"), alone("smalldiffusion", "diffusion")
    layers = alone("smalldiffusion", "model")
    torch.manual_seed(0)
    model = layers.Scaled(network.Unet)(
        *(28, 1, 1), ch=32, ch_mult=(1, 1, 2), attn_resolutions=(14,), cond_embed=layers.CondEmbedderLabel(128, CLASSES)
    )
    schedule = diffusion.ScheduleDDPM(beta_start=0.0001, beta_end=0.02, N=1000)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        x0, sigma, eps, cond = diffusion.generate_train_sample((2 * x - 1, y), schedule, conditional=True)
        return model.get_loss(x0, sigma, eps, cond=cond)

    learned, steps, used = plain_loop(model, loss, data, seconds, 7e-4, 0.99)
    started, drawn = time.process_time(), []
    for labels in asked().split(100):
        torch.manual_seed(len(drawn))
        sigmas = schedule.sample_sigmas(20)
        *_, x = diffusion.samples(learned, sigmas, gam=1.6, batchsize=100, cond=labels)
        drawn.append(x)
    about = {"steps": steps, "training": used, "sampling": time.process_time() - started, "calls": 20}
    return (torch.cat(drawn) + 1) / 2, {**about, "labels": True}


def azula(name: str, root: str | None, folder: Path, data: Path, seconds: float) -> tuple[Tensor, dict]:
    """Azula's UNet under its preconditioned denoiser, its loss and its sampler."""
    import azula.denoise as denoise
    import azula.nn.unet as unet
    import azula.noise as noise
    import azula.sample as sample

    class Backbone(nn.Module):
        """Their network with the time and the class as its modulation."""

        def __init__(self) -> None:
            super().__init__()
            self.network = unet.UNet(1, 1, hid_channels=(32, 64, 128), hid_blocks=(2, 2, 2), mod_features=128)
            self.time = nn.Sequential(nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 128))
            self.label = nn.Embedding(CLASSES, 128)
            self.register_buffer("frequencies", torch.logspace(-1, 1, 16))

        def forward(self, x: Tensor, c: Tensor, label: Tensor) -> Tensor:
            angles = c.reshape(-1, 1).expand(len(x), 1) * self.frequencies
            return self.network(x, self.time(torch.cat([angles.sin(), angles.cos()], 1)) + self.label(label))

    torch.manual_seed(0)
    model = denoise.KarrasDenoiser(Backbone(), noise.VESchedule(0.01, 80.0))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return model.loss(2 * x - 1, torch.rand(len(x)), label=y).mean()

    learned, steps, used = plain_loop(model, loss, data, seconds, 1e-3, 0.99)
    sampler, started, drawn = sample.HeunSampler(learned, steps=20, silent=True), time.process_time(), []
    for labels in asked().split(100):
        torch.manual_seed(len(drawn))
        with torch.no_grad():
            drawn.append(sampler(80.0 * torch.randn(100, 1, 28, 28), label=labels))
    about = {"steps": steps, "training": used, "sampling": time.process_time() - started, "calls": 40}
    return (torch.cat(drawn) + 1) / 2, {**about, "labels": True}


SYSTEMS = {"scorefield": ours, "song-ermon-2019": printed, "smalldiffusion": small, "azula": azula}


def nearest(data: Dataset, x: np.ndarray) -> float:
    """The median distance to the nearest of 10,000 training rows, in pixels."""
    rows = data.train_rows[:: len(data.train_rows) // 10_000]
    flat, real = (torch.from_numpy(part.reshape(len(part), -1)).float() for part in (x, np.asarray(data.x[rows])))
    return nearest_rows(flat, real)[0].median().item()


def judge(name: str, home: Path, path: str) -> None:
    """Class agreement and Fréchet distance to held-out rows on learned features, beside those of real rows.

    Of real rows, the agreement is that of the held-out ones, and the distance that of as many training rows as samples.
    The nearest row of 10,000 of training, in pixels, sees what features may not: its distance over held-out rows'.
    """
    features, data = open_features(path), open_dataset(home / "data")
    features.check(data)
    held, sure = features.of(np.asarray(data.x[data.held_out_rows]))
    truth = data.labels(data.held_out_rows)
    assert sure is not None and truth is not None
    some = data.train_rows[torch.randperm(len(data.train_rows), generator=torch.Generator().manual_seed(0))[:COUNT]]
    sets = {"real rows": (np.asarray(data.x[some]), truth, {})}
    for system in SYSTEMS:
        if (home / system / "samples.npz").is_file():
            with np.load(home / system / "samples.npz") as file:
                x, share = (255 * file["x"][:COUNT]).round().astype(np.uint8), COUNT / len(file["x"])
            about = json.loads((home / system / "about.json").read_text())
            sets[system] = (x, asked(), about | {"sampling": share * about["sampling"]})
    lines = [
        "| | steps | seconds | calls | seconds for 500 | class agreement | Fréchet distance | without its bias "
        "| nearest row |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    found, near = {}, nearest(data, np.asarray(data.x[data.held_out_rows[:COUNT]]))
    for system, (x, y, about) in sets.items():
        seen, probabilities = features.of(x)
        probabilities = sure if system == "real rows" else probabilities
        assert probabilities is not None
        agreement = class_agreement(probabilities.argmax(1), y) if about.get("labels", True) else None
        how = {"generator": torch.Generator().manual_seed(0)}
        distance, limit = frechet_distance(seen, held, bootstrap=20, **how), frechet_limit(seen, held, **how)
        costs = [f"{about[key]:,.0f}" if key in about else "" for key in ("steps", "training", "calls", "sampling")]
        right = "" if agreement is None else f"{agreement.value:.3f} ± {agreement.standard_error:.3f}"
        figures = [right, *(f"{e.value:.2f} ± {e.standard_error:.2f}" for e in (distance, limit))]
        apart = (near if system == "real rows" else nearest(data, x)) / near
        lines.append("| " + " | ".join([system, *costs, *figures, f"{apart:.2f}"]) + " |")
        found[system] = about | {"distance": distance.value, "limit": limit.value, "nearest": apart}
        found[system] |= {} if agreement is None else {"agreement": agreement.value}
    text = f"{name}, {len(held):,} held-out rows, {features.title} ({features.dimension}):\n\n" + "\n".join(lines)
    (RESULTS / f"images-{name}.md").write_text(text + "\n")
    (RESULTS / f"images-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    two = torch.stack([(truth == k).nonzero()[:2, 0] for k in range(CLASSES)], 1).flatten()  # of each class, as drawn
    real = np.asarray(data.x[data.held_out_rows[two]])
    shown = torch.from_numpy(np.stack([real, *(x[: len(two)] for x, _, _ in list(sets.values())[1:])])).float()
    picture = ROOT / "docs" / "assets" / f"images-{name}.png"
    plots.save(plots.image_grid(shown, row_names=list(sets), value_range=(0, 255)), picture)
    print(f"{text}\n\npicture: {picture}")


def main() -> None:
    """Train what is missing, or judge what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "judge"))
    parser.add_argument("data", choices=("mnist", "fashion-mnist"))
    parser.add_argument("--root")
    parser.add_argument("--only", choices=SYSTEMS)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--features")
    parser.add_argument("--output", default=str(ROOT / "build" / "images"))
    options = parser.parse_args()
    home = Path(options.output) / options.data
    if options.what == "train":
        torch.set_num_threads(1)
        data = home / "data"
        if not (data / "dataset.json").is_file():
            prepare(DataSettings(options.data, options.root), data, seed=0)
        for name, train in SYSTEMS.items():
            folder, first = home / name, home / "scorefield" / "about.json"
            if options.only not in (None, name) or (folder / "samples.npz").is_file():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            seconds = json.loads(first.read_text())["training"] if first.is_file() else options.seconds
            x, about = train(options.data, options.root, folder, data, seconds)
            np.savez_compressed(folder / "samples.npz", x=x.clamp(0, 1).numpy(), y=asked().numpy())
            (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")
            print(options.data, name, about, flush=True)
    elif options.features is None:
        parser.error("judge needs --features, the folder that scorefield features DATA wrote")
    else:
        judge(options.data, home, options.features)


if __name__ == "__main__":
    main()
