"""The folder of a fitted estimator: a run folder with `estimator.json` in it, and the same as bytes for a pickle."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import scorefield
from scorefield.neural.tables import Frame
from scorefield.runs import Run

FILE = "estimator.json"


def write(estimator: Any, path: Path) -> Path:
    """Copy the run folder of a `ScoreDensity` to a new place and lay what else the estimator knows into it.

    Raises:
        ValueError: the folder exists and is not empty.
    """
    content = {
        "version": scorefield.__version__,
        "parameters": {k: v for k, v in estimator.get_params().items() if k != "random_state"},
        "decorrelate": estimator.decorrelate_,
        "n_features_in": estimator.n_features_in_,
        "feature_names_in": list(getattr(estimator, "feature_names_in_", [])),
        "columns": estimator._frame and estimator._frame.to_json(),
    }
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"a run folder needs a path that does not exist yet, got {path}; choose another")
    shutil.copytree(estimator.run_.path, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lock"))
    (path / FILE).write_text(json.dumps(content, indent=1) + "\n")
    return path


def read(kind: type[Any], path: Path) -> Any:
    """What `write` wrote, as an estimator of that kind, which uses the folder where it lies.

    Raises:
        ValueError: no run folder, or one without that content.
    """
    run = Run.open(path)
    if not (path / FILE).is_file():
        raise ValueError(f"{path} was not written by ScoreDensity.save, it holds no {FILE}; use Run.open")
    try:
        content = dict(json.loads((path / FILE).read_text()))
    except ValueError as error:
        raise ValueError(f"{path / FILE} is damaged ({error}); save the estimator again") from None
    if "coordinates" in content:
        raise ValueError(
            f"{path} is of an earlier scorefield and holds rows in coordinates of their own; fit and save again"
        )
    made = kind(**content["parameters"])
    made.n_features_in_, made.decorrelate_ = content["n_features_in"], content["decorrelate"]
    if content["feature_names_in"]:
        made.feature_names_in_ = np.array(content["feature_names_in"], dtype=object)
    made._frame = content["columns"] and Frame.from_json(content["columns"])
    made.shape_ = run.dataset.shape
    return made._ready(run, None)


def pack(run: Run) -> dict[str, bytes]:
    """All files of a run folder, by their names in it."""
    files = sorted(p for p in run.path.rglob("*") if p.is_file() and p.name != "lock")
    return {str(p.relative_to(run.path)): p.read_bytes() for p in files}


def unpack(files: dict[str, bytes]) -> tuple[Run, tempfile.TemporaryDirectory[str]]:
    """The run of these files, in a temporary folder that lives as long as what is returned beside it."""
    home = temporary()
    for name, content in files.items():
        file = Path(home.name) / "run" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return Run.open(Path(home.name) / "run"), home


def temporary() -> tempfile.TemporaryDirectory[str]:
    """A folder for runs that nobody asked to keep."""
    return tempfile.TemporaryDirectory(prefix="scorefield-")
