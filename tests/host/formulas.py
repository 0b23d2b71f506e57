"""What a module's tensors say, written down naively in float64 from the file's own keys (docs/method.md, section 7)."""

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


def changed_weight(state: dict[str, Tensor], weight: Tensor) -> Tensor:
    """W' of a module whose change depends on the weight W (out, in[, kh, kw]): OFT, BOFT, GLoRA, in float64."""
    named, weight = {key: value.double() for key, value in state.items()}, weight.double()
    if "oft_blocks" not in named:
        return _glora(named, weight)
    blocks = named["oft_blocks"]
    stages = blocks if blocks.ndim == 4 else blocks[None]
    rotations = _cayley(blocks, float(named["alpha"])).reshape(stages.shape)
    rows = weight.flatten(1)
    if blocks.ndim == 3:  # OFT turns the rows by R^T
        return (torch.block_diag(*rotations[0]).mT @ rows).reshape(weight.shape)
    for stage, blocks_of_stage in enumerate(
        rotations
    ):  # a butterfly: rows 2^stage half-blocks apart are turned together
        apart = 2**stage * stages.shape[-1] // 2
        order = torch.arange(len(rows)).reshape(-1, 2, apart).transpose(1, 2).flatten()
        turned = torch.empty_like(rows)
        turned[order] = torch.block_diag(*blocks_of_stage) @ rows[order]
        rows = turned
    return rows.reshape(weight.shape) * named.get("rescale", torch.ones(1).double())


def _cayley(blocks: Tensor, limit: float) -> Tensor:
    """R = (I + Q)(I - Q)^-1 with Q = B - B^T, whose norm over all blocks is kept within a limit above 0."""
    q = blocks - blocks.mT
    norm = float(torch.linalg.vector_norm(q))
    if 0 < limit < norm:
        q = q * (limit / norm)
    one = torch.eye(q.shape[-1], dtype=q.dtype)
    return (one + q) @ torch.linalg.inv(one - q)


def _glora(named: dict[str, Tensor], weight: Tensor) -> Tensor:
    a1, a2, b1, b2 = (named[f"{name}.weight"].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    scale = float(named["alpha"]) / a2.shape[0]
    through_inputs = torch.einsum("oi...,ij->oj...", weight, a1 @ a2)
    return weight + scale * (through_inputs + (b1 @ b2).reshape(weight.shape))


def dora(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """W' of DoRA as ComfyUI has it: norms of W + dW over an input's column, of W alone over an output's row."""
    weight, moved = weight.double(), weight.double() + delta.double().reshape(weight.shape)
    if magnitude.shape[0] == weight.shape[0]:
        norms = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    else:
        norms = torch.linalg.vector_norm(moved.transpose(0, 1).flatten(1), dim=1)
    return moved * magnitude.double() / norms.reshape(magnitude.shape)


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
