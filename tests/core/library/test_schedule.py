"""Which files are still to be done, and in which batches."""

from dataclasses import replace
from pathlib import Path

import pytest

from lora_transfer.core.library.entry import Entry, FileMark, Output
from lora_transfer.core.library.schedule import Change, Job, LibraryFile, batches, is_done
from lora_transfer.core.reports.envelope import Identity

JOB = Job(Identity("old", "1"), Identity("new", "2"), {"method": "copy", "gain": 1.0})
FILE = LibraryFile(Path("a.safetensors"), "a.safetensors", "a_new.safetensors")
MARK = FileMark(100, 7, "hash")
DONE = Entry(
    FILE.name, MARK, JOB.source, JOB.target, JOB.settings, "transferred", output=Output(FILE.output, 50, "sha")
)


def done(entry: Entry | None = DONE, job: Job = JOB, mark: FileMark | None = MARK, size: int | None = 50) -> bool:
    return is_done(entry, FILE, job, mark, lambda output: size, lambda path: "hash")


def test_a_job_names_what_it_does_otherwise() -> None:
    assert JOB.changes_since(DONE) == ()
    same_bases = replace(DONE, source=Identity("renamed", "1"), settings={"gain": 1.0, "method": "copy"})
    assert JOB.changes_since(same_bases) == ()
    other = replace(DONE, target=Identity("new", "3"), settings={"method": "lora_x", "older": 1})
    assert JOB.changes_since(other) == (
        Change("target", "new", "new"),
        Change("method", "lora_x", "copy"),
        Change("gain", None, 1.0),
        Change("older", 1, None),
    )


def test_a_file_with_a_line_and_a_result_is_done() -> None:
    assert done()


@pytest.mark.parametrize(
    "again",
    [
        lambda: done(None),
        lambda: done(replace(DONE, outcome="failed")),
        lambda: done(job=replace(JOB, settings={"method": "copy", "gain": 2.0})),
        lambda: done(job=replace(JOB, target=Identity("new", "3"))),
        lambda: done(mark=FileMark(101, 7)),
        lambda: done(mark=None),
        lambda: done(size=None),
        lambda: done(size=51),
        lambda: done(replace(DONE, output=Output("another name", 50, "sha"))),
        lambda: done(replace(DONE, file=FileMark(100, 7, "old hash")), mark=FileMark(100, 8)),
        lambda: done(replace(DONE, file=FileMark(100, 7, None)), mark=FileMark(100, 8)),
    ],
)
def test_what_changed_is_done_again(again: object) -> None:
    assert not again()  # pyright: ignore[reportCallIssue]


def test_names_of_bases_and_times_of_files_make_no_difference() -> None:
    assert done(job=replace(JOB, target=Identity("renamed", "2")))
    assert done(mark=FileMark(100, 8))


def test_an_unusable_file_is_not_tried_again_until_it_changes() -> None:
    unusable = replace(DONE, outcome="unusable", output=None)
    assert done(unusable)
    assert not done(unusable, mark=FileMark(99, 7))


def test_batches_keep_the_order_and_the_limits() -> None:
    assert [list(batch) for batch in batches([5, 5, 5, 20, 1], 10)] == [[0, 1], [2], [3], [4]]
    assert [list(batch) for batch in batches([1] * 5, 100, most=2)] == [[0, 1], [2, 3], [4]]
    assert list(batches([], 10)) == []
