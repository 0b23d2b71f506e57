"""cli.py verdict: says whether a transfer between two bases can work."""

import argparse
import json
import sys
from pathlib import Path

from ....core.survey import survey
from ....core.verdict import most_severe
from ..adapter.adapter import adapter_from_file
from ..adapter.read import read_adapter
from ..device import machine_resources
from ..pair import kind_of_survey
from ..refine.estimate import estimate_outlook
from ..source_doubts import doubt_source
from .find import locate_loras, open_base, read_model_paths
from .progress import Bars
from .say import write
from .transfer import read_block_map

_EXIT_CODES = {"works": 0, "risky": 0, "refuse": 1}


def verdict(options: argparse.Namespace, comfyui: Path) -> int:
    """Print the verdict on two bases; the exit code is 1 if it is refuse."""
    read_model_paths(comfyui)
    source, target = open_base(options.source), open_base(options.target)
    layers, deltas, doubts = source.own_layers(), None, ()
    if options.lora:
        path = Path(locate_loras([options.lora])[0]).expanduser()
        adapter = adapter_from_file(path, path.name)
        placed = read_adapter(adapter, source)
        layers, deltas, doubts = placed.layers(), placed.factored, doubt_source(adapter, source, target)
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
    word = most_severe(judgement.word, "risky" if doubts else "works")
    if options.json:
        refine = None if outlook is None else outlook.as_json()
        judged = {**judgement.as_json(), "word": word, "reasons": [*judgement.reasons, *doubts], "refine": refine}
        judged["block_map"] = surveyed.block_map.as_json()
        sys.stdout.write(json.dumps({"source": source.name, "target": target.name, **judged}) + "\n")
    else:
        sentences = [f"  {reason}" for reason in (*judgement.reasons, *doubts)]
        if judgement.figures.drift == 0:
            sentences.append("  the layers that were read are equal in both bases: load the LoRAs as they are")
        refine = [] if outlook is None else [f"In ComfyUI: {outlook.sentence()}"]
        write("\n".join([f"{word}: {source.name} to {target.name}", *sentences, *refine]))
    return _EXIT_CODES[word]
