"""Results as a page of tables, ready to be laid into RESULTS.md."""

from collections.abc import Mapping, Sequence
from typing import Any


def page(results: Mapping[str, Any]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items() if value is not None)
    size = "toy sizes, which say nothing of speed" if results["tiny"] else "full sizes"
    parts = [_section(part) for part in results["parts"].values()]
    return f"Device {results['device']}; {machine}; {size}.\n" + "".join(parts)


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
