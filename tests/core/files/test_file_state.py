import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_transfer.core.errors import ChangedFile, UnreadableFile
from lora_transfer.core.files import file_state
from lora_transfer.core.files.file_state import FileState, open_unchanged, state_at, state_when_opened, unchanged

OLD, NEW = b"what was there", b"something else"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    return path


def state_of(path: Path) -> FileState:
    with path.open("rb") as stream:
        return state_when_opened(stream)


def replaced(path: Path) -> None:
    path.with_name("new").write_bytes(NEW)
    os.replace(path.with_name("new"), path)


def overwritten(path: Path) -> None:
    path.write_bytes(NEW)


def overwritten_with_the_old_times(path: Path) -> None:
    status = path.stat()
    path.write_bytes(NEW)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut_short(path: Path) -> None:
    os.truncate(path, 5)


CHANGES = [replaced, overwritten, overwritten_with_the_old_times, cut_short, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_after_it_was_opened_is_refused(path: Path, change: Callable[[Path], None]) -> None:
    state = state_of(path)
    change(path)
    with pytest.raises(ChangedFile, match="after it was loaded"), open_unchanged(path, state):
        pytest.fail("it was opened")
    with pytest.raises(ChangedFile), unchanged(path, state):
        pytest.fail("it was opened")


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_refused(path: Path, change: Callable[[Path], None]) -> None:
    state = state_of(path)
    with pytest.raises(ChangedFile), unchanged(path, state):
        change(path)


def test_an_error_in_a_changed_file_is_reported_as_the_change(path: Path) -> None:
    def fail(change: Callable[[Path], None] | None) -> None:
        with open_unchanged(path, state_of(path)):
            if change is not None:
                change(path)
            raise ValueError("no JSON")

    with pytest.raises(ValueError, match="no JSON"):
        fail(None)
    with pytest.raises(ChangedFile):
        fail(cut_short)


def test_two_changes_at_once_have_two_states(path: Path) -> None:
    """A kernel's clock ticks slowly: without a pause the second change would have the time of the first."""
    states: set[FileState] = set()
    for content in range(50):
        path.write_bytes(bytes([content] * 10))
        states.add(state_of(path))
    assert len(states) == 50


def test_a_file_written_just_now_is_not_settled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not state_of(path).settled
    monkeypatch.setattr(time, "time_ns", lambda: path.stat().st_mtime_ns + 3_000_000_000)
    assert state_of(path).settled
    assert state_of(path) == state_at(path)


def test_a_clock_of_the_file_system_that_is_ahead_does_not_make_it_wait(path: Path) -> None:
    ahead = time.time_ns() + 3600 * 10**9
    os.utime(path, ns=(ahead, ahead))
    started = time.monotonic()
    assert not state_of(path).settled
    assert time.monotonic() - started < 60  # not the hour that it is ahead


def test_a_file_that_cannot_be_read_is_an_error_with_the_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnreadableFile, match=r"cannot be read \(Permission denied\)"), open_unchanged(path, None):
        pass


def test_the_tick_is_longer_than_that_of_any_kernel() -> None:
    assert file_state._TICK >= 16_000_000  # 64 ticks a second, the slowest clock in use
