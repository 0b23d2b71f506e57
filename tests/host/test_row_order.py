"""Every kind of adapter on every kind of key-map entry: plain, a slice of a fused weight, rows in another order."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.lora
import pytest
import torch
from torch import Tensor

from lora_transfer.core.layers import WeightRef
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.base.from_file import base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from lora_transfer.nodes.host.base.names import layer_name, parse_target
from tests.host.families import FAMILIES, header_of
from tests.host.small_families import small_header

# A module name for each kind of entry that the family's key map has.
ENTRIES = {
    ("Flux dev", "plain"): "diffusion_model.final_layer.adaLN_modulation.1",
    ("Flux dev", "slice"): "transformer.transformer_blocks.0.attn.to_k",
    ("Flux dev", "slice of another length"): "transformer.single_transformer_blocks.0.proj_mlp",
    ("Flux dev", "other order"): "lora_transformer_norm_out_linear",
    ("Flux.2 dev", "slice"): "transformer.transformer_blocks.0.attn.add_v_proj",
    ("Flux.2 dev", "other order"): "transformer.norm_out.linear",
    ("SD3 medium", "plain"): "diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1",
    ("SD3 medium", "slice"): "transformer.transformer_blocks.0.attn.to_q",
    ("SD3 medium", "other order"): "transformer.norm_out.linear",
    ("SD3 medium", "other order in a block"): "transformer.transformer_blocks.1.norm1_context.linear",
    ("AuraFlow", "plain"): "diffusion_model.modF.1",
    ("AuraFlow", "other order"): "transformer.norm_out.linear",
    ("PixArt Sigma", "slice"): "transformer.transformer_blocks.0.attn2.to_v",
    ("Chroma", "slice"): "transformer.transformer_blocks.0.attn.to_k",
}


def _lora(m: int, n: int, noise: Callable[..., Tensor]) -> dict[str, Tensor]:
    return {"lora_up.weight": noise(m, 4), "lora_down.weight": noise(4, n), "alpha": torch.tensor(2.0)}


def _loha(m: int, n: int, noise: Callable[..., Tensor]) -> dict[str, Tensor]:
    factors = {"hada_w1_a": noise(m, 2), "hada_w1_b": noise(2, n), "hada_w2_a": noise(m, 2), "hada_w2_b": noise(2, n)}
    return {**factors, "alpha": torch.tensor(1.0)}


def _lokr(m: int, n: int, noise: Callable[..., Tensor]) -> dict[str, Tensor]:
    return {"lokr_w1": noise(4, 4), "lokr_w2_a": noise(m // 4, 2), "lokr_w2_b": noise(2, n // 4)}


def _oft(m: int, n: int, noise: Callable[..., Tensor]) -> dict[str, Tensor]:
    return {"oft_blocks": noise(8, m // 8, m // 8), "alpha": torch.tensor(0.0)}


def _boft(m: int, n: int, noise: Callable[..., Tensor]) -> dict[str, Tensor]:
    return {"oft_blocks": noise(2, m // 8, 8, 8), "alpha": torch.tensor(0.0)}


def _glora(m: int, n: int, noise: Callable[..., Tensor]) -> dict[str, Tensor]:
    shapes = {"a1": (n, 4), "a2": (4, n), "b1": (m, 4), "b2": (4, n)}
    return {f"{name}.weight": noise(*shape) for name, shape in shapes.items()} | {"alpha": torch.tensor(2.0)}


def _over_inputs(m: int, n: int, noise: Callable[..., Tensor]) -> dict[str, Tensor]:
    return {"dora_scale": noise(1, n).abs() + 1}


def _over_outputs(m: int, n: int, noise: Callable[..., Tensor]) -> dict[str, Tensor]:
    return {"dora_scale": noise(m, 1).abs() + 1}


KINDS = {
    "LoRA": (_lora,),
    "LoHa": (_loha,),
    "LoKr": (_lokr,),
    "difference": (lambda m, n, noise: {"diff": noise(m, n)},),
    "replaced weight": (lambda m, n, noise: {"set_weight": noise(m, n)},),
    "OFT": (_oft,),
    "BOFT": (_boft,),
    "GLoRA": (_glora,),
    **{
        f"DoRA of {name} over {axis}": (kind, scale)
        for name, kind in (("LoRA", _lora), ("LoHa", _loha), ("LoKr", _lokr))
        for axis, scale in (("inputs", _over_inputs), ("outputs", _over_outputs))
    },
}
# ComfyUI computes these without regard to the order of the file's rows: the weight, the magnitudes or the new rows that
# it takes belong to other rows than the delta. The pack does what the trainer did.
HOST_IGNORES_ORDER = {"replaced weight", "OFT", "BOFT", "GLoRA", *(kind for kind in KINDS if "over outputs" in kind)}


@cache
def _base(family: str) -> HostBase:
    return base_from_header(small_header(family), family, "header")


def _with_weight(base: HostBase, target: Any, generator: torch.Generator) -> tuple[HostBase, Tensor]:
    """The base with random values for the whole weight that a key map's entry is of."""
    whole = torch.randn(base.layers[layer_name(parse_target(target)[0])].weight.shape, generator=generator)

    def read(weight: WeightRef) -> Tensor:
        return whole if weight.rows is None else whole[weight.rows.as_slice]

    return dataclasses.replace(base, reader=read), whole


