"""Runs a command of the command line."""

import signal
import sys
from pathlib import Path
from types import FrameType

from ....core.errors import LoraTransferError
from .device import choose_device
from .parser import parse
from .say import write

NO_START, STOPPED = 2, 130  # exit codes


def run(arguments: list[str], comfyui: Path) -> int:
    """Run a command; returns the exit code."""
    options = parse(arguments)
    choose_device(options.cpu)
    from .commands import COMMANDS  # only now: ComfyUI looks for a card when it is imported

    signal.signal(signal.SIGTERM, _stop)
    try:
        return COMMANDS[options.command](options, comfyui)
    except LoraTransferError as error:
        write(str(error), sys.stderr)
        return NO_START
    except KeyboardInterrupt:
        write("Stopped. What is finished stays; the same command goes on from there.", sys.stderr)
        return STOPPED
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
        return STOPPED


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
