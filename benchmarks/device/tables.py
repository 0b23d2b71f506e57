"""Results as a page of tables, ready to be laid into RESULTS.md."""

from collections.abc import Mapping, Sequence
from typing import Any

SAME_GAP = 0.02  # by which two runs of Refine may differ in the share of the gap that they close


def page(results: Mapping[str, Any]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items() if value is not None)
    size = "toy sizes, which say nothing of speed" if results["tiny"] else "full sizes"
    parts = [_section(part) for part in results["parts"].values()]
    return f"Device {results['device']}; {machine}; {size}.\n" + "".join(parts) + _agreement(results["parts"])


def _agreement(parts: Mapping[str, Any]) -> str:
    """Refine's gap closed on the device beside the processor's, where both were measured."""
    closed = [
        {row["what"]: row["gap closed"] for row in parts.get(name, {"rows": ()})["rows"] if "gap closed" in row}
        for name in ("emoji", "emoji_cpu")
    ]
    both = [(what, closed[0][what], closed[1][what]) for what in closed[0] if what in closed[1]]
    if not both:
        return ""
    rows = [
        [what, *(_cell(one) for one in (here, there, here - there)), "yes" if abs(here - there) <= SAME_GAP else "NO"]
        for what, here, there in both
    ]
    heads = ["what", "gap closed on the device", "on the processor", "difference", f"within {SAME_GAP}"]
    return f"\n### Device and processor agree\n\n{table(heads, rows)}\n"


def _section(part: Mapping[str, Any]) -> str:
    lines = [f"\n### {part['title']}\n"]
    if part["ended"] != "well":
        lines.append(f"**Ended {part['ended']}.**\n")
    for heads, rows in _groups(part["rows"]):
        lines.append(table(heads, [[_cell(row.get(head)) for head in heads] for row in rows]) + "\n")
    lines.append(f"{part['seconds']:.0f} s in all.\n")
    return "\n".join(lines)


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[tuple[list[str], list[Mapping[str, Any]]]]:
    """Rows that stand in one table: neighbours with the same heads."""
    groups: list[tuple[list[str], list[Mapping[str, Any]]]] = []
    for row in rows:
        if groups and groups[-1][0] == list(row):
            groups[-1][1].append(row)
        else:
            groups.append((list(row), [row]))
    return groups


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "; ".join(str(one) for one in value)
    return "" if value is None else str(value).replace("|", "/").replace("\n", " ")
