"""Checkpoints that are whole or absent: safetensors and a manifest with every file's SHA-256, renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import scorefield
from scorefield.training import State

PARTS = ("model", "ema", "optimizer")
KEPT = 3


class Damaged(RuntimeError):
    """A file of the run does not hold what was written."""


def save(folder: Path, state: State, extra: dict[str, Any]) -> Path:
    """Write `folder`/STEP whole: a temporary folder, every file synced, the manifest last, then renamed.

    Older checkpoints beyond the last three are removed only afterwards. When anything fails, the disk being full for
    one, the temporary folder is removed and the earlier checkpoints stay as they were.
    """
    final = folder / f"{state.step:06d}"
    if final.exists():
        return final
    folder.mkdir(exist_ok=True)
    partial = folder / f".partial-{state.step:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        sums = {}
        for part in PARTS:
            path = partial / f"{part}.safetensors"
            save_file({k: v.cpu().contiguous() for k, v in getattr(state, part).items()}, path)
            sums[path.name] = _sha256(path)
            _sync(path)
        manifest = partial / "manifest.json"
        manifest.write_text(json.dumps({"step": state.step, "sha256": sums, **extra}, indent=2) + "\n")
        _sync(manifest)
        _sync(partial)
        partial.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"checkpoint {final} could not be written ({error}); the one before it is whole") from error
    for old in complete(folder)[:-KEPT]:
        shutil.rmtree(old)
    return final


def complete(folder: Path) -> list[Path]:
    """All checkpoints that were renamed into place, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if p.name.isdigit()) if folder.is_dir() else []


def check(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are what was written.

    Raises:
        Damaged: names the file that is missing, truncated or changed.
    """
    manifest = path / "manifest.json"
    try:
        content = json.loads(manifest.read_text())
        sums, _ = dict(content["sha256"]), content["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{manifest} is missing or unreadable ({error})") from error
    for part in PARTS:
        file = path / f"{part}.safetensors"
        if not file.is_file():
            raise Damaged(f"{file} is missing")
        if _sha256(file) != sums.get(file.name):
            raise Damaged(f"{file} is damaged: its SHA-256 is not the one in the manifest")
    return content


def load(path: Path) -> State:
    """The tensors of a checkpoint that `check` has passed."""
    parts = {part: load_file(path / f"{part}.safetensors") for part in PARTS}
    return State(int(path.name), **parts)


def latest(folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The newest whole checkpoint, and what is wrong with the newer ones that were passed over.

    Raises:
        Damaged: there are checkpoints, but none is whole.
    """
    notes: list[str] = []
    for path in reversed(complete(folder)):
        try:
            check(path)
        except Damaged as damage:
            if path.exists():  # else a writer has just replaced it by newer ones
                notes.append(str(damage))
        else:
            return path, tuple(f"{note}; the checkpoint before it is used" for note in notes)
    if notes:
        raise Damaged(f"{'; '.join(notes)}; no whole checkpoint is left in {folder}")
    return None, ()


def versions() -> dict[str, str]:
    """The versions that a checkpoint was made with."""
    return {
        "scorefield": scorefield.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
    }


@cache
def hardware() -> str:
    """The machine that trains: its processor and cores, and its card where it has one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = f"{named[0] if named else platform.machine()}, {os.cpu_count()} cores"
    return cores + (f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")


def load_latest(folder: Path) -> tuple[Path, State]:
    """The newest whole checkpoint and its tensors, also while a writer replaces old ones by new ones.

    Raises:
        Damaged: there is none.
    """
    for _ in range(10):
        path, _ = latest(folder)
        try:
            if path is not None:
                return path, load(path)
        except (OSError, SafetensorError):
            continue  # removed between the check and the reading; a newer one is there
    raise Damaged(f"no whole checkpoint could be read from {folder}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
