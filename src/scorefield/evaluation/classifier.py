"""A small classifier of images, learned from a data set and kept in a folder: its last hidden layer judges samples."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from scorefield.checks import check_count, check_positive
from scorefield.data import Batches, Dataset, Scaling, prepare
from scorefield.evaluation.features import CHUNK, Features, LearnedFrom, Seen, title_of
from scorefield.metrics import Estimate, class_agreement
from scorefield.runs import versions
from scorefield.runs.samples import write_whole
from scorefield.settings import DataSettings, TrainSettings
from scorefield.training import Step, calibrate, train

FILE, WEIGHTS = "features.json", "features.safetensors"
DIMENSION, WIDTH = 64, 32
SETTINGS = TrainSettings(batch_size=128, learning_rate=2e-3, weight_decay=0.05, decay=0.7, ema_samples=20_000)


class Classifier(nn.Module):
    """A convolutional classifier of images: `features` are its last hidden layer, calling it gives logits.

    Args:
        shape: (C, H, W) of one image, sides >= 8.
        classes: number of classes, >= 2.
        width: channels of the first layer.
        dimension: number of features.
    """

    def __init__(self, shape: Sequence[int], classes: int, *, width: int = WIDTH, dimension: int = DIMENSION) -> None:
        super().__init__()
        side, stride = min(shape[1:]), 1 if min(shape[1:]) < 16 else 2
        layers = _block(shape[0], width, stride)
        side, channels = math.ceil(side / stride), width
        while side > 4:
            wider = min(2 * channels, 4 * width)
            layers += [*_block(channels, wider, 1), *_block(wider, wider, 1), nn.MaxPool2d(2)]
            side, channels = side // 2, wider
        self.body = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = self.body(torch.zeros(1, *shape)).shape[1]
        self.hidden = nn.Sequential(nn.Linear(flat, dimension), nn.LayerNorm(dimension), nn.SiLU())
        self.head = nn.Linear(dimension, classes)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, (B, dimension), of scaled images (B, C, H, W)."""
        return self.hidden(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.head(self.features(x))


def _block(channels: int, out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.GroupNorm(8, out), nn.SiLU()]


def learn_features(
    data: DataSettings, folder: str | Path, *, seconds: float = 60.0, steps: int | None = None, seed: int = 0
) -> Generator[Step, None, None]:
    """Learn a classifier from labelled images and keep it in a folder, which `open_features` opens.

    Args:
        data: the images; `held_out` of them are kept out, and the test accuracy is measured on these.
        folder: for features.safetensors and features.json, which must not exist or be empty; written at the end.
        seconds: training time on this machine; the number of steps is measured once.
        steps: the number of steps, in place of seconds.
        seed: of weights, batches and the choice of held-out rows: that of the runs to be judged.

    Yields:
        one `Step` per optimiser step.

    Raises:
        ValueError: a folder in use, or data that are no labelled images with rows held out.
    """
    folder = Path(folder)
    check_positive("seconds", seconds)
    if steps is not None:
        check_count("steps", steps)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"features need a folder that does not exist yet, got {folder}; choose another (-o)")
    with tempfile.TemporaryDirectory() as place:
        dataset = prepare(data, Path(place), seed=seed)
        _check(dataset)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Classifier(dataset.shape, len(dataset.info.classes))
        started, batches = time.perf_counter(), Batches(dataset, SETTINGS.batch_size, seed)
        config = TrainSettings(**{**asdict(SETTINGS), "steps": steps or 1, "seed": seed})
        if steps is None:
            measured = calibrate(network, _cross_entropy, batches, config, precision="fp32", steps=10)
            config = TrainSettings(**{**asdict(config), "steps": max(10, round(seconds / measured.seconds_per_step))})
        step = None
        for step in train(network, _cross_entropy, batches, config):
            yield step
        if step is None:
            raise RuntimeError("no step was done")
        network.load_state_dict(step.state().ema)
        learned = {"steps": step.step, "seconds": round(time.perf_counter() - started, 1)}
        _write(folder, network.cpu().eval(), dataset, learned)


def _cross_entropy(model: nn.Module, batch: Any, generator: object) -> Tensor:
    return nn.functional.cross_entropy(model(batch.x), batch.y, reduction="none")


def _check(dataset: Dataset) -> None:
    info = dataset.info
    if info.kind != "image" or min(dataset.shape[1:]) < 8:
        raise ValueError(f"features are learned from images with sides >= 8, {info.source} holds {dataset.shape}")
    if len(info.classes) < 2:
        raise ValueError(
            f"features are learned by telling classes apart, {info.source} has {len(info.classes)}; give labels: class "
            "folders, or the array y of an .npz file"
        )
    if not len(dataset.held_out_rows):
        raise ValueError(f"features need rows to test them on, {info.source} keeps none out; pass held_out > 0")


def _write(folder: Path, network: Classifier, dataset: Dataset, learned: dict[str, Any]) -> None:
    """Both files of the folder, features.json last."""
    info = dataset.info
    name = Path(info.source).stem or info.source
    rows = dataset.held_out_rows
    _, logits = _apply(network, dataset.x_scaled(rows))
    labels = dataset.labels(rows)
    if labels is None:
        raise RuntimeError("a classifier needs labels")
    accuracy = class_agreement(logits.argmax(1), labels)
    weights = save({k: v.contiguous() for k, v in network.state_dict().items()})
    content = {
        "version": 1,
        "name": name,
        "source": info.source,
        "shape": list(dataset.shape),
        "classes": list(info.classes),
        "dimension": DIMENSION,
        "width": WIDTH,
        "scaling": info.scaling.to_json(),
        "accuracy": {**asdict(accuracy), "method": f"on {len(rows)} held-out rows, Wilson interval"},
        "data": asdict(LearnedFrom(info.sha256["x.npy"], info.held_out, info.seed)),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "learned": learned,
        "versions": versions(),
    }
    write_whole(folder / WEIGHTS, lambda file: file.write(weights))
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / FILE, lambda file: file.write(text.encode()))


def _apply(network: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits of scaled images, float64."""
    with torch.no_grad():
        features = torch.cat([network.features(part) for part in x.split(CHUNK)])
        return features.double(), network.head(features).double()


def open_classifier(folder: Path) -> Features:
    """The features that `learn_features` kept in a folder.

    Raises:
        RuntimeError: a file is missing or damaged.
    """
    content = _content(folder)
    try:
        weights = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(weights).hexdigest() != content["sha256"]:
            raise ValueError("its SHA-256 is not the one in features.json")
        shape, classes = tuple(content["shape"]), tuple(content["classes"])
        network = Classifier(shape, len(classes), width=content["width"], dimension=content["dimension"])
        network.load_state_dict(load(weights))
        scaling, learned_from = Scaling.from_json(content["scaling"]), LearnedFrom(**content["data"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder / WEIGHTS, str(error)) from None
    network.eval().requires_grad_(False)

    def of(images: np.ndarray) -> Seen:
        features, logits = _apply(network, scaling.apply(images))
        return features, logits.softmax(1)

    name = content["name"]
    return Features(title_of(name), content["dimension"], of, name, shape, classes, learned_from)


def accuracy_of(folder: str | Path) -> Estimate:
    """How often the classifier in a folder is right on the rows it was not learned from, with Wilson's interval."""
    return Estimate.from_json(_content(Path(folder))["accuracy"])


def _content(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content["version"] != 1:
            raise ValueError("it is of another version")
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(folder / FILE, str(error)) from None
    return content


def _damaged(path: Path, why: str) -> RuntimeError:
    return RuntimeError(f"{path} is missing or damaged ({why}); learn the features again (scorefield features)")
