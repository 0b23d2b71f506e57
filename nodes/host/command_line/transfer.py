"""cli.py transfer: transfers files and folders of LoRAs."""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ....core.cache import SubspaceCache
from ....core.errors import UnreadableFile
from ....core.library.entry import OUTCOMES, Entry
from ....core.library.manifest import NAME, Manifest
from ....core.library.page import NAME as PAGE_NAME
from ....core.library.schedule import LibraryFile
from ..device import machine_resources
from ..library.batch import Batch
from ..library.files import find_files
from ..library.folder import output_of
from ..library.run import Library, batch_of, open_library, plan_library, transfer_library
from ..library.settings import LibrarySettings, compare_settings_for
from .find import locate_loras, open_base, read_model_paths
from .parser import transfer_settings
from .progress import Bars

_ALL, _SOME = 0, 1  # exit codes


def transfer(options: argparse.Namespace, comfyui: Path) -> int:
    """Transfer what the options name; returns the exit code."""
    read_model_paths(comfyui)
    settings = library_settings(options)
    source, target = open_base(options.source), open_base(options.target)
    out = _absolute(options.out) if options.out else output_of(target)
    files = find_files(locate_loras(options.loras), options.suffix, skip=out)
    if not files:
        raise UnreadableFile(
            f"LoRAs {', '.join(options.loras)}: expected LoRA files, found none outside of the folder of the results, "
            f"{out}. Name a folder with LoRAs, and another one with --out."
        )
    with Bars(len(files), quiet=options.json) as bars:
        using = machine_resources(bars.layer, options.workers)
        if options.cache is not None:
            using = replace(using, cache=SubspaceCache(_absolute(options.cache)))
        batch = batch_of(source, target, settings, using)
        if options.dry_run:
            return _finish(_show(plan_library(files, batch), bars, options.json), 0, None, bars, options.json)
        return _run(files, batch, out, _Start(bars, comfyui, options))


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def library_settings(options: argparse.Namespace) -> LibrarySettings:
    """The settings of a run, from the options."""
    chosen = transfer_settings(options)
    block_map = read_block_map(options.block_map)
    compare = compare_settings_for(chosen.method, options.match_by, block_map)
    return LibrarySettings(compare, chosen, options.dtype, options.spelling, options.force)


def read_block_map(path: str) -> str:
    """The text of a block map's file; empty without one."""
    if not path:
        return ""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"Block map {path}: expected a JSON file, but it cannot be read ({error}).") from error


@dataclass(frozen=True)
class _Start:
    """What a run is started with: its progress bar, ComfyUI's folder, and the options."""

    bars: Bars
    comfyui: Path
    options: argparse.Namespace

    def transfer(self, library: Library, files: Sequence[LibraryFile], batch: Batch) -> Iterator[Entry]:
        """Transfer the files here, or on a cluster."""
        options = self.options
        if options.ray is None or not files:
            return transfer_library(library, files, batch)
        from ..cluster.run import Cluster, transfer_on_cluster

        cache = None if options.cache is None else _absolute(options.cache)
        cluster = Cluster(options.ray, self.comfyui, options.workers, options.cpu, cache)
        return transfer_on_cluster(library, files, batch, cluster, self.bars.note, self.bars.batch)


def _run(files: Sequence[LibraryFile], batch: Batch, out: Path, start: _Start) -> int:
    bars, options = start.bars, start.options
    with open_library(out, options.overwrite) as library:
        remaining = library.remaining(files, batch.job)
        skipped = len(files) - len(remaining)
        for _ in range(skipped):
            bars.file_done()
        done = {file.name for file in files} - {file.name for file in remaining}
        before = Counter(library.entries[name].outcome for name in done)
        try:
            outcomes = _show(start.transfer(library, remaining, batch), bars, options.json)
        finally:
            library.write_page()
        return _finish(before + outcomes, skipped, library.manifest, bars, options.json)


def _show(entries: Iterator[Entry], bars: Bars, as_json: bool) -> Counter[str]:
    """Print every entry, and count the outcomes."""
    outcomes: Counter[str] = Counter()
    for entry in entries:
        outcomes[entry.outcome] += 1
        bars.line(json.dumps(entry.as_json()) if as_json else describe(entry))
        bars.file_done()
    return outcomes


def describe(entry: Entry) -> str:
    """An entry in a line."""
    if entry.reason:
        return f"{entry.outcome:12} {entry.lora}: {entry.reason}"
    parts = [entry.verdict or ""]
    if entry.lost is not None:
        parts.append(f"{1 - entry.lost:.0%} of its change")
    parts += [f"{entry.counts[name]} {name}" for name in ("transferred", "copied", "skipped") if entry.counts.get(name)]
    where = "" if entry.output is None else f" -> {entry.output.path}"
    return f"{entry.outcome:12} {entry.lora}: {', '.join(part for part in parts if part)}{where}"


def _finish(outcomes: Counter[str], skipped: int, manifest: Manifest | None, bars: Bars, as_json: bool) -> int:
    """Print the totals; returns the exit code."""
    if not as_json:
        counted = (
            ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in OUTCOMES if outcomes[outcome]) or "nothing to do"
        )
        earlier = f" ({skipped} of them done before)" if skipped else ""
        bars.line(f"{counted}{earlier}")
        if manifest is not None:
            bars.line(f"what became of every file: {manifest.path.parent / PAGE_NAME}, {NAME}")
    without = sum(count for outcome, count in outcomes.items() if outcome not in ("transferred", "planned"))
    return _SOME if without else _ALL
