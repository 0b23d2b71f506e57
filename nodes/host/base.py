"""A base model as the engine sees it, from a file's header or from a loaded model; weights are read one at a time."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from ...core.errors import UnsupportedBase
from ...core.files import TensorFile, TensorHeader, open_tensor_file, sampled_fingerprint, to_float32
from ...core.layers import Layer, WeightRef
from .names import UNET, layers_of, writable_names

# Marks of a quantised file: its weights mean nothing without the scales beside them.
_QUANTISED = (".comfy_quant", ".scale_weight", ".weight_scale", "scaled_fp8")

# safetensors' dtypes as torch's, for the meta tensors that stand in for weights while the family is detected.
_TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class HostBase:
    """A lazy handle on a base model (core.layers.Base) with the host's names for its layers.

    family: the host's class of model (SD15, SDXL, Flux, ...). key_map: adapter names -> model keys, as
    comfy.lora.model_lora_keys_unet gives it. written: layer -> the name to write it under in a file.
    """

    name: str
    fingerprint: str
    family: str
    key_map: Mapping[str, Any]
    layers: Mapping[str, Layer]
    written: Mapping[str, str]
    reader: Callable[[WeightRef], Tensor]

    def own_layers(self) -> list[str]:
        """Every layer once: a fused weight is left out where its slices (q, k and v of qkv) are layers of their own."""
        sliced = {layer.weight.key for layer in self.layers.values() if layer.weight.rows is not None}
        return [name for name, layer in self.layers.items() if layer.weight.rows or layer.weight.key not in sliced]

    def read(self, layer: Layer) -> Tensor:
        """The weight as a float32 matrix (m, n); UnsupportedBase where it holds NaN or infinity."""
        matrix = self.reader(layer.weight).flatten(1)
        if not bool(torch.isfinite(matrix).all()):
            raise UnsupportedBase(
                f"Base {self.name}, layer {layer.name}: expected finite numbers, found NaN or infinity. The file is "
                "damaged, or was merged or converted in too small a precision: take another copy of it."
            )
        return matrix


def base_from_file(path: Path, name: str) -> HostBase:
    """A base from a safetensors checkpoint or diffusion model: only the header is read here, no model is built."""
    file = open_tensor_file(path)
    if marks := [key for key in file.tensors if key.endswith(_QUANTISED)]:
        raise UnsupportedBase(
            f"Base {name}: expected plain weights, found quantised ones ({marks[0]}). Load it with ComfyUI's own "
            "loader and connect that MODEL to this node: it is then de-quantised layer by layer."
        )
    model, prefix = _detect(file, name)
    headers = {f"{UNET}{key.removeprefix(prefix)}": header for key, header in file.tensors.items()}
    headers = {key: headers[key] for key in model.state_dict() if key in headers}
    key_map = comfy.lora.model_lora_keys_unet(model, {})

    def read(weight: WeightRef) -> Tensor:
        return to_float32(file.read(prefix + weight.key.removeprefix(UNET), weight.rows))

    return HostBase(
        name,
        sampled_fingerprint(path),
        type(model.model_config).__name__,
        key_map,
        layers_of(key_map, headers),
        writable_names(key_map),
        read,
    )


def base_from_model(model: Any) -> HostBase:
    """A base from a loaded MODEL of any loader. Patches on it are left out: the pristine weights are read."""
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    return _from_patcher(model, model.model, key_map, type(model.model.model_config).__name__)


def with_text_encoder(base: HostBase, clip: Any) -> HostBase:
    """The base with the layers of a CLIP beside its own."""
    key_map = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    encoder = _from_patcher(clip.patcher, clip.cond_stage_model, key_map, "text encoder")

    def read(weight: WeightRef) -> Tensor:
        return base.reader(weight) if weight.key.startswith(UNET) else encoder.reader(weight)

    return replace(
        base,
        fingerprint=f"{base.fingerprint} + {encoder.fingerprint}",
        key_map={**base.key_map, **encoder.key_map},
        layers={**base.layers, **encoder.layers},
        written={**base.written, **encoder.written},
        reader=read,
    )


def _from_patcher(patcher: Any, model: torch.nn.Module, key_map: Mapping[str, Any], family: str) -> HostBase:
    headers = {key: TensorHeader(tuple(value.shape), str(value.dtype)) for key, value in model.state_dict().items()}
    layers = layers_of(key_map, headers)
    loaded_from = patcher.cached_patcher_init  # (loader, (path, ...)) where a loader of the host made it

    def read(weight: WeightRef) -> Tensor:
        return _pristine_weight(patcher, model, weight)

    return HostBase(
        name=Path(str(loaded_from[1][0])).name if loaded_from else f"{family} (connected model)",
        fingerprint=_sampled_layers(list(layers.values()), read),
        family=family,
        key_map=key_map,
        layers=layers,
        written=writable_names(key_map),
        reader=read,
    )


def _pristine_weight(patcher: Any, model: torch.nn.Module, weight: WeightRef) -> Tensor:
    """One weight as float32 on the CPU, without the patches that sampling may have written into it, de-quantised."""
    stored, _, convert = comfy.model_patcher.get_key_weight(model, weight.key)
    if weight.key in patcher.backup:
        stored = patcher.backup[weight.key].weight
    copied = comfy.model_management.cast_to_device(stored, torch.device("cpu"), torch.float32, copy=True)
    plain = (copied if convert is None else convert(copied, inplace=True)).to(torch.float32)
    return plain if weight.rows is None else plain[weight.rows[0] : sum(weight.rows)]


def _sampled_layers(layers: list[Layer], read: Callable[[WeightRef], Tensor], samples: int = 8) -> str:
    """A content hash of a loaded model: eight layers spread over its depth, in float32."""
    digest = hashlib.sha256(str(len(layers)).encode())
    for index in range(min(samples, len(layers))):
        layer = layers[index * (len(layers) - 1) // max(1, samples - 1)]
        digest.update(layer.name.encode() + read(layer.weight).contiguous().numpy().tobytes())
    return "sampled-layers-sha256:" + digest.hexdigest()


def _detect(file: TensorFile, name: str) -> tuple[Any, str]:
    """The host's model class on meta tensors, and the prefix of its keys in the file."""
    meta = {
        key: torch.empty(header.shape, dtype=_TORCH_DTYPES.get(header.dtype, torch.uint8), device="meta")
        for key, header in file.tensors.items()
    }
    prefix = comfy.model_detection.unet_prefix_from_state_dict(meta)
    stripped = comfy.utils.state_dict_prefix_replace(dict(meta), {prefix: ""}, filter_keys=True)
    if not stripped:
        prefix, stripped = "", meta
    config = comfy.model_detection.model_config_from_unet(stripped, "", metadata=dict(file.metadata))
    if config is None:
        raise UnsupportedBase(
            f"Base {name}: expected a diffusion model that ComfyUI knows, found {len(file.tensors)} tensors of none "
            f"(first: {next(iter(file.tensors), 'nothing')}). Choose a checkpoint or a diffusion model."
        )
    return config.get_model(stripped, "", device=torch.device("meta")), prefix
