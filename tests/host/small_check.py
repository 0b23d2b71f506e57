"""A small pair of models to check transfers on, and adapters that are better and worse on it."""

from dataclasses import dataclass, replace
from typing import Any

import comfy.sd
import torch
from torch import Tensor

from lora_transfer.core.check import CheckSettings
from lora_transfer.core.progress import ignore_progress
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file, adapter_from_state_dict
from lora_transfer.nodes.host.check import CheckInputs, CheckResult, check
from tests.host.conftest import SmallPair

SMALL = CheckSettings(timesteps=3, size=64)
SEARCH = replace(SMALL, search="strength", seeds=1)


@dataclass(frozen=True)
class Models:
    """Two small loaded models, one drifted from the other, and the LoRA of the first."""

    source: Any
    target: Any
    lora: Adapter

    def check(self, transferred: Adapter, settings: CheckSettings = SMALL, **other: Any) -> CheckResult:
        """A check between the two models, or with what `other` names instead."""
        source, target = other.pop("source", self.source), other.pop("target", self.target)
        conditioning = other.pop("conditioning", text(768))
        inputs = {"more": (), "latent": None, "progress": ignore_progress, "adapter": self.lora, **other}
        sides = CheckInputs(source, target, conditioning, conditioning)
        return check(sides, transferred=transferred, settings=settings, **inputs)


def loaded(pair: SmallPair) -> Models:
    with torch.inference_mode():
        source, target = (
            comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]
            for path in (pair.source, pair.target)
        )
    return Models(source, target, adapter_from_file(pair.lora, "lora.safetensors"))


def text(width: int, pooled_width: int = 0) -> list[Any]:
    """A CONDITIONING like that of a text encoder of this width."""
    generator = torch.Generator().manual_seed(7)
    pooled_output = {"pooled_output": torch.randn(1, pooled_width, generator=generator)} if pooled_width else {}
    return [[torch.randn(1, 77, width, generator=generator), pooled_output]]


def strengthened(adapter: Adapter, factor: float) -> Adapter:
    tensors = adapter.state_dict()
    return adapter_from_state_dict(
        {key: value.float() * factor if key.endswith("lora_up.weight") else value for key, value in tensors.items()},
        "scaled",
    )


def random_like(adapter: Adapter) -> Adapter:
    """Factors of the same size, of another seed."""
    generator = torch.Generator().manual_seed(99)

    def shuffled(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=generator).mul(value.float().std()).to(value.dtype)

    held = adapter.state_dict()
    return adapter_from_state_dict(
        {key: shuffled(value) if value.ndim > 1 else value for key, value in held.items()}, "random"
    )


def pooled(checked: CheckResult, role: str = "transferred") -> Any:
    return next(trial for trial in checked.report.trials if trial.role == role).at_strength_one().pooled
