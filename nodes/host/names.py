"""Layer names: derived from ComfyUI's own key maps, so that the pack knows every family that ComfyUI knows."""

import re
from collections.abc import Mapping
from typing import Any

from ...core.files import TensorHeader
from ...core.layers import Layer, WeightRef

UNET = "diffusion_model."

# One step of a model's depth: "input_blocks.1.1.transformer_blocks.0", "double_blocks.3", "layers.7".
_BLOCK = re.compile(r"^(?:.*\.)?(?:\w*blocks?|layers)\.\d+(?:\.\d+)*(?=\.)")


def parse_target(target: Any) -> tuple[str, tuple[int, int] | None, bool]:
    """(model key, rows, is_plain) of a value of a key map.

    The host writes `key`, `(key, (dim, start, length))` for a slice, or `(key, None, function)`. is_plain is False
    where it changes the delta by a function, or slices along another axis than rows.
    """
    if isinstance(target, str):
        return target, None, True
    key, offset, *function = target
    if offset is None:
        return key, None, not function
    dim, start, length = offset
    return key, (start, length), dim == 0 and not function


def layer_name(target: Any) -> str:
    """The pack's name for a key map's value: the model's own key without prefix and suffix, and the rows of a slice."""
    key, rows, _ = parse_target(target)
    name = key.removeprefix(UNET).removesuffix(".weight")
    return name if rows is None else f"{name}[{rows[0]}:{rows[0] + rows[1]}]"


def layers_of(key_map: Mapping[str, Any], headers: Mapping[str, TensorHeader]) -> dict[str, Layer]:
    """Every matrix that an adapter of this base can name, in the model's order. `headers` is keyed by model key."""
    targets = {layer_name(target): parse_target(target) for target in key_map.values()}
    order = {key: position for position, key in enumerate(headers)}
    layers: dict[str, Layer] = {}
    for name, (key, rows, is_plain) in sorted(targets.items(), key=lambda item: order.get(item[1][0], -1)):
        if not (is_plain and key.endswith(".weight") and key in headers and len(headers[key].shape) >= 2):
            continue
        header = headers[key]
        shape = header.shape if rows is None else (rows[1], *header.shape[1:])
        block = (_BLOCK.match(name) or re.match("", name))[0]  # type: ignore[index]
        role = name[len(block) + 1 :] if block else name
        layers[name] = Layer(name, role, block, WeightRef(key, shape, header.dtype, rows))
    return layers


def writable_names(key_map: Mapping[str, Any]) -> dict[str, str]:
    """For every layer, the name under which the host reads it back: the generic one where it exists (`diffusion_model.`
    or `text_encoders.` and the model's key), otherwise the first that the key map gives (slices of fused weights)."""
    names: dict[str, str] = {}
    for spelled, target in key_map.items():
        key, rows, is_plain = parse_target(target)
        generic = rows is None and spelled in (
            key.removesuffix(".weight"),
            f"text_encoders.{key.removesuffix('.weight')}",
        )
        if is_plain and (generic or layer_name(target) not in names):
            names[layer_name(target)] = spelled
    return names
