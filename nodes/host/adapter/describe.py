"""Says what is in a LoRA's file: its kind, its rank, the number of its layers, and what it was trained on."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from ....core.files import open_tensor_file
from ....core.reports.line import Line
from .adapter import PICKLED, Adapter
from .spelling.prefixes import ANY_TEXT_ENCODER

# A part of a key, which begins after the module's name -> the kind. The first that occurs counts.
_KINDS = {
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "oft_": "OFT",
    ".dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    ".a1.": "GLoRA",
    ".a2.": "GLoRA",
    ".b1.": "GLoRA",
    ".b2.": "GLoRA",
    "lora": "LoRA",
    ".diff": "full difference",
    ".set_weight": "full difference",
    "_norm": "norm",
}
_PLAIN, _NAMED_FIRST = "LoRA", ("DoRA", "LoKr", "LoHa", "OFT", "GLoRA")

# Parts of the key of a factor (rank, inputs).
_FACTORS = (
    ".lora_down",
    ".lora_A",
    "_lora.down",
    ".lora.down",
    ".hada_w1_b",
    ".lokr_w2_b",
    ".lokr_w1_b",
    ".down.weight",
)

# Entries of a file's metadata that name the base, the most particular first.
_TRAINED_ON = ("ss_sd_model_name", "modelspec.architecture", "ss_base_model_version", "base_model")
_TRIGGER = "modelspec.trigger_phrase"
_LONGEST = 200  # characters of a text from the file


def describe_adapter(adapter: Adapter) -> tuple[Line, ...]:
    """What the file is, what it was trained on, and its trigger words, as sentences for the node."""
    shapes = _shapes_of(adapter)
    lines = [
        Line.sentence("plain", _describe_content(shapes)),
        Line.sentence("plain", _describe_base(adapter.metadata)),
    ]
    if trigger := _shorten(adapter.metadata.get(_TRIGGER, "")):
        lines.append(Line("plain", f"Trigger words: {trigger}"))
    return tuple(lines)


def _describe_content(shapes: Mapping[str, tuple[int, ...]]) -> str:
    kinds = dict(_modules_of(shapes))
    names = [kind for kind in _NAMED_FIRST if kind in kinds.values()] or [_PLAIN]
    ranks = sorted({shape[0] for key, shape in shapes.items() if len(shape) > 1 and _is_factor(key)})
    rank = "" if not ranks else f" of rank {ranks[0]}" if len(ranks) == 1 else f" of ranks {ranks[0]} to {ranks[-1]}"
    encoders = sum(module.startswith(ANY_TEXT_ENCODER) for module in kinds)
    of_encoder = f", {encoders} of them in a text encoder" if encoders else ""
    counted = f"{len(kinds)} layer{'' if len(kinds) == 1 else 's'}" if kinds else "layers whose names are not known yet"
    return f"a {' and '.join(names)}{rank} on {counted}{of_encoder}"


def _describe_base(metadata: Mapping[str, str]) -> str:
    said = next((text for entry in _TRAINED_ON if (text := _shorten(metadata.get(entry, "")))), "")
    return f"its file says that it was trained on {said}" if said else "its file does not say what it was trained on"


def _modules_of(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, str]]:
    """(module, kind) for each key of a known kind. Names of modules are only counted, so their spelling is left."""
    for key in sorted(shapes, key=lambda key: "dora_scale" in key or "magnitude" in key):  # DoRA has LoRA's keys too
        for part, kind in _KINDS.items():
            start = key.find(part, 1) if part != "lora" else max(key.find(".lora", 1), key.find("_lora.", 1))
            if start > 0:
                yield key[:start].rstrip("._"), kind
                break


def _is_factor(key: str) -> bool:
    return any(part in key for part in _FACTORS)


def _shapes_of(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Key -> shape; of a safetensors file from its header alone."""
    if isinstance(adapter.path, Path) and adapter.path.suffix.lower() not in PICKLED:
        return {key: header.shape for key, header in open_tensor_file(adapter.path).tensors.items()}
    return {key: tuple(tensor.shape) for key, tensor in adapter.state_dict().items()}


def _shorten(text: str) -> str:
    """A text from a file on one line, and not too long for a node."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else words[:_LONGEST] + "…"
