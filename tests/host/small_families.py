"""Small transformers that ComfyUI's own loader takes: a block or two of each family, random weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lora_transfer.core.files import TensorFile
from tests.host.families import TRANSFORMERS, UNETS, header_of_tensor, model_of

_SMALL: dict[str, dict[str, Any]] = {
    "Flux dev": {"hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1},
    "SD3 medium": {
        "depth": 2,
        "pos_embed_max_size": 16,
        "num_patches": 256,
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": 4096, "out_features": 128},
        },
    },
    "Wan 2.1 1.3B": {"dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2},
}
SMALL_FAMILIES = tuple(_SMALL)

# As small as headers can be: ComfyUI takes the rest of these families' sizes for given.
_SMALL_HEADERS: dict[str, dict[str, Any]] = {
    **_SMALL,
    "Flux.2 dev": {"hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1},
    "Chroma": {"hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1},
    "AuraFlow": {"dim": 128, "global_conddim": 64, "n_layers": 2, "n_double_layers": 1, "max_seq": 16},
    "PixArt Sigma": {"depth": 1},
    "Z-Image": {"n_layers": 1},
    "Lumina 2": {"n_layers": 1},
}


def small_settings(family: str) -> dict[str, Any]:
    return {**TRANSFORMERS[family][2], **_SMALL_HEADERS[family]}


def small_header(family: str) -> TensorFile:
    """The header of a model of the family with a block or two."""
    model = model_of(family, small_settings(family))
    return TensorFile(Path(family), {key: header_of_tensor(value) for key, value in model.state_dict().items()}, {})


def write_small(
    path: Path, family: str, seed: int, dtype: torch.dtype, drifted_from: int | None = None, **other: Any
) -> Path:
    """A small model of a family; with `drifted_from`, the one of that seed with a fifth of noise of another. `other`
    settings of its class go before the small ones."""
    settings = {**TRANSFORMERS[family][2], **_SMALL[family], **other}
    weights = _weights(family, settings, seed if drifted_from is None else drifted_from)
    if drifted_from is not None:
        noise = _weights(family, settings, seed)
        weights = {key: value + 0.2 * noise[key] if value.ndim > 1 else value for key, value in weights.items()}
    # float8 is for matrices alone, as in the files that people have.
    vectors = dtype if dtype.itemsize > 1 else torch.bfloat16
    narrow = {key: value.to(dtype if value.ndim > 1 else vectors) for key, value in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in narrow.items()}, path)
    return path


def _weights(family: str, settings: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {key: value.shape for key, value in model_of(family, settings).state_dict().items()}
    return {
        key: torch.randn(shape, generator=generator) / (shape[1:].numel() ** 0.5 if len(shape) > 1 else 1.0)
        for key, shape in shapes.items()
    }


def write_small_unet(path: Path, family: str, drifted: bool = False) -> Path:
    """A small SDXL or one of its pruned siblings: every level 320 wide, and a depth that tells the family only where
    ComfyUI looks at it. Drifted: the same with a fifth of noise on it."""
    settings = UNETS[family]
    narrow = {
        **settings,
        "channel_mult": [1] * len(settings["channel_mult"]),
        "transformer_depth_output": [min(1, depth) for depth in settings["transformer_depth_output"]],
        "transformer_depth_middle": min(1, settings["transformer_depth_middle"]),
    }
    shapes = {key: tensor.shape for key, tensor in model_of(family, narrow).state_dict().items()}
    longest = max(shape.numel() for shape in shapes.values())
    # One strip of noise serves all layers, each from another place: a new one for each took ten times as long.
    strips = [torch.randn(2 * longest, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    tensors: dict[str, torch.Tensor] = {}
    for index, (key, shape) in enumerate(shapes.items()):
        start = index * 7919 % longest
        first, second = (strip[start : start + shape.numel()].reshape(shape) for strip in strips)
        tensors[key] = ((first + 0.2 * second if drifted else first) * 0.05).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def write_with_blocks(path: Path, parent: Path, kept: Sequence[int]) -> Path:
    """A model with these blocks of its parent, in this order and renumbered: a pruned child, or with doubles a grown
    one. For families that call them `blocks.N`."""
    tensors = load_file(parent)
    rest = {key: value for key, value in tensors.items() if not key.startswith("blocks.")}
    for place, index in enumerate(kept):
        prefix = f"blocks.{index}."
        rest |= {
            f"blocks.{place}.{key.removeprefix(prefix)}": value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
    save_file({key: value.clone() for key, value in rest.items()}, path)  # of a doubled block too
    return path
