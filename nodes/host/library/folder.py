"""Transfers a folder below ComfyUI's loras, for the node Transfer LoRA Folder."""

import fnmatch
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import comfy.model_management
import folder_paths
import numpy

from ....core.errors import UnreadableFile
from ....core.library.entry import OUTCOMES, Entry
from ....core.library.page import NAME as PAGE_NAME
from ....core.library.schedule import LibraryFile
from ....core.pictures.library import library_picture
from ....core.reports.line import Line
from ....core.resources import Resources
from ..base.from_model import HostBase
from .differences import describe_replaced, input_name
from .files import find_files
from .run import batch_of, open_library, transfer_library
from .settings import LibrarySettings


@dataclass(frozen=True)
class FolderResult:
    """What became of every file of a folder. new: how many of them this run did; earlier runs did the others.
    replaced: which results of runs with other settings it replaced; empty if none."""

    entries: tuple[Entry, ...]
    new: int
    manifest: Path
    source: str
    target: str
    replaced: str = ""

    def table(self) -> str:
        """A line for each file: outcome, verdict, share transferred, megabytes, name or reason."""
        return "\n".join(_row(entry) for entry in self.entries)

    def picture(self) -> numpy.ndarray:
        """The table as a picture, uint8 (height, width, 3)."""
        return library_picture(self.entries, self.source, self.target)

    def _earlier(self) -> str:
        """What earlier runs did of it."""
        done_before = len(self.entries) - self.new
        return f"; {done_before} files were done before" if done_before else ""

    def lines(self) -> tuple[Line, ...]:
        """What the node says."""
        outcomes = Counter(entry.outcome for entry in self.entries)
        done, total = outcomes["transferred"], len(self.entries)
        lines = [Line("good" if done else "bad", f"{done} of {total} LoRAs are transferred{self._earlier()}.")]
        lines += [
            Line("warn", f"{outcomes[outcome]} {outcome}: see the report.")
            for outcome in OUTCOMES
            if outcome != "transferred" and outcomes[outcome]
        ]
        if self.replaced:
            lines.append(Line("warn", self.replaced))
        lines.append(Line("plain", f"Summary of every file: {self.manifest.parent / PAGE_NAME}"))
        if done:
            lines.append(Line("next", "Refresh the page: the LoRA menus then list the results."))
        return tuple(lines)


def transfer_folder(
    source: HostBase,
    target: HostBase,
    files: list[LibraryFile],
    settings: LibrarySettings,
    using: Resources,
    tell: Callable[[str], None],
) -> FolderResult:
    """Transfer the files of a folder that are not done, into output/loras/TARGET. A cancelled run goes on next time.

    tell: gets a sentence after each file.
    """
    batch = batch_of(source, target, settings, using)
    with open_library(output_of(target)) as library:
        remaining = library.remaining(files, batch.job)
        replaced = library.count_replaced(remaining, batch.job)
        if (sentence := describe_replaced(replaced, "will be", input_name)) is not None:
            tell(sentence)
        try:
            for count, entry in enumerate(transfer_library(library, remaining, batch, files), 1):
                tell(f"{count} of {len(remaining)}: {entry.lora}: {entry.outcome}")
                comfy.model_management.throw_exception_if_processing_interrupted()
        finally:
            library.write_page()
        names = {file.name for file in files}
        entries = tuple(entry for entry in library.manifest.last_entries() if entry.lora in names)
        return FolderResult(
            entries,
            len(remaining),
            library.manifest.path,
            source.name,
            target.name,
            describe_replaced(replaced, "were", input_name) or "",
        )


def files_below_loras(folder: str, name_filter: str, subfolders: bool, target: HostBase) -> list[LibraryFile]:
    """The LoRA files of a folder below ComfyUI's loras; an empty name is all of them. UnreadableFile if there are none.

    name_filter: a pattern of file names, such as `*style*`.
    """
    roots = [Path(root).resolve() for root in folder_paths.get_folder_paths("loras")]
    below = [(root / folder).resolve() for root in roots]
    folders = [path for path, root in zip(below, roots, strict=True) if path.is_relative_to(root) and path.is_dir()]
    files = find_files([str(path) for path in folders], skip=output_of(target), subfolders=subfolders)
    pattern = name_filter.strip().casefold() or "*"
    chosen = [file for file in files if fnmatch.fnmatchcase(PurePosixPath(file.name).name.casefold(), pattern)]
    if not chosen:
        searched = ", ".join(map(str, roots))
        raise UnreadableFile(
            f"Folder {folder or 'loras'}, files {pattern}: expected LoRAs below {searched}, found none. Choose another "
            "folder or filter."
        )
    return chosen


def output_of(target: HostBase) -> Path:
    """The folder of results: output/loras/TARGET. Every LoRA menu lists output/loras."""
    return Path(folder_paths.get_output_directory()) / "loras" / PurePosixPath(target.name).stem


def _row(entry: Entry) -> str:
    share = "" if entry.lost is None or entry.reason else f"{1 - entry.lost:.0%}"
    size = "" if entry.output is None else f"{entry.output.size / 1e6:.1f} MB"
    why = f": {entry.reason}" if entry.reason else ""
    return f"{entry.outcome:12} {entry.verdict or '':7} {share:>5} {size:>10}  {entry.lora}{why}"
