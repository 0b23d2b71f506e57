"""Are the channels found that a narrower child kept? A trained base with channels left out, perturbed more and more."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.matching import Matching, match_by_channels, match_by_name
from core.memory_base import MemoryBase

from ..kept_base import kept_base
from .denoiser import BLOCKS, TIME, WIDTH
from .seeded import perturbed

CPU = torch.device("cpu")


def streams() -> dict[str, tuple[str, str]]:
    """Layer -> whose channels its rows and its inputs are: the residual stream's, or those inside one block."""
    found = {"time_embed": ("time", "time"), "conv_in": ("residual", "image"), "conv_out": ("image", "residual")}
    for index in range(BLOCKS):
        block = f"blocks.{index}"
        found |= {
            f"{block}.conv1": (f"{block} hidden", "residual"),
            f"{block}.emb": (f"{block} hidden", "time"),
            f"{block}.conv2": ("residual", f"{block} hidden"),
            f"{block}.to_q": (f"{block} keys", "residual"),
            f"{block}.to_k": (f"{block} keys", "residual"),
            f"{block}.to_v": (f"{block} values", "residual"),
            f"{block}.to_out": ("residual", f"{block} values"),
        }
    return found


def pruned(weights: Mapping[str, Tensor], width: int, cosine: float) -> tuple[MemoryBase, dict[str, Tensor]]:
    """The base with `width` of its 32 channels in every stream but the shared ones, and the channels kept."""
    generator = torch.Generator().manual_seed(31)
    kept = {"image": torch.arange(3), "time": torch.arange(TIME)}
    for sides in streams().values():
        for stream in sides:
            if stream not in kept:
                kept[stream] = torch.randperm(WIDTH, generator=generator)[:width].sort().values
    child = {
        f"{name}.weight": perturbed(weights[f"{name}.weight"][kept[rows]][:, kept[inputs]], cosine, "narrow", name)
        for name, (rows, inputs) in streams().items()
    }
    return kept_base("narrow", child), kept


def _shares_right(matching: Matching, kept: Mapping[str, Tensor]) -> tuple[float, float]:
    """Of all narrower layers those whose channels are exactly the ones kept; and of the channels of those solved."""
    exact, channels = 0, list[Tensor]()
    for name, (rows, inputs) in streams().items():
        found = matching.channels.get(f"{name}.weight")
        if found is not None:
            same = torch.cat([found.rows == kept[rows], found.columns == kept[inputs]])
            exact += bool(same.all())
            channels.append(same)
    narrower = sum(rows != "time" or inputs != "time" for rows, inputs in streams().values())
    return exact / narrower, float(torch.cat(channels).float().mean()) if channels else 0.0


def run(
    bases: Sequence[Mapping[str, Tensor]], cosines: Sequence[float] = (1.0, 0.95, 0.8, 0.6)
) -> list[dict[str, Any]]:
    """For each width and cosine: layers solved, and solved rightly; and a stranger's, where any layer is wrong."""
    lines: list[dict[str, Any]] = []
    parent = kept_base("parent", bases[0])
    for width in (24, 16):
        for cosine in cosines:
            child, kept = pruned(bases[0], width, cosine)
            lines.append({"child": f"32 to {width} channels", "cosine": cosine, **_found(parent, child, kept)})
        child, kept = pruned(bases[1], width, 1.0)
        lines.append({"child": f"a stranger's, {width} channels", "cosine": 0.0, **_found(parent, child, kept)})
    return lines


def _found(parent: MemoryBase, child: MemoryBase, kept: Mapping[str, Tensor]) -> dict[str, Any]:
    started = time.monotonic()
    by_name = match_by_name(parent.layers, child.layers, parent.layers)
    matching = match_by_channels(parent, child, by_name, device=CPU)
    exact, channels = _shares_right(matching, kept)
    narrower = len(by_name.unpaired)
    return {
        "solved": len(matching.channels) / narrower,
        "right": exact,
        "channels right": channels,
        "seconds": round(time.monotonic() - started, 2),
    }
