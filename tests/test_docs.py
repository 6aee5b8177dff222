"""The documentation runs: every Python block, what it is said to print, every command line, every link of the texts.

Pictures that a page's blocks write stay in the folder of the test: `pytest tests/test_docs.py --basetemp=build/docs`.
"""

import ast
import contextlib
import importlib
import inspect
import io
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)
NOT_RUN = re.compile(r"<!-- not run: \S[^>]*-->\s*\Z")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, the line it begins on, and whether it says it is not run."""

    language: str
    text: str
    line: int
    skipped: bool


def blocks(page: Path) -> list[Block]:
    source = page.read_text()
    return [
        Block(m[1], m[2], source.count("\n", 0, m.start()) + 1, bool(NOT_RUN.search(source[: m.start()])))
        for m in FENCE.finditer(source)
    ]


def identity(path: Path) -> str:
    return str(path.relative_to(ROOT))


def same(said: str, printed: str) -> bool:
    """Whether two outputs have the same words, and the same numbers to 5 % or half a hundredth."""
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (said, printed)]
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (said, printed)]
    close = [math.isclose(a, b, rel_tol=0.05, abs_tol=0.005) for a, b in zip(*numbers, strict=False)]
    return words[0] == words[1] and all(close)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that stands for `runs/demo`: the same data and recipe, a tiny network, a few steps."""
    from scorefield.runs import Run
    from scorefield.settings import Recipe, UNetSize

    folder = tmp_path_factory.mktemp("trained")
    recipe = Recipe("digits", steps=4, precision="fp32", unet=UNetSize(width=8, blocks=1))
    for _ in Run.create(recipe, folder / "demo").train():
        pass
    return folder


PAGES = [page for page in [*TEXTS, *DOCS] if any(b.language == "python" for b in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_python_blocks_run_and_print_what_the_page_says(page, trained, tmp_path, monkeypatch):
    """The blocks of a page run in one namespace; a `text` block right after one is its output."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "runs")
    (tmp_path / "build").mkdir()
    namespace: dict = {"__name__": "docs"}
    listed = blocks(page)
    for block, following in zip(listed, [*listed[1:], None], strict=True):
        if block.language != "python" or block.skipped:
            continue
        printed = io.StringIO()
        code = compile("\n" * block.line + block.text, str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if following is not None and following.language == "text" and not following.skipped:
            said = following.text
            assert same(said, printed.getvalue()), f"{page}:{block.line} prints\n{printed.getvalue()}not\n{said}"


COMMANDS = [
    pytest.param(page, line, id=f"{identity(page)}: {line}")
    for page in [*TEXTS, *DOCS]
    for block in blocks(page)
    if block.language == "bash"
    for line in block.text.replace("\\\n", " ").splitlines()
    if line.startswith("scorefield ")
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_are_accepted(page, line, tmp_path, monkeypatch):
    """Every `scorefield …` line of a bash block parses, with the flags it gives and the page's own `small.yaml`."""
    from scorefield.cli import COMMANDS as known
    from scorefield.cli.parser import parse

    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if block.language == "yaml":
            Path("small.yaml").write_text(block.text)
    _, name, *arguments = shlex.split(line, comments=True)
    if name.startswith("-"):
        assert name in ("--help", "--version")
        return
    try:
        parse(name, *known[name][1:], [a for a in arguments if a != "--traceback"])
    except SystemExit as end:  # --help and --print_config end here, with 0
        assert end.code in (0, None), line


@pytest.mark.parametrize("text", [t for t in TEXTS if t.exists()], ids=identity)
def test_links_of_the_texts_at_the_root_resolve(text):
    """README and its neighbours link to files that exist (mkdocs --strict checks the pages under docs)."""
    targets = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text.read_text())
    for target in (a or b for a, b in targets):
        if not target.startswith(("http", "#", "mailto:")):
            assert (ROOT / target.split("#")[0]).exists(), f"{text.name} links to {target}"


def test_the_site_fetches_nothing():
    """No page, style or script of the documentation names another host to load from."""
    loaded = re.compile(r"(?:src=|url\(|@import|\.src ?=)\s*[\"']?(?:https?:)?//", re.I)
    for file in [ROOT / "mkdocs.yml", *(ROOT / "docs").rglob("*")]:
        if file.suffix in {".md", ".css", ".js", ".yml", ".svg"}:
            assert not loaded.search(file.read_text()), file
    styles = ROOT / "docs/assets/katex/katex.min.css"
    for font in set(re.findall(r"url\(([^)]*)\)", styles.read_text())):
        assert (styles.parent / font).is_file(), f"{font} is not beside {styles.name}"


def public_names(room: Path) -> list[str]:
    """The functions and classes that a package lists in `__all__`, or that a file defines without an underscore."""
    if room.is_dir():
        package = importlib.import_module(f"scorefield.{room.stem}")
        listed = {name: getattr(package, name) for name in getattr(package, "__all__", [])}
        return [name for name, value in listed.items() if inspect.isfunction(value) or inspect.isclass(value)]
    tree = ast.parse(room.read_text())
    defined = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return [name for name in defined if not name.startswith("_")]


ROOMS = [p for p in sorted((ROOT / "src/scorefield").iterdir()) if p.stem not in ("cli", "__init__", "__main__")]
ROOMS = [p for p in ROOMS if (p / "__init__.py").exists() or p.suffix == ".py"]


@pytest.mark.parametrize("room", ROOMS, ids=identity)
def test_public_names_stand_in_the_changelog_and_in_the_api(room):
    """Every public name of a room has a line in CHANGELOG.md and an entry on the room's page."""
    section = (ROOT / "CHANGELOG.md").read_text().partition(f"#### {room.stem}\n")[2].partition("\n#### ")[0]
    page = ROOT / f"docs/api/{room.stem}.md"
    entries = re.findall(r"^::: \S*?(\w+)$", page.read_text(), re.M) if page.exists() else []
    for name in public_names(room):
        assert f"`{name}`" in section, f"name {name} of {room.stem} in CHANGELOG.md"
        assert name in entries, f"give {name} an entry in {page.name}"
