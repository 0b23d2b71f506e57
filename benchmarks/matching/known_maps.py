"""Measures whether known block maps are recovered.

The children lack the blocks that published pruned models lack; their weights are perturbed more and more.
"""

import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from core.matching import MEASURES, BlockMap, map_blocks, match_by_blocks, score_blocks
from core.pictures.block_map import block_map_picture
from core.pictures.depth import depth_picture
from core.reports.transfer import similarity_report
from core.similarity import compare
from core.subspace import RankRule
from core.verdict import judge_bases

from . import unets
from .seeded import Child, Parent, ParentWithDecoys, SeededBase

CPU = torch.device("cpu")
COSINES = (0.95, 0.8, 0.6, 0.4)


def share_right(block_map: BlockMap, parents: Mapping[str, str]) -> float:
    """The share of the target's blocks that were matched to their true parent."""
    return sum(match.source == parents[match.target] for match in block_map.matches) / len(block_map.matches)


def run(
    divisor: int, cosines: Sequence[float] = COSINES, measures: Sequence[str] = ("weight_cosine", "subspace")
) -> list[dict[str, Any]]:
    """One line for each child and measure: the share of correct blocks at each cosine, with and without decoys, and by
    name."""
    lines: list[dict[str, Any]] = []
    for name, (above, below, parents) in unets.pairs(divisor).items():
        parent = Parent(name, above)
        sources: dict[str, SeededBase] = {"": parent, " decoys": ParentWithDecoys(parent, above)}
        for measure in measures:
            line: dict[str, Any] = {"child": name, "blocks": len(below), "measure": measure}
            line["by name"] = sum(parents[block] == block for block in below) / len(below)
            for cosine in cosines:
                child = Child(f"{name} child", below, parent, parents, cosine)
                for label, source in sources.items():
                    block_map = map_blocks(source, child, measure=measure, device=CPU)
                    line[f"{cosine:g}{label}"] = share_right(block_map, parents)
            lines.append(line)
    return lines


def run_full_size() -> list[dict[str, Any]]:
    """Matches the attention layers of SDXL and SSD-1B at their real size."""

    def keep_attention(blocks: unets.Blocks) -> unets.Blocks:
        return {name: roles for name, roles in blocks.items() if "attentions" in name}

    above, below, parents = unets.pairs(1)["SSD-1B"]
    parent = Parent("SSD-1B", keep_attention(above))
    lines: list[dict[str, Any]] = []
    for measure in MEASURES:
        for cosine in COSINES[2:]:
            child = Child("full-size child", keep_attention(below), parent, parents, cosine)
            started = time.monotonic()
            block_map = map_blocks(parent, child, measure=measure, device=CPU)
            map_done = time.monotonic()
            matching = match_by_blocks(parent.layers, child.layers, block_map, parent.layers)
            judgement = judge_bases(parent, child, matching, device=CPU)
            lines.append(
                {
                    "measure": measure,
                    "cosine": cosine,
                    "blocks": len(block_map.matches),
                    "right": share_right(block_map, parents),
                    "seconds for the map": round(map_done - started, 1),
                    "verdict": judgement.word,
                    "similarity of the sample": judgement.figures.similarity,
                    "seconds for the verdict": round(time.monotonic() - map_done, 1),
                    "peak GB of the process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                }
            )
    return lines


def draw(folder: Path, divisor: int = 10, cosine: float = 0.8) -> list[Path]:
    """Writes the two pictures of SDXL to SSD-1B, at a fraction of the real width."""
    above, below, parents = unets.pairs(divisor)["SSD-1B"]
    parent = Parent("SDXL, seeded", above)
    child = Child("SSD-1B, seeded", below, parent, parents, cosine)
    scores = score_blocks(parent, child, device=CPU)
    matching = match_by_blocks(parent.layers, child.layers, scores.best_map(), parent.layers)
    comparison = compare(parent, child, matching, RankRule("fraction", 0.5))
    pictures = {
        "blocks": block_map_picture(scores, scores.best_map(), parent.name, child.name),
        "depth": depth_picture(similarity_report(comparison, None, 0.0)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in pictures]
