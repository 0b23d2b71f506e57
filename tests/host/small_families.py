"""Small transformers that ComfyUI's own loader takes: a block or two of each family, random weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.host.families import TRANSFORMERS, model_of

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


def write_small(path: Path, family: str, seed: int, dtype: torch.dtype, drifted_from: int | None = None) -> Path:
    """A small model of a family; with `drifted_from`, the one of that seed with a fifth of noise of another."""
    settings = {**TRANSFORMERS[family][2], **_SMALL[family]}
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
