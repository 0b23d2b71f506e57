"""A library of small LoRAs for two small bases, with broken, foreign and hostile files among them."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dev.small_models import kohya_modules


def write_small_lora(path: Path, checkpoint: Path, seed: int, *, rank: int = 2, every: int = 1) -> Path:
    """A kohya LoRA on every `every`-th matrix of the checkpoint's UNet."""
    generator = torch.Generator().manual_seed(seed)
    weights, tensors = load_file(checkpoint), dict[str, torch.Tensor]()
    for module, key in list(kohya_modules(checkpoint).items())[::every]:
        weight = weights[key]
        down = torch.randn(rank, *weight.shape[1:], generator=generator)
        up = torch.randn(weight.shape[0], rank, *(1 for _ in weight.shape[2:]), generator=generator)
        tensors[f"{module}.lora_down.weight"], tensors[f"{module}.lora_up.weight"] = (down * 0.01).half(), up.half()
        tensors[f"{module}.alpha"] = torch.tensor(float(rank))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"ss_network_dim": str(rank), "note": f"made by seed {seed}", "a": "1", "b": "2"})
    return path
