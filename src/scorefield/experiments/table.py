"""The experiments by name: each is a page of this package with a function `experiment(folder, *, root, seed)`."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

from scorefield.checks import check_choice, check_count
from scorefield.experiments.outcome import FILE, Outcome, kept
from scorefield.settings import EXPERIMENTS


def run_experiment(
    name: str, folder: Path, *, root: Path | None = None, seed: int = 0, fresh: bool = False
) -> tuple[Outcome, bool]:
    """Do an experiment of the theory, or find it done.

    Args:
        name: one of `settings.EXPERIMENTS`.
        folder: where its pictures, its trained runs and its outcome are kept.
        root: folder with the files of a data set, for those that can use one; the embedded data when None.
        seed: of everything random in it.
        fresh: do it anew, whatever the folder holds of it.

    Returns:
        the outcome, and whether it was there before.

    Raises:
        ValueError: an unknown name (with the nearest), a folder that holds something else, a root without the files.
    """
    check_choice("experiment", name, EXPERIMENTS)
    check_count("seed", seed, least=0)
    if fresh and (folder / FILE).is_file():
        shutil.rmtree(folder)
    page = importlib.import_module(f"scorefield.experiments.{name.replace('-', '_')}")
    asked = {"experiment": name, "seed": seed, "root": None if root is None else root.name}
    return kept(folder, asked, lambda: page.experiment(folder, root=root, seed=seed))
