"""The commands and their options."""

import argparse
import re
from typing import Any, NoReturn, get_args

from ....core.errors import InvalidSetting
from ....core.methods import DEFAULT, METHODS
from ....core.plan import BelowThreshold, OutRank, Rescale, TransferSettings
from ....core.survey import MATCH_BY

COMMANDS = ("transfer", "verdict", "inspect", "extract")

_DESCRIPTION = """\
Transfers LoRAs from the base model that they were trained on to another one, without training and without data.
SOURCE is the base that the LoRAs were trained on, TARGET the base that you want to use them on: a safetensors file, or
a name from ComfyUI's menus. LORA is a file, a folder with all its subfolders, or a pattern; what is not found here is
looked for in ComfyUI's loras folder."""

_EXAMPLES = """\
examples:
  cli.py verdict old.safetensors new.safetensors                     Can it work? Takes seconds.
  cli.py old.safetensors new.safetensors style.safetensors           Transfer a LoRA.
  cli.py old.safetensors new.safetensors loras/ --out new_loras      Transfer a folder, with its subfolders.
  cli.py old.safetensors new.safetensors "loras/*style*" --dry-run   Only say what would happen.
  cli.py old.safetensors new.safetensors loras/ --method copy --suffix _new --dtype bfloat16
  cli.py inspect style.safetensors                                   What is in a LoRA file?
  cli.py extract old.safetensors new.safetensors --rank 64           The difference of two bases, as a LoRA.

A run can be stopped at any time (Ctrl-C): the same command goes on where it stopped. It skips what is done, and does
files again that changed. OUT/manifest.jsonl says what became of every file, OUT/summary.html shows it.

exit codes:
  0  every LoRA has a result    1  some have none: the manifest says why
  2  nothing was done           130  stopped by Ctrl-C

more: cli.py COMMAND --help"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message[:1].upper()}{message[1:]}. {self.prog} --help shows examples.\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command line. Without the name of a command it is `transfer`. Exits with 2 if it is wrong."""
    if arguments and arguments[0] not in (*COMMANDS, "-h", "--help"):
        arguments = ["transfer", *arguments]
    parser = _Parser(
        "cli.py",
        usage="cli.py [transfer] SOURCE TARGET LORA [LORA ...] [options]\n       cli.py verdict|inspect|extract ...",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    _add_transfer(commands)
    _add_verdict(commands)
    _add_inspect(commands)
    _add_extract(commands)
    if not arguments:
        parser.error("Expected a command or two bases and LoRAs, found nothing")
    return parser.parse_args(arguments)


def transfer_settings(options: argparse.Namespace) -> TransferSettings:
    """The settings of a transfer. InvalidSetting for numbers out of range."""
    names = [name for name in TransferSettings.__dataclass_fields__ if hasattr(options, name)]
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return TransferSettings(**chosen)


def _command(commands: Any, name: str, help_text: str, description: str | None = None) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        prog=f"cli.py {name}",
        help=help_text,
        description=description or f"{help_text}.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def _add_bases(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="the base that the LoRAs were trained on: a file or a name")
    parser.add_argument("target", metavar="TARGET", help="the base that you want to use them on: a file or a name")


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, one line for each result, and nothing else")
    parser.add_argument("--cpu", action="store_true", help="do not use a graphics card")
    parser.add_argument("--workers", type=_workers, metavar="N", help="layers at the same time; all cores if left out")


def _add_matching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--match-by", choices=list(MATCH_BY), default="blocks", help="how layers are paired")
    parser.add_argument("--block-map", default="", metavar="FILE", help="your own pairs of blocks, a JSON file")


def _add_transfer(commands: Any) -> None:
    parser = _command(commands, "transfer", "transfer LoRAs; this is the default command")
    _add_bases(parser)
    parser.add_argument("loras", metavar="LORA", nargs="+", help="a file, a folder, or a pattern in quotes")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--out",
        metavar="FOLDER",
        help="where results go, in the same subfolders; output/loras/TARGET of ComfyUI if left out",
    )
    files.add_argument("--suffix", default="", metavar="TEXT", help="added to the name of every result")
    files.add_argument("--dry-run", action="store_true", help="only say what would happen; write nothing")
    files.add_argument("--overwrite", action="store_true", help="do everything again, and replace existing files")
    files.add_argument("--dtype", default="float16", metavar="TYPE", help="float16, bfloat16 or float32")
    files.add_argument(
        "--spelling", default="comfy", metavar="NAME", help="names of the layers: comfy, kohya or diffusers"
    )
    _add_method(parser.add_argument_group("transfer"))
    _add_matching(parser)
    cluster = parser.add_argument_group("many processes or machines")
    cluster.add_argument(
        "--ray",
        nargs="?",
        const="local",
        type=_address,
        metavar="ADDRESS",
        help="use Ray (pip install ray): on this machine, or on a cluster with this address, such as auto or "
        "10.0.0.1:6379. All machines need the same ComfyUI, this pack, the bases, the LoRAs and OUT at the same paths. "
        "--workers is then the number of layers at the same time in each of Ray's workers",
    )
    cluster.add_argument(
        "--cache", metavar="FOLDER", help="where decomposed bases are kept, for instance a folder that machines share"
    )
    _add_shared(parser)
    parser.set_defaults(force=False)
    parser.add_argument("--force", action="store_true", help="transfer even if the verdict is refuse")


