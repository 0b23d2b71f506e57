"""Keeps transferred LoRAs and refusals on disk, in ComfyUI's user folder, so that each pair is compared once."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from blake3 import blake3

from ...core.errors import NothingToTransfer
from ...core.plan import TransferSettings
from ...core.reports.envelope import SCHEMA
from ...core.reports.line import Line
from ...core.tensor_store import StoredTensors, TensorStore
from ...core.version import VERSION
from .adapter.adapter import Adapter
from .settings import cache_folder

# Part of every key. Raise it when the same inputs give another transferred LoRA: old results are then never found.
_ALGORITHM = 1

_REFUSAL = "refusal"  # the only fact of a refused transfer


@dataclass(frozen=True)
class KeptResult:
    """A transferred LoRA, what the node says about it, and its report as JSON values."""

    adapter: Adapter
    lines: tuple[Line, ...]
    report: Mapping[str, Any]

    def saying(self, line: Line) -> "KeptResult":
        """The result with one more line."""
        return replace(self, lines=(*self.lines, line))


@dataclass(frozen=True)
class KeptResults:
    """Transferred LoRAs by the content that they were made from. store: None keeps nothing."""

    store: TensorStore | None

    @staticmethod
    def open() -> "KeptResults":
        """The results in ComfyUI's user folder, with the limit from the pack's settings."""
        location = cache_folder("transferred")
        return KeptResults(None if location is None else TensorStore(*location))

    def find(self, key: str) -> KeptResult | None:
        """A kept result. NothingToTransfer, with the sentence of the earlier run, if that run was refused."""
        stored = None if self.store is None else self.store.read(key)
        if stored is None:
            return None
        facts = stored.facts
        if _REFUSAL in facts:
            raise NothingToTransfer(facts[_REFUSAL])
        adapter = Adapter(facts["name"], facts["fingerprint"], facts["metadata"], tensors=stored.tensors)
        return KeptResult(adapter, tuple(Line(**line) for line in facts["lines"]), facts["report"])

    def keep(self, key: str, result: KeptResult) -> Line:
        """Keep a result. Returns a line for the node: what was kept, or why nothing was."""
        if self.store is None:
            return Line("plain", "Caches are off in the settings: the next run transfers this LoRA again.")
        adapter = result.adapter
        facts = {
            "name": adapter.name,
            "fingerprint": adapter.fingerprint,
            "metadata": dict(adapter.metadata),
            "lines": [line.as_json() for line in result.lines],
            "report": dict(result.report),
        }
        try:
            size = self.store.write(key, StoredTensors(adapter.state_dict(), facts))
        except OSError as error:
            return Line("warn", f"The result cannot be kept in {self.store.folder} ({error.strerror or error}).")
        return Line("plain", f"Kept for the next run: {size / 1e6:,.1f} MB in {self.store.folder}.")

    def keep_refusal(self, key: str, refusal: NothingToTransfer) -> None:
        """Keep a refusal. One that cannot be written is found out again in the next run."""
        if self.store is not None:
            with contextlib.suppress(OSError):
                self.store.write(key, StoredTensors({}, {_REFUSAL: str(refusal)}))


def result_key(settings: TransferSettings, **inputs: str | None) -> str:
    """The key of a result: a hash of all that it depends on. inputs: fingerprints and names of LoRA and bases."""
    facts = {"algorithm": _ALGORITHM, "pack": VERSION, "schema": SCHEMA, "settings": vars(settings), **inputs}
    return blake3(json.dumps(facts, sort_keys=True).encode()).hexdigest()
