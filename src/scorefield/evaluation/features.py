"""What distances of images are measured on: principal components, a classifier's features, or a network of the user's.

A distance on features says which features: the name goes with every figure.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefield.data import Dataset, Scaling

CHUNK = 250  # images per call of a network
INCEPTION = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # of NVIDIA's inception-2015-12-05.pt
Seen = tuple[Tensor, Tensor | None]  # features (n, k) and class probabilities (n, classes), float64


@dataclass(frozen=True)
class LearnedFrom:
    """The data that features were learned from.

    Attributes:
        x: SHA-256 of the stored samples.
        held_out: how many rows were kept out.
        seed: of the choice of those rows.
    """

    x: str
    held_out: int
    seed: int


@dataclass(frozen=True, eq=False)
class Features:
    """A map from images to features, with a name to put beside every figure.

    Attributes:
        title: whose features, in words: "digits' features".
        dimension: number of features k.
        of: images in the units of the data, (n, C, H, W) -> features (n, k) and, of a classifier, probabilities
            (n, classes) or None; float64.
        name: of the data or the file.
        shape: (C, H, W) of the images it takes; None for any.
        classes: names of the classes; () for no classifier.
        learned_from: the data it was learned from; None where that is not known.
        bytes_only: takes images stored as bytes, 0 to 255, alone.
        standard: the published Inception network, by its file's SHA-256: its distances are called FID and KID.
    """

    title: str
    dimension: int
    of: Callable[[np.ndarray], Seen]
    name: str = ""
    shape: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    learned_from: LearnedFrom | None = None
    bytes_only: bool = False
    standard: bool = False

    def check(self, dataset: Dataset) -> None:
        """Refuse data that these features cannot judge, or whose held-out rows they have seen.

        Raises:
            ValueError: vectors, images of another shape or kind, or another choice of held-out rows of the same data.
        """
        info, mine = dataset.info, self.learned_from
        if info.kind != "image":
            raise ValueError(f"features are for images, the run learned {info.kind}s; leave --features out")
        if self.shape is not None and dataset.shape != self.shape:
            raise ValueError(
                f"{self.title} take images of shape {self.shape}, the run's are {dataset.shape}; learn others from its "
                "data (scorefield features DATA)"
            )
        if self.bytes_only and info.dtype != "uint8":
            raise ValueError(f"{self.title} take images of bytes, 0 to 255, the run's are {info.dtype}; leave them out")
        split = (info.held_out, info.seed)
        if mine is not None and mine.x == info.sha256["x.npy"] and (mine.held_out, mine.seed) != split:
            raise ValueError(
                f"{self.title} were learned from rows that the run held out: they held out {mine.held_out} by seed "
                f"{mine.seed}, the run {info.held_out} by seed {info.seed}; learn them again with that seed and share"
            )


def title_of(name: str) -> str:
    """Whose features, in words."""
    return f"{name}'{'' if name.endswith('s') else 's'} features"


def principal_components(x: Tensor, count: int, scaling: Scaling) -> Features:
    """Features that need no training: coordinates along the directions in which scaled images vary most.

    Args:
        x: scaled images to find the directions in, (n, D).
        count: how many directions, at most n and D.
        scaling: of the data, applied to whatever is given.
    """
    from sklearn.decomposition import PCA

    pca = PCA(count, random_state=0).fit(x.double().numpy())

    def of(images: np.ndarray) -> Seen:
        flat = scaling.apply(images).flatten(1).double().numpy()
        return torch.from_numpy(pca.transform(flat)), None

    return Features(f"{count} principal components", count, of)


def open_features(path: str | Path) -> Features:
    """Open a folder that `learn_features` wrote, or a TorchScript file of a feature network.

    A TorchScript file (`.pt`) maps bytes (B, 3, H, W) to features (B, k), as the published file of the standard
    Inception network does (2,048 features; it resizes inside, and is asked for its features by `return_features`).
    Such a file is a program: open only one that you would run.

    Raises:
        ValueError: neither of the two.
        RuntimeError: a folder whose files are missing or damaged, or a file that is no such network.
    """
    from scorefield.evaluation.classifier import FILE, open_classifier

    path = Path(path).expanduser()
    if (path / FILE).is_file():
        return open_classifier(path)
    if path.is_file():
        return open_torchscript(path)
    raise ValueError(
        f"features must be a folder that scorefield features wrote (it holds {FILE}) or a TorchScript file, got {path}"
    )


def open_torchscript(path: Path) -> Features:
    """A TorchScript network (B, 3, H, W) of bytes -> (B, k) as features named after its file."""
    content = path.read_bytes()
    try:
        network = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
        takes = {argument.name for argument in network.forward.schema.arguments}
    except Exception as error:  # TorchScript's parser raises errors of many kinds
        text = str(error).strip().splitlines()[0][:200]
        raise RuntimeError(f"{path} is no TorchScript network ({text}); give one saved by torch.jit.save") from None
    how = {"return_features": True} if "return_features" in takes else {}

    def call(x: Tensor) -> Tensor:
        with torch.no_grad():
            found = network(x, **how)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise RuntimeError(
                f"{path} must map bytes (B, 3, H, W) to features (B, k), it gave {got}; wrap the network"
            )
        return found.double()

    def of(images: np.ndarray) -> Seen:
        x = torch.from_numpy(np.clip(np.rint(images), 0, 255).astype(np.uint8))
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        return torch.cat([call(part.contiguous()) for part in x.split(CHUNK)]), None

    dimension = call(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape[1]
    standard = hashlib.sha256(content).hexdigest() == INCEPTION
    return Features(title_of(path.name), dimension, of, path.name, bytes_only=True, standard=standard)
