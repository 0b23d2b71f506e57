"""Transfers LoRAs from the command line, with ComfyUI's Python and without its server. Start with --help."""

import logging
import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent
NO_START, STOPPED = 2, 130  # exit codes


def find_comfyui() -> Path | None:
    """ComfyUI's folder: COMFYUI_PATH, or two folders up, where custom_nodes/ lies."""
    chosen = os.environ.get("COMFYUI_PATH")
    folder = Path(chosen).expanduser().resolve() if chosen else Path(os.path.abspath(__file__)).parent.parent.parent
    return folder if (folder / "comfy" / "cli_args.py").is_file() else None


def make_importable(comfyui: Path) -> None:
    """Put ComfyUI on sys.path, and the pack into a package `lora_transfer`.

    This folder must not be on sys.path: its `nodes` would shadow ComfyUI's nodes.py. The nodes themselves, which need
    a server, are not imported: `lora_transfer.nodes` is an empty package here.
    """
    sys.path[:] = [str(comfyui), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    for name, folder in (("lora_transfer", ROOT), ("lora_transfer.nodes", ROOT / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


def main() -> int:
    comfyui = find_comfyui()
    if comfyui is None:
        sys.stderr.write(
            "ComfyUI: expected it two folders above this file, or in COMFYUI_PATH, found it in neither. Put this "
            "folder into ComfyUI/custom_nodes, or set COMFYUI_PATH to ComfyUI's folder.\n"
        )
        return NO_START
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # ComfyUI describes the machine at length
    make_importable(comfyui)
    try:
        # Importing takes seconds, in which Ctrl-C may be pressed.
        from lora_transfer.nodes.host.command_line.main import run  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "lora_transfer":
            raise
        sys.stderr.write(
            f"Python {sys.executable}: expected the packages of ComfyUI, found no {error.name}. Use the Python that "
            "starts ComfyUI, and run pip install -r requirements.txt in this folder with it.\n"
        )
        return NO_START
    except KeyboardInterrupt:
        sys.stderr.write("Stopped before anything was done.\n")
        return STOPPED
    return run(sys.argv[1:], comfyui)


if __name__ == "__main__":
    sys.exit(main())
