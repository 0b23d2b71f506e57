"""Where the user's files are, and where new ones go."""

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
    """The file behind a name of base_names(); UnreadableFile where there is none."""
    folder, _, name = base_name.partition("/")
    return (
        _found(folder, name, f"Base {base_name}")
        if folder in BASE_FOLDERS
        else _missing(f"Base {base_name}", BASE_FOLDERS)
    )


def adapter_path(lora_name: str) -> Path:
    """The file behind a name of adapter_names(); UnreadableFile where there is none."""
    return _found("loras", lora_name, f"LoRA {lora_name}")


def state_of(*paths: Path) -> list[str]:
    """The states of files: what ComfyUI's cache must watch, for it sees names only."""
    states = [state_at(path) for path in paths]
    return ["missing" if state is None else state.mark() for state in states]


def choose_output_path(filename_prefix: str) -> tuple[Path, str]:
    """(folder, file stem) in ComfyUI's output folder; output/loras is on the search path of every LoRA menu."""
    output = Path(folder_paths.get_output_directory()).resolve()
    if not (output / filename_prefix).resolve().is_relative_to(output):
        raise InvalidSetting(
            f"Filename prefix {filename_prefix}: expected a place below {output}, found one outside. Choose another."
        )
    if (output / filename_prefix).resolve() == output:
        raise InvalidSetting(
            f"Filename prefix {filename_prefix!r}: expected a name for the file, found none. Give one."
        )
    try:
        folder, stem, *_ = folder_paths.get_save_image_path(filename_prefix, str(output))
    except OSError as error:
        raise UnwritableFile(
            f"Filename prefix {filename_prefix}: expected a folder in {output}, found none that can be used "
            f"({error.strerror}). Choose another."
        ) from error
    return Path(folder), stem


def metadata_allowed() -> bool:
    """False when the user started ComfyUI with --disable-metadata."""
    return not args.disable_metadata


def _found(folder: str, name: str, what: str) -> Path:
    path = folder_paths.get_full_path(folder, name)
    return Path(path) if path is not None else _missing(what, (folder,))


def _missing(what: str, folders: tuple[str, ...]) -> Path:
    searched = ", ".join(path for folder in folders for path in folder_paths.get_folder_paths(folder))
    raise UnreadableFile(f"{what}: not found in {searched}. Put the file there and refresh, or choose another.")
