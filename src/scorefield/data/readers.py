"""Where data come from: the source's name or path chooses the reader; what does not fit is refused here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scorefield.checks import check_between, check_choice, check_count, nearest
from scorefield.data.arrays import NO_PICKLE, Table, read_csv, read_npy, read_npz
from scorefield.data.images import read_folder, read_idx
from scorefield.densities import TOYS, toy
from scorefield.settings import DataSettings

IDX = ("mnist", "fashion-mnist")
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
ARRAYS = (".npy", ".npz", ".csv")


def names() -> list[str]:
    """The data sets known by name: scikit-learn's digits, the IDX sets and the toy densities."""
    return ["digits", *IDX, *TOYS]


def read(settings: DataSettings, *, seed: int) -> Table:
    """Read a source as it stands: a known name (./NAME means the file), a file or a folder of images.

    Args:
        settings: `count` holds for toy densities only, `root` for IDX sets only, `label_column` for .csv only;
            each is refused elsewhere (`count`: where it is not its default).
        seed: of the draw from a toy density.

    Returns:
        the samples, their labels and the names of their columns.

    Raises:
        ValueError: a setting that does not fit, a source that is missing, damaged or of an unknown format.
        TypeError: an array of Python objects.
    """
    _check(settings)
    source = settings.source
    if source == "digits":
        from sklearn.datasets import load_digits

        pixels, digit = load_digits(return_X_y=True)
        return Table(np.asarray(pixels, dtype=np.uint8).reshape(-1, 8, 8), np.asarray(digit))
    if source in IDX:
        return read_idx(source, settings.root)
    if source in TOYS:
        drawn = toy(source).sample((settings.count,), generator=torch.Generator().manual_seed(seed))
        return Table(drawn.numpy())
    return _read_path(Path(source).expanduser(), settings)


def _check(settings: DataSettings) -> None:
    source, named = settings.source, settings.source in names()
    if not source.strip():
        raise ValueError(f"source must be a file, a folder of images or one of {', '.join(names())}; got {source!r}")
    check_choice("on_nonfinite", settings.on_nonfinite, ("error", "drop"))
    check_between("held_out", settings.held_out, 0, 0.9)
    check_count("count", settings.count, least=2)
    if settings.count != DataSettings.count and source not in TOYS:
        rule = f"count is for toy densities ({', '.join(TOYS)}) only"
        raise ValueError(f"{rule}, got {settings.count} with source {source!r}; leave it out")
    if settings.root is not None and source not in IDX:
        rule = f"root is for {' and '.join(IDX)} only"
        raise ValueError(f"{rule}, got {settings.root!r} with source {source!r}; leave it out{nearest(source, IDX)}")
    if settings.label_column is not None and (named or not source.lower().endswith(".csv")):
        way_out = "class folders, or the array y of an .npz file, hold the labels of other sources"
        raise ValueError(
            f"label_column is for .csv files only, got {settings.label_column!r} with source {source!r}; {way_out}"
        )


def _read_path(path: Path, settings: DataSettings) -> Table:
    if path.is_dir():
        return read_folder(path)
    if not path.exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, [*names(), *siblings])
        known = ", ".join(names())
        raise ValueError(f"source {settings.source!r} is neither a file or folder nor one of {known}{near}")
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ValueError(f"{path} is a {suffix} file: {NO_PICKLE}, and give the .npy or .npz file")
    if suffix not in ARRAYS:
        way_out = f"give {', '.join(ARRAYS)}, a folder of images or one of {', '.join(names())}"
        raise ValueError(f"{path} is of an unknown format {suffix!r}; {way_out}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); write it again")
    if suffix == ".csv":
        return read_csv(path, settings.label_column)
    return read_npy(path) if suffix == ".npy" else read_npz(path)
