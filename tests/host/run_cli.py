"""Runs a command of the command line in this process."""

import os
import signal
from pathlib import Path

from comfy.cli_args import args

from lora_transfer.nodes.host.command_line.main import run

COMFYUI = Path(os.environ["LORA_TRANSFER_COMFYUI"])


def call(*arguments: object) -> int:
    """The exit code of a command. A command chooses ComfyUI's device and takes over the signal that asks to stop: both
    are as before when it ends."""
    handler, cpu = signal.getsignal(signal.SIGTERM), args.cpu
    try:
        return run([str(argument) for argument in arguments], COMFYUI)
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)
    finally:
        signal.signal(signal.SIGTERM, handler)
        args.cpu = cpu
