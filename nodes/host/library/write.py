"""Writes the result of a LoRA: never over a file that is not known to be ours, and the same bytes every time."""

import os
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from torch import Tensor

from ....core.errors import UnwritableFile
from ....core.files import file_sha256
from ....core.files.tensor_writer import save_tensors
from ....core.library.entry import Output


@dataclass(frozen=True)
class OutputFolder:
    """Where results go. unfinished: the folder for files that are being written. overwrite: files that the run did not
    write may be replaced too."""

    path: Path
    unfinished: Path
    overwrite: bool = False

    def size(self, output: str) -> int | None:
        """The size of a file in it; None if there is none."""
        try:
            return (self.path / output).stat().st_size
        except OSError:
            return None

    def write(
        self, output: str, tensors: dict[str, Tensor], metadata: dict[str, str] | None, before: Output | None
    ) -> Output:
        """Write a file. The name never belongs to a partial file.

        before: the file that an earlier run wrote for the same LoRA, which may be replaced. UnwritableFile if the file
        cannot be written, or if another one has that name.
        """
        final, unfinished = self.path / output, self.unfinished / f"{uuid4().hex}.unfinished"
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                sha256 = save_tensors(unfinished, tensors, metadata)
                size = unfinished.stat().st_size
                self._publish(unfinished, final, sha256, before)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise UnwritableFile(
                f"File {final}: it cannot be written ({error.strerror or error}). Free disk space or check the "
                "permissions, and start the run again."
            ) from error
        return Output(output, size, sha256)

    def _publish(self, unfinished: Path, final: Path, sha256: str, before: Output | None) -> None:
        if not os.path.lexists(final) or self.overwrite:
            os.replace(unfinished, final)
            return
        existing = file_sha256(final).removeprefix("sha256:")
        if existing == sha256:  # a run that was killed before it could note it
            return
        if before is None or existing != before.sha256:
            raise UnwritableFile(
                f"File {final}: it exists, and this run did not write it. Move it away, choose another suffix or "
                "folder, or allow the run to overwrite."
            )
        os.replace(unfinished, final)
