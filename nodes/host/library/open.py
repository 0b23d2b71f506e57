"""Opens the LoRA files of a batch, and says in a sentence why one cannot be used."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import psutil

from ....core.attempt import attempt
from ....core.delta import LowRankDelta
from ....core.errors import (
    ChangedFile,
    InvalidSetting,
    LoraTransferError,
    NothingToTransfer,
    ShapeMismatch,
    UnreadableFile,
    UnsupportedAdapter,
)
from ....core.library.entry import FileMark, Outcome
from ....core.library.schedule import LibraryFile
from ....core.verdict import Verdict
from ..adapter.adapter import Adapter, adapter_from_file
from ..adapter.read import AdapterOnBase, read_adapter
from ..base.from_model import HostBase
from .files import hash_of, mark_at

# Errors that come again with every attempt until the file changes.
_OF_THE_FILE = (UnreadableFile, UnsupportedAdapter, ShapeMismatch, NothingToTransfer, InvalidSetting)

# Bytes of memory for each byte of a file, at least. Beyond the free memory the system would end the whole run.
_MEMORY = 3


@dataclass(frozen=True)
class OpenFile:
    """A LoRA file in memory, on the layers of the source. seconds: what opening it took."""

    file: LibraryFile
    mark: FileMark
    adapter: Adapter
    placed: AdapterOnBase
    seconds: float

    def deltas(self) -> Mapping[str, LowRankDelta] | None:
        """The deltas by source layer; None if not all of its kinds have factors."""
        factored = self.placed.factored
        return factored if len(factored) == len(self.placed.modules) else None


@dataclass(frozen=True)
class Failure:
    """A file without a result, and the reason."""

    file: LibraryFile
    mark: FileMark
    outcome: Outcome
    reason: str
    verdict: Verdict | None = None
    seconds: float = 0.0


def open_file(file: LibraryFile, source: HostBase) -> OpenFile | Failure:
    """Read a file into memory."""
    started = time.monotonic()
    mark = mark_at(file.path)
    if mark is None:
        reason = (
            f"File {file.path}: expected a file, found none, or something that is not a file. Remove it or try again."
        )
        return Failure(file, FileMark(0, 0), "failed", reason)
    if mark.size * _MEMORY > (available := psutil.virtual_memory().available):
        return Failure(file, mark, "failed", _too_large(file, mark, available))
    result = attempt(lambda: _read(file, source))
    seconds = time.monotonic() - started
    if isinstance(result, Exception):
        return fail(file, mark, result, seconds)
    adapter, placed = result
    return OpenFile(file, replace(mark, fingerprint=adapter.fingerprint), adapter, placed, seconds)


def _too_large(file: LibraryFile, mark: FileMark, available: int) -> str:
    needed = f"{mark.size * _MEMORY / 1e9:.1f} GB ({available / 1e9:.1f} GB are free)"
    return (
        f"File {file.path}: expected a LoRA that fits into memory, found {mark.size / 1e9:.1f} GB, which need about "
        f"{needed}. Close other programs, or leave it out."
    )


def _read(file: LibraryFile, source: HostBase) -> tuple[Adapter, AdapterOnBase]:
    adapter = adapter_from_file(file.path, file.name)
    in_memory = replace(adapter, path=None, state=None, tensors=adapter.state_dict())
    return in_memory, read_adapter(in_memory, source)


def fail(
    file: LibraryFile, mark: FileMark, error: Exception, seconds: float, verdict: Verdict | None = None
) -> Failure:
    """A file without a result, because of an error."""
    lasting = isinstance(error, _OF_THE_FILE) and not isinstance(error, ChangedFile)
    if lasting and mark.fingerprint is None:
        mark = replace(mark, fingerprint=hash_of(file.path))
    return Failure(file, mark, "unusable" if lasting else "failed", _sentence(error), verdict, seconds)


def _sentence(error: Exception) -> str:
    if isinstance(error, LoraTransferError):
        return str(error)
    if isinstance(error, MemoryError):
        return "The memory is not enough for this LoRA. Close other programs, and start the run again."
    return f"An error that should not occur ({type(error).__name__}: {str(error)[:300]}). Please report it."
