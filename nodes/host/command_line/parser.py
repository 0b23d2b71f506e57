"""The commands and their options."""

import argparse
import difflib
import os
import re
import sys
from typing import Any, NoReturn

from ....core.survey import MATCH_BY
from .help_texts import (
    DESCRIPTION,
    EXAMPLES,
    EXTRACT_EXAMPLES,
    INSPECT_EXAMPLES,
    TRANSFER_EXAMPLES,
    VERDICT_EXAMPLES,
    Help,
)
from .method_options import add_method_options
from .say import write

COMMANDS = ("transfer", "verdict", "inspect", "extract")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        write(f"{message[:1].upper()}{message[1:]}. {self.prog} --help shows examples.", sys.stderr)
        self.exit(2)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command line. Without the name of a command it is `transfer`. Exits with 2 if it is wrong."""
    first = arguments[0] if arguments else ""
    is_command = first in ("", *COMMANDS, "-h", "--help")
    meant = [] if is_command or os.path.lexists(first) else difflib.get_close_matches(first, COMMANDS, 1)
    if not is_command and not meant:
        arguments = ["transfer", *arguments]
    parser = _Parser(
        "cli.py",
        usage="cli.py [transfer] SOURCE TARGET LORA [LORA ...] [options]\n       cli.py verdict|inspect|extract ...",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=Help,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    _add_transfer(commands)
    _add_verdict(commands)
    _add_inspect(commands)
    _add_extract(commands)
    if meant:
        parser.error(f"Expected a command or a base, found {first}. Did you mean {meant[0]}?")
    if not arguments:
        parser.error("Expected a command or two bases and LoRAs, found nothing")
    return parser.parse_args(arguments)


def _command(commands: Any, name: str, help_text: str, description: str, examples: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        prog=f"cli.py {name}",
        help=help_text,
        description=description,
        epilog=examples,
        formatter_class=Help,
    )


def _add_bases(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="the base that the LoRAs were trained on: a file or a name")
    parser.add_argument("target", metavar="TARGET", help="the base that you want to use them on: a file or a name")


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON, one line for each result, and nothing else; errors and warnings go to stderr",
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a graphics card")
    parser.add_argument("--workers", type=_workers, metavar="N", help="layers at the same time; all cores if left out")


def _add_matching(parser: argparse.ArgumentParser) -> None:
    how = f"how layers are paired: {', '.join(MATCH_BY)} (in quotes)"
    parser.add_argument("--match-by", choices=list(MATCH_BY), default="blocks", metavar="HOW", help=how)
    parser.add_argument(
        "--block-map", default="", metavar="FILE", help="your own pairs of blocks: a JSON file, see below"
    )


def _add_transfer(commands: Any) -> None:
    description = "Transfers LoRAs from one base to another, and goes on where an earlier run stopped."
    parser = _command(
        commands, "transfer", "transfer LoRAs; this is the default command", description, TRANSFER_EXAMPLES
    )
    _add_bases(parser)
    parser.add_argument("loras", metavar="LORA", nargs="+", help="a file, a folder, or a pattern in quotes")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--out",
        metavar="FOLDER",
        help="where results go, in the same subfolders; output/loras/TARGET of ComfyUI if left out",
    )
    files.add_argument("--suffix", default="", metavar="TEXT", help="added to the name of every result")
    files.add_argument(
        "--dry-run",
        action="store_true",
        help="say for every file whether it would be transferred, skipped or replaced, or would fail; write nothing",
    )
    files.add_argument(
        "--overwrite",
        action="store_true",
        help="do everything again, also what is done, and replace existing files. A run with other settings replaces "
        "its own results without it",
    )
    files.add_argument("--dtype", default="float16", metavar="TYPE", help="float16, bfloat16 or float32")
    files.add_argument(
        "--spelling", default="comfy", metavar="NAME", help="names of the layers: comfy, kohya or diffusers"
    )
    add_method_options(parser.add_argument_group("transfer"))
    _add_matching(parser)
    cluster = parser.add_argument_group("many processes or machines")
    cluster.add_argument(
        "--ray",
        nargs="?",
        const="local",
        type=_address,
        metavar="ADDRESS",
        help="use Ray (pip install ray): on this machine, or on a cluster with this address, such as auto or "
        "10.0.0.1:6379. All machines need ComfyUI with this pack, the bases, the LoRAs and the --out folder at the "
        "same paths. --workers is then the number of layers at the same time in each of Ray's workers",
    )
    cluster.add_argument(
        "--cache",
        metavar="FOLDER",
        help="where decomposed bases are kept, such as a folder that machines share; ComfyUI's user folder if left out",
    )
    _add_shared(parser)
    parser.set_defaults(force=False)
    parser.add_argument(
        "--force", action="store_true", help="transfer what has a partner even if the verdict is refuse"
    )


def _add_verdict(commands: Any) -> None:
    description = "Says whether a transfer between two bases can work, and why. It reads a few layers of each."
    help_text = "say whether a transfer between two bases can work"
    parser = _command(commands, "verdict", help_text, description, VERDICT_EXAMPLES)
    _add_bases(parser)
    parser.add_argument("lora", metavar="LORA", nargs="?", help="judge for this LoRA; for all layers if left out")
    _add_matching(parser)
    _add_shared(parser)


def _add_inspect(commands: Any) -> None:
    description = "Says what is in LoRA files: kinds of modules, ranks, spelling, and what is said about their base."
    help_text = "say what is in a LoRA file: its kind, its ranks, what it was trained on"
    parser = _command(commands, "inspect", help_text, description, INSPECT_EXAMPLES)
    parser.add_argument("loras", metavar="LORA", nargs="+", help="a file, a folder, or a pattern in quotes")
    parser.add_argument("--json", action="store_true", help="print JSON, one line for each file")
    parser.set_defaults(cpu=True)


def _add_extract(commands: Any) -> None:
    parser = _command(
        commands,
        "extract",
        "write the difference of two bases as a LoRA",
        "Writes the difference B - A of two bases as a LoRA for A: A with it is nearly B.",
        EXTRACT_EXAMPLES,
    )
    parser.add_argument("source", metavar="A", help="the base that the LoRA is for: a file or a name")
    parser.add_argument("target", metavar="B", help="the base that A with the LoRA comes close to")
    parser.add_argument(
        "--rank",
        type=int,
        default=64,
        metavar="N",
        help="the largest rank of a layer. Start with 64; if too little of the difference is kept, take 128 or 256. "
        "The file grows with it. A fused layer (such as qkv) gets the sum of the ranks of its parts",
    )
    parser.add_argument(
        "--energy",
        type=float,
        default=1.0,
        metavar="X",
        help="the share of each layer's difference to keep, above 0 and at most 1, such as 0.9 for a smaller file: a "
        "layer gets the smallest rank that keeps it, and never more than --rank. 1 uses --rank alone",
    )
    parser.add_argument("--out", metavar="FILE", help="the new file; output/loras/B_minus_A.safetensors if left out")
    parser.add_argument("--dtype", default="float16", metavar="TYPE", help="float16, bfloat16 or float32")
    parser.add_argument("--spelling", default="comfy", metavar="NAME", help="comfy, kohya or diffusers")
    _add_shared(parser)


def _address(text: str) -> str:
    if text not in ("local", "auto") and not re.fullmatch(r"(ray://)?\[?[\w.:-]+\]?:\d+", text):
        raise argparse.ArgumentTypeError(
            f"expected auto or HOST:PORT, found {text}. Write --ray behind the LoRAs to use this machine alone"
        )
    return text


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text}")
    return int(text)
