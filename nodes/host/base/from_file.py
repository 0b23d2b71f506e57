"""A base model from a file's header: ComfyUI detects the family on meta tensors, no weight is read."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_detection
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ....core.errors import UnsupportedBase
from ....core.files import TORCH_DTYPES, TensorFile, TensorHeader
from ....core.fingerprint import model_fingerprint
from ....core.layers import Layer, WeightRef
from ....core.shards import open_model_file, require_whole
from ..settings import subspace_cache
from .from_model import Fingerprint, HostBase, diffusers_names, joined, names_beyond_the_host, parameters_of
from .layout import Places, check_depth, find_views, header_at, mark_of, read_pieces, trace_rows
from .names import UNET, layers_of

# Marks of a quantised file: its weights mean nothing without the scales beside them.
_QUANTISED = (".comfy_quant", ".scale_weight", ".weight_scale", "scaled_fp8", ".qweight", ".wscales")

_LARGEST_VECTOR = 1 << 20  # values

_PICKLED = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")

_Tensors = dict[str, Tensor]
_Convert = Callable[[_Tensors], _Tensors]


def base_from_file(path: Path, name: str) -> HostBase:
    """A base from a safetensors checkpoint or diffusion model, with the text encoder that a checkpoint carries. One
    shard of several stands for all of them."""
    if path.suffix.lower() in _PICKLED:
        raise UnsupportedBase(
            f"Base {name}: expected a safetensors file, found a pickled one ({path.suffix}), of which no layer can be "
            "read alone. Load it with ComfyUI's own loader and connect that MODEL to this node."
        )
    file = open_model_file(path)

    @cache
    def identify() -> str:
        tick = comfy.model_management.throw_exception_if_processing_interrupted
        return model_fingerprint(file, subspace_cache(), tick)

    return base_from_header(file, name, identify)


def base_from_header(file: TensorFile, name: str, fingerprint: Fingerprint) -> HostBase:
    """A base from a file's header alone; weights are read from the file when their turn comes. UnreadableFile
    where it is one shard of several."""
    require_whole(file)
    if marks := [key for key in file.tensors if key.endswith(_QUANTISED)]:
        raise UnsupportedBase(
            f"Base {name}: expected plain weights, found quantised ones ({marks[0]}). Load it with ComfyUI's own "
            "loader and connect that MODEL to this node: it is then de-quantised layer by layer."
        )
    if wrapped := next((key for key in file.tensors if ".base_layer." in key), None):
        raise UnsupportedBase(
            f"Base {name}: expected a model's own layers, found layers with a LoRA of PEFT around them ({wrapped}): "
            "the LoRA is a part of what the model does. Merge it (PEFT's merge_and_unload) and save the model again."
        )
    check_depth(file, name)
    with torch.inference_mode(False):  # inference tensors do not know what they are a slice of
        meta = {key: _stand_in(header) for key, header in file.tensors.items()}
        try:
            config, tensors, convert = _detect(meta, file, name)
        except KeyError as error:
            raise UnsupportedBase(
                f"Base {name}: expected the layers that ComfyUI tells a model by, found none called {error.args[0]}: "
                "a part of the model is missing, or ComfyUI does not read this layout. Take the file in a layout that "
                "ComfyUI reads."
            ) from error
        except RuntimeError as error:
            raise UnsupportedBase(
                f"Base {name}: expected tensors that ComfyUI can put together to those of its model, found other "
                f"shapes ({error}). Load it with its own loader and connect the MODEL."
            ) from error
        model = _build(config, tensors, name)
        places = _places_of_model(file, meta, tensors, config, convert)
        encoder = _text_encoder(config, meta, file, name, fingerprint)
        notes = _absent(model, config, tensors)
    model_keys = model.state_dict()
    diffusers = diffusers_names(config, model_keys)
    known = comfy.lora.model_lora_keys_unet(model, {})
    extra = names_beyond_the_host(config, model_keys, known)
    key_map = {**known, **extra}
    places = {key: places[key] for key in model_keys if key in places}
    base = _base(name, fingerprint, type(config).__name__, key_map, places, file)
    base = replace(base, extra=frozenset(extra), diffusers=diffusers, notes=notes)
    return base if encoder is None else joined(base, encoder)


def _base(
    name: str, fingerprint: Fingerprint, family: str, key_map: Mapping[str, Any], places: Places, file: TensorFile
) -> HostBase:
    """The layers of one part of a file."""

    def read(weight: WeightRef) -> Tensor:
        return read_pieces(file, places[weight.key], weight.rows)

    headers = {key: header_at(file, pieces) for key, pieces in places.items()}
    return HostBase(
        name=name,
        identity=fingerprint,
        family=family,
        key_map=key_map,
        extra=frozenset(),
        diffusers={},
        layers=_marked(layers_of(key_map, headers), file, places),
        parameters=parameters_of(headers),
        reader=read,
    )


def _marked(layers: Mapping[str, Layer], file: TensorFile, places: Places) -> dict[str, Layer]:
    """The layers with what tells their files, in the state in which they were opened, from every other."""
    return {
        name: replace(layer, weight=replace(layer.weight, file=mark_of(file, places[layer.weight.key])))
        for name, layer in layers.items()
    }


def _detect(meta: _Tensors, file: TensorFile, name: str) -> tuple[Any, _Tensors, _Convert | None]:
    """The host's model class, the diffusion model's tensors by the host's keys, and what makes these of a file in
    diffusers' layout. The order is that of comfy.sd.load_diffusion_model_state_dict."""
    own = _of_diffusion_model(meta)
    config = comfy.model_detection.model_config_from_unet(own, "", metadata=dict(file.metadata))
    if config is not None:
        return config, own, None
    config, convert = _detect_diffusers(own)
    if config is None or convert is None:
        raise UnsupportedBase(
            f"Base {name}: expected a diffusion model that ComfyUI knows, found {len(file.tensors)} tensors of none "
            f"(first: {next(iter(file.tensors), 'nothing')}). Choose a checkpoint or a diffusion model."
        )
    return config, convert(own), convert


