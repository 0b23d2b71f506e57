"""Writes the result of a LoRA: never over a file that is not known to be ours, and the same bytes every time."""

import os
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from torch import Tensor

from ....core.errors import UnreadableFile, UnwritableFile
from ....core.files import file_sha256
from ....core.files.tensor_writer import save_tensors
from ....core.library.entry import Output

MOVE_AWAY = "Move it to another folder, and start the run again."


@dataclass(frozen=True)
class OutputFolder:
    """Where results go. unfinished: the folder for files that are being written. overwrite: files that the run did not
    write may be replaced too. advice: what the user can do about a file that is in the way."""

    path: Path
    unfinished: Path
    overwrite: bool = False
    advice: str = MOVE_AWAY

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

    def why_not_written(self, output: str, before: Output | None) -> str | None:
        """Why a run could not write a file; None if it could. Only the run itself recognises a result that a killed run
        wrote and did not note: until then it is a file of somebody else. before: as for `write`."""
        final = self.path / output
        in_the_way = next((path for path in final.parents if os.path.lexists(path) and not path.is_dir()), None)
        if in_the_way is not None:
            return f"File {final}: it cannot be written ({in_the_way} is no folder). {self.advice}"
        if final.is_dir():
            return self._folder_there(final)
        if self.overwrite or not os.path.lexists(final) or _is_result(_hash_of(final), before):
            return None
        return self._foreign(final)

    def _publish(self, unfinished: Path, final: Path, sha256: str, before: Output | None) -> None:
        if final.is_dir():
            raise UnwritableFile(self._folder_there(final))
        if not os.path.lexists(final) or self.overwrite:
            os.replace(unfinished, final)
            return
        existing = _hash_of(final)
        if existing == sha256:  # a run that was killed before it could note it
            return
        if not _is_result(existing, before):
            raise UnwritableFile(self._foreign(final))
        os.replace(unfinished, final)

    def _foreign(self, final: Path) -> str:
        return f"File {final}: it exists, and an earlier run did not write it. {self.advice}"

    def _folder_there(self, final: Path) -> str:
        return f"File {final}: a folder has this name. Move it to another place, and start the run again."


def _hash_of(path: Path) -> str | None:
    """The SHA-256 of a file; None if it cannot be read, which is no fault of the LoRA."""
    try:
        return file_sha256(path).removeprefix("sha256:")
    except UnreadableFile:
        return None


def _is_result(sha256: str | None, before: Output | None) -> bool:
    return before is not None and sha256 == before.sha256
