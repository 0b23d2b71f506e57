"""Finds the bases and LoRAs that a command line names, here or in ComfyUI's folders."""

import contextlib
import difflib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import folder_paths

from ....core.errors import LoraTransferError, UnreadableFile
from ..base.from_file import base_from_file
from ..base.from_model import HostBase
from ..paths import base_names, base_path


def read_model_paths(comfyui: Path) -> None:
    """Let ComfyUI know the folders in its extra_model_paths.yaml, as its server does."""
    extra = comfyui / "extra_model_paths.yaml"
    if extra.is_file():
        from utils.extra_config import load_extra_path_config

        with contextlib.suppress(OSError):
            load_extra_path_config(str(extra))
    logging.getLogger().setLevel(logging.WARNING)


def open_base(text: str) -> HostBase:
    """The base of a path, or of a name in ComfyUI's menus, with or without its folder and its ending. UnreadableFile
    if there is none, or more than one."""
    path = Path(text).expanduser()
    if path.is_file():
        return _open_file(path)
    known = base_names()
    matches = [name for name in known if text in _short_forms(name)]
    if len(matches) == 1:
        return base_from_file(base_path(matches[0]), matches[0])
    if matches:
        raise UnreadableFile(f"Base {text}: expected one file, found {', '.join(matches)}. Choose one of them.")
    similar = difflib.get_close_matches(text, known, 3, 0.4)
    hint = f" Similar names there: {', '.join(similar)}." if similar else ""
    raise UnreadableFile(f"Base {text}: expected a file, or a name of ComfyUI's menus, found neither.{hint}")


def _open_file(path: Path) -> HostBase:
    """UnreadableFile if it is no base; the sentence then says in which order the command expects its files."""
    try:
        return base_from_file(path, path.name)
    except LoraTransferError as error:
        raise type(error)(f"{error} The order is SOURCE TARGET LORA.") from error


def locate_loras(inputs: Sequence[str]) -> list[str]:
    """The inputs with those that do not exist here in ComfyUI's loras folder, if they exist there."""
    return [_locate_lora(text) for text in inputs]


def _locate_lora(text: str) -> str:
    if os.path.lexists(os.path.expanduser(text)) or _matches(text):
        return text
    for folder in folder_paths.get_folder_paths("loras"):
        for candidate in (os.path.join(folder, text), os.path.join(folder, f"{text}.safetensors")):
            if os.path.lexists(candidate) or _matches(candidate):
                return candidate
    return text


def _matches(pattern: str) -> bool:
    path = Path(os.path.expanduser(pattern))
    magic = next((index for index, part in enumerate(path.parts) if any(sign in part for sign in "*?[")), None)
    if magic is None:
        return False
    root = Path(*path.parts[:magic])
    return any(True for _ in root.glob(str(Path(*path.parts[magic:]))))


def _short_forms(name: str) -> set[str]:
    folder_and_name, file = name, Path(name).name
    without_folder = name.partition("/")[2]
    forms = {folder_and_name, without_folder, file}
    return forms | {form.rpartition(".")[0] for form in forms}
