"""What became of a LoRA, in a line, with what made its verdict risky."""

import re

from ....core.library.entry import Entry
from ..library.preview import Preview


class EntryLines:
    """Puts entries into lines. Every risk is printed once, with a number, and then named by its number, because a
    thousand LoRAs can share it."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def describe(self, entry: Entry, *, done_before: bool = False) -> list[str]:
        """The line of an entry, and lines for risks that no line before had. done_before: an earlier run did it."""
        earlier = " (an earlier run found this)" if done_before else ""
        if entry.reason:
            return [f"{entry.outcome:12} {entry.lora}: {entry.reason}{earlier}"]
        where = "" if entry.output is None else f" -> {entry.output.path}"
        return self._with_risks(entry, entry.outcome, where)

    def describe_preview(self, preview: Preview) -> list[str]:
        """The same for what a run would do."""
        entry = preview.entry
        if preview.done and not entry.reason:
            where = "" if entry.output is None else f" -> {entry.output.path}"
            return [f"{'done before':12} {entry.lora}{where}"]
        if preview.done or preview.output is None:
            return self.describe(entry, done_before=preview.done)
        replaced = f" (would replace {preview.replaces})" if preview.replaces else ""
        return self._with_risks(entry, entry.outcome, f" -> {preview.output}{replaced}")

    def _with_risks(self, entry: Entry, word: str, where: str) -> list[str]:
        new: list[str] = []
        marks = "".join(self._mark(risk, new) for risk in entry.risks)
        parts = [f"{entry.verdict or ''}{marks}"]
        if entry.lost is not None:
            parts.append(f"{1 - entry.lost:.0%} of its change")
        counted = ("transferred", "copied", "skipped")
        parts += [f"{entry.counts[name]} {name}" for name in counted if entry.counts.get(name)]
        return [f"{word:12} {entry.lora}: {', '.join(part for part in parts if part)}{where}", *new]

    def _mark(self, risk: str, new: list[str]) -> str:
        """The number of a risk, such as ` [1]`. A risk that is new gets the next number, and a line in `new`."""
        kind = _without_figures(risk)
        if kind not in self._numbers:
            self._numbers[kind] = len(self._numbers) + 1
            new.append(f"  [{self._numbers[kind]}] {risk}")
        return f" [{self._numbers[kind]}]"


def _without_figures(risk: str) -> str:
    """What risks have in common whose figures differ from LoRA to LoRA. Other sentences may name files, whose digits
    tell them apart."""
    return re.sub(r"[\d.]+", "#", risk) if risk.startswith("weight cosine") else risk
