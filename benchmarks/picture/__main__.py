"""python3 run.py bench picture: the size of the picture's data, and the time to read and draw it.

The picture is drawn by a real Chromium without a graphics card, on reports of the size of SDXL and Flux.
"""

import argparse
import functools
import json
import statistics
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from playwright.sync_api import Page, sync_playwright

from dev.browser import MISSING, find_browser
from dev.paths import ROOT

from .models import PRUNED_DEPTHS, compare_inventories, comparison_report, flux, sdxl, transferred_report

# Runs in the page: milliseconds to parse a report, and to draw the strip, the scale and the open heatmap.
_MEASURE = """async ([text, threshold, rounds]) => {
  const { parseReport } = await import("/web/layer_picture/parse.js");
  const { LayerPicture } = await import("/web/layer_picture/view.js");
  const times = [];
  for (let round = 0; round < rounds; round += 1) {
    const box = document.createElement("div");
    box.style.width = "400px";
    document.body.replaceChildren(box);
    await new Promise(requestAnimationFrame);
    const start = performance.now();
    const picture = new LayerPicture(box, parseReport(JSON.parse(text)), { threshold, view: { open: false } });
    const shown = performance.now();
    picture.isOpen = true;
    picture.draw();
    const opened = performance.now();
    picture.draw();
    times.push([shown - start, opened - shown, performance.now() - opened]);
    picture.destroy();
  }
  return times;
}"""


def main(rounds: int) -> dict[str, Any]:
    base, pruned = sdxl("sdxl"), sdxl("pruned", PRUNED_DEPTHS)
    reports = {
        "SDXL": (comparison_report(compare_inventories(base, sdxl("fine-tune")), None), None),
        "SDXL to a pruned model": (transferred_report(compare_inventories(base, pruned), "lora", 0.75), 0.75),
        "Flux": (transferred_report(compare_inventories(flux("dev"), flux("other")), "lora", 0.8), 0.8),
    }
    texts = {name: json.dumps(report.for_picture(), allow_nan=False) for name, (report, _) in reports.items()}
    figures: dict[str, Any] = {}
    print(f"{'report':26}{'layers':>8}{'kB':>7}{'show':>8}{'open':>8}{'recolour':>10}   ms, median of {rounds}")
    with _open_page() as page:
        for name, (report, threshold) in reports.items():
            times = page.evaluate(_MEASURE, [texts[name], threshold, rounds])
            shown, opened, recoloured = (statistics.median(column) for column in zip(*times, strict=True))
            layers, size = len(report.layers) + len(report.skipped), len(texts[name]) / 1000
            print(f"{name:26}{layers:8}{size:7.0f}{shown:8.1f}{opened:8.1f}{recoloured:10.1f}")
            figures[name] = {"layers": layers, "kB": size, "show": shown, "open": opened, "recolour": recoloured}
    return figures


@contextmanager
def _open_page() -> Iterator[Page]:
    """A page of a Chromium that can import the pack's scripts."""
    executable = find_browser()
    if executable is None:
        sys.exit(f"There is {MISSING}.")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(ROOT)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 500, "height": 1000})
        page.goto(f"http://127.0.0.1:{server.server_port}/web/")
        yield page
        browser.close()
    server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    """Serves the pack's files without a log."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}  # noqa: RUF012

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds")
    print(json.dumps(main(3 if parser.parse_args().quick else 30)))
