"""A base model from a file's header: ComfyUI detects the family on meta tensors, no weight is read."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_detection
import comfy.utils
import torch
from torch import Tensor

from ....core.errors import UnsupportedBase
from ....core.files import TORCH_DTYPES, TensorFile, TensorHeader, open_tensor_file, sampled_fingerprint
from ....core.layers import Layer, Rows, WeightRef
from ..adapter.spelling import extra_names
from .from_model import HostBase, diffusers_names, joined, vectors_of
from .names import UNET, layer_name, layers_of

# Marks of a quantised file: its weights mean nothing without the scales beside them.
_QUANTISED = (".comfy_quant", ".scale_weight", ".weight_scale", "scaled_fp8", ".qweight", ".wscales")

_PICKLED = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")

# Where a model key's tensor is in the file: the file's key, and rows of it where the host splits it on loading.
_Places = dict[str, tuple[str, Rows | None]]


def base_from_file(path: Path, name: str) -> HostBase:
    """A base from a safetensors checkpoint or diffusion model, with the text encoder that a checkpoint carries."""
    if path.suffix.lower() in _PICKLED:
        raise UnsupportedBase(
            f"Base {name}: expected a safetensors file, found a pickled one ({path.suffix}), of which no layer can be "
            "read alone. Load it with ComfyUI's own loader and connect that MODEL to this node."
        )
    base = base_from_header(open_tensor_file(path), name, sampled_fingerprint(path))
    return replace(base, layers=_stored_in(path, base.layers))


def base_from_header(file: TensorFile, name: str, fingerprint: str) -> HostBase:
    """A base from a file's header alone; weights are read from the file when their turn comes."""
    if marks := [key for key in file.tensors if key.endswith(_QUANTISED)]:
        raise UnsupportedBase(
            f"Base {name}: expected plain weights, found quantised ones ({marks[0]}). Load it with ComfyUI's own "
            "loader and connect that MODEL to this node: it is then de-quantised layer by layer."
        )
    with torch.inference_mode(False):  # inference tensors do not know what they are a slice of
        meta = {key: _stand_in(header) for key, header in file.tensors.items()}
        try:
            config, tensors, foreign = _detect(meta, file, name)
        except KeyError as error:
            raise UnsupportedBase(
                f"Base {name}: expected the layers that ComfyUI tells a model by, found none called {error.args[0]}. "
                "The file is not whole: take another copy of it."
            ) from error
        model = _build(config, tensors, name)
        places = _places(meta, {UNET + k: v for k, v in config.process_unet_state_dict(dict(tensors)).items()})
        encoder = _text_encoder(config, meta, file, name, fingerprint)
    model_keys = model.state_dict()
    diffusers = diffusers_names(config, model_keys)
    known = comfy.lora.model_lora_keys_unet(model, {})
    extra = {name: key for name, key in extra_names(diffusers).items() if name not in known}
    key_map = {**known, **extra}
    if foreign:
        places = _foreign_places(file, key_map)
    places = {key: places[key] for key in [*model_keys, *places] if key in places and (foreign or key in model_keys)}
    base = _base(name, fingerprint, type(config).__name__, key_map, places, file)
    base = replace(base, extra=frozenset(extra), diffusers=diffusers)
    return base if encoder is None else joined(base, encoder)


def _base(
    name: str, fingerprint: str, family: str, key_map: Mapping[str, Any], places: _Places, file: TensorFile
) -> HostBase:
    """The layers of one part of a file; `places` is keyed by model key, or by layer name for a foreign layout."""

    def header(place: tuple[str, Rows | None]) -> TensorHeader:
        key, rows = place
        whole = file.tensors[key]
        return whole if rows is None else TensorHeader((rows.length, *whole.shape[1:]), whole.dtype)

    def read(weight: WeightRef) -> Tensor:
        return file.read(weight.key, weight.rows)

    headers = {key: header(place) for key, place in places.items()}
    return HostBase(
        name=name,
        fingerprint=fingerprint,
        family=family,
        key_map=key_map,
        extra=frozenset(),
        diffusers={},
        layers=layers_of(key_map, headers, places),
        parameters=vectors_of(headers),
        reader=read,
    )


