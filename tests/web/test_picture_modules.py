"""The modules of the interactive picture, imported by a page without ComfyUI."""

import csv
import functools
import io
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import ROOT
from tests.core.reports.test_picture import report_at

HOSTILE = '<img src=x onerror="window.injected = true"> <b>bold</b>'


class _Files(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}  # noqa: RUF012

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def blank(browser: Browser) -> Iterator[Page]:
    """An empty page that can import the pack's scripts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(ROOT / "web")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/docs/")
    yield page
    page.close()
    server.shutdown()


def _in_page(page: Page, code: str, *values: Any) -> Any:
    """Runs code with the pack's modules at hand, and `values` as its arguments."""
    imports = "\n".join(
        f"const {name} = await import('/layer_picture/{name}.js');"
        for name in ("parse", "counts", "layout", "store", "view")
    )
    return page.evaluate(f"async values => {{ {imports}\n{code} }}", list(values))


@pytest.mark.parametrize("threshold", [0.5, 0.81, 0.999])
def test_the_picture_counts_as_a_transfer_at_that_threshold_does(blank: Page, threshold: float) -> None:
    """The line can be dragged far from the run's threshold: what it promises is what a run there does."""
    counts = _in_page(
        blank,
        "const model = parse.parseReport(values[0]);"
        "return counts.countStates(model, counts.statesOf(model, values[1]));",
        report_at(0.75).for_picture(),
        threshold,
    )
    there = report_at(threshold)
    below = sum(item.target is not None for item in there.skipped)
    assert counts["kept"] + counts["copied"] == len(there.layers)
    assert (counts["below"], counts["unmatched"]) == (below, len(there.skipped) - below)


def test_every_layer_has_a_cell_of_its_own_that_the_pointer_and_the_keyboard_find(blank: Page) -> None:
    found = _in_page(
        blank,
        """const model = parse.parseReport(values[0]);
        const heatmap = layout.layoutHeatmap(model, 400, () => true);
        const cells = heatmap.panels.flatMap(panel => panel.cells);
        const under = cells.map(cell => layout.cellAt(heatmap, cell.x + cell.width / 2, cell.y + 3)?.layer.index);
        const reached = new Set([cells[0]]);
        for (const cell of reached)
          for (const key of ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"])
            reached.add(layout.nextCell(heatmap, cell, key));
        const wide = cells.every(cell => cell.x + cell.width <= 401);
        return { layers: model.layers.length, under, reached: reached.size, wide };""",
        report_at(0.75).for_picture(),
    )
    assert sorted(found["under"]) == list(range(found["layers"]))
    assert found["reached"] == found["layers"]
    assert found["wide"]


@pytest.mark.parametrize("report", [None, {}, {"schema": 2, "layers": [], "blocks": []}, {"schema": 1}, "text"])
def test_a_report_that_cannot_be_drawn_is_left_out(blank: Page, report: Any) -> None:
    assert _in_page(blank, "return parse.parseReport(values[0]);", report) is None


def test_a_packed_report_is_the_same_again_and_other_text_is_none(blank: Page) -> None:
    report = json.loads(json.dumps(report_at(0.75).for_picture()))
    text = _in_page(blank, "return store.pack(values[0]);", report)
    assert len(text) < len(json.dumps(report)) / 3
    assert _in_page(blank, "return store.unpack(values[0]);", text) == report
    assert _in_page(blank, "return store.unpack(values[0]);", "edited by hand") is None


def test_a_spreadsheet_gets_text_and_no_formula(blank: Page) -> None:
    report = report_at(0.75).for_picture()
    report["texts"] = [f'=HYPERLINK("x"), {text}' for text in report["texts"]]
    text = _in_page(
        blank,
        "const { toCsv } = await import('/layer_picture/export.js'); return toCsv(parse.parseReport(values[0]), 0.5);",
        report,
    )
    _, *rows = csv.reader(io.StringIO(text))
    assert len(rows) == len(report["layers"])
    assert all(row[0].startswith("'=HYPERLINK") for row in rows)


def test_names_from_files_are_shown_as_text(blank: Page) -> None:
    report = report_at(0.75).for_picture()
    report["texts"] = [HOSTILE for _ in report["texts"]]
    report["source"] = report["target"] = {"name": HOSTILE, "fingerprint": "sha"}
    images, text = _in_page(
        blank,
        """const box = document.createElement("div");
        document.body.replaceChildren(box);
        const picture = new view.LayerPicture(box, parse.parseReport(values[0]), { view: { open: true } });
        picture.chooseLayer(picture.model.layers[0]);
        await new Promise(resolve => setTimeout(resolve, 50));
        return [box.querySelectorAll("img, .lt-detail :is(i, b b)").length, box.textContent];""",
        report,
    )
    assert images == 0
    assert HOSTILE in text
    assert blank.evaluate("window.injected") is None
