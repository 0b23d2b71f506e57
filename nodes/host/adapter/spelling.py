"""How the keys of adapter files are spelled, where ComfyUI's own reader stops short.

ComfyUI knows the module names of thirty families (base/names.py asks it) and six spellings of up and down. What it does
not read is brought into its spelling by one table of rewrites; names of modules that it lacks are added to its map.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

# (pattern, replacement): applied to every key, in this order.
REWRITES: tuple[tuple[str, str], ...] = (
    (r"^((?:unet|transformer|diffusion_model)\.)\1+", r"\1"),  # prefixes that a script put on twice
    (r"^(lora_unet_|lora_te_)\1+", r"\1"),
    (r"^model\.diffusion_model\.", "diffusion_model."),  # a checkpoint's own names
    (r"^(?:base_model\.model\.)+(?=diffusion_model\.|unet\.|transformer\.)", ""),  # PEFT around a whole pipeline
    (r"^unet\.base_model\.model\.", "unet."),
    (r"^net\.(?=blocks\.)", "diffusion_model."),  # Cosmos and Anima
    (r"\.lora_([AB])\.default\.weight$", r".lora_\1.weight"),  # PEFT's adapter name, left in
    (r"\.lora_([AB])\.default$", r".lora_\1"),
    (r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?$", ".lora_magnitude_vector"),
    (r"(?<=[a-z0-9])_lora_(up|down|mid)\.weight$", r".lora_\1.weight"),
    (r"\.lora_(up|down)$", r".lora_\1.weight"),
    (r"\.diff_m$", ".modulation.diff"),  # lightx2v's changes of Wan's modulations
)

# Which layers cloneofsimo's trainer numbers, in the order in which diffusers builds them.
_NUMBERED_BLOCKS = ("down_blocks", "up_blocks", "mid_block")
_NUMBERED_ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
_NUMBERED_CROSS = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
_NUMBERED_GATE = ("ff.net.0.proj",)
_NUMBERED_TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")


def host_key(key: str) -> str:
    """The key in a spelling that ComfyUI reads; unchanged where none of the rewrites applies."""
    for pattern, replacement in REWRITES:
        key = re.sub(pattern, replacement, key)
    return key


def extra_names(diffusers: Mapping[str, str]) -> dict[str, str]:
    """Module names that ComfyUI's map of a UNet lacks: today's diffusers names (it has the old `.processor.` ones).

    diffusers: diffusers' module name -> the model's key.
    """
    return {f"{prefix}{name}": key for name, key in diffusers.items() for prefix in ("", "unet.", "base_model.model.")}


def number_bare_list(factors: Sequence[Tensor]) -> dict[str, Tensor]:
    """cloneofsimo's bare lists [up, down, up, down, ...] as its numbered keys. A text encoder's layers are all of one
    width; a UNet has several."""
    part = "text_encoder" if len({tuple(factor.shape) for factor in factors}) <= 2 else "unet"
    ends = ("up", "down")
    return {f"{part}:{index // 2}:{ends[index % 2]}": factor for index, factor in enumerate(factors)}


def named_by_number(tensors: Mapping[str, Tensor], diffusers: Mapping[str, str]) -> dict[str, str]:
    """cloneofsimo's keys `unet:{i}:up` -> kohya's `lora_unet_{name}.lora_up.weight`, by diffusers' order of modules."""
    counted = {part: sum(key.startswith(f"{part}:") and key.endswith(":up") for key in tensors) for part in _ORDERS}
    renamed: dict[str, str] = {}
    for key in tensors:
        part, _, rest = key.partition(":")
        number, _, end = rest.partition(":")
        if part not in _ORDERS or not number.isdigit() or end not in ("up", "down"):
            continue
        order = _ORDERS[part](counted[part], diffusers)
        if int(number) < len(order):
            renamed[key] = f"{order[int(number)]}.lora_{end}.weight"
    return renamed


def _unet_order(count: int, diffusers: Mapping[str, str]) -> list[str]:
    """The numbered modules of a UNet; files with GEGLU count nine to a block, those without eight."""
    blocks: dict[str, None] = {}
    for name in diffusers:
        if found := re.match(r"(.*\.transformer_blocks\.\d+)\.", name):
            blocks[found[1]] = None
    ordered = sorted(blocks, key=lambda block: (_NUMBERED_BLOCKS.index(block.split(".")[0]), _digits(block)))
    gate = _NUMBERED_GATE if count > 8 * len(ordered) else ()
    roles = (*_NUMBERED_ATTENTION, *gate, *_NUMBERED_CROSS)
    return ["lora_unet_" + f"{block}.{role}".replace(".", "_") for block in ordered for role in roles]


def _text_order(count: int, _: Mapping[str, str]) -> list[str]:
    stem = "lora_te_text_model_encoder_layers"
    return [f"{stem}_{layer}_self_attn_{role}" for layer in range(count // 4) for role in _NUMBERED_TEXT]


def _digits(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdigit()]


_ORDERS: dict[str, Any] = {"unet": _unet_order, "text_encoder": _text_order}