def _add_method(group: Any) -> None:
    names = ", ".join(method.name for method in METHODS)
    group.add_argument("--method", type=_method, default=DEFAULT.name, metavar="NAME", help=f"one of {names}")
    group.add_argument("--threshold", type=float, metavar="X", help="layers that are less similar are skipped (0 to 1)")
    group.add_argument("--below-threshold", choices=get_args(BelowThreshold), help="what happens to such layers")
    group.add_argument("--rescale", choices=get_args(Rescale), help="relative_norm: as strong as on the source")
    group.add_argument("--out-rank", choices=get_args(OutRank), help="the rank of the results; cut makes small files")
    group.add_argument("--dense-rank", type=int, metavar="N", help="the largest rank where it is cut")
    group.add_argument("--dense-energy", type=float, metavar="X", help="or the share of a change that is kept there")
    group.add_argument("--gain", type=float, metavar="X", help="multiplies every LoRA")


def _add_verdict(commands: Any) -> None:
    parser = _command(commands, "verdict", "say whether a transfer between two bases can work")
    _add_bases(parser)
    parser.add_argument("lora", metavar="LORA", nargs="?", help="judge for this LoRA; for all layers if left out")
    _add_matching(parser)
    _add_shared(parser)


def _add_inspect(commands: Any) -> None:
    parser = _command(commands, "inspect", "say what is in a LoRA file: its kind, its ranks, what it was trained on")
    parser.add_argument("loras", metavar="LORA", nargs="+", help="a file, a folder, or a pattern in quotes")
    parser.add_argument("--json", action="store_true", help="print JSON, one line for each file")
    parser.set_defaults(cpu=True)


def _add_extract(commands: Any) -> None:
    parser = _command(
        commands,
        "extract",
        "write the difference of two bases as a LoRA",
        "Writes the difference B - A of two bases as a LoRA for A: A with it is nearly B.",
    )
    parser.add_argument("source", metavar="A", help="the base that the LoRA is for: a file or a name")
    parser.add_argument("target", metavar="B", help="the base that A with the LoRA comes close to")
    parser.add_argument("--rank", type=int, default=64, metavar="N", help="the largest rank of a layer")
    parser.add_argument(
        "--energy", type=float, default=1.0, metavar="X", help="or the share of each difference to keep"
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


def _method(text: str) -> str:
    from ....core.methods import method_named

    try:
        return method_named(text).name
    except InvalidSetting as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error
