"""Where data come from: the source's name or path chooses the reader; what does not fit is refused here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from scorefield.checks import check_between, check_choice, check_count, nearest
from scorefield.data.archives import ARCHIVES, is_archive
from scorefield.data.arrays import NO_PICKLE, Table, read_csv, read_npy, read_npz
from scorefield.data.celeba import read_celeba
from scorefield.data.cifar import read_cifar10
from scorefield.data.columnar import read_parquet, read_zarr
from scorefield.data.idx import read_idx
from scorefield.data.images import read_archive, read_folder
from scorefield.data.named import NAMED
from scorefield.densities import TOYS, toy
from scorefield.settings import DataSettings

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
ARRAYS = (".npy", ".npz", ".csv", ".parquet", ".zarr")
TABLES = (".csv", ".parquet")
CELEBA = ("celeba", "celeba-32")


def names() -> list[str]:
    """The data sets known by name: scikit-learn's digits, those whose files lie in `root`, and the toy densities."""
    return ["digits", *NAMED, *TOYS]


def read(settings: DataSettings, *, seed: int, scratch: Path | None = None) -> Table:
    """Read a source as it stands: a known name (./NAME means the file), a file, a folder or an archive of images.

    Args:
        settings: `count` holds for toy densities only, `root` for the sets in `NAMED` only, `label_column` for tables
            and celeba only; each is refused elsewhere (`count`: where it is not its default).
        seed: of the draw from a toy density.
        scratch: folder on whose disk images lie, unseen, while they are read; the system's temporary one when None.

    Returns:
        the samples, their labels and the names of their columns.

    Raises:
        ValueError: a setting that does not fit, a source that is missing, damaged or of an unknown format.
        TypeError: an array of Python objects.
        RuntimeError: the format needs a package that is not installed; the message names the extra.
    """
    _check(settings)
    source = settings.source
    if source == "digits":
        from sklearn.datasets import load_digits

        pixels, digit = load_digits(return_X_y=True)
        return Table(np.asarray(pixels, dtype=np.uint8).reshape(-1, 8, 8), np.asarray(digit))
    if source in CELEBA:
        return read_celeba(source, settings.root, settings.label_column, scratch)
    if source in NAMED:
        return read_cifar10(settings.root, scratch) if source == "cifar10" else read_idx(source, settings.root)
    if source in TOYS:
        drawn = toy(source).sample((settings.count,), generator=torch.Generator().manual_seed(seed))
        return Table(drawn.numpy())
    return _read_path(Path(source).expanduser(), settings, scratch)


def check_treatment(settings: DataSettings) -> None:
    """Refuse what is asked for the rows, wherever they come from.

    Raises:
        ValueError: an unknown `on_nonfinite`, or `held_out` not in [0, 0.9].
    """
    check_choice("on_nonfinite", settings.on_nonfinite, ("error", "drop"))
    check_between("held_out", settings.held_out, 0, 0.9)


def _check(settings: DataSettings) -> None:
    source, named = settings.source, settings.source in names()
    if not source.strip():
        raise ValueError(f"source must be a file, a folder of images or one of {', '.join(names())}; got {source!r}")
    check_treatment(settings)
    check_count("count", settings.count, least=2)
    if settings.count != DataSettings.count and source not in TOYS:
        rule = f"count is for toy densities ({', '.join(TOYS)}) only"
        raise ValueError(f"{rule}, got {settings.count} with source {source!r}; leave it out")
    if settings.root is not None and source not in NAMED:
        rule = f"root is for {', '.join(NAMED)} only"
        raise ValueError(
            f"{rule}, got {settings.root!r} with source {source!r}; give one of them, or no root"
            f"{nearest(source, NAMED)}"
        )
    labelled = source in CELEBA or not named and source.lower().endswith(TABLES)
    if settings.label_column is not None and not labelled:
        way_out = "class folders, or the array y of an .npz file, hold the labels of other sources"
        raise ValueError(
            f"label_column is for {' and '.join(TABLES)} files and celeba only, got {settings.label_column!r} with "
            f"source {source!r}; {way_out}"
        )


def _read_path(path: Path, settings: DataSettings, scratch: Path | None) -> Table:
    if path.is_dir():
        return read_zarr(path, scratch) if path.suffix.lower() == ".zarr" else read_folder(path, scratch)
    if not path.exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, [*names(), *siblings])
        known = ", ".join(names())
        raise ValueError(f"source {settings.source!r} is neither a file or folder nor one of {known}{near}")
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ValueError(f"{path} is a {suffix} file: {NO_PICKLE}, and give the .npy or .npz file")
    if suffix not in ARRAYS and not is_archive(path):
        way_out = f"give {', '.join(ARRAYS)}, a folder of images, or them in {', '.join(ARCHIVES)}, or one of "
        raise ValueError(f"{path} is of an unknown format {suffix!r}; {way_out}{', '.join(names())}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); write it again")
    if is_archive(path):
        return read_archive(path, scratch)
    if suffix in TABLES:
        return read_table(path, settings.label_column)
    if suffix == ".zarr":
        raise ValueError(f"{path} must be a folder, as zarr writes it, it is a file; unpack it")
    return read_npy(path) if suffix == ".npy" else read_npz(path)


def read_table(path: Path, label_column: str | None, only: Sequence[str] | None = None) -> Table:
    """The numeric columns of a .csv or .parquet file, or `only` some."""
    return (read_csv if path.suffix.lower() == ".csv" else read_parquet)(path, label_column, only)
