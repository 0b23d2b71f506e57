"""Reads the scale alpha / rank from a file's metadata: from PEFT's settings, or from plain entries of the header."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ....core.errors import UnsupportedAdapter
from .name_patterns import name_patterns
from .spelling.prefixes import DIFFUSION_PARTS, SECOND_PART, TEXT_ENCODERS

# diffusers puts the part of the pipeline before each setting (unet.lora_alpha); PEFT's own settings have no part.
SETTINGS = ("lora_adapter_metadata", "adapter_config")

# The names of alpha and rank: in PEFT for LoRA, in other trainers, and in PEFT for LoHa and LoKr.
_ALPHAS = ("lora_alpha", "network_alpha", "alpha")
_RANKS = ("r", "rank", "network_dim")

_PARTS = ("", *DIFFUSION_PARTS, SECOND_PART, *TEXT_ENCODERS)

# What comes before a module's name inside its model, to which PEFT's patterns are matched.
_PREFIX = re.compile(
    r"(?:base_model\.model|diffusion_model|model|unet|transformer(?:_2)?|text_encoder(?:_[23])?|pipe|dit)\.(?=.)"
)

# Ways to start a LoRA that subtract its first factors from the base (arXiv 2404.02948 and others). The change is then
# up down less these first factors, which are not in the file. PEFT can convert such a file.
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

_TRUTH = {"true": True, "1": True, "false": False, "0": False, "none": False, "null": False, "": False}


@dataclass(frozen=True)
class PeftSettings:
    """LoraConfig, LoHaConfig or LoKrConfig by part of the pipeline, "" without a part. entry: their entry in the
    metadata; empty if they are plain entries of the header."""

    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Any])
    entry: str = ""

    def scale(self, module: str, rank: int | None) -> float:
        """alpha / rank, or alpha / sqrt(rank) for rsLoRA (arXiv 2312.03732); 1 if alpha is not given.

        rank: that of the tensors; None for a LoKr of two full matrices, which only PEFT scales, by the rank in its
        settings. UnsupportedAdapter if the settings are not understood.
        """
        settings = self._of(module)
        if rank is None and not self.entry:
            return 1.0
        alpha = self._value(settings, "alpha_pattern", _ALPHAS, module)
        if alpha is None:
            return 1.0
        divisor = self._value(settings, "rank_pattern", _RANKS, module) if rank is None else rank
        if divisor is None or divisor <= 0:
            raise UnsupportedAdapter(
                f"its scale: expected the rank r in PEFT's settings in the metadata ({self.entry}), found none"
            )
        return alpha / (divisor**0.5 if self._is_set(settings, "use_rslora") else divisor)

    def says_dora(self, module: str) -> bool:
        """Whether the module was trained as DoRA, which has its norms in a separate tensor."""
        return self._is_set(self._of(module), "use_dora")

    def check_start(self, module: str) -> None:
        """UnsupportedAdapter if training began by changing the base: the factors alone are then not the change."""
        start = str(self._of(module).get("init_lora_weights", ""))
        if start.lower().startswith(_CHANGES_THE_BASE):
            raise UnsupportedAdapter(
                f"its training began with {start[:40]} (init_lora_weights in the file's metadata), which changes "
                "the base too, and the file does not hold that change; PEFT can save it as a LoRA of the unchanged "
                "base (path_initial_model_for_weight_conversion)"
            )

    def _of(self, module: str) -> Mapping[str, Any]:
        encoder = next((part for part, prefixes in TEXT_ENCODERS.items() if module.startswith(prefixes)), None)
        diffusion = (SECOND_PART,) if module.startswith(f"{SECOND_PART}.") else DIFFUSION_PARTS
        wanted = diffusion if encoder is None else (encoder,)
        return next((self.parts[part] for part in (*wanted, "") if part in self.parts), {})

    def _value(self, settings: Mapping[str, Any], pattern: str, names: tuple[str, ...], module: str) -> float | None:
        """A module's number: from the first pattern that names the module, else from the setting."""
        patterns = settings.get(pattern) or {}
        if not isinstance(patterns, dict):
            raise self._strange(pattern, patterns, "numbers by the names of modules")
        position = name_patterns(tuple(patterns)).first(_inner_names(module))
        if position is not None:
            return self._number(pattern, list(patterns.values())[position])
        numbers = {name: self._number(name, settings[name]) for name in names if settings.get(name) is not None}
        if len(set(numbers.values())) > 1:
            said = " and ".join(f"{name} {number:g}" for name, number in numbers.items())
            raise UnsupportedAdapter(f"its scale: expected a single alpha in the metadata, found {said}")
        return next(iter(numbers.values()), None)

    def _number(self, name: str, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (OverflowError, TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self._strange(name, value, "a number")
        return number

    def _is_set(self, settings: Mapping[str, Any], name: str) -> bool:
        value = settings.get(name)
        truth = value if isinstance(value, bool) else _TRUTH.get(str(value).lower())
        if truth is None:
            raise self._strange(name, value, "true or false")
        return truth

    def _strange(self, name: str, value: Any, expected: str) -> UnsupportedAdapter:
        where = f"PEFT's settings in its metadata ({self.entry})" if self.entry else "its metadata"
        return UnsupportedAdapter(f"its scale: expected {where} to say {expected} as {name}, found {ascii(value)[:80]}")


def peft_settings(metadata: Mapping[str, str], adapter: str) -> PeftSettings:
    """The settings in a file's metadata; UnsupportedAdapter if they are there but cannot be read."""
    entry = next((name for name in SETTINGS if name in metadata), None)
    if entry is None:
        return PeftSettings(_by_part({name: value for name, value in metadata.items() if _tells_scale(name)}))
    try:
        written = json.loads(metadata[entry])
    except (RecursionError, ValueError) as error:
        raise _unreadable(adapter, entry, f"{type(error).__name__}: {error}") from error
    if not isinstance(written, dict):
        raise _unreadable(adapter, entry, f"{type(written).__name__}")
    return PeftSettings(_by_part(written), entry)


def says_scale(entry: str) -> bool:
    """Whether an entry of the metadata says how strong the file's factors are."""
    return entry in SETTINGS or _tells_scale(entry)


def _tells_scale(entry: str) -> bool:
    part, _, name = entry.rpartition(".")
    return part in _PARTS and name in (*_ALPHAS, *_RANKS, "use_rslora")


def _by_part(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        part, _, setting = name.rpartition(".")
        parts.setdefault(part, {})[setting] = value
    return parts


def _inner_names(module: str) -> Iterator[str]:
    """The module's name, with and without what comes before its name inside the model."""
    yield module
    while prefix := _PREFIX.match(module):
        module = module[prefix.end() :]
        yield module


def _unreadable(adapter: str, entry: str, content: str) -> UnsupportedAdapter:
    return UnsupportedAdapter(
        f"LoRA {adapter}: expected PEFT's settings in its metadata ({entry}), found something else "
        f"({' '.join(content.split())[:120]}). The LoRA's strength depends on them: remove the entry from the file, or "
        "download the file again."
    )
