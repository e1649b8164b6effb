"""JupyterLab in a real browser: a reader runs all cells, watches the bar, interrupts, goes on, and switches to the dark theme.

Needs a Chromium on the path; pictures are left in out/lab for people's eyes.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from environment import OUT, environment  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
PICTURES = OUT / "lab"
LIMIT_MS = 120_000
CELLS = [
    "use stemm::prelude::*;\nlet data = blobs(0, device())?;\nlet network = Network::mlp(&[16, 64, 64, 4])?;\nlet kept = 41;",
    "let long = Trainer { epochs: 200_000, ..Trainer::default() }.train(&network, &data, &[0, 1])?;",
    "kept + 1",
    'let short = Trainer { epochs: 3, ..Trainer::default() }.train(&network, &data, &[0, 1])?;\nfor _ in 0..2 { short.chart().show(); }\nshort',
    "kept.no_such_method()",
    "let never = 1;",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a running JupyterLab with one notebook."""
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "stemm", "display_name": "Rust (stemm)", "language": "rust"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS], metadata=kernel)
    nbformat.write(notebook, folder / "live.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        ["jupyter", "lab", "--no-browser", f"--port={port}", "--IdentityProvider.token=", "--allow-root",
         f"--ServerApp.root_dir={folder}", "--expose-app-in-browser"],
        env=environment() | {"JUPYTER_CONFIG_DIR": str(folder / "config")}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/api").read()
            break
        except OSError:
            time.sleep(0.2)
    yield address
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def page(lab):
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        page = browser.new_page(viewport={"width": 1200, "height": 1500})
        page.set_default_timeout(LIMIT_MS)
        page.goto(f"{lab}/lab/tree/live.ipynb")
        page.wait_for_selector(".jp-CodeCell >> nth=5")
        page.wait_for_function(status("idle"))
        yield page
        page.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
        browser.close()


ERROR = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']"
NOTEBOOK = "[...window.jupyterapp.shell.widgets('main')].find(w => w.sessionContext)"


def status(wanted: str) -> str:
    return f"{NOTEBOOK}?.sessionContext?.session?.kernel?.status === '{wanted}'"


def cell(page, index: int):
    return page.locator(".jp-CodeCell").nth(index)


def command(page, name: str, arguments: str = "{}") -> None:
    page.evaluate(f"{{ window.jupyterapp.commands.execute('{name}', {arguments}); 0 }}")


def run_from(page, index: int, name: str) -> None:
    page.evaluate(f"{{ const w = {NOTEBOOK}; w.content.deselectAll(); w.content.activeCellIndex = {index}; 0 }}")
    command(page, name)


def test_a_reader_runs_all_interrupts_and_goes_on(page):
    command(page, "notebook:run-all-cells")
    bar = cell(page, 1).locator("progress")
    bar.wait_for()
    values = []
    for _ in range(5):
        values.append(float(bar.get_attribute("value")))  # fails if there are two
        time.sleep(0.5)
    assert values == sorted(values) and values[-1] > values[0], values
    page.screenshot(path=PICTURES / "training.png")
    start = time.monotonic()
    command(page, "notebook:interrupt-kernel")
    page.wait_for_function(status("idle"))
    assert time.monotonic() - start < 3
    error = cell(page, 1).locator(ERROR)
    assert "interrupted in training 2 models" in error.inner_text()
    assert "ended after" in cell(page, 1).locator(".jp-RenderedHTMLCommon").inner_text() and bar.count() == 0
    assert cell(page, 2).locator(".jp-OutputArea-output").count() == 0, "the cells behind it did not run"
    run_from(page, 2, "notebook:run-cell")
    page.wait_for_function(status("busy"))
    page.wait_for_function(status("idle"))
    assert cell(page, 2).locator(".jp-OutputArea-output").inner_text().strip() == "42"


def test_charts_are_shown_and_an_error_stops_the_run(page):
    run_from(page, 3, "notebook:run-cell-and-select-next")
    cell(page, 3).locator(".jp-RenderedSVG, .jp-RenderedImage").nth(1).wait_for()
    cell(page, 3).locator("table").wait_for()
    page.wait_for_function(status("idle"))
    run_from(page, 4, "notebook:run-all-below")
    error = cell(page, 4).locator(ERROR)
    error.wait_for()
    page.wait_for_function(status("idle"))
    assert "no method named `no_such_method`" in error.inner_text()
    assert cell(page, 5).locator(".jp-InputArea-prompt").inner_text().strip() == "[ ]:"
    page.screenshot(path=PICTURES / "light.png", full_page=True)


def brightness(color: str) -> float:
    red, green, blue = (int(part) for part in color[color.index("(") + 1:color.index(")")].split(",")[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_errors_tables_and_text_are_readable_in_the_dark_theme(page):
    command(page, "apputils:change-theme", "{theme: 'JupyterLab Dark'}")
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    time.sleep(1)
    page.screenshot(path=PICTURES / "dark.png", full_page=True)
    color = "node => getComputedStyle(node).color"
    for place in [cell(page, 4).locator(ERROR).locator("pre"), cell(page, 3).locator("td").first]:
        assert brightness(place.evaluate(color)) > 0.5
    marks = cell(page, 4).locator(ERROR).locator("span[class^=ansi-]").first
    assert brightness(marks.evaluate(color)) > 0.5, "the offending word"
