"""Describes an adapter file without a base: its kinds, its ranks, the parts of the model, what it was trained on."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from ....core.errors import UnsupportedAdapter
from ....core.files.json_text import read_json
from .adapter import Adapter
from .base_clues import TITLE, BaseClues
from .clues_beside import read_all_clues
from .metadata import PROVENANCE
from .spelling.endings import rewrite_ending, split_adapter_name
from .spelling.prefixes import ANY_TEXT_ENCODER
from .unread_kinds import kinds_of_keys

# A part of a key's ending -> the kind of its module. The first that fits counts: a DoRA has a LoRA's keys too.
_KINDS = (
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("oft_", "OFT"),
    ("a1.weight", "GLoRA"),
    ("diff", "full difference"),
    ("set_weight", "replaced weight"),
    ("lambda_layer", "T-LoRA"),
    ("lora_", "LoRA"),
    (".lora.", "LoRA"),
)

# How keys begin -> whose spelling it is.
_SPELLINGS = (
    ("lora_unet_", "kohya"),
    ("lora_te", "kohya"),
    ("lora_transformer_", "OneTrainer"),
    ("lycoris_", "LyCORIS"),
    ("base_model.model.", "PEFT"),
    ("diffusion_model.", "ComfyUI"),
    ("transformer.", "diffusers"),
    ("unet.", "diffusers"),
)

_MODULE_END = re.compile(
    r"\.(?:lora_|lora\.|hada_|lokr_|oft_|alpha$|dora_scale|diff|set_weight|a[12]\.|b[12]\.|[pq]_layer\.|lambda_layer$).*$"
)
_MOST_TAGS, _LONGEST = 5, 200


@dataclass(frozen=True)
class Contents:
    """What is in an adapter file. kinds: modules of each kind. ranks: modules of each rank. parts: modules of the
    diffusion model and of text encoders. trained_on: what the file, and the files beside it, say about its base. title:
    the LoRA's own; it is no base, although a guess may read it. transferred: what the pack noted if it made this file.
    """

    name: str
    fingerprint: str
    size: int
    kinds: Mapping[str, int]
    spelling: str
    ranks: Mapping[int, int]
    parts: Mapping[str, int]
    dtypes: tuple[str, ...]
    trained_on: BaseClues
    title: str
    words: tuple[str, ...]
    transferred: Mapping[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def describe_contents(adapter: Adapter) -> Contents:
    """Read an adapter and describe it. UnreadableFile if it cannot be read, UnsupportedAdapter if it is no adapter."""
    tensors = adapter.state_dict()
    modules: dict[str, set[str]] = {}  # module -> the endings of its keys
    for key in tensors:
        rewritten = rewrite_ending(split_adapter_name(key)[0])
        module = _MODULE_END.sub("", rewritten)
        modules.setdefault(module, set()).add(rewritten[len(module) :])
    kinds = Counter(kind for endings in modules.values() if (kind := _kind_of(endings)) is not None)
    kinds += Counter(kinds_of_keys(tensors).values())  # kinds that are not read
    if not kinds:
        raise UnsupportedAdapter(
            f"LoRA {adapter.name}: expected changes of layers, found none among {len(tensors)} tensors (first: "
            f"{next(iter(tensors), 'none')}). Choose another file."
        )
    clues = read_all_clues(adapter)
    text = sum(name.startswith(ANY_TEXT_ENCODER) for name in modules)
    return Contents(
        adapter.name,
        adapter.fingerprint,
        sum(tensor.numel() * tensor.itemsize for tensor in tensors.values()),
        dict(kinds.most_common()),
        next((spelling for prefix, spelling in _SPELLINGS if any(key.startswith(prefix) for key in tensors)), "other"),
        dict(sorted(_ranks(tensors).items())),
        {"diffusion model": len(modules) - text, "text encoders": text},
        tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})),
        replace(clues, names=tuple(clue for clue in clues.names if clue.entry != TITLE)),
        adapter.metadata.get(TITLE, "")[:_LONGEST],
        _words(adapter.metadata),
        _provenance(adapter.metadata),
    )


def _kind_of(endings: set[str]) -> str | None:
    return next((kind for mark, kind in _KINDS if any(mark in ending for ending in endings)), None)


def _ranks(tensors: Mapping[str, Tensor]) -> Counter[int]:
    """The first axis of the factor that reads the inputs is the rank."""
    downs = ("lora_down.weight", "lora_A.weight", "lora.down.weight", "hada_w1_b", "lokr_w2_b", "q_layer.weight")
    return Counter(tensor.shape[0] for key, tensor in tensors.items() if key.endswith(downs) and tensor.ndim > 1)


def _words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The trigger phrase, or the most frequent tags of the training."""
    if phrase := metadata.get("modelspec.trigger_phrase"):
        return (phrase[:_LONGEST],)
    try:
        folders = read_json(metadata.get("ss_tag_frequency", ""))
    except ValueError:
        return ()
    counts: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        if isinstance(tags, dict):
            counts.update({tag.strip()[:_LONGEST]: count for tag, count in tags.items() if isinstance(count, int)})
    return tuple(tag for tag, _ in counts.most_common(_MOST_TAGS))


def _provenance(metadata: Mapping[str, str]) -> Mapping[str, Any] | None:
    """What the pack noted in a file that it made: the kind, the bases, the method, the verdict, and the steps of
    trainings. None if it did not make the file. A hostile file may hold anything there."""
    try:
        entry = read_json(metadata.get(PROVENANCE, ""))
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    origin: dict[str, Any] = entry
    noted = {
        "kind": origin.get("kind"),
        "source": _part(origin, "source", "name"),
        "target": _part(origin, "target", "name"),
        "base": _part(_table(origin, "trained"), "base", "name"),
        "method": _part(origin, "settings", "method"),
        "verdict": _part(origin, "verdict", "word"),
        "trained_steps": _part(origin, "trained", "steps"),
        "refined_steps": _part(origin, "refined", "steps"),
    }
    return {name: value for name, value in noted.items() if value is not None}


def _table(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = entry.get(name)
    return part if isinstance(part, dict) else {}


def _part(entry: Mapping[str, Any], table: str, name: str) -> Any:
    return _table(entry, table).get(name)
