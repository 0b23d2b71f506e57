"""PEFT's settings in a file's metadata, which say what alpha / rank is where the file has no alpha."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....core.errors import UnsupportedAdapter

# diffusers packs the settings of each part of a pipeline behind its name (unet.lora_alpha); PEFT's own have no part.
SETTINGS = ("lora_adapter_metadata", "adapter_config")

# How module names begin, by the part that they are of; what begins with none of these is the diffusion model's.
_ENCODERS = (
    ("text_encoder_2", ("text_encoder_2.", "lora_te2_")),
    ("text_encoder_3", ("text_encoder_3.", "lora_te3_")),
    ("text_encoder", ("text_encoder.", "lora_te_", "lora_te1_", "text_model.")),
)
_DIFFUSION = ("unet", "transformer")


@dataclass(frozen=True)
class PeftSettings:
    """LoraConfig by part of the pipeline ("" for one of no part)."""

    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Any])

    def scale(self, module: str, rank: int) -> float:
        """lora_alpha / rank, or lora_alpha / sqrt(rank) for rsLoRA (arXiv 2312.03732); 1 where nothing is said.

        The rank is that of the tensors, which rank_pattern has made; of alpha_pattern the first name that fits counts.
        """
        settings = self._of(module)
        alphas = (alpha for name, alpha in settings.get("alpha_pattern", {}).items() if _names(name, module))
        alpha = next(alphas, settings.get("lora_alpha"))
        if alpha is None:
            return 1.0
        return alpha / (rank**0.5 if settings.get("use_rslora") else rank)

    def _of(self, module: str) -> Mapping[str, Any]:
        encoder = next((part for part, prefixes in _ENCODERS if module.startswith(prefixes)), None)
        wanted = _DIFFUSION if encoder is None else (encoder,)
        return next((self.parts[part] for part in (*wanted, "") if part in self.parts), {})


def peft_settings(metadata: Mapping[str, str], adapter: str) -> PeftSettings:
    """The settings of a file; UnsupportedAdapter where they are there and cannot be read."""
    entry = next((name for name in SETTINGS if name in metadata), None)
    if entry is None:
        return PeftSettings()
    parts: dict[str, dict[str, Any]] = {}
    try:
        for name, value in json.loads(metadata[entry]).items():
            part, _, setting = name.rpartition(".")
            parts.setdefault(part, {})[setting] = value
        for settings in parts.values():
            _check(settings)
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise UnsupportedAdapter(
            f"LoRA {adapter}: expected PEFT's settings in its metadata ({entry}), found what is none ({error}); the "
            "LoRA's strength depends on them. Take the entry out of the file, or fetch the file again."
        ) from error
    return PeftSettings(parts)


def _check(settings: dict[str, Any]) -> None:
    """Numbers and patterns, or an error that says what is wrong."""
    settings["alpha_pattern"] = settings.get("alpha_pattern") or {}
    for name, alpha in settings["alpha_pattern"].items():
        re.compile(name)
        float(alpha)
    if settings.get("lora_alpha") is not None:
        float(settings["lora_alpha"])


def _names(pattern: str, module: str) -> bool:
    """PEFT's rule: the end of the module's name, from a dot on."""
    return re.search(rf"(?:^|\.)(?:{pattern})$", module) is not None
