"""A base model as core sees it: layers under ComfyUI's names, and weights that are read one at a time."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from ....core.errors import UnsupportedBase
from ....core.files import TensorHeader
from ....core.layers import Layer, Rows, WeightRef
from ....core.linalg import all_finite
from ..adapter.spelling.index import NameIndex
from ..adapter.spelling.names import extra_names
from .fingerprint import files_of, fingerprint_loaded
from .merge import merge_patches, note_loras, note_merge
from .names import UNET, describe_latents, layers_of, slice_of, without_unset_projection
from .readers import JoinedReader, Reader, read_parts

# A hash of everything in a base, or a function that computes it, because that may mean reading every weight.
Fingerprint = str | Callable[[], str]


@dataclass(frozen=True)
class HostBase:
    """A lazy handle on a base model (core.layers.Base) with ComfyUI's names for its layers.

    family: ComfyUI's class of model (SD15, SDXL, Flux, ...). key_map: adapter names -> model keys, from
    comfy.lora.model_lora_keys_unet and _clip, plus the names in `extra`, which these lack. diffusers: diffusers' name
    of a UNet's module -> the model's key. parameters: the shapes of everything but the layers' weights, by model key.
    notes: for the reader of a report. latents: the latent space in words. path: the base's file, if it is known.
    """

    name: str
    identity: Fingerprint
    family: str
    key_map: Mapping[str, Any]
    extra: frozenset[str]
    diffusers: Mapping[str, str]
    layers: Mapping[str, Layer]
    parameters: Mapping[str, tuple[int, ...]]
    reader: Reader
    notes: tuple[str, ...] = ()
    latents: str = ""
    path: Path | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of all weights; the first call may read all of them."""
        return self.identity if isinstance(self.identity, str) else self.identity()

    @cached_property
    def names(self) -> NameIndex:
        """An index of the key map that finds a module by any spelling of its name."""
        return NameIndex(self.key_map)

    def own_layers(self) -> list[str]:
        """Every weight once: a fused weight as its slices (q, k and v of qkv), if these cover all of it."""
        whole = [name for name in self.layers if slice_of(name)[0] not in self.layers]
        return [part for name in whole for part in (self.parts_of(name) or [name])]

    @cached_property
    def _slices(self) -> dict[str, dict[Rows, str]]:
        """The layers that are slices, by the fused layer and their rows."""
        slices: dict[str, dict[Rows, str]] = {}
        for part, (fused, rows) in ((name, slice_of(name)) for name in self.layers):
            if fused is not None and rows is not None:
                slices.setdefault(fused, {})[rows] = part
        return slices

    def parts_of(self, name: str) -> list[str]:
        """The slices of a fused layer in the order of their rows; empty if they do not cover all of it."""
        slices = self._slices.get(name, {})
        parts, row = list[str](), 0
        while (rows := min((rows for rows in slices if rows.start == row), default=None)) is not None:
            parts.append(slices[rows])
            row = rows.stop
        return parts if row == self.layers[name].weight.shape[0] else []

    def read(self, layer: Layer) -> Tensor:
        """The weight as a float32 matrix (m, n); UnsupportedBase if it holds NaN or infinity."""
        return self._as_matrix(layer, self.reader(layer.weight))

    def read_parts(self, layer: Layer, parts: Sequence[Rows]) -> Iterator[Tensor]:
        """Rows of the weight, one part (rows, n) after another, as `read` gives them."""
        return (self._as_matrix(layer, part) for part in read_parts(self.reader, layer.weight, parts))

    def _as_matrix(self, layer: Layer, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        if not all_finite(matrix.detach()):
            raise UnsupportedBase(
                f"Base {self.name}, layer {layer.name}: expected finite numbers, found NaN or infinity. The file is "
                "damaged, or was merged or converted in too low a precision: use another copy of it."
            )
        return matrix


def base_from_model(model: Any) -> HostBase:
    """A base from a loaded MODEL of any loader. Patches of a merge count as weights; patches of LoRAs are left out."""
    config, stored = model.model.model_config, model.model.state_dict()
    diffusers = diffusers_names(config, stored)
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    extra = find_missing_names(config, stored, known)
    base = _from_patcher(model, model.model, {**known, **extra}, type(config).__name__)
    latents = describe_latents(model.get_model_object("latent_format"))
    return replace(base, extra=frozenset(extra), diffusers=diffusers, latents=latents)


def base_from_clip(clip: Any) -> HostBase:
    """The layers of a CLIP, read in the same way."""
    key_map = without_unset_projection(
        comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {}), clip.cond_stage_model
    )
    return _from_patcher(clip.patcher, clip.cond_stage_model, key_map, "text encoder")


def with_text_encoder(base: HostBase, clip: Any) -> HostBase:
    """The base with the layers of a CLIP instead of its own text encoder."""
    encoder = base_from_clip(clip)
    identified = replace(base, identity=lambda: f"{base.fingerprint} + {encoder.fingerprint}")
    return join_encoder(identified, encoder)


def join_encoder(base: HostBase, encoder: HostBase) -> HostBase:
    """A diffusion model and its text encoder as one base."""
    unet = {name: layer for name, layer in base.layers.items() if name not in encoder.layers}
    from_encoder = frozenset(layer.weight.key for layer in encoder.layers.values())

    return replace(
        base,
        key_map={**base.key_map, **encoder.key_map},
        layers={**unet, **encoder.layers},
        parameters={**base.parameters, **encoder.parameters},
        reader=JoinedReader(base.reader, encoder.reader, from_encoder),
        notes=(*base.notes, *encoder.notes),
    )


