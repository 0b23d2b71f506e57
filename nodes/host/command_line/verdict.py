"""cli.py verdict: says whether a transfer between two bases can work."""

import argparse
import json
import sys
from pathlib import Path

from ....core.survey import survey
from ..adapter.adapter import adapter_from_file
from ..adapter.read import read_adapter
from ..device import machine_resources
from ..pair import kind_of_survey
from ..refine.estimate import estimate_outlook
from .find import locate_loras, open_base, read_model_paths
from .progress import Bars
from .transfer import read_block_map

_EXIT_CODES = {"works": 0, "risky": 0, "refuse": 1}


def verdict(options: argparse.Namespace, comfyui: Path) -> int:
    """Print the verdict on two bases; the exit code is 1 if it is refuse."""
    read_model_paths(comfyui)
    source, target = open_base(options.source), open_base(options.target)
    layers, deltas = source.own_layers(), None
    if options.lora:
        path = Path(locate_loras([options.lora])[0]).expanduser()
        placed = read_adapter(adapter_from_file(path, path.name), source)
        layers, deltas = placed.layers(), placed.factored
    with Bars(1, quiet=options.json) as bars:
        surveyed = survey(
            source,
            target,
            layers,
            match_by=options.match_by,
            block_map_text=read_block_map(options.block_map),
            deltas=deltas,
            using=machine_resources(bars.layer, options.workers),
        )
    judgement = surveyed.verdict
    if judgement is None:
        return 0
    outlook = estimate_outlook(judgement, kind_of_survey(source, target, surveyed), target)
    if options.json:
        refine = None if outlook is None else outlook.as_json()
        text = json.dumps({"source": source.name, "target": target.name, **judgement.as_json(), "refine": refine})
    else:
        sentences = [f"  {reason}" for reason in judgement.reasons]
        if judgement.figures.drift == 0:
            sentences.append("  the layers that were read are equal in both bases: load the LoRAs as they are")
        refine = [] if outlook is None else [f"In ComfyUI: {outlook.sentence()}"]
        text = "\n".join([f"{judgement.word}: {source.name} to {target.name}", *sentences, *refine])
    sys.stdout.write(f"{text}\n")
    return _EXIT_CODES[judgement.word]
