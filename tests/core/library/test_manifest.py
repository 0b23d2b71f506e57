"""The manifest: lines that last, torn lines, and lines that nobody wrote."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lora_transfer.core.errors import UnreadableFile
from lora_transfer.core.library.entry import Entry, FileMark, Output, same_result
from lora_transfer.core.library.manifest import NAME, open_manifest
from lora_transfer.core.reports.envelope import Identity


def entry(lora: str, **changes: object) -> Entry:
    bases = Identity("old", "1"), Identity("new", "2")
    made = Entry(lora, FileMark(3, 4, "hash"), *bases, {"method": "copy"}, "transferred", output=Output(lora, 5, "x"))
    return replace(made, **changes)  # pyright: ignore[reportArgumentType]


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    manifest = open_manifest(tmp_path / NAME)
    assert list(manifest.entries()) == []
    written = [entry("a", counts={"copied": 3}, reasons=("so",)), entry("b \udcff", outcome="failed", output=None)]
    for line in written:
        manifest.add(line)
    assert list(open_manifest(tmp_path / NAME).entries()) == written


def test_the_last_line_of_a_lora_counts(tmp_path: Path) -> None:
    manifest = open_manifest(tmp_path / NAME)
    for line in (entry("a", seconds=1.0), entry("b"), entry("a", seconds=2.0, reasons=("why",))):
        manifest.add(line)
    assert [line.lora for line in manifest.last_entries()] == ["b", "a"]
    latest = manifest.latest()
    assert latest["a"].output == Output("a", 5, "x")
    assert latest["a"].reasons == ()  # sentences are not kept in memory


def test_a_result_stays_known_when_a_later_attempt_fails_or_goes_elsewhere(tmp_path: Path) -> None:
    manifest = open_manifest(tmp_path / NAME)
    elsewhere = Output("a_x", 6, "y")
    for line in (entry("a"), entry("a", output=elsewhere), entry("a", outcome="failed", output=None)):
        manifest.add(line)
    first = Output("a", 5, "x")
    assert manifest.older_outputs(manifest.latest()) == {("a", "a"): first, ("a", "a_x"): elsewhere}
    manifest.add(entry("a"))
    assert manifest.older_outputs(manifest.latest()) == {("a", "a_x"): elsewhere}  # the other is in the last entry


def test_a_line_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    manifest = open_manifest(tmp_path / NAME)
    manifest.add(entry("a"))
    whole = manifest.path.read_bytes()
    manifest.path.write_bytes(whole + whole[:40])
    assert [line.lora for line in manifest.entries()] == ["a"]
    assert manifest.path.read_bytes() == whole + whole[:40]  # reading changes nothing


@pytest.mark.parametrize("cut", [1, 2, 50, 100_000])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    manifest = open_manifest(tmp_path / NAME)
    manifest.add(entry("a"))
    whole = manifest.path.read_bytes()
    manifest.add(entry("b" * 90_000))
    manifest.path.write_bytes(manifest.path.read_bytes()[:-cut] if cut < 90_000 else whole)
    assert [line.lora for line in open_manifest(tmp_path / NAME).entries()] == ["a"]
    assert manifest.path.read_bytes() == whole


def test_a_file_that_is_only_a_torn_line_becomes_empty(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"schema": 1, "lo')
    assert list(open_manifest(tmp_path / NAME).entries()) == []


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "{}",
        '{"schema": 99}',
        '{"schema": 1, "lora": "a"}',
        json.dumps({**entry("a").as_json(), "more": 1}),
        json.dumps({**entry("a").as_json(), "outcome": "eaten"}),
        json.dumps({**entry("a").as_json(), "file": {"x": 1}}),
    ],
)
def test_a_line_that_the_pack_did_not_write_is_named(tmp_path: Path, line: str) -> None:
    manifest = open_manifest(tmp_path / NAME)
    manifest.add(entry("a"))
    with manifest.path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UnreadableFile, match=r"line 2: expected"):
        list(open_manifest(tmp_path / NAME).entries())


def test_times_make_no_difference() -> None:
    assert same_result(entry("a", seconds=1.0), entry("a", seconds=2.0, finished=3.0))
    assert not same_result(entry("a"), entry("a", reason="no"))
    assert not same_result(None, entry("a"))
