"""What files beside a LoRA say about its base: those of trainers and of download tools."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....core.files.json_text import read_json
from .adapter import Adapter
from .base_clues import BaseClues, NameClue, read_base_clues

_LARGEST = 4_000_000  # bytes

# ai-toolkit's configuration in YAML.
_NAME_IN_YAML = re.compile(r"""^\s*name_or_path:\s*["']?([^"'\n#]{1,300}?)["']?\s*(?:#.*)?$""", re.MULTILINE)


def read_clues_beside(path: Path | None) -> tuple[NameClue, ...]:
    """The names of a base in the files beside a LoRA. None of them is sure, because a folder may hold several LoRAs and
    download tools name a kind of base ("Pony") rather than a file."""
    return () if path is None else tuple(dict.fromkeys(_clues(path)))


def read_all_clues(adapter: Adapter) -> BaseClues:
    """What an adapter's file and the files beside it say about its base."""
    clues = read_base_clues(adapter.metadata)
    return replace(clues, names=(*clues.names, *read_clues_beside(adapter.path)))


def _clues(path: Path) -> Iterator[NameClue]:
    for name, key in (
        ("adapter_config.json", "base_model_name_or_path"),  # PEFT
        (f"{path.stem}.metadata.json", "base_model"),  # LoRA Manager
        (f"{path.stem}.civitai.info", "baseModel"),
        (f"{path.stem}.json", "sd version"),  # AUTOMATIC1111's web interface
    ):
        value: Any = None
        with contextlib.suppress(ValueError):
            value = read_json(_read(path.with_name(name)))
        if isinstance(value, dict) and isinstance(text := value.get(key), str) and 0 < len(text) <= 300:
            yield NameClue(text, name, sure=False)
    for name in _NAME_IN_YAML.findall(_read(path.with_name("config.yaml"))):
        yield NameClue(name.strip(), "config.yaml", sure=False)


def _read(path: Path) -> str:
    """The text of a small file; empty if there is none, or if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        if path.stat().st_size <= _LARGEST:
            return path.read_text(encoding="utf-8")
    return ""
