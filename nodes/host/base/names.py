"""Names of layers, derived from ComfyUI's own key maps: so the pack knows every family that ComfyUI knows."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ....core.files import TensorHeader
from ....core.layers import Layer, Rows, WeightRef

UNET = "diffusion_model."

# A block's name: "input_blocks.1.1.transformer_blocks.0", "double_blocks.3", "layers.7", "x_refiner.1".
_BLOCK = re.compile(r"^(?:.*\.)?(?:\w*blocks?|layers|\w+_refiner)\.\d+(?:\.\d+)*(?=\.)")

# ComfyUI makes this layer of CLIP-L for every model. Most files lack it: then it is memory that nobody has written.
_PROJECTION = "clip_l.transformer.text_projection.weight"


def without_unset_projection(key_map: Mapping[str, Any], encoder: torch.nn.Module) -> dict[str, Any]:
    """The key map of a loaded text encoder without CLIP-L's projection, if its values are no numbers."""
    projection = encoder.state_dict().get(_PROJECTION)
    is_set = projection is None or bool(torch.isfinite(projection.float()).all())
    return {name: key for name, key in key_map.items() if is_set or key != _PROJECTION}


def describe_latents(space: Any) -> str:
    """ComfyUI's latent format in words: two models with the same words work on the same latents."""
    return f"{type(space).__name__} ({space.latent_channels} channels)"


def parse_target(target: Any) -> tuple[str, Rows | None, bool]:
    """(model key, rows, is_plain) from a value of a key map.

    ComfyUI writes `key`, `(key, (dim, start, length))` for a slice, or `(key, None, function)`. is_plain is False if a
    function changes the delta, or if the slice is along another axis than rows.
    """
    if isinstance(target, str):
        return target, None, True
    key, offset, *function = target
    if offset is None:
        return key, None, not function
    dim, start, length = offset
    return key, Rows(start, start + length), dim == 0 and not function


def row_order(target: Any) -> Callable[[Tensor], Tensor] | None:
    """A function that brings the rows of an adapter file into the model's order; None if they have that order already,
    as in most layers."""
    if isinstance(target, str):
        return None
    _, _, *function = target
    return function[0] if function else None


def to_file_order(target: Any, weight: Tensor) -> Tensor:
    """The model's weight with its rows in the order that the adapter's trainer used."""
    to_model_order = row_order(target)
    return weight if to_model_order is None else weight[to_model_order(torch.arange(len(weight))).argsort()]


def layer_name(target: Any) -> str:
    """The pack's name for a layer: the model's key without prefix and suffix, and the rows if it is a slice."""
    key, rows, _ = parse_target(target)
    name = key.removeprefix(UNET).removesuffix(".weight")
    return name if rows is None else f"{name}{rows}"


def slice_of(name: str) -> tuple[str | None, Rows | None]:
    """(the fused layer, the rows) of a layer that is a slice; (None, None) for a layer that is not."""
    fused, _, rows = name.partition("[")
    if not rows:
        return None, None
    start, _, stop = rows.removesuffix("]").partition(":")
    return fused, Rows(int(start), int(stop))


def layers_of(key_map: Mapping[str, Any], headers: Mapping[str, TensorHeader]) -> dict[str, Layer]:
    """Every matrix that an adapter for this base can name. headers: by model key.

    They come in the order of the key map, which is the model's. A file's order will not do: in diffusers' layout block
    10 comes before block 2."""
    parsed = {layer_name(target): parse_target(target) for target in key_map.values() if parse_target(target)[2]}
    order = {key: position for position, key in enumerate(dict.fromkeys(key for key, _, _ in parsed.values()))}
    layers: dict[str, Layer] = {}
    for name, (key, rows, _) in sorted(parsed.items(), key=lambda item: (order[item[1][0]], item[1][1] or Rows(-1, 0))):
        if key not in headers or not key.endswith(".weight"):
            continue
        header = headers[key]
        if len(header.shape) < 2 or (rows is not None and rows.stop > header.shape[0]):
            continue
        shape = header.shape if rows is None else (rows.length, *header.shape[1:])
        block, role = block_and_role(name)
        weight = WeightRef(key, shape, header.dtype, rows)
        layers[name] = Layer(name, role, block, weight, text_encoder=not key.startswith(UNET))
    return layers


def block_and_role(name: str) -> tuple[str, str]:
    """(the block, the rest of the layer's name); ("", name) for a layer outside of blocks."""
    block = _BLOCK.match(name)
    return (block[0], name[len(block[0]) + 1 :]) if block else ("", name)
