"""cli.py extract: writes the difference of two bases as a LoRA."""

import argparse
import json
import sys
from pathlib import Path

import folder_paths

from ....core.errors import UnwritableFile
from ....core.extract import Extracted, extract_difference
from ....core.files.tensor_writer import save_tensors
from ....core.matching import match_by_name
from ....core.resources import CPU
from ....core.verdict import RELATED, measure_pair
from ..adapter.adapter import LayerChanges
from ..adapter.metadata import PROVENANCE
from ..adapter.save import cast_for_file, respell_changes
from ..base.from_model import HostBase
from ..device import machine_resources
from .find import open_base, read_model_paths
from .progress import Bars
from .say import write

_LITTLE = 0.5  # of the difference; below, most of what makes B differ from A is missing


def extract(options: argparse.Namespace, comfyui: Path) -> int:
    """Write the difference B - A of two bases."""
    read_model_paths(comfyui)
    first, second = open_base(options.source), open_base(options.target)
    path = Path(options.out).expanduser() if options.out else _default_path(first, second)
    if path.exists():
        raise UnwritableFile(f"File {path}: it exists. Choose another name with --out.")
    with Bars(1, quiet=options.json) as bars:
        using = machine_resources(bars.layer, options.workers)
        warning = _warn_of_strangers(first, second)
        if warning:
            bars.note(warning)
        extracted = extract_difference(first, second, first.own_layers(), options.rank, options.energy, using)
    changes = LayerChanges(first, extracted.deltas, {})
    name = path.name
    tensors = cast_for_file(respell_changes(changes, options.spelling, name), changes.adapter(name, {}), options.dtype)
    origin = {
        "kind": "difference",
        "source": {"name": first.name, "fingerprint": first.fingerprint},
        "target": {"name": second.name, "fingerprint": second.fingerprint},
        "settings": {"rank": options.rank, "energy": options.energy},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, tensors, {PROVENANCE: json.dumps(origin)})
    except OSError as error:
        raise UnwritableFile(f"File {path}: it cannot be written ({error.strerror or error}).") from error
    if options.json:
        sys.stdout.write(json.dumps({**_figures(extracted, path), "warning": warning}) + "\n")
    else:
        write(_sentence(extracted, path, related=warning is None))
    return 0


def _warn_of_strangers(first: HostBase, second: HostBase) -> str | None:
    """A sentence if the two bases are no relatives; None if they are."""
    matching = match_by_name(first.layers, second.layers, first.own_layers())
    cosine = measure_pair(first, second, matching, device=CPU).weight_cosine
    if cosine is None or cosine >= RELATED:
        return None
    measured = f"weight cosine {cosine:.3f}; unrelated bases have 0"
    return (
        f"{first.name} and {second.name} are no relatives ({measured}). Their difference is then nearly all of both "
        "models, and a LoRA keeps little of it: do not expect A with it to be like B."
    )


def _default_path(first: HostBase, second: HostBase) -> Path:
    names = f"{Path(second.name).stem}_minus_{Path(first.name).stem}.safetensors"
    return Path(folder_paths.get_output_directory()) / "loras" / names


def _figures(extracted: Extracted, path: Path) -> dict[str, object]:
    return {
        "output": str(path),
        "layers": len(extracted.deltas),
        "equal": extracted.equal,
        "skipped": [{"layer": item.layer, "reason": item.reason} for item in extracted.skipped],
        "kept": extracted.kept,
    }


def _sentence(extracted: Extracted, path: Path, related: bool) -> str:
    lines = [
        f"{path}: {len(extracted.deltas)} layers, {extracted.kept:.1%} of the difference of their weights; "
        f"{extracted.equal} layers are equal in both bases. Biases and norms are left out."
    ]
    if related and extracted.kept < _LITTLE:
        lines.append("  That is little: choose a larger --rank, or an --energy nearer to 1.")
    if extracted.skipped:
        first = extracted.skipped[0]
        lines.append(f"  {len(extracted.skipped)} layers have no partner (first: {first.layer}: {first.reason})")
    return "\n".join(lines)