def _by_host(tensors: dict[str, Tensor], module: str, target: Any, weight: Tensor, order: Any = None) -> Tensor:
    """What ComfyUI makes of a weight, with `order` as its function; in float64 unless it inverts, which it does in
    float32."""
    (patch,) = comfy.lora.load_lora(dict(tensors), {module: target}, log_missing=False).values()
    offset = None if isinstance(target, str) else target[1]
    dtype = torch.float32 if f"{module}.oft_blocks" in tensors else torch.float64
    return comfy.lora.calculate_weight([(1.0, patch, 1.0, offset, order)], weight.to(dtype, copy=True), module, dtype)


def _off(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right.double()).norm() / right.double().norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "entry"), ENTRIES)
def test_values_of_every_kind_on_every_kind_of_entry_are_what_comfyui_computes_on_the_trainers_weight(
    family: str, entry: str, kind: str, generator: torch.Generator
) -> None:
    module = ENTRIES[family, entry]
    target = _base(family).key_map[module]
    base, weight = _with_weight(_base(family), target, generator)
    layer = layer_name(target)
    m, n = base.layers[layer].weight.matrix_shape
    function = None if isinstance(target, str) or len(target) < 3 else target[2]
    parts = [make(m, n, lambda *shape: 0.1 * torch.randn(shape, generator=generator)) for make in KINDS[kind]]
    tensors = {f"{module}.{end}": value for part in parts for end, value in part.items()}

    found = read_adapter(Adapter("made", "here", {}, tensors=tensors), base).deltas[layer].dense()

    rows = parse_target(target)[1]
    before = weight if rows is None else weight[rows.as_slice]
    trained = weight if function is None else weight[function(torch.arange(m)).argsort()]
    changed = _by_host(tensors, module, target, trained)
    after = changed if rows is None else changed[rows.as_slice]
    right = (after if function is None else function(after)) - before
    assert _off(found, right) <= 1e-5
    if kind not in HOST_IGNORES_ORDER or function is None:
        by_host = _by_host(tensors, module, target, weight, function)
        assert _off(found, (by_host if rows is None else by_host[rows.as_slice]) - before) <= 1e-5


@pytest.mark.parametrize(("family", "entry"), [one for one in ENTRIES if one[1].startswith("other")])
def test_pefts_dora_takes_the_norms_of_the_rows_as_the_trainer_had_them(
    family: str, entry: str, generator: torch.Generator
) -> None:
    module = ENTRIES[family, entry]
    target = _base(family).key_map[module]
    base, weight = _with_weight(_base(family), target, generator)
    layer, order = layer_name(target), target[2]
    m, n = weight.shape
    up, down = torch.randn(m, 4, generator=generator) * 0.1, torch.randn(4, n, generator=generator) * 0.1
    magnitude = torch.rand(m, generator=generator) + 5
    tensors = {
        f"{module}.lora_up.weight": up,
        f"{module}.lora_down.weight": down,
        f"{module}.lora_magnitude_vector": magnitude,
    }

    found = read_adapter(Adapter("made", "here", {}, tensors=tensors), base).deltas[layer].dense()

    trained = weight[order(torch.arange(m)).argsort()].double()
    moved = trained + up.double() @ down.double()
    right = order(moved * magnitude.double()[:, None] / moved.norm(dim=1, keepdim=True) - trained)
    assert _off(found, right) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_what_comfyui_does_to_rows_is_to_change_their_order(family: str) -> None:
    base = base_from_header(header_of(family), family, "header")
    for target in {target for target in base.key_map.values() if isinstance(target, tuple)}:
        key, offset, *function = target
        assert offset is None or (offset[0] == 0 and not function), f"{key}: a kind of entry that no test covers"
        if function and layer_name(key) in base.layers:
            rows = function[0](torch.arange(base.layers[layer_name(key)].weight.shape[0]))
            assert torch.equal(rows.sort().values, torch.arange(len(rows))), key
