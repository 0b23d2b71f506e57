"""The commands by name. Importing this module imports ComfyUI."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from .extract import extract
from .inspect import inspect
from .transfer import transfer
from .verdict import verdict

# Options and ComfyUI's folder -> exit code.
COMMANDS: Mapping[str, Callable[[argparse.Namespace, Path], int]] = {
    "transfer": transfer,
    "verdict": verdict,
    "inspect": inspect,
    "extract": extract,
}