def _stored_in(path: Path, layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """The layers with what tells this file, as it is now, from every other."""
    status = path.stat()
    mark = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    return {name: replace(layer, weight=replace(layer.weight, file=mark)) for name, layer in layers.items()}


def _detect(meta: dict[str, Tensor], file: TensorFile, name: str) -> tuple[Any, dict[str, Tensor], bool]:
    """The host's model class, the diffusion model's tensors by the host's keys, and whether the file names them
    otherwise (a diffusers layout). The order is that of comfy.sd.load_diffusion_model_state_dict."""
    prefix = comfy.model_detection.unet_prefix_from_state_dict(meta)
    own = comfy.utils.state_dict_prefix_replace(dict(meta), {prefix: ""}, filter_keys=True) or dict(meta)
    config = comfy.model_detection.model_config_from_unet(own, "", metadata=dict(file.metadata))
    if config is not None:
        return config, own, False
    converted = comfy.model_detection.convert_diffusers_mmdit(dict(own), "")
    if converted is not None:
        config = comfy.model_detection.model_config_from_unet(converted, "")
    elif "conv_in.weight" in own:
        config = comfy.model_detection.model_config_from_diffusers_unet(own)
        names = {} if config is None else comfy.utils.unet_to_diffusers(config.unet_config)
        converted = {key: own[spelled] for spelled, key in names.items() if spelled in own}
    if config is None or converted is None:
        raise UnsupportedBase(
            f"Base {name}: expected a diffusion model that ComfyUI knows, found {len(file.tensors)} tensors of none "
            f"(first: {next(iter(file.tensors), 'nothing')}). Choose a checkpoint or a diffusion model."
        )
    return config, converted, True


def _build(config: Any, tensors: Mapping[str, Tensor], name: str) -> Any:
    """The host's model on meta tensors: its keys are the layers' names."""
    try:
        return config.get_model(dict(tensors), "", device=torch.device("meta"))
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedBase(
            f"Base {name}: expected a {type(config).__name__}, as which ComfyUI detects it, found shapes of which its "
            f"class makes no model ({type(error).__name__}: {error}). Load it with its loader and connect the MODEL."
        ) from error


def _places(meta: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> _Places:
    """Find each of the host's tensors in the file by identity: the host renames them, and takes slices of them."""
    origin = {id(tensor): key for key, tensor in meta.items()}
    places: _Places = {}
    for key, tensor in tensors.items():
        whole = tensor if tensor._base is None else tensor._base
        if id(whole) not in origin:
            continue  # the host computed it: its values are not those of the file
        if whole is tensor:
            places[key] = origin[id(whole)], None
        elif tensor.shape[1:] == whole.shape[1:] and tensor.stride() == whole.stride():
            start = int(tensor.storage_offset() // whole.stride(0))
            places[key] = origin[id(whole)], Rows(start, start + len(tensor))
    return places


def _foreign_places(file: TensorFile, key_map: Mapping[str, Any]) -> _Places:
    """A diffusers layout: the names that adapters have for the modules are those of the file. Keyed by layer name."""
    places: _Places = {}
    for key in file.tensors:
        module = key.removesuffix(".weight")
        spelled = (f"{prefix}{module}" for prefix in ("unet.", "transformer.", "base_model.model.", ""))
        target = next((key_map[one] for one in spelled if one in key_map), None)
        if target is not None and key.endswith(".weight"):
            places[layer_name(target)] = key, None
    return places


def _text_encoder(
    config: Any, meta: Mapping[str, Tensor], file: TensorFile, name: str, fingerprint: str
) -> HostBase | None:
    """The text encoder inside a checkpoint; None where there is none that the host knows."""
    places = _places(meta, config.process_clip_state_dict(dict(meta)))
    if not places:
        return None
    key_map = comfy.lora.model_lora_keys_clip(_Named(places), {})
    return _base(name, fingerprint, "text encoder", key_map, places, file)


class _Named:
    """What the host's function that names a text encoder's layers asks of it: the keys of its state dict."""

    def __init__(self, places: _Places) -> None:
        self._places = places

    def state_dict(self) -> _Places:
        return self._places


def _stand_in(header: TensorHeader) -> Tensor:
    """A tensor without memory. Vectors get zeros: a few families read one to tell their prediction type, which names no
    layer."""
    dtype = TORCH_DTYPES.get(header.dtype, torch.uint8)
    return torch.empty(header.shape, dtype=dtype, device="meta" if len(header.shape) > 1 else "cpu").fill_(0)
