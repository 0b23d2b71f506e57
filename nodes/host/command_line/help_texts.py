"""What the command line says about itself."""

import argparse
import shutil

DESCRIPTION = """\
Transfers LoRAs from the base model that they were trained on to another one, without training and without data.
SOURCE is the base that the LoRAs were trained on, TARGET the base that you want to use them on: a safetensors file, or
a name from ComfyUI's menus. LORA is a file, a folder with all its subfolders, or a pattern; what is not found here is
looked for in ComfyUI's loras folder."""

EXAMPLES = """\
examples:
  cli.py verdict old.safetensors new.safetensors                     Can it work? Takes seconds.
  cli.py old.safetensors new.safetensors style.safetensors           Transfer a LoRA.
  cli.py old.safetensors new.safetensors loras/ --out new_loras      Transfer a folder, with its subfolders.
  cli.py old.safetensors new.safetensors "loras/*style*" --dry-run   Only say what would happen.
  cli.py old.safetensors new.safetensors loras/ --method copy --suffix _new --dtype bfloat16
  cli.py inspect style.safetensors                                   What is in a LoRA file?
  cli.py extract old.safetensors new.safetensors --rank 64           The difference of two bases, as a LoRA.

A run can be stopped at any time (Ctrl-C): the same command goes on where it stopped. It skips what is done, and does
files again that changed, or that were done with other settings. OUT/manifest.jsonl says what became of every file (the
last line of a file counts), OUT/summary.html shows it.

The verdict says whether the two bases are relatives: works; risky (far relatives, or layers without a partner: try it
and look); refuse (strangers, nothing useful would come of it). The default method is best on most pairs; copy is what
loading the old LoRA does, on the right layers. README.md describes the methods.

exit codes:
  0  every LoRA has a result    1  some have none: the manifest says why
  2  nothing was done           130  stopped by Ctrl-C

more: cli.py COMMAND --help"""


TRANSFER_EXAMPLES = """\
examples:
  cli.py old.safetensors new.safetensors style.safetensors
      The result is ComfyUI/output/loras/new/style.safetensors, which ComfyUI's LoRA menus list.
  cli.py old.safetensors new.safetensors loras/ --out new_loras --workers 4
      All LoRAs below loras/; new_loras gets the same subfolders, manifest.jsonl and summary.html.
  cli.py old.safetensors new.safetensors loras/ --out /shared/new --ray 10.0.0.1:6379
      The same on the machines of a Ray cluster."""

VERDICT_EXAMPLES = """\
examples:
  cli.py verdict old.safetensors new.safetensors
  cli.py verdict old.safetensors new.safetensors style.safetensors   how much of this LoRA has a partner

exit codes: 0 works or risky, 1 refuse, 2 a file cannot be read"""

INSPECT_EXAMPLES = """\
examples:
  cli.py inspect style.safetensors
  cli.py inspect loras/ --json > loras.jsonl

exit codes: 0, 1 if a file cannot be read, 2 if there is no file"""

EXTRACT_EXAMPLES = """\
examples:
  cli.py extract base.safetensors fine_tune.safetensors                   a LoRA of rank 64 for the base
  cli.py extract base.safetensors fine_tune.safetensors --energy 0.9 --rank 256 --out difference.safetensors"""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help with examples, which shows a default only where there is one to see."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(100, shutil.get_terminal_size().columns))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.default not in (None, False, "", argparse.SUPPRESS) and action.option_strings
        return f"{action.help} (default: %(default)s)" if shown else action.help
