"""Writes a pair of SDXL models with random weights, and a LoRA for them: real names and shapes, in float16."""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.device.models import SDXL

_RANK = 16
_DRIFT, _STRENGTH = 0.2, 0.2  # of the target and of the LoRA, relative to the weights


@dataclass(frozen=True)
class PairFiles:
    """Two diffusion models of 5 GB each, and a LoRA on the 700 matrices of the source's transformer blocks."""

    source: Path
    target: Path
    lora: Path

    @staticmethod
    def below(folder: Path) -> "PairFiles":
        return PairFiles(*(folder / f"{name}.safetensors" for name in ("source", "target", "lora")))


def write_pair(folder: Path, unet: Mapping[str, Any] = SDXL) -> PairFiles:
    """Writes the pair: the target is the source plus noise. Takes two minutes; memory: one tensor. unet: the settings
    of ComfyUI's UNetModel."""
    files = PairFiles.below(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shapes = _shapes(unet)
    lora: dict[str, Tensor] = {}
    with files.source.open("wb") as source, files.target.open("wb") as target:
        for stream in (source, target):
            stream.write(_header(shapes))
        for name, weight, drifted in _weights(shapes):
            source.write(weight.half().numpy().data)
            target.write(drifted.half().numpy().data)
            if "transformer_blocks." in name and weight.ndim == 2:
                lora |= _factors(name, weight)
    save_file(lora, files.lora)
    return files


def _shapes(unet: Mapping[str, Any]) -> dict[str, torch.Size]:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    model = UNetModel(**unet, device="meta", dtype=torch.float16, operations=comfy.ops.disable_weight_init)
    return {name: value.shape for name, value in model.state_dict().items()}


def _header(shapes: Mapping[str, torch.Size]) -> bytes:
    """The start of a safetensors file with these tensors in float16: the whole file would not fit into memory."""
    entries: dict[str, Any] = {}
    start = 0
    for name, shape in shapes.items():
        stop = start + 2 * math.prod(shape)
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _weights(shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every tensor of both models. Vectors are zeros: they are not layers."""
    generator = torch.Generator().manual_seed(2)
    for name, shape in shapes.items():
        if len(shape) < 2:
            yield name, torch.zeros(shape), torch.zeros(shape)
            continue
        scale = 1 / math.sqrt(shape[1:].numel())
        weight = torch.randn(shape, generator=generator).mul_(scale)
        noise = torch.randn(shape, generator=generator).mul_(_DRIFT * scale)
        yield name, weight, noise.add_(weight)


def _factors(name: str, weight: Tensor) -> dict[str, Tensor]:
    """A LoRA on one layer, in ComfyUI's generic names."""
    generator = torch.Generator().manual_seed(len(name) + weight.shape[1])
    up, down = (
        torch.randn(*shape, generator=generator) for shape in ((weight.shape[0], _RANK), (_RANK, weight.shape[1]))
    )
    up *= _STRENGTH * weight.norm() / (up @ down).norm()
    layer = f"diffusion_model.{name.removesuffix('.weight')}"
    return {f"{layer}.lora_up.weight": up.half(), f"{layer}.lora_down.weight": down.half()}
