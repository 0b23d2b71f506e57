"""Which base a LoRA was trained on: the user's choice, a connected model, or a guess; opened only when it is needed."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ...core.errors import InvalidSetting, UnreadableFile
from ...core.files.shards import shard_paths
from ...core.reports.line import Line
from .adapter.adapter import Adapter
from .base.fingerprint import files_of
from .base.from_file import base_from_file, known_file_fingerprint
from .base.from_model import HostBase, base_from_model
from .base.merge import find_merged_weights, note_loras, note_merge
from .paths import base_names, base_path, state_of
from .trained_on import Guess, guess_source

AUTO: Literal["auto"] = "auto"
NOT_ON_DISK: Literal["not on this disk"] = "not on this disk"

_MOST_CANDIDATES = 6  # in a sentence
_SAMPLES, _SAMPLE = 64, 64  # places in a file, and bytes at each, that show that two files differ


@dataclass(frozen=True)
class Source:
    """The base that a LoRA was trained on: a file, or a loaded model. lines: how it was chosen."""

    name: str
    path: Path | None = None
    model: Any | None = None
    lines: tuple[Line, ...] = ()

    @cached_property
    def base(self) -> HostBase:
        """The base, opened at the first call."""
        if self.path is not None:
            return base_from_file(self.path, self.name)
        return base_without_loras(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the base. A file is not even opened if its fingerprint is known."""
        known = None if self.path is None else known_file_fingerprint(self.path)
        return known or self.base.fingerprint

    def is_loaded_as(self, model: Any) -> bool:
        """Whether a loaded model came from this base's file, and nothing was merged into it."""
        return any(_is_same_file(file, self.path) for file in _only_file(model) if self.path is not None)

    def equals(self, model: Any) -> bool:
        """Whether a loaded model has the weights of this base: it came from a copy of the file, or from the same file
        by another loader. Files are read only if they may be copies."""
        if self.path is None:
            return self.fingerprint == base_from_model(model).fingerprint
        return any(_may_be_copy(file, self.path) and self.fingerprint == _hash_file(file) for file in _only_file(model))


def trained_on_options() -> list[str]:
    return [AUTO, NOT_ON_DISK, *base_names()]


def watch_source(trained_on: str) -> list[str]:
    """The states of the files that the choice depends on, for ComfyUI's cache: all base files for a guess."""
    if trained_on == NOT_ON_DISK:
        return []
    if trained_on != AUTO:
        return state_of(*shard_paths(base_path(trained_on)))
    return [f"{name} {state}" for name in base_names() for state in _states_of(name)]


def _states_of(base_name: str) -> list[str]:
    with contextlib.suppress(UnreadableFile):  # the list of names can be older than the folder
        return state_of(base_path(base_name))
    return ["missing"]


def choose_source(trained_on: str, source_model: Any | None, adapter: Adapter, target: HostBase) -> Source | None:
    """The base that the LoRA was trained on; None if it is not on this disk. A connected model goes before the name.

    InvalidSetting with the candidates if the base has to be guessed, and the LoRA does not say enough.
    """
    if source_model is not None:
        notes = tuple(Line.sentence("plain", note) for note in note_loras(source_model, "source model"))
        return Source(base_without_loras(source_model).name, model=source_model, lines=notes)
    if trained_on == NOT_ON_DISK:
        return None
    if trained_on != AUTO:
        return Source(trained_on, base_path(trained_on))
    guess = guess_source(adapter, target, base_names())
    if guess.base_name is None or not guess.sure:
        raise InvalidSetting(_ask(adapter.name, guess))
    headline = Line("plain", f"trained_on auto: {adapter.name} was trained on {guess.base_name}.")
    evidence = (Line.sentence("plain", sentence) for sentence in guess.evidence)
    return Source(guess.base_name, base_path(guess.base_name), lines=(headline, *evidence))


def base_without_loras(model: Any) -> HostBase:
    """The base of a loaded model. LoRAs on it are left out without a note, because they are not a part of the base."""
    return replace(base_from_model(model), notes=note_merge(model, "model"))


def _ask(lora: str, guess: Guess) -> str:
    """The sentence for a guess that is not sure."""
    return (
        f"LoRA {lora}: it is not certain which base it was trained on: {'; '.join(guess.evidence)}. It fits "
        f"{_list(guess.candidates)}: choose in trained_on, or choose {NOT_ON_DISK!r} there."
    )


def _list(candidates: Sequence[str]) -> str:
    if not candidates:
        return "no base file on this disk but the connected model's"
    more = len(candidates) - _MOST_CANDIDATES
    return ", ".join(candidates[:_MOST_CANDIDATES]) + (f" and {more} others" if more > 0 else "")


def _only_file(model: Any) -> tuple[Path, ...]:
    """The file that a model without a merge was loaded from, as a tuple of one; empty if unknown."""
    files = files_of(model)
    return files if len(files) == 1 and files[0].is_file() and not find_merged_weights(model.patches) else ()


def _is_same_file(first: Path, second: Path) -> bool:
    return second.exists() and first.samefile(second)


def _may_be_copy(first: Path, second: Path) -> bool:
    """Whether two files have the same size and the same bytes in some places. Fine-tunes of one model often have the
    same size, and reading all of a file takes seconds."""
    if not second.is_file() or first.stat().st_size != second.stat().st_size:
        return False
    return _sample(first) == _sample(second)


def _sample(file: Path) -> bytes:
    """A few bytes from places all over a file."""
    size = file.stat().st_size
    with file.open("rb", buffering=0) as stream:
        parts: list[bytes] = []
        for part in range(_SAMPLES):
            stream.seek(size * part // _SAMPLES)
            parts.append(stream.read(_SAMPLE))
    return b"".join(parts)


def _hash_file(file: Path) -> str:
    return known_file_fingerprint(file) or base_from_file(file, file.name).fingerprint
