"""What the demo prints of a report."""

import json

import pytest

from dev.demo import summarise_report

COUNTS = ("transferred", "copied", "skipped", "keys", "keys_transferred", "keys_skipped", "keys_unread")


@pytest.mark.parametrize(("cosine", "said"), [(0.9938, "mean weight cosine 0.994"), (None, "3 skipped; 3 keys")])
def test_a_report_without_some_means_is_summarised(cosine: float | None, said: str) -> None:
    """The default comparison measures no subspaces, so their means are empty."""
    report = {
        "counts": dict.fromkeys(COUNTS, 3),
        "means": {"phi": None, "phi_above_chance": None, "weight_cosine": cosine},
        "verdict": {"word": "works", "reasons": ["they are relatives"]},
    }
    assert said in summarise_report(json.dumps(report))
