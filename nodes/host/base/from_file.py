"""A base model from a file's header: ComfyUI names the layers, and no weight is read until its turn comes."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_management
import torch

from ....core.errors import UnsupportedBase
from ....core.files import TensorFile
from ....core.files.fingerprint import known_fingerprint, model_fingerprint
from ....core.files.shards import open_model_file, require_whole, shard_paths
from ....core.layers import Layer
from ..settings import subspace_cache
from .detect import DetectedModel, Tensors, detect_model, make_stand_ins, select_diffusion_model
from .from_model import Fingerprint, HostBase, diffusers_names, find_missing_names, join_encoder, parameters_of
from .layout import Locations, PiecesReader, check_depth, find_views, header_at, mark_of, trace_rows
from .names import UNET, describe_latents, layers_of

# Signs of a quantised file: its weights mean nothing without the scales beside them.
_QUANTISED = (".comfy_quant", ".scale_weight", ".weight_scale", "scaled_fp8", ".qweight", ".wscales")

_PICKLED = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")


def base_from_file(path: Path, name: str) -> HostBase:
    """A base from a safetensors file: a checkpoint, with its text encoder, or a diffusion model. Any shard stands for
    the whole model."""
    refuse_pickled(path, name)
    file = open_model_file(path)

    @cache
    def identify() -> str:
        tick = comfy.model_management.throw_exception_if_processing_interrupted
        return model_fingerprint(file, subspace_cache(), tick)

    return replace(base_from_header(file, name, identify), path=path)


def known_file_fingerprint(path: Path) -> str | None:
    """The fingerprint of a base file if an earlier run computed it for the file's present state. Reads nothing of the
    file."""
    return known_fingerprint(shard_paths(path), subspace_cache())


def refuse_pickled(path: Path, name: str) -> None:
    """UnsupportedBase for a file whose layers cannot be read one at a time."""
    if path.suffix.lower() in _PICKLED:
        raise UnsupportedBase(
            f"Base {name}: expected a safetensors file, found a pickled one ({path.suffix}), which cannot be read "
            "layer by layer. Load it with ComfyUI's own loader and connect that MODEL to this node."
        )


def base_from_header(file: TensorFile, name: str, fingerprint: Fingerprint) -> HostBase:
    """A base from a file's header alone. UnreadableFile if the file is a single shard of a model."""
    require_whole(file)
    if quantised := [key for key in file.tensors if key.endswith(_QUANTISED)]:
        raise UnsupportedBase(
            f"Base {name}: expected plain weights, found quantised ones ({quantised[0]}). Load it with ComfyUI's own "
            "loader and connect that MODEL to this node: it is then de-quantised layer by layer."
        )
    if wrapped := next((key for key in file.tensors if ".base_layer." in key), None):
        raise UnsupportedBase(
            f"Base {name}: expected a model's own layers, found layers with a LoRA of PEFT around them ({wrapped}): "
            "the LoRA is a part of what the model does. Merge it (PEFT's merge_and_unload) and save the model again."
        )
    check_depth(file, name)
    with torch.inference_mode(False):  # tensors made in inference mode do not know what they are a slice of
        stand_ins = make_stand_ins(file)
        detected = detect_model(stand_ins, file, name)
        locations = _locate_model(file, stand_ins, detected)
        encoder = _text_encoder(detected.config, stand_ins, file, name, fingerprint)
        notes = detected.note_missing_matrices()
    model_keys = detected.model.state_dict()
    known = comfy.lora.model_lora_keys_unet(detected.model, {})
    extra = find_missing_names(detected.config, model_keys, known)
    in_model_order = {key: locations[key] for key in model_keys if key in locations}
    base = _base(name, fingerprint, detected.family, {**known, **extra}, in_model_order, file)
    diffusers = diffusers_names(detected.config, model_keys)
    latents = describe_latents(detected.config.latent_format)
    base = replace(base, extra=frozenset(extra), diffusers=diffusers, notes=notes, latents=latents)
    return base if encoder is None else join_encoder(base, encoder)


def _base(
    name: str, fingerprint: Fingerprint, family: str, key_map: Mapping[str, Any], locations: Locations, file: TensorFile
) -> HostBase:
    """The layers of a diffusion model or of a text encoder in a file."""

    headers = {key: header_at(file, pieces) for key, pieces in locations.items()}
    return HostBase(
        name=name,
        identity=fingerprint,
        family=family,
        key_map=key_map,
        extra=frozenset(),
        diffusers={},
        layers=_mark_layers(layers_of(key_map, headers), file, locations),
        parameters=parameters_of(headers),
        reader=PiecesReader(file, locations),
    )


def _mark_layers(layers: Mapping[str, Layer], file: TensorFile, locations: Locations) -> dict[str, Layer]:
    """The layers with the mark of the files that hold them, which changes when such a file changes."""
    return {
        name: replace(layer, weight=replace(layer.weight, file=mark_of(file, locations[layer.weight.key])))
        for name, layer in layers.items()
    }


def _locate_model(file: TensorFile, stand_ins: Tensors, detected: DetectedModel) -> Locations:
    """Where every tensor of the diffusion model lies in the file, by the model's keys."""
    config, convert = detected.config, detected.convert
    if convert is None:
        locations = find_views(stand_ins, config.process_unet_state_dict(dict(detected.tensors)))
    else:

        def load(numbers: Tensors) -> Tensors:
            return config.process_unet_state_dict(convert(select_diffusion_model(numbers)))

        locations = trace_rows(file.tensors, load)
    return {UNET + key: pieces for key, pieces in locations.items()}


def _text_encoder(
    config: Any, stand_ins: Tensors, file: TensorFile, name: str, fingerprint: Fingerprint
) -> HostBase | None:
    """The text encoder inside a checkpoint, or None if it has none that ComfyUI knows."""
    locations = find_views(stand_ins, config.process_clip_state_dict(dict(stand_ins)))
    if not locations:
        return None
    key_map = comfy.lora.model_lora_keys_clip(_EncoderKeys(locations), {})
    return _base(name, fingerprint, "text encoder", key_map, locations, file)


class _EncoderKeys:
    """All that ComfyUI's function for an encoder's names asks of a model: the keys of its state dict."""

    def __init__(self, locations: Locations) -> None:
        self._locations = locations

    def state_dict(self) -> Locations:
        return self._locations
