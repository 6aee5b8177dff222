"""The log of a run, a line of JSON per step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scorefield.training import Step


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a half-written one, or what is no line of a log, is passed over."""
    entries = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"step", "training_seconds"} <= entry.keys():
            entries.append(entry)
    return entries


class Log:
    """metrics.jsonl: every step up to 1,000, then every tenth; cut back to the step that training resumes from."""

    def __init__(self, path: Path, step: int) -> None:
        entries = [entry for entry in read(path) if entry["step"] <= step]
        self.seconds = entries[-1]["training_seconds"] if entries else 0.0
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
        partial.replace(path)
        self._file = path.open("a")

    def write(self, step: Step) -> None:
        """Count the step's seconds; write its line if it is one to keep."""
        self.seconds += step.seconds
        if step.step <= 1000 or step.step % 10 == 0 or step.skipped:
            entry = {"step": step.step, "loss": step.loss, "grad_norm": step.grad_norm, "lr": step.lr}
            entry |= dict(step.terms)
            entry |= {"training_seconds": round(self.seconds, 3)} | ({"skipped": True} if step.skipped else {})
            self._file.write(json.dumps(entry) + "\n")

    def flush(self) -> None:
        """Put on disk what was written."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()
