"""A page that shows a manifest: totals, a table that can be sorted and filtered, and a strip for each file.

It is one file without anything from elsewhere. All texts are escaped: names and reasons come from untrusted files.
"""

import os
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path

from .entry import Entry, Outcome
from .manifest import Manifest

NAME = "summary.html"

_OUTCOMES: dict[Outcome, str] = {
    "transferred": "a file was written",
    "refused": "the two bases do not match where the LoRA acts",
    "unusable": "the file is damaged, of an unknown kind, or made for another base",
    "failed": "something was in the way; the next run tries again",
}
_COLUMNS = (
    "LoRA",
    "outcome",
    "verdict",
    "transferred",
    "where in the model",
    "layers",
    "MB",
    "seconds",
    "why, or where it is",
)
_NUMBERS = (3, 5, 6, 7)  # columns that sort by number


def write_page(manifest: Manifest, folder: Path, unfinished: Path) -> Path:
    """Write the page beside a manifest; the old page stays until the new one is whole. unfinished: a folder on the same
    disk. OSError if it cannot be written."""
    temporary, path = unfinished / f"{NAME}.unfinished", folder / NAME
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:  # file names need not be UTF-8
        stream.writelines(page(manifest))
    os.replace(temporary, path)
    return path


def page(manifest: Manifest) -> Iterator[str]:
    """The page in pieces. The manifest is read twice, because a large one does not fit into memory."""
    outcomes: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    first: Entry | None = None
    for entry in manifest.last_entries():
        first = first or entry
        outcomes[entry.outcome] += 1
        verdicts[entry.verdict or "none"] += 1
    yield _HEAD
    if first is not None:
        yield _title(first)
        yield _totals(outcomes, verdicts)
    yield '<input id="filter" type="search" placeholder="filter by any word" aria-label="filter">'
    headings = "".join(_heading(index, name) for index, name in enumerate(_COLUMNS))
    yield f"<table><thead><tr>{headings}</tr></thead><tbody>"
    yield from (_row(entry) for entry in manifest.last_entries())
    yield f"</tbody></table><script>{_SCRIPT}</script></body></html>\n"


def _title(entry: Entry) -> str:
    settings = entry.settings
    chosen = ", ".join(f"{name} {settings[name]}" for name in ("method", "out_rank", "dtype") if name in settings)
    return f"<h1>{escape(entry.source.name)} <span>to</span> {escape(entry.target.name)}</h1><p>{escape(chosen)}</p>"


def _totals(outcomes: Counter[str], verdicts: Counter[str]) -> str:
    total = sum(outcomes.values())
    boxes = [f'<button data-filter=""><b>{total}</b> LoRAs</button>']
    for outcome, meaning in _OUTCOMES.items():
        if count := outcomes[outcome]:
            attributes = f'class="{outcome}" data-filter="{outcome}" title="{escape(meaning)}"'
            boxes.append(f"<button {attributes}><b>{count}</b> {outcome}</button>")
    judged = ", ".join(f"{count} {word}" for word, count in verdicts.most_common() if word != "none")
    return f'<div class="totals">{"".join(boxes)}</div><p>{escape(judged)}</p>'


def _heading(index: int, name: str) -> str:
    kind = ' data-number="1"' if index in _NUMBERS else ""
    return f'<th tabindex="0"{kind}>{escape(name)}</th>'


def _row(entry: Entry) -> str:
    share = None if entry.lost is None or entry.outcome != "transferred" else 1 - entry.lost
    layers = entry.counts.get("transferred", 0) + entry.counts.get("copied", 0)
    size = None if entry.output is None else entry.output.size / 1e6
    verdict = entry.verdict or ""
    why = entry.reason or ("" if entry.output is None else entry.output.path)
    details = "\n".join((*entry.reasons, *entry.notes))
    cells = (
        f"<td>{escape(entry.lora)}</td>",
        f'<td><i class="{escape(entry.outcome)}">{escape(entry.outcome)}</i></td>',
        f'<td title="{escape(details)}"><i class="{escape(verdict)}">{escape(verdict)}</i></td>',
        _number(share, "" if share is None else f"{share:.0%}"),
        f"<td>{_strip(entry.strip)}</td>",
        _number(layers or None, f"{layers or ''}"),
        _number(size, "" if size is None else f"{size:,.1f}"),
        _number(entry.seconds, f"{entry.seconds:.1f}"),
        f"<td>{escape(why)}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>\n"


def _number(value: float | None, text: str) -> str:
    return f'<td data-value="{-1 if value is None else value:.6g}">{text}</td>'


def _strip(strip: str) -> str:
    """A bar for each part of the model: as high as the share of the LoRA's layers there that were transferred."""
    if not strip:
        return ""
    bars = "".join(
        f'<rect x="{index * 3}" y="{9 - int(sign)}" width="2" height="{int(sign) + 1}"/>'
        for index, sign in enumerate(strip)
        if sign.isdecimal()
    )
    attributes = f'width="{len(strip) * 3}" height="10" role="img" aria-label="from the first layer to the last"'
    return f"<svg {attributes}>{bars}</svg>"


_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Transferred LoRAs</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; --good: #2e9f4b; --warn: #c87f0a; --bad: #d9483f; --faint: #8887; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0; } h1 span { font-weight: normal; opacity: .6; } p { margin: .3rem 0; opacity: .75; }
.totals { display: flex; gap: .5rem; flex-wrap: wrap; margin: 1rem 0 .3rem; }
button, input { font: inherit; padding: .35rem .7rem; border: 1px solid var(--faint); border-radius: .5rem;
 background: none; color: inherit; }
button { cursor: pointer; } button b { font-size: 1.2rem; } input { width: 20rem; margin: .6rem 0; }
button.transferred b, i.transferred, i.works { color: var(--good); }
button.refused b, i.refused, i.risky { color: var(--warn); }
button.unusable b, button.failed b, i.unusable, i.failed, i.refuse { color: var(--bad); }
table { border-collapse: collapse; width: 100%; } i { font-style: normal; font-weight: 600; }
th { text-align: left; cursor: pointer; position: sticky; top: 0; background: Canvas; white-space: nowrap; }
th[aria-sort=ascending]::after { content: " \\2191"; } th[aria-sort=descending]::after { content: " \\2193"; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--faint); vertical-align: top; overflow-wrap: anywhere; }
td[data-value] { text-align: right; font-variant-numeric: tabular-nums; } td:nth-child(5) { min-width: 9rem; }
td:first-child { min-width: 14rem; } td:nth-child(2), td:nth-child(3) { white-space: nowrap; }
rect { fill: var(--good); }
</style></head><body>
"""

_SCRIPT = """
const body = document.querySelector("tbody"), filter = document.getElementById("filter");
const headings = [...document.querySelectorAll("th")];
function sortBy(heading) {
  const column = headings.indexOf(heading), number = heading.dataset.number;
  const down = heading.getAttribute("aria-sort") === "ascending";
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => number ? Number(row.cells[column].dataset.value) : row.cells[column].textContent;
  const order = (a, b) => number ? key(a) - key(b) : key(a).localeCompare(key(b));
  const rows = [...body.rows].sort((a, b) => down ? order(b, a) : order(a, b));
  body.append(...rows);
}
headings.forEach((heading) => {
  heading.addEventListener("click", () => sortBy(heading));
  heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sortBy(heading); });
});
function show() {
  const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}
filter.addEventListener("input", show);
document.querySelectorAll("[data-filter]").forEach((button) => {
  button.addEventListener("click", () => { filter.value = button.dataset.filter; show(); });
});
"""
