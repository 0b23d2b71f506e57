"""The options that choose how layers are transferred."""

import argparse
from typing import Any, get_args

from ....core.errors import InvalidSetting
from ....core.methods import DEFAULT, METHODS, method_named
from ....core.plan import BelowThreshold, OutRank, Rescale, TransferSettings


def add_method_options(group: Any) -> None:
    """Add the options of TransferSettings to a group of a parser."""
    names = ", ".join(method.name for method in METHODS)
    group.add_argument("--method", type=_method, default=DEFAULT.name, metavar="NAME", help=f"one of {names}")
    group.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="layers that are less similar than this (0 to 1) are skipped; chosen for the method if left out",
    )
    group.add_argument(
        "--below-threshold", choices=get_args(BelowThreshold), help="what happens to such layers; skip if left out"
    )
    group.add_argument(
        "--rescale",
        choices=get_args(Rescale),
        help="relative_norm: each layer changes the target as much as it did the source",
    )
    group.add_argument(
        "--out-rank",
        choices=get_args(OutRank),
        help="the rank of the results: exact (that of the method, if left out), keep (the LoRA's own), or cut (to "
        "--dense-rank and --dense-energy: small files)",
    )
    group.add_argument(
        "--dense-rank",
        type=int,
        metavar="N",
        help="the largest rank where it is cut, also of kinds without factors such as DoRA; 64 if left out",
    )
    group.add_argument(
        "--dense-energy",
        type=float,
        metavar="X",
        help="the share of each layer's change to keep there, above 0 and at most 1, such as 0.99 for a smaller file; "
        "if left out, --dense-rank alone counts",
    )
    group.add_argument("--gain", type=float, metavar="X", help="multiplies every LoRA; 1 if left out")


def transfer_settings(options: argparse.Namespace) -> TransferSettings:
    """The settings of a transfer. InvalidSetting for numbers out of range."""
    names = [name for name in TransferSettings.__dataclass_fields__ if hasattr(options, name)]
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return TransferSettings(**chosen)


def _method(text: str) -> str:
    try:
        return method_named(text).name
    except InvalidSetting as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error
