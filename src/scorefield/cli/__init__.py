"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from scorefield import __version__
from scorefield.checks import nearest
from scorefield.cli.codes import BAD_INPUT, BAD_NEWS, DONE, INTERRUPTED, LOCKED
from scorefield.cli.parser import parse
from scorefield.settings import (
    CheckOptions,
    DemoOptions,
    DoctorOptions,
    EvaluateOptions,
    ExperimentOptions,
    FeaturesOptions,
    FitOptions,
    InfoOptions,
    LikelihoodOptions,
    Recipe,
    ReportOptions,
    RestoreOptions,
    SampleOptions,
    TrainOptions,
)

# command -> the page that holds it, the dataclasses of its options, short flags, the options given without a flag
COMMANDS: dict[str, tuple[str, tuple[type, ...], dict[str, str], tuple[str, ...]]] = {
    "demo": ("learning", (DemoOptions,), {"output": "-o"}, ()),
    "train": ("learning", (Recipe, TrainOptions), {"output": "-o"}, ("data",)),
    "sample": ("drawing", (SampleOptions,), {"count": "-n", "output": "-o"}, ("run",)),
    "evaluate": ("judging", (EvaluateOptions,), {"count": "-n"}, ("run",)),
    "features": ("judging", (FeaturesOptions,), {"output": "-o"}, ("data",)),
    "restore": ("drawing", (RestoreOptions,), {"count": "-n", "output": "-o"}, ("run", "input")),
    "fit": ("fitting", (FitOptions,), {"output": "-o"}, ("model", "data")),
    "likelihood": ("drawing", (LikelihoodOptions,), {"count": "-n", "output": "-o"}, ("run", "data")),
    "info": ("learning", (InfoOptions,), {}, ("run",)),
    "experiment": ("experimenting", (ExperimentOptions,), {"output": "-o"}, ("name",)),
    "report": ("reporting", (ReportOptions,), {"output": "-o"}, ("run",)),
    "doctor": ("judging", (DoctorOptions,), {}, ("target",)),
    "check": ("judging", (CheckOptions,), {}, ()),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code (0 done, 1 bad news, 2 bad input, 3 locked, 130 interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in arguments
    arguments = [a for a in arguments if a != "--traceback"]
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "--version"):
        print(overview() if name != "--version" else f"scorefield {__version__}")
        return DONE
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: command must be one of {known}; got {name!r}{nearest(name, COMMANDS)}", file=sys.stderr)
        return BAD_INPUT
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        page, kinds, short, positional = COMMANDS[name]
        options = parse(name, kinds, short, positional, arguments[1:])
        return getattr(importlib.import_module(f"scorefield.cli.{page}"), name)(*options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        code = _exit_code(error)
        if traceback or code is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        return code
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> NoReturn:
    """SIGTERM ends a command as Ctrl-C does, so that nothing half-made stays behind."""
    raise KeyboardInterrupt


def overview() -> str:
    """What `scorefield --help` says."""
    lines = [f"scorefield {__version__}: learn the score of a distribution from samples, and use it.", "", "Commands:"]
    lines += [f"  {name:<11}{(kinds[0].__doc__ or '').splitlines()[0]}" for name, (_, kinds, _, _) in COMMANDS.items()]
    lines += ["", "scorefield COMMAND --help tells all options of a command; --traceback shows where an error arose."]
    return "\n".join(lines)


def _exit_code(error: Exception) -> int | None:
    """The exit code of an error that a user can mend; None for one that is ours."""
    from scorefield.runs import Locked
    from scorefield.training import Diverged

    if isinstance(error, Locked):
        return LOCKED
    if isinstance(error, Diverged):
        return BAD_NEWS
    return BAD_INPUT if isinstance(error, (ValueError, TypeError, OSError, RuntimeError, MemoryError)) else None
