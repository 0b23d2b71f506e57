"""SDXL-shaped models of random weights, in ComfyUI's own class, a LoRA on them, and prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import ours

SDXL: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
}
# ComfyUI tells a family by the width of its context and its depths on the way in (here those of Vega, SDXL's pruned
# child); the rest may be narrow.
_NARROW = {
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 0, 0, 0, 0, 0, 1],
    "transformer_depth_middle": 1,
}
RANK = 16
_DRIFT, _STRENGTH = 0.2, 0.2  # of the target and of the LoRA, relative to the weights


@dataclass(frozen=True)
class Pair:
    """Two loaded models and a LoRA for either; fp8: whether their weights are."""

    source: Any
    target: Any
    adapter: Any
    fp8: bool


def pair(device: str, tiny: bool, *, fp8: bool, folder: Path | None = None) -> Pair:
    """Made on the device and loaded by ComfyUI from main memory, or through files in a folder, as users have them."""
    generator = torch.Generator(device).manual_seed(2)
    source: dict[str, Tensor] = {}
    target: dict[str, Tensor] = {}
    lora: dict[str, Tensor] = {}
    for name, shape in _shapes(tiny).items():
        weight = _weight(name, shape, generator)
        moved = weight + _DRIFT * _weight(name, shape, generator) if len(shape) > 1 else weight
        dtype = torch.float8_e4m3fn if fp8 and len(shape) > 1 else torch.float16
        source[name], target[name] = weight.to("cpu", dtype), moved.to("cpu", dtype)
        if "transformer_blocks." in name and len(shape) == 2:
            lora |= _factors(name, weight, generator)
    adapter = ours.adapter_of(lora, "random LoRA")
    files = [None if folder is None else folder / f"{name}.safetensors" for name in ("source", "target")]
    return Pair(_loaded(source, files[0]), _loaded(target, files[1]), adapter, fp8)


def prompts(count: int = 4) -> Any:
    """CONDITIONING as SDXL's text encoders give it, one entry a prompt."""
    generator = torch.Generator().manual_seed(3)
    return [
        [torch.randn(1, 77, 2048, generator=generator), {"pooled_output": torch.randn(1, 1280, generator=generator)}]
        for _ in range(count)
    ]


def gigabytes(model: Any) -> float:
    return model.model_size() / 1e9


def _shapes(tiny: bool) -> dict[str, torch.Size]:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    settings = {**SDXL, **_NARROW} if tiny else SDXL
    with ours.build_all_weights():
        model = UNetModel(**settings, device="meta", dtype=torch.float16, operations=comfy.ops.disable_weight_init)
    return {name: value.shape for name, value in model.state_dict().items()}


def _weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Noise that keeps a signal's variance: matrices 1/sqrt(inputs), norms one, biases zero."""
    device = generator.device
    if len(shape) < 2:
        return torch.zeros(shape, device=device) if name.endswith("bias") else torch.ones(shape, device=device)
    return torch.randn(shape, generator=generator, device=device) / shape[1:].numel() ** 0.5


def _factors(name: str, weight: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """A LoRA on one layer, in ComfyUI's generic names."""
    up, down = (
        torch.randn(*shape, generator=generator, device=generator.device)
        for shape in ((weight.shape[0], RANK), (RANK, weight.shape[1]))
    )
    up *= _STRENGTH * weight.norm() / (up @ down).norm()
    layer = f"diffusion_model.{name.removesuffix('.weight')}"
    return {f"{layer}.lora_up.weight": up.half().cpu(), f"{layer}.lora_down.weight": down.half().cpu()}


def _loaded(weights: dict[str, Tensor], file: Path | None) -> Any:
    import comfy.sd

    if file is None:
        return comfy.sd.load_diffusion_model_state_dict(weights)
    save_file(weights, file)
    return comfy.sd.load_diffusion_model(str(file))
