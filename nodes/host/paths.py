"""The paths of the user's files, and of new files."""

from pathlib import Path

import folder_paths
from comfy.cli_args import args

from ...core.errors import InvalidSetting, UnreadableFile, UnwritableFile
from ...core.files.file_state import state_at

BASE_FOLDERS = ("checkpoints", "diffusion_models")


def base_names() -> list[str]:
    """Every base file as `checkpoints/NAME` or `diffusion_models/NAME`."""
    return [f"{folder}/{name}" for folder in BASE_FOLDERS for name in folder_paths.get_filename_list(folder)]


def adapter_names() -> list[str]:
    return folder_paths.get_filename_list("loras")


def base_path(base_name: str) -> Path:
    """The file behind a name of base_names(); UnreadableFile if there is none."""
    folder, _, name = base_name.partition("/")
    if folder not in BASE_FOLDERS:
        raise _missing(f"Base {base_name}", BASE_FOLDERS)
    return _find(folder, name, f"Base {base_name}")


def adapter_path(lora_name: str) -> Path:
    """The file behind a name of adapter_names(); UnreadableFile if there is none."""
    return _find("loras", lora_name, f"LoRA {lora_name}")


def state_of(*paths: Path) -> list[str]:
    """The states of files. ComfyUI's cache has to watch them, because it only knows the names."""
    states = [state_at(path) for path in paths]
    return ["missing" if state is None else state.mark() for state in states]


def choose_output_path(filename_prefix: str) -> tuple[Path, str]:
    """(folder, file stem) in ComfyUI's output folder. Every LoRA menu lists output/loras."""
    output = Path(folder_paths.get_output_directory()).resolve()
    if not (output / filename_prefix).resolve().is_relative_to(output):
        raise InvalidSetting(
            f"Filename prefix {filename_prefix}: expected a path inside {output}, found a path "
            "outside it. Choose another."
        )
    if (output / filename_prefix).resolve() == output:
        raise InvalidSetting(
            f"Filename prefix {filename_prefix!r}: expected a name for the file, found none. Add a name."
        )
    try:
        folder, stem, *_ = folder_paths.get_save_image_path(filename_prefix, str(output))
    except OSError as error:
        raise UnwritableFile(
            f"Filename prefix {filename_prefix}: expected a folder in {output} that can be used, found an error "
            f"({error.strerror}). Choose another prefix."
        ) from error
    return Path(folder), stem


def metadata_allowed() -> bool:
    """False if the user started ComfyUI with --disable-metadata."""
    return not args.disable_metadata


def _find(folder: str, name: str, what: str) -> Path:
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise _missing(what, (folder,))
    return Path(path)


def _missing(what: str, folders: tuple[str, ...]) -> UnreadableFile:
    searched = ", ".join(path for folder in folders for path in folder_paths.get_folder_paths(folder))
    return UnreadableFile(f"{what}: not found in {searched}. Put the file there and refresh, or choose another.")
