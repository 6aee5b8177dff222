"""The page of a run: its panels gathered, and put into the template.

The file loads nothing: pictures are inside it, and its content security policy forbids the rest. A panel that fails
says so in its place, so that a damaged run has a report too.
"""

from __future__ import annotations

import datetime
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from scorefield import __version__
from scorefield.report import panels
from scorefield.runs import Damaged, Run
from scorefield.runs.samples import write_whole

LARGEST = 6_000_000  # bytes


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        anchor: what links point to.
        title: its heading.
        panel: what it shows; None where it could not be made.
        trouble: why not.
    """

    anchor: str
    title: str
    panel: panels.Panel | None
    trouble: str | None


def write_report(path: str | Path, output: str | Path | None = None, *, count: int = 1000, seed: int = 0) -> Path:
    """Write a run's report.

    Args:
        path: the run folder; it may be damaged, then the page says of what.
        output: the .html file; report.html in the folder when None.
        count: how many samples the figures are made from, >= 100.
        seed: seed of the samples.

    Returns:
        the file written.

    Raises:
        ValueError: the folder is no run folder.
    """
    path = Path(path)
    if not (path / "recipe.yaml").is_file():
        Run.open(path)  # says what is wrong, with the nearest name
    run, trouble = _opened(path)
    made = [
        _section(anchor, title, None if run is None else partial(make, run, count, seed), trouble)
        for anchor, title, make in SECTIONS
    ]
    doctor = _section("doctor", "What the doctor says", partial(panels.findings, path), None)
    text = _template().render(
        name=path.resolve().name,
        version=__version__,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        lead=None if run is None else panels.lead(run),
        sections=[*made[:-1], doctor, made[-1]],
        notes=() if run is None else run.notes,
        trouble=trouble,
    )
    page = text.encode()
    if len(page) > LARGEST:
        raise RuntimeError(
            f"the report would have {len(page):,} bytes, more than {LARGEST:,}; this is a defect, tell us"
        )
    return write_whole(Path(output) if output is not None else path / "report.html", lambda file: file.write(page))


SECTIONS: tuple[tuple[str, str, Callable[[Run, int, int], panels.Panel]], ...] = (
    ("samples", "Samples and their nearest neighbours", panels.samples),
    ("levels", "From noise to samples", panels.particles),
    ("field", "The score field", panels.field),
    ("loss", "Loss by noise level", panels.loss),
    ("figures", "Figures beside real data", panels.figures),
    ("provenance", "Provenance", panels.provenance),
)


def _opened(path: Path) -> tuple[Run | None, str | None]:
    try:
        return Run.open(path), None
    except (Damaged, ValueError, RuntimeError, OSError) as error:
        return None, str(error)


def _section(anchor: str, title: str, make: Callable[[], panels.Panel] | None, trouble: str | None) -> Section:
    """A section, or the reason why there is none."""
    if make is None:
        return Section(anchor, title, None, trouble)
    try:
        return Section(anchor, title, make(), None)
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        return Section(anchor, title, None, str(error))


def _template() -> Any:
    source = importlib.resources.files("scorefield.report").joinpath("page.html").read_text("utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        source
    )
