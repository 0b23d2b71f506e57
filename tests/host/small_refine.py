"""The demo's trained models, loaded, and refinements between them that take a second or two."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sd
import torch
from safetensors import safe_open

from dev.paths import DEMO_MODELS
from lora_transfer.core.refine.loop import RefineSettings
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file
from lora_transfer.nodes.host.refine.run import RefineInputs, RefineResult, refine_adapter
from lora_transfer.nodes.host.refine.teacher import TeacherSettings

_PROMPTS = DEMO_MODELS / "emoji_prompts" / "emoji_prompts.safetensors"
SHORT = RefineSettings(steps=8, batch=8, checks=2)
FEW = TeacherSettings(samples=8)
FACES = ("slightly smiling face", "grinning face", "fearful face", "face with tongue")


def demo_model(name: str) -> Any:
    with torch.inference_mode():
        return comfy.sd.load_diffusion_model(str(DEMO_MODELS / "diffusion_models" / f"emoji_{name}.safetensors"))


def demo_lora() -> Adapter:
    return adapter_from_file(DEMO_MODELS / "loras" / "emoji_line_art.safetensors", "emoji_line_art.safetensors")


def known_names() -> list[str]:
    with safe_open(_PROMPTS, "pt") as file:
        return file.metadata()["names"].split("\n")


def demo_prompts(names: Sequence[str] = FACES) -> list[Any]:
    """CONDITIONING as the demo's node gives it: one entry, a row for each name."""
    known = known_names()
    with safe_open(_PROMPTS, "pt") as file:
        context, pooled = (file.get_tensor(key).float() for key in ("context", "pooled"))
    chosen = [known.index(name) for name in names]
    return [[context[chosen], {"pooled_output": pooled[chosen]}]]


@dataclass(frozen=True)
class Emoji:
    """The demo's models as they are connected."""

    source: Any
    target: Any
    pruned: Any
    lora: Adapter

    def refined(
        self,
        settings: RefineSettings = SHORT,
        teaching: TeacherSettings = FEW,
        told: list[str] | None = None,
        **other: Any,
    ) -> RefineResult:
        """A refinement that starts from the plain copy, or with what `other` names instead."""
        inputs = {"source": self.source, "target": self.target, "adapter": self.lora, "transferred": self.lora, **other}
        inputs.setdefault("conditioning", demo_prompts())
        say = (lambda text: None) if told is None else told.append
        return refine_adapter(RefineInputs(**inputs), settings, teaching, 64, say)


def emoji() -> Emoji:
    return Emoji(*(demo_model(name) for name in ("source", "target", "pruned")), demo_lora())


__all__ = ["Emoji", "demo_prompts", "emoji", "replace"]
