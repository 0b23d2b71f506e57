"""cli.py inspect: says what is in LoRA files."""

import argparse
import json
import sys
from pathlib import Path

from ....core.attempt import attempt
from ....core.errors import LoraTransferError, UnreadableFile
from ....core.library.schedule import LibraryFile
from ..adapter.adapter import adapter_from_file
from ..adapter.contents import Contents, describe_contents
from ..library.files import find_files, mark_at
from .contents_lines import summarize
from .find import locate_loras, read_model_paths
from .say import write


def inspect(options: argparse.Namespace, comfyui: Path) -> int:
    """Print the contents of every file; the exit code is 1 if one cannot be read."""
    read_model_paths(comfyui)
    files = find_files(locate_loras(options.loras))
    if not files:
        raise UnreadableFile(f"LoRAs {', '.join(options.loras)}: expected LoRA files, found none there.")
    code = 0
    for file in files:
        contents = attempt(lambda file=file: _describe(file))
        if isinstance(contents, Contents):
            mark = mark_at(file.path)
            text = json.dumps(contents.as_json()) if options.json else summarize(contents, mark)
        elif isinstance(contents, LoraTransferError):
            code = 1
            text = json.dumps({"name": file.name, "error": str(contents)}) if options.json else str(contents)
        else:
            raise contents
        if options.json:
            sys.stdout.write(f"{text}\n")
        else:
            write(text)
    return code


def _describe(file: LibraryFile) -> Contents:
    return describe_contents(adapter_from_file(file.path, file.name))
