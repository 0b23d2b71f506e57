"""Reads files of cloneofsimo's trainer, which number their modules: `unet:{i}:up` belongs to the i-th module that
diffusers builds."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .....core.errors import UnsupportedAdapter
from ...base.from_model import HostBase
from ...base.names import layer_name

_KEY = re.compile(r"(unet|text_encoder):([0-9]{1,6}):(up|down)")

_BLOCKS = ("down_blocks", "up_blocks", "mid_block")  # in the order in which diffusers builds them
_SELF = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
_CROSS = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
_GATE = ("ff.net.0.proj",)

# The numbered layers of a block. The first trainers left out the feed-forward; newer versions of diffusers build it
# last.
_UNET_ORDERS = {
    "attn1, attn2": (*_SELF, *_CROSS),
    "attn1, ff, attn2": (*_SELF, *_GATE, *_CROSS),
    "attn1, attn2, ff": (*_SELF, *_CROSS, *_GATE),
}
_TEXT_ORDER = ("k_proj", "v_proj", "q_proj", "out_proj")


@dataclass(frozen=True)
class _Order:
    """A possible order of the numbered modules, as names in the key map."""

    name: str
    modules: tuple[str, ...]


def number_bare_list(factors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Gives numbered keys to the factors of a bare list [up, down, up, down, ...], which cloneofsimo's trainer also
    writes. The layers of a text encoder all have the same width; those of a UNet do not."""
    part = "text_encoder" if len({tuple(factor.shape) for factor in factors}) <= 2 else "unet"
    ends = ("up", "down")
    return {f"{part}:{index // 2}:{ends[index % 2]}": factor for index, factor in enumerate(factors)}


def name_by_number(tensors: Mapping[str, Tensor], base: HostBase) -> dict[str, str]:
    """Numbered key -> ComfyUI's `{module}.lora_up.weight`, in the order in which every module fits the base.

    UnsupportedAdapter if no order fits, or if two fit that disagree: if some modules do not fit, all may be wrong.
    """
    parts: dict[str, dict[str, tuple[int, str]]] = {}
    for key in tensors:
        if match := _KEY.fullmatch(key):
            parts.setdefault(match[1], {})[key] = int(match[2]), match[3]
    renamed: dict[str, str] = {}
    for part, numbers in parts.items():
        orders = list(_unet_orders(base) if part == "unet" else _text_orders(base))
        if orders:
            order = _choose_order(part, numbers, orders, tensors, base)
            renamed |= {key: f"{order.modules[number]}.lora_{end}.weight" for key, (number, end) in numbers.items()}
    return renamed


def _choose_order(
    part: str,
    numbers: Mapping[str, tuple[int, str]],
    orders: Sequence[_Order],
    tensors: Mapping[str, Tensor],
    base: HostBase,
) -> _Order:
    misfits = [_first_misfit(numbers, order, tensors, base) for order in orders]
    fitting = [order for order, misfit in zip(orders, misfits, strict=True) if misfit is None]
    used = {number for number, _ in numbers.values()}
    readings = {tuple(order.modules[number] for number in sorted(used)) for order in fitting}
    if len(readings) == 1:
        return fitting[0]
    known = "; ".join(order.name for order in orders)
    if readings:
        raise UnsupportedAdapter(
            f"The numbered modules of the {part}: expected shapes that fit {base.name} in one order only, found that "
            f"several fit ({'; '.join(order.name for order in fitting)}). Use a file that names its modules."
        )
    raise UnsupportedAdapter(
        f"The numbered modules of the {part}: expected all of them to fit {base.name} in a known order ({known}), "
        f"found that no order fits (in the last one, {misfits[-1]}). Choose a base of the architecture that the LoRA "
        "was trained on, or use a file that names its modules."
    )


def _first_misfit(
    numbers: Mapping[str, tuple[int, str]], order: _Order, tensors: Mapping[str, Tensor], base: HostBase
) -> str | None:
    """The first module that does not fit, in words, whatever its rank; None if all fit."""
    for key, (number, end) in numbers.items():
        if number >= len(order.modules):
            return f"{key} is beyond the last of {len(order.modules)} modules"
        layer = layer_name(base.key_map[order.modules[number]])
        if layer not in base.layers:
            return f"the base has no {layer}"
        rows, columns = base.layers[layer].weight.matrix_shape
        shape = tuple(tensors[key].shape)
        width = tensors[key].flatten(1).shape if len(shape) > 1 else shape
        if len(width) != 2 or (width[0] != rows if end == "up" else width[1] != columns):
            return f"{key} is {list(shape)} and {layer} is {rows} x {columns}"
    return None


def _unet_orders(base: HostBase) -> Iterator[_Order]:
    """The possible orders of a UNet's modules; none for another kind of model."""
    blocks: dict[str, None] = {}
    for name in base.diffusers:
        if match := re.match(r"(.*\.transformer_blocks\.\d+)\.", name):
            blocks[match[1]] = None
    ordered = sorted(blocks, key=lambda block: (_BLOCKS.index(block.split(".")[0]), _digits(block)))
    for order, roles in _UNET_ORDERS.items() if ordered else ():
        yield _Order(order, tuple(f"{block}.{role}" for block in ordered for role in roles))


def _text_orders(base: HostBase) -> Iterator[_Order]:
    """The order of a text encoder's modules, if the base has a text encoder."""
    names = [name for name in base.key_map if name.startswith("lora_te_text_model_encoder_layers_")]
    layers = max((int(name.split("_")[6]) for name in names), default=-1) + 1
    stem = "lora_te_text_model_encoder_layers"
    if layers:
        modules = (f"{stem}_{layer}_self_attn_{role}" for layer in range(layers) for role in _TEXT_ORDER)
        yield _Order("k, v, q, out", tuple(modules))


def _digits(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdecimal()]
