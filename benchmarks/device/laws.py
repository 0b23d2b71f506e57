"""The tests that need a card, and the laws of every method on the device, against the oracle in float64."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from .bare import ROOT
from .parts import Row, Setting

_MOST_NAMES = 10  # failures that are named in the table; log.txt has all


class _Outcomes:
    """A plugin of pytest that keeps what became of each test."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
            if report.failed:
                self.failed.append(report.nodeid.partition("::")[2] or report.nodeid)


def rows(setting: Setting) -> Iterator[Row]:
    chosen = ("-k", "oracle") if setting.tiny else ()
    yield _tested("the laws on the device", ["tests/laws", *chosen])
    marked = _tested("tests marked gpu", ["tests/core", "tests/laws", "-m", "gpu"])
    ran = marked["passed"] or setting.device == "cpu"
    yield marked if ran else {**marked, "fault": "none of them passed"}


def _tested(what: str, words: Sequence[str]) -> Row:
    outcomes, started = _Outcomes(), time.monotonic()
    config = ["-c", str(ROOT / "tests/pytest.ini"), "--rootdir", str(ROOT / "tests"), "-q", "--tb=short"]
    places = [str(ROOT / word) if word.startswith("tests/") else word for word in words]
    code = int(pytest.main([*config, *places], plugins=[outcomes]))
    row: dict[str, Any] = {"what": what}
    row |= {name: outcomes.counts[name] for name in ("passed", "failed", "skipped")}
    row |= {"seconds": round(time.monotonic() - started, 1), "failures": outcomes.failed[:_MOST_NAMES]}
    return row if code == 0 else {**row, "fault": f"pytest ended with code {code}"}
