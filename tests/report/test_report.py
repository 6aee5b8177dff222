"""The report of a run: one file that loads nothing, whole in a browser, honest about a damaged run."""

import re
import shutil

import pytest

from scorefield.cli import main
from scorefield.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def pages(digits_run, vector_run, tmp_path_factory):
    """The reports of a run on images and of one on vectors."""
    folder = tmp_path_factory.mktemp("reports")
    runs = {"images": digits_run, "vectors": vector_run}
    return {kind: write_report(run.path, folder / f"{kind}.html", count=100) for kind, run in runs.items()}


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, headless."""
    if CHROMIUM is None:
        pytest.fail("the report's tests need chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("kind", ["images", "vectors"])
def test_the_page_is_one_small_file_that_refers_to_nothing(pages, kind):
    """No address but data URIs and anchors of its own, and a policy that forbids loading; under 6 MB."""
    text = pages[kind].read_text()
    assert len(text.encode()) < 6_000_000
    assert "default-src 'none'" in text
    anchors = set(re.findall(r'\bid="([^"]+)"', text))
    for address in re.findall(r'\b(?:src|href)="([^"]*)"', text):
        assert address.startswith("data:image/png;base64,") or address[1:] in anchors
    assert not re.search(r"https?://|@import|url\(", text)
    assert "Not made." not in text


@pytest.mark.parametrize("kind", ["images", "vectors"])
def test_the_page_works_in_a_browser(pages, kind, browser):
    """No message on the console, nothing asked of the network; the slider moves the picture, by keyboard too."""
    page, said, asked = browser.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[kind].as_uri())
    shown = "[data-frame]" if kind == "images" else "[data-canvas]"
    state = f"(e => e.src || e.toDataURL())(document.querySelector('{shown}'))"
    last, name = page.evaluate(state), page.locator("[data-name]").text_content()
    page.locator("[data-slider]").fill("0")
    first = page.evaluate(state)
    assert first != last and page.locator("[data-name]").text_content() != name
    page.locator("[data-slider]").press("ArrowRight")
    assert page.evaluate(state) != first
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    page.close()


@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_fits_a_phone_and_a_desk(pages, browser, width):
    """Nothing but tables, which scroll by themselves, is wider than the screen; every picture has its words."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(pages["vectors"].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(i => i.alt && i.naturalWidth > 0)")
    assert page.evaluate("[...document.querySelectorAll('button, input')].every(e => e.tabIndex >= 0)")
    page.close()


def test_text_of_the_user_stays_text(vector_run, tmp_path):
    """A folder's name that is HTML is shown as it is."""
    place = tmp_path / "<script>alert(1)<"
    shutil.copytree(vector_run.path, place)
    text = write_report(place, tmp_path / "out.html", count=100).read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text


def test_a_damaged_run_has_a_report_that_says_so(vector_run, tmp_path, capsys):
    """No checkpoint, no data: the page still renders and names the trouble; the command ends with 0."""
    place = tmp_path / "run"
    shutil.copytree(vector_run.path, place)
    for file in (place / "checkpoints").glob("*/ema.safetensors"):
        file.write_bytes(b"not weights")
    assert main(["report", str(place)]) == 0
    text = (place / "report.html").read_text()
    assert "damaged" in text or "Not made." in text
    assert "Provenance" in text and "report.html" in capsys.readouterr().out
    (place / "x.npy").write_bytes(b"nothing")
    assert "This run is damaged." in write_report(place, tmp_path / "worse.html").read_text()


def test_what_is_no_run_is_refused(tmp_path, capsys):
    """A folder without a recipe: exit code 2, and nothing is written."""
    assert main(["report", str(tmp_path)]) == 2
    assert "recipe.yaml" in capsys.readouterr().err and not list(tmp_path.iterdir())
