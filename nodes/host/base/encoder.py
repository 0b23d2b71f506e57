"""Whether a base brings a text encoder: adds that of a CLIP, or leaves the base's own out."""

from dataclasses import replace
from typing import Any

from .from_model import HostBase, with_text_encoder
from .names import UNET, parse_target


def with_encoder_of(base: HostBase, clip: Any | None) -> HostBase:
    """The base with its own text encoder, or else with the layers of a CLIP. Without a CLIP it has no text encoder."""
    if clip is None:
        return _without_encoder(base)
    return base if has_encoder(base) else with_text_encoder(base, clip)


def has_encoder(base: HostBase) -> bool:
    return any(layer.text_encoder for layer in base.layers.values())


def _without_encoder(base: HostBase) -> HostBase:
    return replace(
        base,
        key_map={name: target for name, target in base.key_map.items() if parse_target(target)[0].startswith(UNET)},
        layers={name: layer for name, layer in base.layers.items() if not layer.text_encoder},
        parameters={key: shape for key, shape in base.parameters.items() if key.startswith(UNET)},
    )
