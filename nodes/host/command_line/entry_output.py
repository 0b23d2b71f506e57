"""Prints what became of the LoRAs of a run, and counts it."""

import json
from collections import Counter
from collections.abc import Sequence

from ....core.library.entry import OUTCOMES, Entry
from ..library.preview import Preview
from .entry_lines import EntryLines
from .progress import Bars

_ALL, _SOME = 0, 1  # exit codes
_WITH_RESULT = ("transferred", "planned")


class Output:
    """Prints entries for people, or as JSON: a line for every file."""

    def __init__(self, bars: Bars, as_json: bool) -> None:
        self._bars, self._as_json = bars, as_json
        self._lines = EntryLines()
        self._outcomes: Counter[str] = Counter()
        self._done = 0

    def show(self, entry: Entry) -> None:
        """What this run did. As JSON it is the line of the manifest."""
        self._print(entry.as_json(), self._lines.describe(entry))
        self._count(entry)

    def show_done(self, entry: Entry) -> None:
        """What an earlier run did. For people only the files without a result are repeated, because of which the exit
        code is not 0."""
        lines = self._lines.describe(entry, done_before=True) if entry.reason else ()
        self._print({**entry.as_json(), "done_before": True}, lines)
        self._count(entry, done=True)

    def show_preview(self, preview: Preview) -> None:
        """What a run would do."""
        self._print(preview.as_json(), self._lines.describe_preview(preview))
        self._count(preview.entry, done=preview.done)

    def show_totals(self) -> None:
        counts = ", ".join(f"{self._outcomes[outcome]} {outcome}" for outcome in OUTCOMES if self._outcomes[outcome])
        earlier = f" ({self._done} of them done before)" if self._done else ""
        self.say(f"{counts or 'nothing to do'}{earlier}")

    def say(self, text: str) -> None:
        """Print a line for people only."""
        if not self._as_json:
            self._bars.line(text)

    def exit_code(self) -> int:
        """0 if every file has a result, or would get one."""
        return _SOME if any(self._outcomes[outcome] for outcome in OUTCOMES if outcome not in _WITH_RESULT) else _ALL

    def _print(self, values: dict[str, object], lines: Sequence[str]) -> None:
        if self._as_json:
            self._bars.raw_line(json.dumps(values))
            return
        for line in lines:
            self._bars.line(line)

    def _count(self, entry: Entry, *, done: bool = False) -> None:
        self._outcomes[entry.outcome] += 1
        self._done += done
        self._bars.file_done()
