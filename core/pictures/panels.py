"""Arranges the layers of a report for the heatmap: blocks that share roles form a panel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..reports.transfer import Report
from ..similarity import LayerSimilarity

State = Literal["kept", "copied", "below", "unmatched"]

OTHER = "other layers"
_SMALL = 4  # blocks of one role: fewer of them get no panel of their own


@dataclass(frozen=True)
class Cell:
    """A layer. state: below is left out by the threshold; unmatched has no partner in the target."""

    role: str
    state: State
    similarity: LayerSimilarity | None

    def figures(self) -> tuple[float | None, float | None]:
        """The similarity, and the similarity above chance."""
        if self.similarity is None:
            return None, None
        if self.similarity.rank is None:  # by weight cosine, whose chance level is zero
            return self.similarity.weight_cosine, self.similarity.weight_cosine
        return self.similarity.phi, self.similarity.above_chance


@dataclass(frozen=True)
class Panel:
    """Blocks that share roles: the cells of each block by role."""

    columns: Mapping[str, Mapping[str, Cell]]
    rows: tuple[str, ...]

    @property
    def has_header(self) -> bool:
        return self.rows != (OTHER,)

    @property
    def lines(self) -> int:
        return len(self.rows) + self.has_header

    def part(self, start: int, count: int) -> "Panel":
        return Panel(dict(list(self.columns.items())[start : start + count]), self.rows)


def panels_of(report: Report) -> list[Panel]:
    """Group blocks that share roles, largest panel first; single layers form a row at the end."""
    columns = _columns(report)
    groups: list[tuple[list[str], list[str]]] = []  # blocks, roles
    for block, cells in columns.items():
        related = [group for group in groups if set(group[1]) & set(cells)]
        groups = [group for group in groups if group not in related]
        blocks = [name for group in related for name in group[0]] + [block]
        groups.append((blocks, list(dict.fromkeys([role for group in related for role in group[1]] + list(cells)))))
    order = {block: index for index, block in enumerate(columns)}
    panels: list[Panel] = []
    single: dict[str, Mapping[str, Cell]] = {}
    for blocks, roles in groups:
        if len(roles) == 1 and len(blocks) < _SMALL:
            single |= {block: {OTHER: cell} for block in blocks for cell in columns[block].values()}
        else:
            ordered = sorted(blocks, key=order.__getitem__)
            panels.append(Panel({block: columns[block] for block in ordered}, tuple(roles)))
    panels.sort(key=lambda panel: -len(panel.columns) * len(panel.rows))
    ordered = sorted(single, key=order.__getitem__)
    return [*panels, Panel({block: single[block] for block in ordered}, (OTHER,))] if single else panels


def _columns(report: Report) -> dict[str, dict[str, Cell]]:
    """The cells of each block by role, in the order of the models; removed blocks have their source's name."""
    columns: dict[str, dict[str, Cell]] = {pair.target or f"{pair.source} ": {} for pair in report.blocks}
    roles = {pair.target or f"{pair.source} ": pair.roles for pair in report.blocks}
    fed = {pair.source: pair.target or f"{pair.source} " for pair in reversed(report.blocks)}
    for layer in report.layers:
        target = layer.pair.target
        cell = Cell(target.role, "copied" if layer.decision == "copied" else "kept", layer.similarity)
        columns.setdefault(target.block or target.name, {})[target.role] = cell
    for item in report.skipped:
        if item.source is not None:
            layer = item.target or item.source
            name = layer.block or layer.name
            block = name if item.target is not None else fed.get(name, f"{name} ")
            state: State = "unmatched" if item.target is None else "below"
            columns.setdefault(block, {}).setdefault(layer.role, Cell(layer.role, state, item.similarity))
    return {
        block: {role: cells[role] for role in dict.fromkeys((*roles.get(block, ()), *cells)) if role in cells}
        for block, cells in columns.items()
        if cells
    }