def diffusers_names(config: Any, model_keys: Mapping[str, Any]) -> dict[str, str]:
    """diffusers' name of a UNet's module -> the model's key, for the modules that the model has."""
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    weights = {name: UNET + key for name, key in names.items() if name.endswith(".weight")}
    return {name.removesuffix(".weight"): key for name, key in weights.items() if key in model_keys}


def find_missing_names(config: Any, model_keys: Mapping[str, Tensor], known: Mapping[str, Any]) -> dict[str, Any]:
    """The names of modules that ComfyUI's own map `known` lacks: diffusers' current names for a UNet (the map has the
    older names with `.processor.`), and the names in names.txt."""
    shapes = {key: tuple(tensor.shape) for key, tensor in model_keys.items() if tensor.ndim > 1}
    names = {**extra_names(config, shapes, UNET), **diffusers_names(config, model_keys)}
    return {name: target for name, target in names.items() if name not in known}


def parameters_of(headers: Mapping[str, TensorHeader]) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors without a subspace, by model key: biases, norms, and tables that are not a layer's weight
    (Wan's modulations)."""
    shapes = {key: header.shape for key, header in headers.items()}
    return {key: shape for key, shape in shapes.items() if len(shape) == 1 or (shape and not key.endswith(".weight"))}


def _from_patcher(patcher: Any, model: torch.nn.Module, key_map: Mapping[str, Any], family: str) -> HostBase:
    modules = dict(model.named_modules())
    # ComfyUI-GGUF adds a tensor of its own to the state dict, which belongs to no module.
    tensors = {key: value for key, value in _stored(model).items() if key.rpartition(".")[0] in modules}
    headers = {key: TensorHeader(_shape(modules, key, value), str(value.dtype)) for key, value in tensors.items()}
    files, what = files_of(patcher), "text encoder" if family == "text encoder" else "model"
    path = files[0] if len(files) == 1 else None

    def read(weight: WeightRef) -> Tensor:
        return _weight(patcher, model, weight)

    return HostBase(
        name=f"{family} (connected model)" if path is None else path.name,
        identity=lambda: fingerprint_loaded(patcher, model),
        family=family,
        key_map=key_map,
        extra=frozenset(),
        diffusers={},
        layers=layers_of(key_map, headers),
        parameters=parameters_of(headers),
        reader=read,
        notes=(*note_merge(patcher, what), *note_loras(patcher, what)),
        path=path,
    )


def _stored(model: torch.nn.Module) -> dict[str, Tensor]:
    """The model's tensors. UnsupportedBase if a kernel has packed its weights."""
    tensors = model.state_dict()
    if packed := next((key for key in tensors if key.endswith((".qweight", ".wscales", ".smooth_factor"))), None):
        raise UnsupportedBase(
            f"The connected model: expected weights that can be read, found weights packed by Nunchaku (SVDQuant): "
            f"{packed}. Use the model in another precision: fp16, bf16, fp8 or GGUF."
        )
    return tensors


def _shape(modules: Mapping[str, torch.nn.Module], key: str, stored: Tensor) -> tuple[int, ...]:
    """The weight's real shape. A state dict has the shape of the storage, in which nvfp4 packs two values into a byte;
    the parameter has the real shape, in ComfyUI-GGUF as `tensor_shape`."""
    layer, _, name = key.rpartition(".")
    weight = getattr(modules[layer], name, stored)
    return tuple(getattr(weight, "tensor_shape", None) or weight.shape)


def _weight(patcher: Any, model: torch.nn.Module, weight: WeightRef) -> Tensor:
    """One weight as float32 on the CPU, with the patches of a merge."""
    plain = _pristine_weight(patcher, model, weight.key)
    if merge := merge_patches(patcher.patches.get(weight.key, ())):
        plain = comfy.lora.calculate_weight(merge, plain, weight.key)
    return plain if weight.rows is None else plain[weight.rows.as_slice]


def _pristine_weight(patcher: Any, model: torch.nn.Module, key: str) -> Tensor:
    """One weight as float32 on the CPU, as a copy, de-quantised, and without the patches that sampling may have written
    into it."""
    operation = comfy.utils.get_attr(model, key.rpartition(".")[0])
    if key in patcher.backup:
        stored, convert = patcher.backup[key].weight, getattr(operation, "convert_weight", None)
    else:
        stored, _, convert = comfy.model_patcher.get_key_weight(model, key)
    if hasattr(stored, "tensor_shape"):  # ComfyUI-GGUF de-quantises through its layer
        stored = _from_gguf(stored, operation)
    copied = comfy.model_management.cast_to_device(stored, torch.device("cpu"), torch.float32, copy=True)
    return (copied if convert is None else convert(copied, inplace=True)).to(torch.float32)


_GGUF_PATCHES = threading.Lock()


def _from_gguf(stored: Any, operation: Any) -> Tensor:
    """De-quantises a weight by its layer of ComfyUI-GGUF. That layer would also apply the patches on the tensor, so
    these are removed while it runs."""
    with _GGUF_PATCHES:  # slices of one weight are read by several workers
        patches, stored.patches = getattr(stored, "patches", []), []
        try:
            return operation.get_weight(stored, torch.float32)
        finally:
            stored.patches = patches
