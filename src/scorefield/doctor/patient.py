"""Who is examined: a run folder, whole or damaged, or data that nothing was learned from yet."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from scorefield.data import Dataset, Scaling, Table, open_dataset, prepare
from scorefield.data.readers import read
from scorefield.data.samples import check_samples
from scorefield.data.scaling import RESOLUTION, learn_scaling
from scorefield.doctor.finding import Finding
from scorefield.noise import Noise
from scorefield.runs import Run, build_noise
from scorefield.runs.recipe import from_yaml
from scorefield.settings import DataSettings, Recipe, Resolved

MARKS = ("recipe.yaml", "dataset.json", "checkpoints")


@dataclass(frozen=True, eq=False)
class Patient:
    """What there is to look at.

    Attributes:
        target: as it was given.
        settings: where its data came from.
        dataset: the data; None where their files are damaged.
        recipe: what was asked for; None for data alone, and for a run whose recipe cannot be read.
        resolved: what was decided.
        run: the run, where it has weights.
        trouble: what is wrong with the folder.
    """

    target: str
    settings: DataSettings | None
    dataset: Dataset | None
    recipe: Recipe | None = None
    resolved: Resolved | None = None
    run: Run | None = None
    trouble: tuple[Finding, ...] = ()

    @property
    def noise(self) -> Noise | None:
        """The schedule; None where there is none."""
        if self.recipe is None or self.resolved is None or not self.recipe.at_all_levels:
            return None
        return build_noise(self.recipe.noise, self.resolved.noise)

    @property
    def is_run(self) -> bool:
        """Whether it is a run folder, whole or not."""
        return self.recipe is not None or bool(self.trouble)

    def train(self, **changes: Any) -> str:
        """The command that trains anew with other settings, in a new folder."""
        recipe = self.recipe or (Recipe(self.target) if self.settings is None else _from(self.settings))
        return train_command(dataclasses.replace(recipe, **changes), f"{self.target.rstrip('/')}-again")

    def mend(self, keep: str, change: str = "x") -> str:
        """The command that writes mended data, x and y of the rows `keep`, and looks at them again."""
        s = self.settings or DataSettings(self.target)
        given = [repr(s.source)] + [f"{k}={v!r}" for k in ("root", "label_column") if (v := getattr(s, k))]
        given += [f"count={s.count}"] if s.count != DataSettings.count else []
        mended = f"{Path(s.source).stem}-mended.npz"
        code = (
            "import numpy as np; from scorefield.data.readers import read; from scorefield.settings import "
            "DataSettings; from scorefield.diagnostics import repeated_rows, rows_not_finite; "
            f"t = read(DataSettings({', '.join(given)}), seed=0); x = np.asarray(t.x); keep = {keep}; x = x[keep]; "
            f"y = {{}} if t.labels is None else {{'y': t.labels[keep]}}; np.savez({mended!r}, x={change}, **y)"
        )
        return f"python -c {shlex.quote(code)} && scorefield doctor {shlex.quote(mended)}"


def train_command(recipe: Recipe, output: str) -> str:
    """`scorefield train …` with every setting of a recipe that is not the default."""
    words = ["scorefield", "train", recipe.data]
    for name, value in _changed(recipe, Recipe(recipe.data)):
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join([*words, "-o", output])


def _changed(given: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(given):
        mine, other = getattr(given, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(mine):
            yield from _changed(mine, other, f"{prefix}{field.name}.")
        elif mine != other:
            yield prefix + field.name, mine


def _from(settings: DataSettings) -> Recipe:
    known = ("root", "label_column", "on_nonfinite", "held_out", "count")
    return Recipe(settings.source, **{name: getattr(settings, name) for name in known})


@contextmanager
def admit(target: str, settings: DataSettings, seed: int) -> Iterator[Patient]:
    """Open what is to be examined; data alone are read into a folder that is gone afterwards.

    Args:
        target: a run folder, or a source of data.
        settings: how the source is to be read.
        seed: of the rows held out, and of a toy density's draw.

    Raises:
        ValueError: neither a run folder nor data that can be read.
    """
    path = Path(target)
    if path.is_dir() and any((path / mark).exists() for mark in MARKS):
        yield _run(target, path)
        return
    with TemporaryDirectory(prefix="scorefield-doctor-") as folder:
        settings = dataclasses.replace(settings, on_nonfinite="drop")
        table = read(settings, seed=seed)
        dataset = prepare(settings, Path(folder) / "data", seed=seed, table=table, scaling=_scaling(table))
        yield Patient(target, settings, dataset)


def _scaling(table: Table) -> Scaling:
    """As in training, but of what training would refuse too: the spread of what does not vary counts as one."""
    samples = check_samples(table, on_nonfinite="drop")
    names = samples.columns or ("pixels",)

    def pieces() -> Iterator[np.ndarray]:
        return (piece.reshape(-1, len(names)) for piece in samples.pieces())

    ends = np.array([(piece.min(0), piece.max(0)) for piece in pieces()], dtype=np.float64)
    low, high = ends[:, 0].min(0), ends[:, 1].max(0)
    mean, spread = low.copy(), np.ones_like(low)
    vary = high - low > 2 * RESOLUTION * np.maximum(-low, high)
    if vary.any():
        learned = learn_scaling(lambda: (piece[:, vary] for piece in pieces()), tuple(compress(names, vary)))
        mean[vary], spread[vary] = learned.mean, learned.scale
    shape = (-1,) if samples.columns else ()
    return Scaling(mean.reshape(shape), spread.reshape(shape))


def _run(target: str, path: Path) -> Patient:
    """A run folder; every part that can be read is, and what cannot is trouble."""
    recipe = resolved = dataset = run = None
    trouble = []
    try:
        recipe, resolved = from_yaml(path / "recipe.yaml")
    except ValueError as error:
        trouble.append(_fault("recipe", str(error), "what was trained cannot be told", _anew(None, path)))
    try:
        dataset = open_dataset(path, verify=True)
    except RuntimeError as error:
        why = "what it was trained on is lost; a run cannot go on with other data"
        trouble.append(_fault("data-files", str(error), why, _anew(recipe, path)))
    if recipe is not None and dataset is not None:
        try:
            run = Run.open(path)
        except (ValueError, RuntimeError) as error:
            trouble.append(_fault("checkpoint", str(error), "no weights are left to look at", _anew(recipe, path)))
    if run is not None and recipe is not None and run.step == 0:
        why = "nothing has been learned yet: only the data and the noise can be looked at"
        command = train_command(recipe, target)
        trouble.append(Finding("checkpoint", "fault", False, f"no checkpoint in {path}", why, command))
        run = None
    settings = recipe.data_settings() if recipe is not None else None
    if settings is None and dataset is not None:
        settings = DataSettings(dataset.info.source)
    return Patient(target, settings, dataset, recipe, resolved, run, tuple(trouble))


def _fault(name: str, evidence: str, why: str, command: str) -> Finding:
    return Finding(name, "fault", False, evidence, why, command)


def _anew(recipe: Recipe | None, path: Path) -> str:
    return train_command(recipe or Recipe("DATA"), f"{path}-again")
