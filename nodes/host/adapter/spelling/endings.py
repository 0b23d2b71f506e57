"""Rewrites the ending of a key, after the module's name, into a spelling that ComfyUI reads."""

import re
from functools import lru_cache

# (pattern, replacement): all that match are applied, in this order.
_REWRITES = (
    (re.compile(r"\.lora_magnitude_vector\.weight$"), ".lora_magnitude_vector"),
    (re.compile(r"\.magnitude$"), ".lora_magnitude_vector"),  # ai-toolkit's DoRA: the same formula
    (re.compile(r"\.diff_m$"), ".modulation.diff"),  # lightx2v's changes of Wan's modulations
    (re.compile(r"(?<=_lora[12])\.(up|down)\.weight$"), r".lora_\1.weight"),  # XLabs: one for image, one for text
    (re.compile(r"(?<=[a-z0-9])_lora_(up|down|mid)\.weight$"), r".lora_\1.weight"),
    (re.compile(r"\.lora_(up|down)$"), r".lora_\1.weight"),
)

# During training PEFT has the name of the adapter in its keys, and some trainers save it: `default`, `default_0`
# (diffusers), or any other word.
_ADAPTER_NAME = re.compile(
    r"(\.(?:lora_[AB]|lora_magnitude_vector|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2))"
    r"\.(?!(?:weight|bias)$)([^.]+)((?:\.weight|\.bias)?)$"
)

# No module has a longer key, so the patterns above need not be matched to it.
_LONGEST = 512

# How many keys are remembered. The files of a library mostly have the same keys.
KEYS_KEPT = 1 << 14

# `.lora_linear_layer.up.weight` has the most dots of all endings that ComfyUI reads.
_MOST_DOTS = 4


@lru_cache(KEYS_KEPT)
def split_adapter_name(key: str) -> tuple[str, str]:
    """(the key without PEFT's name of the adapter, that name); the name is empty if there is none."""
    if len(key) > _LONGEST or (match := _ADAPTER_NAME.search(key)) is None:
        return key, ""
    return f"{key[: match.start()]}{match[1]}{match[3]}", match[2]


@lru_cache(KEYS_KEPT)
def rewrite_ending(key: str) -> str:
    """The key with its ending as ComfyUI spells it, and with the same module name."""
    if len(key) > _LONGEST:
        return key
    for pattern, replacement in _REWRITES:
        key = pattern.sub(replacement, key)
    return key


def modules_of(key: str) -> list[str]:
    """Every possible module name in a key, the longest first: it ends before a dot or before `_lora.`."""
    if len(key) > _LONGEST:
        return []
    ends = [end for end in range(1, len(key)) if key[end] == "." or key.startswith("_lora.", end)]
    return [key[:end] for end in reversed(ends[-_MOST_DOTS:])]
