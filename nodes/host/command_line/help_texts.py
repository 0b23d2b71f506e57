"""What the command line says about itself."""

import argparse
import shutil
import textwrap

from .say import wrap_line

DESCRIPTION = """\
Transfers LoRAs from the base model that they were trained on to another one, without training and without data.

SOURCE is the base that the LoRAs were trained on, TARGET the base that you want to use them on: a safetensors file,
or a name from ComfyUI's menus. LORA is a file, a folder with all its subfolders, or a pattern; what is not found here
is looked for in ComfyUI's loras folder."""

EXAMPLES = """\
examples:
  cli.py verdict old.safetensors new.safetensors
      Can it work? Takes seconds.
  cli.py old.safetensors new.safetensors style.safetensors
      Transfer a LoRA.
  cli.py old.safetensors new.safetensors loras/ --out new_loras
      Transfer a folder, with its subfolders.
  cli.py old.safetensors new.safetensors "loras/*style*" --dry-run
      Only say what would happen to every file.
  cli.py old.safetensors new.safetensors loras/ --method copy --suffix _new
      Choose the method, and the names of the results.
  cli.py inspect style.safetensors
      What is in a LoRA file?
  cli.py extract old.safetensors new.safetensors --rank 64
      The difference of two bases, as a LoRA.

A run can be stopped at any time (Ctrl-C): the same command goes on where it stopped. It skips what is done, and does
files again that changed, or that were done with other settings; then it first says how many results it replaces.
OUT/manifest.jsonl says what became of every file (the last line of a file counts), OUT/summary.html shows it.

The verdict says whether the two bases are relatives: works; risky (far relatives, layers without a partner, or a LoRA
whose file names another base: try it and look); refuse (strangers, nothing useful would come of it). The default
method is best on most pairs; copy is what loading the old LoRA does, on the right layers. README.md describes the
methods.

exit codes:
  0    every LoRA has a result
  1    some have none: the lines above say why, and so does the manifest
  2    nothing was done
  130  stopped by Ctrl-C

more: cli.py COMMAND --help"""


TRANSFER_EXAMPLES = """\
examples:
  cli.py old.safetensors new.safetensors style.safetensors
      The result is ComfyUI/output/loras/new/style.safetensors, which ComfyUI's LoRA menus list.
  cli.py old.safetensors new.safetensors loras/ --out new_loras --dry-run
      Which files would be transferred, skipped or replaced, and which would fail.
  cli.py old.safetensors new.safetensors loras/ --out new_loras --workers 4
      All LoRAs below loras/; new_loras gets the same subfolders, manifest.jsonl and summary.html.
  cli.py old.safetensors new.safetensors loras/ --out /shared/new --ray 10.0.0.1:6379
      The same on the machines of a Ray cluster.

Each line says what became of a file: transferred; refused (the bases do not match where the LoRA acts); unusable (the
file is damaged, of an unknown kind, or made for another base); failed (something was in the way; the next run tries
again). With --json, each line is an object with these fields and more: lora, outcome, reason, verdict, reasons,
counts, lost, output. A line with done_before is of an earlier run. With --dry-run the outcome is planned instead of
transferred; would_write and would_replace say what a run would write, and over what.

A block map (--block-map) is JSON: every block of the target that is to get something, with the source's block for it:
  {"blocks.0": "blocks.0", "blocks.1": "blocks.2"}
cli.py verdict SOURCE TARGET --json prints the map that is used without it, as block_map; a file with that is read
too."""

VERDICT_EXAMPLES = """\
examples:
  cli.py verdict old.safetensors new.safetensors
      Are the two bases relatives?
  cli.py verdict old.safetensors new.safetensors style.safetensors
      How much of this LoRA has a partner? Does its file name another base?

A block map (--block-map) is JSON: every block of the target that is to get something, with the source's block for it:
  {"blocks.0": "blocks.0", "blocks.1": "blocks.2"}
With --json, block_map is the map that was used.

exit codes: 0 works or risky, 1 refuse, 2 a file cannot be read"""

INSPECT_EXAMPLES = """\
examples:
  cli.py inspect style.safetensors
  cli.py inspect loras/ --json > loras.jsonl

exit codes: 0, 1 if a file cannot be read, 2 if there is no file"""

EXTRACT_EXAMPLES = """\
examples:
  cli.py extract base.safetensors fine_tune.safetensors
      A LoRA of rank 64 for the base.
  cli.py extract base.safetensors fine_tune.safetensors --rank 256 --energy 0.9
      In each layer the smallest rank that keeps 90 % of the difference, and at most 256.

The command ends with the share of the difference that the LoRA keeps. If that is little, choose a larger --rank. Two
bases that are no relatives differ nearly everywhere: the command warns, because no LoRA can hold that."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help with examples, which shows a default only where there is one to see."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(100, shutil.get_terminal_size().columns))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.default not in (None, False, "", argparse.SUPPRESS) and action.option_strings
        return f"{action.help} (default: %(default)s)" if shown else action.help

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs as wide as the terminal. Lines that begin with a space, such as examples, stay lines."""
        lines = [""]
        for line in text.split("\n"):
            if _is_paragraph(line) and _is_paragraph(lines[-1]) and not lines[-1].endswith(":"):
                lines[-1] += f" {line}"
            else:
                lines.append(line)
        wrapped = (wrap_line(line, width - len(indent), "" if _is_paragraph(line) else "  ") for line in lines[1:])
        return textwrap.indent("\n".join(wrapped), indent)


def _is_paragraph(line: str) -> bool:
    return line != "" and not line.startswith(" ")
