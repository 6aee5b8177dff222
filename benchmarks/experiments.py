"""Do every experiment of the theory, one after the other; keep their figures, their tables and their pictures.

Run: make experiments (or .venv/bin/python benchmarks/experiments.py, with --only NAME … for some of them)

An experiment is done anew where the sources have changed since, and found where they have not: what was interrupted
goes on. Into benchmarks/results go experiments.json (seconds, tables, the hash of the sources) and, for the pages,
experiments/NAME.md; into docs/assets/experiments the pictures, in at most 256 colours. `--check` says what is of these
sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from scorefield.settings import EXPERIMENTS

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "experiments.json"
TABLES = ROOT / "benchmarks" / "results" / "experiments"
PICTURES = ROOT / "docs" / "assets" / "experiments"
LARGEST = 150_000  # bytes of a picture


def sources() -> str:
    """SHA-256 over the names and contents of the package."""
    digest = hashlib.sha256()
    for path in sorted(ROOT.glob("src/**/*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Do what is missing; 0 when every experiment that was asked for is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS, help="some of them")
    parser.add_argument("--check", action="store_true", help="only say which results are of these sources")
    options = parser.parse_args()
    made = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    now = sources()
    old = [name for name in options.only if made.get(name, {}).get("sources") != now]
    if options.check:
        print(f"of other sources: {', '.join(old)}" if old else "up to date")
        return int(bool(old))
    failed = []
    for name in old:
        folder = ROOT / ".cache" / "experiments" / now[:12] / name  # the folder of these very sources
        command = [sys.executable, "-m", "scorefield", "experiment", name, "--json", "-o", str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(name)
            print(f"{name}: exit code {done.returncode}\n{done.stderr.strip()}")
            continue
        outcome = json.loads(done.stdout)
        made[name] = {"sources": now} | {key: outcome[key] for key in ("seed", "seconds", "columns", "rows", "said")}
        keep(name, outcome, folder)
        ordered = {key: made[key] for key in EXPERIMENTS if key in made}
        RESULT.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}: {outcome['seconds']:.0f} s")
    print(f"{len(options.only) - len(failed)} of {len(options.only)} experiments -> {RESULT.relative_to(ROOT)}")
    return int(bool(failed))


def keep(name: str, outcome: dict[str, Any], folder: Path) -> None:
    """The table for the page, and the pictures in few colours."""
    TABLES.mkdir(parents=True, exist_ok=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    right = "|".join(["---", *["---:"] * (len(outcome["columns"]) - 1)])
    lines = ["|".join(outcome["columns"]), right, *("|".join(map(cell, row)) for row in outcome["rows"])]
    table = "\n".join(f"|{line}|" for line in lines)
    said = "\n".join(f"- {sentence}" for sentence in outcome["said"])
    (TABLES / f"{name}.md").write_text(f"{table}\n\n{said}\n")
    for file in outcome["pictures"].values():
        if Path(file).suffix == ".png":
            with Image.open(folder / file) as image:
                save_small(image.convert("RGB"), PICTURES / file)
        else:
            (PICTURES / file).write_bytes((folder / file).read_bytes())


def save_small(image: Image.Image, file: Path) -> None:
    """As a PNG of 256 colours, drawn smaller while the file is larger than LARGEST."""
    for share in (1.0, 0.85, 0.7, 0.6):
        size = (round(share * image.width), round(share * image.height))
        smaller = image if share == 1 else image.resize(size, Image.Resampling.LANCZOS)
        few = smaller.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(file, optimize=True)
        if file.stat().st_size <= LARGEST:
            return


def cell(value: str | float) -> str:
    """A cell as the command line shows it."""
    return value.replace("|", "\\|") if isinstance(value, str) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
