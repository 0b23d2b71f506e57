"""Are known maps recovered? Children made by removing blocks as published ones do, perturbed more and more."""

import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.matching import BlockMap, Measure, map_blocks, match_by_blocks
from core.verdict import verdict

from . import unets
from .seeded import Child, Parent, SeededBase, WithDecoys

CPU = torch.device("cpu")
COSINES = (0.95, 0.8, 0.6, 0.4)


def share_right(found: BlockMap, parents: Mapping[str, str]) -> float:
    """Of the target's blocks, those that got their true parent."""
    return sum(match.source == parents[match.target] for match in found.matches) / len(found.matches)


def run(
    divisor: int, cosines: Sequence[float] = COSINES, measures: Sequence[Measure] = ("weight_cosine", "similarity")
) -> list[dict[str, Any]]:
    """A line for each child and measure: share of blocks right at each cosine, with and without decoys, and by name."""
    lines: list[dict[str, Any]] = []
    for name, (above, below, parents) in unets.pairs(divisor).items():
        parent = Parent(name, above)
        sources: dict[str, SeededBase] = {"": parent, " decoys": WithDecoys(parent, above)}
        for measure in measures:
            line: dict[str, Any] = {"child": name, "blocks": len(below), "measure": measure}
            line["by name"] = sum(parents[block] == block for block in below) / len(below)
            for cosine in cosines:
                child = Child(f"{name} child", below, parent, parents, cosine)
                for label, source in sources.items():
                    found = map_blocks(source, child, measure=measure, device=CPU)
                    line[f"{cosine:g}{label}"] = share_right(found, parents)
            lines.append(line)
    return lines


def run_full_size(cosines: Sequence[float] = (0.6, 0.4)) -> list[dict[str, Any]]:
    """Attention layers of SDXL and SSD-1B at their real size."""

    def attention(blocks: unets.Blocks) -> unets.Blocks:
        return {name: roles for name, roles in blocks.items() if "attentions" in name}

    above, below, parents = unets.pairs(1)["SSD-1B"]
    parent = Parent("SSD-1B", attention(above))
    lines: list[dict[str, Any]] = []
    for cosine in cosines:
        child = Child("full-size child", attention(below), parent, parents, cosine)
        started = time.monotonic()
        found = map_blocks(parent, child, device=CPU)
        mapped = time.monotonic()
        matching = match_by_blocks(parent.layers, child.layers, found, parent.layers)
        word = verdict(parent, child, matching, device=CPU).word
        lines.append(
            {
                "cosine": cosine,
                "blocks": len(found.matches),
                "right": share_right(found, parents),
                "seconds for the map": round(mapped - started, 1),
                "verdict": word,
                "seconds for the verdict": round(time.monotonic() - mapped, 1),
                "peak GB of the process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            }
        )
    return lines
