"""Saves the factors of a training that was interrupted, in the first folder that can be written to."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import folder_paths

from ....core.errors import InvalidSetting
from ....core.files import write_new
from ..adapter.adapter import Adapter
from ..adapter.save import cast_for_file
from ..paths import choose_output_path, metadata_allowed


def save_in_any_folder(adapter: Adapter, name: str) -> str:
    """Write the adapter to a file of this name. Returns the end of a sentence: where it is, or why there is none."""
    try:
        tensors, remark = cast_for_file(adapter.state_dict(), adapter, "float16"), ""
    except InvalidSetting:
        tensors = cast_for_file(adapter.state_dict(), adapter, "float32")
        remark = " in float32, because its values are too large for float16"
    reasons: list[str] = []
    for choose_path in (_choose_output, _choose_user, _choose_temporary):
        for metadata in (adapter.metadata if metadata_allowed() else None, None):
            try:
                path = write_new(*choose_path(name), tensors, metadata)
            except Exception as error:  # noqa: BLE001  (a full disk, a closed folder, odd metadata: the next may work)
                reasons.append(str(error.__cause__ or error))
            else:
                return f"saved as {_describe_path(path, choose_path, reasons)}{remark}"
    return f"not saved, because no folder could be written to: {reasons[0]}"


def _describe_path(path: Path, choose_path: Callable[[str], tuple[Path, str]], reasons: list[str]) -> str:
    if choose_path is _choose_output:
        return f"{path.name} in the LoRA folder"
    return f"{path} (move it into a LoRA folder; the output folder could not be written to: {reasons[0]})"


def _choose_output(name: str) -> tuple[Path, str]:
    """ComfyUI's output folder, which every LoRA menu shows."""
    return choose_output_path(f"loras/{name}")


def _choose_user(name: str) -> tuple[Path, str]:
    """ComfyUI's user folder, which is often on another disk. Not its temp folder: that is emptied at every start."""
    return Path(folder_paths.get_user_directory()) / "lora_transfer" / "interrupted", name


def _choose_temporary(name: str) -> tuple[Path, str]:
    return Path(tempfile.gettempdir()), name
