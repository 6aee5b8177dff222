"""Change the mathematics one line at a time: every change must make the tests fail.

Run: make mutants (or .venv/bin/python benchmarks/mutants.py [--only WORDS])

The package and its tests are copied to a temporary folder, where each mutant of `mutations.py` and of
`mutations_judging.py` is applied alone and the tests that must notice run against the copy. A mutant whose old text
does not occur exactly once is an error, and so is one that breaks the tests' collection: it says nothing about the
mathematics. The results go to benchmarks/results/mutants.json with the hash of the sources they were made from; a run
that was interrupted goes on where it stopped while the sources are the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import lightning_fabric  # noqa: F401  (what the tests load anyway, once for all the processes that are forked below)
import pytest
import scipy.stats  # noqa: F401
import torch  # noqa: F401
from certify import sources
from mutations import MUTANTS as MATHEMATICS
from mutations import Mutant
from mutations_judging import JUDGING

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
MUTANTS = [*MATHEMATICS, *JUDGING]
WORKERS = 2
LIMIT = 300  # seconds for the tests of one mutant; one that makes them hang is noticed


def copied(folder: Path) -> Path:
    """A copy of the package and its tests, without what Python compiled."""
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


class Trial(NamedTuple):
    """Tests under way on a copy: the process, its output, what was changed and how it was before, and since when."""

    process: BaseProcess
    log: Path
    changed: Path
    text: str
    start: float


def begin(folder: Path, tests: tuple[str, ...], mutant: Mutant | None = None) -> Trial:
    """Change the copy, and start the tests there."""
    path = folder / "src" / "scorefield" / ("__init__.py" if mutant is None else mutant.file)
    text = path.read_text()
    path.write_text(text if mutant is None else text.replace(mutant.old, mutant.new))
    process = multiprocessing.get_context("fork").Process(target=_run, args=(folder, tests), daemon=True)
    process.start()
    return Trial(process, folder / "log", path, text, time.perf_counter())


def end(trial: Trial) -> tuple[int, str]:
    """Take the change back; pytest's exit code, 1 where the tests hang, and which test failed first."""
    trial.changed.write_text(trial.text)
    trial.process.join(0.1)
    if trial.process.is_alive():
        trial.process.kill()
        trial.process.join()
        return 1, f"no end within {LIMIT} s"
    lines = trial.log.read_text().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return trial.process.exitcode or 0, (failed or lines[-1:] or ["nothing was printed"])[0]


def _run(folder: Path, tests: tuple[str, ...]) -> None:
    """The body of the process: the copy's package comes first, and no compiled file outlives a mutant."""
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder / "src"))
    os.environ["PYTHONPATH"] = str(folder / "src")  # for the commands that tests start
    import scorefield

    if not str(scorefield.__file__).startswith(str(folder)):
        print(f"the tests would import {scorefield.__file__}, not the copy in {folder}", flush=True)
        os._exit(2)
    names = [f"tests/{test}" for test in tests]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", *names])
    sys.stdout.flush()
    os._exit(code)


def stale(mutants: list[Mutant], folder: Path) -> list[str]:
    """The mutants whose old text does not stand exactly once in its file."""
    texts = {file: (folder / "src" / "scorefield" / file).read_text() for file in {m.file for m in mutants}}
    found = {m.name: texts[m.file].count(m.old) for m in mutants}
    return [f"{name}: the old text occurs {count} times, not once" for name, count in found.items() if count != 1]


def tried(mutants: list[Mutant], folders: list[Path]) -> Iterator[dict[str, object]]:
    """Whether the tests notice each mutant, by which test, and after how long; one at a time in each copy."""
    waiting, free, running = list(mutants), list(folders), {}
    while waiting or running:
        while waiting and free:
            folder, mutant = free.pop(), waiting.pop(0)
            running[folder] = (begin(folder, mutant.tests, mutant), mutant.name)
        ready = wait([trial.process.sentinel for trial, _ in running.values()], timeout=1)
        for folder, (trial, name) in list(running.items()):
            seconds = time.perf_counter() - trial.start
            if trial.process.sentinel not in ready and seconds < LIMIT:
                continue
            code, last = end(trial)
            if code not in (0, 1) or (code == 1 and last.startswith("ERROR")):
                raise RuntimeError(f"{name}: the tests did not run (exit code {code}): {last}")
            del running[folder]
            free.append(folder)
            by = last.removeprefix("FAILED ").partition(" - ")[0] if code else "nothing"
            yield {"mutant": name, "caught": code == 1, "by": by, "seconds": round(seconds, 1)}


def main() -> int:
    """Try every mutant; 0 when the tests noticed all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the results are of these sources")
    parser.add_argument("--only", default="", metavar="WORDS", help="the mutants whose name contains these words")
    given, now = parser.parse_args(), sources()
    kept = json.loads(RESULT.read_text()) if RESULT.is_file() else {"sources": "nothing", "mutants": []}
    if given.check:
        print("up to date" if kept["sources"] == now else f"made from {kept['sources'][:12]}, now {now[:12]}")
        return int(kept["sources"] != now)
    names = [mutant.name for mutant in MUTANTS]
    done = {m["mutant"]: m for m in kept["mutants"] if kept["sources"] == now and m["mutant"] in names and m["caught"]}
    wanted = [m for m in MUTANTS if given.only in m.name and (given.only or m.name not in done)]
    with tempfile.TemporaryDirectory() as temporary:
        folders = [copied(Path(temporary).resolve() / str(k)) for k in range(WORKERS)]
        wrong = [f"{name}: another mutant has this name" for name in sorted(set(names)) if names.count(name) > 1]
        wrong += stale(MUTANTS, folders[0])
        if wrong:
            raise ValueError("\n".join(["these mutants must be mended:", *wrong]))
        tests = tuple(sorted({test for mutant in wanted for test in mutant.tests}))
        if tests:
            trial = begin(folders[0], tests)
            trial.process.join()
            code, last = end(trial)
            if code != 0:
                raise RuntimeError(f"the tests must pass before anything is changed: {last}")
        for result in tried(wanted, folders):
            done[result["mutant"]] = result
            listed = sorted(done.values(), key=lambda m: names.index(m["mutant"]))
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps({"sources": now, "mutants": listed}, indent=2) + "\n")
            verdict = "caught" if result["caught"] else "MISSED"
            print(f"{verdict} {result['seconds']:6.1f} s  {result['mutant']}  by {result['by']}", flush=True)
    missed = [name for name in names if name in done and not done[name]["caught"]]
    print(f"{len(done) - len(missed)} of {len(done)} mutants caught" + "".join(f"\n  missed: {m}" for m in missed))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
