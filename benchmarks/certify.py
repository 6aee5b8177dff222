"""Run the long certificates and write what they found, with the hash of the sources they were made from.

Run: make certify (or .venv/bin/python benchmarks/certify.py)

The results go to benchmarks/results/certify.json; a certificate is of these very sources while `--check` says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "certify.json"


def sources() -> str:
    """SHA-256 over the names and contents of the package and its tests."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py")]):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Run every test marked `certify`; 0 when all of them passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the results are of these sources")
    if parser.parse_args().check:
        made = json.loads(RESULT.read_text())["sources"] if RESULT.is_file() else "nothing"
        print("up to date" if made == sources() else f"made from {made[:12]}, the sources are {sources()[:12]}")
        return int(made != sources())
    report = ROOT / ".cache" / "certify.xml"
    report.parent.mkdir(exist_ok=True)
    code = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "certify", f"--junitxml={report}"], cwd=ROOT, check=False
    ).returncode
    tests = [
        {
            "test": f"{case.get('classname')}::{case.get('name')}",
            "passed": not any(child.tag in ("failure", "error", "skipped") for child in case),
            "seconds": round(float(case.get("time", 0)), 1),
        }
        for case in ET.parse(report).iter("testcase")
    ]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"sources": sources(), "tests": tests}, indent=2) + "\n")
    print(f"{sum(t['passed'] for t in tests)} of {len(tests)} certificates hold -> {RESULT.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
