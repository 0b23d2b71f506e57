"""What a module's tensors say, written down naively in float64 from the file's own keys (data/formats.md 4.2)."""

import torch
from torch import Tensor


def delta_of(keys: tuple[str, ...], tensors: dict[str, Tensor]) -> Tensor:
    """The delta (m, n) of one module without dependence on a weight: LoRA in every spelling, LoHa, LoKr, full diff."""
    named = {_role(key): tensors[key].double() for key in keys}
    if "lokr" in "".join(named):
        return _lokr(named)
    if "w1_a" in named:
        left, right = named["w1_a"] @ named["w1_b"], named["w2_a"] @ named["w2_b"]
        return left * right * _scale(named, named["w1_b"].shape[0])
    if "diff" in named:
        return named["diff"].flatten(1)
    up, down = named["up"].flatten(1), named["down"]
    scale = _scale(named, down.shape[0])
    if "mid" in named:
        mid = named["mid"]
        return torch.einsum("oi,ijhw,jc->ochw", up, mid, down.flatten(1)).flatten(1) * scale
    return up @ down.flatten(1) * scale


def _lokr(named: dict[str, Tensor]) -> Tensor:
    rank = None
    factors = []
    for name in ("lokr_w1", "lokr_w2"):
        if name in named:
            factors.append(named[name].flatten(1))
        else:
            rank = named[f"{name}_b"].shape[0]
            factors.append(named[f"{name}_a"] @ named[f"{name}_b"].flatten(1))
    return torch.kron(*factors) * (1.0 if rank is None else _scale(named, rank))


def _scale(named: dict[str, Tensor], rank: int) -> float:
    return float(named["alpha"]) / rank if "alpha" in named else 1.0


def _role(key: str) -> str:
    for end, role in _ROLES.items():
        if key.endswith(end):
            return role
    return key.rpartition(".")[2]


_ROLES = {
    "lora_up.weight": "up",
    "lora.up.weight": "up",
    "lora_B.weight": "up",
    "lora_B.default.weight": "up",
    ":up": "up",
    "lora_down.weight": "down",
    "lora.down.weight": "down",
    "lora_A.weight": "down",
    "lora_A.default.weight": "down",
    ":down": "down",
    "lora_mid.weight": "mid",
    "hada_w1_a": "w1_a",
    "hada_w1_b": "w1_b",
    "hada_w2_a": "w2_a",
    "hada_w2_b": "w2_b",
}
