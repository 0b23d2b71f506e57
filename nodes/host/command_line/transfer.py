"""cli.py transfer: transfers files and folders of LoRAs."""

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ....core.cache import SubspaceCache
from ....core.errors import UnreadableFile
from ....core.library.entry import Entry
from ....core.library.manifest import NAME
from ....core.library.page import NAME as PAGE_NAME
from ....core.library.schedule import Change, LibraryFile
from ....core.matching import blocks_of, parse_block_map
from ..base.from_model import HostBase
from ..device import machine_resources
from ..library.batch import Batch
from ..library.differences import describe_replaced
from ..library.earlier import read_earlier_runs
from ..library.files import find_files
from ..library.folder import output_of
from ..library.preview import preview_library
from ..library.run import Library, batch_of, open_library, transfer_library
from ..library.settings import LibrarySettings, compare_settings_for
from .entry_output import Output
from .find import locate_loras, open_base, read_model_paths
from .method_options import transfer_settings
from .progress import Bars

_IN_THE_WAY = "Move it to another folder, choose another --out or --suffix, or add --overwrite to replace it."
_KEEP_THEM = "choose another --out or --suffix"


def transfer(options: argparse.Namespace, comfyui: Path) -> int:
    """Transfer what the options name; returns the exit code."""
    read_model_paths(comfyui)
    settings = library_settings(options)
    source, target = open_base(options.source), open_base(options.target)
    require_block_map(settings.compare.block_map, source, target)
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
        start = _Start(bars, comfyui, options, Output(bars, options.json))
        return _preview(files, batch, out, start) if options.dry_run else _run(files, batch, out, start)


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


def require_block_map(text: str, source: HostBase, target: HostBase) -> None:
    """InvalidSetting if a block map cannot be used between two bases; without this, every LoRA would fail because of
    it."""
    if text:
        parse_block_map(text, *([block.name for block in blocks_of(base.layers.values())] for base in (source, target)))


@dataclass(frozen=True)
class _Start:
    """What a run is started with: its progress bar, ComfyUI's folder, the options, and where entries are printed."""

    bars: Bars
    comfyui: Path
    options: argparse.Namespace
    output: Output

    def warn(self, replaced: Counter[tuple[Change, ...]], verb: str, advice: str) -> None:
        """Say which results of runs with other settings are replaced, on the error stream."""
        if (sentence := describe_replaced(replaced, verb)) is not None:
            self.bars.note(f"{sentence} To keep them, {advice}.")

    def transfer(
        self, library: Library, files: Sequence[LibraryFile], batch: Batch, among: Sequence[LibraryFile]
    ) -> Iterator[Entry]:
        """Transfer the files here, or on a cluster. among: as for `note_entries`."""
        options = self.options
        if options.ray is None or not files:
            return transfer_library(library, files, batch, among)
        from ..cluster.run import Cluster, transfer_on_cluster

        cache = None if options.cache is None else _absolute(options.cache)
        cluster = Cluster(options.ray, self.comfyui, options.workers, options.cpu, cache)
        return transfer_on_cluster(library, files, batch, cluster, self.bars.note, self.bars.batch, among)


def _run(files: Sequence[LibraryFile], batch: Batch, out: Path, start: _Start) -> int:
    with open_library(out, start.options.overwrite, _IN_THE_WAY) as library:
        remaining = library.remaining(files, batch.job)
        start.warn(library.count_replaced(remaining, batch.job), "will be", f"stop now (Ctrl-C) and {_KEEP_THEM}")
        done = {file.name for file in files} - {file.name for file in remaining}
        try:
            for entry in library.lines_of(done):
                start.output.show_done(entry)
            for entry in start.transfer(library, remaining, batch, files):
                start.output.show(entry)
        finally:
            library.write_page()
        start.output.show_totals()
        start.output.say(f"what became of every file: {out / PAGE_NAME}, {NAME}")
        return start.output.exit_code()


def _preview(files: Sequence[LibraryFile], batch: Batch, out: Path, start: _Start) -> int:
    """Say what a run would do with every file."""
    earlier = read_earlier_runs(out, start.options.overwrite, _IN_THE_WAY)
    remaining = earlier.remaining(files, batch.job)
    start.warn(earlier.count_replaced(remaining, batch.job), "would be", _KEEP_THEM)
    for preview in preview_library(files, remaining, batch, earlier):
        start.output.show_preview(preview)
    start.output.show_totals()
    start.output.say(f"results would go to {out}")
    return start.output.exit_code()
