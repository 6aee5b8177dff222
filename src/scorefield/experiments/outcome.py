"""What an experiment leaves behind: pictures, a table of figures, and what to see in them; kept as JSON beside them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorefield.runs.samples import write_whole

FILE = "experiment.json"
Cell = str | float


@dataclass(frozen=True)
class Outcome:
    """The outcome of an experiment.

    Attributes:
        pictures: what a picture shows (its alternative text) -> the name of its file in the experiment's folder.
        columns: names of the table's columns.
        rows: the table, numbers as numbers.
        said: what to see, in sentences that were made from the numbers.
        seconds: how long it took on the machine that made it; 0 until `kept` knows.
    """

    pictures: dict[str, str]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    said: tuple[str, ...]
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Outcome:
        """The outcome that `to_json` wrote."""
        rows = tuple(tuple(row) for row in content["rows"])
        return cls(content["pictures"], tuple(content["columns"]), rows, tuple(content["said"]), content["seconds"])


def kept(folder: Path, asked: dict[str, Any], make: Callable[[], Outcome]) -> tuple[Outcome, bool]:
    """The outcome that a folder holds for what is asked, or make it and keep it.

    Args:
        folder: the experiment's folder; made where it is missing.
        asked: name, seed and whatever else decides the outcome, as plain values.
        make: does the experiment; what it trains it keeps in the folder, so that it goes on where it stopped.

    Returns:
        the outcome, and whether it was there before.

    Raises:
        ValueError: the folder holds the outcome of something else.
    """
    file = folder / FILE
    if file.is_file():
        try:
            content = json.loads(file.read_text())
            before, outcome = content["asked"], Outcome.from_json(content["outcome"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{file} is damaged; delete it, or add --fresh") from None
        if before == asked and all((folder / name).is_file() for name in outcome.pictures.values()):
            return outcome, True
        if before != asked:
            raise ValueError(f"{folder} holds another experiment, {before}, asked was {asked}; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    outcome = make()
    outcome = dataclasses.replace(outcome, seconds=round(outcome.seconds + time.perf_counter() - started, 1))
    text = json.dumps({"asked": asked, "outcome": outcome.to_json()}, indent=2, ensure_ascii=False) + "\n"
    write_whole(file, lambda opened: opened.write(text.encode()))
    return outcome, False
