"""Imports point down: the rooms of the library, the floor each stands on, and what each may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "scorefield"

# The map of ARCHITECTURE.md, from the ground up. Rooms on one floor do not import each other.
FLOORS = [
    {"checks", "settings"},
    {"calculus"},
    {"noise", "networks"},
    {"densities"},
    {"fields"},
    {"samplers", "objectives"},
    {"likelihood", "metrics", "estimators"},
    {"guidance", "diagnostics"},
    {"training", "data", "theory"},
    {"runs"},
    {"neural", "evaluation", "doctor"},
    {"plots"},
    {"experiments"},
    {"report", "explorer"},
    {"cli"},
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: Path) -> set[str]:
    """Full dotted names of everything a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "scorefield" else {module}
    return names


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(p for p in SOURCE.rglob("*.py") if room_of(p) not in {"__init__", "__main__"})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    """A room imports only rooms of lower floors, and itself."""
    here = room_of(path)
    assert here in FLOOR, f"{here} has no floor in the map"
    for name in imports(path):
        if not name.startswith("scorefield."):
            continue
        there = name.split(".")[1]
        if there.startswith("__"):
            continue
        assert there == here or FLOOR[there] < FLOOR[here], f"{path.name} ({here}) imports {there}, which is not below"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_engine_and_plotting_stay_in_their_rooms(path):
    """Only training knows the engine and torch.distributed; only the picture rooms know a plotting library."""
    here, names = room_of(path), imports(path)
    if here != "training":
        assert not {n for n in names if n.startswith(("lightning", "torch.distributed."))} - {"torch.distributions"}
    if here not in {"plots", "experiments", "report", "explorer"}:
        assert not {n for n in names if n.startswith(("matplotlib", "plotly"))}


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) != "cli"], ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_the_command_line_prints(path):
    """A room that has something to say returns it."""
    calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not [c for c in calls if isinstance(c, ast.Name) and c.id == "print"]


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    probe = f"import sys\n{code}\nprint(' '.join(sorted(m for m in sys.modules if '.' not in m)))"
    return set(subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    """`import scorefield` is free."""
    assert not loaded_by("import scorefield") & {"torch", "numpy", "scipy", "sklearn", "matplotlib"}


@pytest.mark.parametrize("command", ["", "train", "sample", "evaluate", "likelihood", "info", "check", "demo"])
def test_help_does_not_load_torch(command):
    """`scorefield COMMAND --help` answers without torch, numpy or a plotting library."""
    code = (
        "import contextlib, io\nfrom scorefield.__main__ import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main([*{[command] if command else []}, '--help'])"
    )
    assert not loaded_by(code) & {"torch", "numpy", "scipy", "sklearn", "matplotlib", "lightning"}
