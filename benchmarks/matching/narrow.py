"""Measures whether a narrower child's channels are recovered: a trained base with channels removed, then perturbed."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.matching import Matching, match_by_channels, match_by_name
from core.memory_base import MemoryBase

from ..memory_bases import make_base
from .denoiser import BLOCKS, TIME, WIDTH
from .seeded import perturb

CPU = torch.device("cpu")


def streams() -> dict[str, tuple[str, str]]:
    """Layer -> (stream of its rows, stream of its inputs). A stream is the residual one, or lies inside a block."""
    by_layer = {"time_embed": ("time", "time"), "conv_in": ("residual", "image"), "conv_out": ("image", "residual")}
    for index in range(BLOCKS):
        block = f"blocks.{index}"
        by_layer |= {
            f"{block}.conv1": (f"{block} hidden", "residual"),
            f"{block}.emb": (f"{block} hidden", "time"),
            f"{block}.conv2": ("residual", f"{block} hidden"),
            f"{block}.to_q": (f"{block} keys", "residual"),
            f"{block}.to_k": (f"{block} keys", "residual"),
            f"{block}.to_v": (f"{block} values", "residual"),
            f"{block}.to_out": ("residual", f"{block} values"),
        }
    return by_layer


def remove_channels(weights: Mapping[str, Tensor], width: int, cosine: float) -> tuple[MemoryBase, dict[str, Tensor]]:
    """Removes all but `width` of 32 channels from every stream except image and time: (child, channels it keeps)."""
    generator = torch.Generator().manual_seed(31)
    kept = {"image": torch.arange(3), "time": torch.arange(TIME)}
    for sides in streams().values():
        for stream in sides:
            if stream not in kept:
                kept[stream] = torch.randperm(WIDTH, generator=generator)[:width].sort().values
    child = {
        f"{name}.weight": perturb(weights[f"{name}.weight"][kept[rows]][:, kept[inputs]], cosine, "narrow", name)
        for name, (rows, inputs) in streams().items()
    }
    return make_base("narrow", child), kept


def _shares_correct(matching: Matching, kept: Mapping[str, Tensor]) -> tuple[float, float]:
    """The share of narrower layers whose channels are all correct; the share of correct channels in solved layers."""
    exact, channels = 0, list[Tensor]()
    for name, (rows, inputs) in streams().items():
        solution = matching.channels.get(f"{name}.weight")
        if solution is not None:
            same = torch.cat([solution.rows == kept[rows], solution.columns == kept[inputs]])
            exact += bool(same.all())
            channels.append(same)
    narrower = sum(rows != "time" or inputs != "time" for rows, inputs in streams().values())
    return exact / narrower, float(torch.cat(channels).float().mean()) if channels else 0.0


def run(
    bases: Sequence[Mapping[str, Tensor]], cosines: Sequence[float] = (1.0, 0.95, 0.8, 0.6)
) -> list[dict[str, Any]]:
    """One line for each width and cosine: shares of solved and of correct layers. A stranger's layers are all wrong."""
    lines: list[dict[str, Any]] = []
    parent = make_base("parent", bases[0])
    for width in (24, 16):
        for cosine in cosines:
            child, kept = remove_channels(bases[0], width, cosine)
            lines.append({"child": f"32 to {width} channels", "cosine": cosine, **_match_child(parent, child, kept)})
        child, kept = remove_channels(bases[1], width, 1.0)
        lines.append({"child": f"a stranger's, {width} channels", "cosine": 0.0, **_match_child(parent, child, kept)})
    return lines


def _match_child(parent: MemoryBase, child: MemoryBase, kept: Mapping[str, Tensor]) -> dict[str, Any]:
    started = time.monotonic()
    by_name = match_by_name(parent.layers, child.layers, parent.layers)
    matching = match_by_channels(parent, child, by_name, device=CPU)
    exact, channels = _shares_correct(matching, kept)
    narrower = len(by_name.unpaired)
    return {
        "solved": len(matching.channels) / narrower,
        "right": exact,
        "channels right": channels,
        "seconds": round(time.monotonic() - started, 2),
    }