def _detect_diffusers(own: _Tensors) -> tuple[Any | None, _Convert | None]:
    """The host's model class of a file in diffusers' layout, and how the host converts its tensors on loading."""

    def as_transformer(tensors: _Tensors) -> Any:
        return comfy.model_detection.convert_diffusers_mmdit(dict(tensors), "")

    def as_unet(tensors: _Tensors) -> _Tensors:
        return {key: tensors[spelled] for spelled, key in names.items() if spelled in tensors}

    if (converted := as_transformer(own)) is not None:
        return comfy.model_detection.model_config_from_unet(converted, ""), as_transformer
    config = comfy.model_detection.model_config_from_diffusers_unet(own)
    names = {} if config is None else comfy.utils.unet_to_diffusers(config.unet_config)
    return config, as_unet


def _of_diffusion_model(tensors: _Tensors) -> _Tensors:
    """The tensors of the diffusion model alone, without the prefix that a checkpoint gives them."""
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    return comfy.utils.state_dict_prefix_replace(dict(tensors), {prefix: ""}, filter_keys=True) or dict(tensors)


def _build(config: Any, tensors: Mapping[str, Tensor], name: str) -> Any:
    """The host's model on meta tensors: its keys are the layers' names."""
    try:
        try:
            return config.get_model(dict(tensors), "", device=torch.device("meta"))
        except RuntimeError:
            with ValuesOfTheClass():
                return config.get_model(dict(tensors), "", device=torch.device("meta"))
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedBase(
            f"Base {name}: expected a {type(config).__name__}, as which ComfyUI detects it, found shapes of which its "
            f"class makes no model ({type(error).__name__}: {error}). Load it with its loader and connect the MODEL."
        ) from error


def _absent(model: Any, config: Any, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A note where the file lacks matrices of the model that ComfyUI makes of it, as a part of a model does."""
    held = {UNET + key for key in config.process_unet_state_dict(dict(tensors))}
    matrices = [key for key, value in model.state_dict().items() if value.ndim > 1]
    absent = [key for key in matrices if key not in held]
    if not absent:
        return ()
    return (
        f"the file lacks {len(absent)} of the model's {len(matrices)} matrices (first: {absent[0]}): it may be a part",
    )


class ValuesOfTheClass(TorchFunctionMode):
    """Lets a model's class read the values that it writes down itself (ACE-Step 1.5 counts its codebook): on the meta
    device they are lost. Not for every class: others mix such values with meta tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func in (torch.arange, torch.tensor):
            named.pop("device", None)
        return func(*args, **named)


def _places_of_model(
    file: TensorFile, meta: _Tensors, tensors: _Tensors, config: Any, convert: _Convert | None
) -> Places:
    """Where every tensor of the diffusion model lies in the file, by the model's keys."""
    if convert is None:
        places = find_views(meta, config.process_unet_state_dict(dict(tensors)))
    else:

        def load(numbers: _Tensors) -> _Tensors:
            return config.process_unet_state_dict(convert(_of_diffusion_model(numbers)))

        places = trace_rows(file.tensors, load)
    return {UNET + key: pieces for key, pieces in places.items()}


def _text_encoder(
    config: Any, meta: Mapping[str, Tensor], file: TensorFile, name: str, fingerprint: Fingerprint
) -> HostBase | None:
    """The text encoder inside a checkpoint; None where there is none that the host knows."""
    places = find_views(meta, config.process_clip_state_dict(dict(meta)))
    if not places:
        return None
    key_map = comfy.lora.model_lora_keys_clip(_Named(places), {})
    return _base(name, fingerprint, "text encoder", key_map, places, file)


class _Named:
    """What the host's function that names a text encoder's layers asks of it: the keys of its state dict."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def state_dict(self) -> Places:
        return self._places


def _stand_in(header: TensorHeader) -> Tensor:
    """A tensor without memory. Vectors get zeros: a few families read one to tell their prediction type, which names no
    layer."""
    dtype = TORCH_DTYPES.get(header.dtype, torch.uint8)
    is_small = len(header.shape) <= 1 and math.prod(header.shape) <= _LARGEST_VECTOR
    return torch.empty(header.shape, dtype=dtype, device="cpu" if is_small else "meta").fill_(0)
