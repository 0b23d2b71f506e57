"""cloneofsimo's numbered files: shapes tell in which order diffusers built the modules that the trainer counted."""

import pytest
import torch
from torch import Tensor

from lora_transfer.core.errors import UnsupportedAdapter
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.group import NO_SUCH_LAYER
from lora_transfer.nodes.host.adapter.read import AdapterOnBase, read_adapter
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.host.test_families import base_of
from tests.host.test_spellings import cached_base

SELF = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
CROSS = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
GATE = ("ff.net.0.proj",)
ORDERS = {"without ff": (*SELF, *CROSS), "ff in the middle": (*SELF, *GATE, *CROSS), "ff last": (*SELF, *CROSS, *GATE)}
BLOCKS = (
    *(f"down_blocks.{level}.attentions.{index}" for level in range(3) for index in range(2)),
    *(f"up_blocks.{level}.attentions.{index}" for level in (1, 2, 3) for index in range(3)),
    "mid_block.attentions.0",
)


def numbered(base: HostBase, roles: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A numbered file of rank 1 in an order of its own, and the delta of each layer."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    deltas: dict[str, Tensor] = {}
    for number, (block, role) in enumerate((block, role) for block in BLOCKS for role in roles):
        key = base.diffusers[f"{block}.transformer_blocks.0.{role}"]
        layer = key.removeprefix("diffusion_model.").removesuffix(".weight")
        rows, columns = base.layers[layer].weight.matrix_shape
        up, down = torch.randn(rows, 1, generator=generator), torch.randn(1, columns, generator=generator)
        tensors |= {f"unet:{number}:up": up, f"unet:{number}:down": down}
        deltas[layer] = up @ down
    return tensors, deltas


def read_on(base: HostBase, tensors: dict[str, Tensor]) -> AdapterOnBase:
    return read_adapter(Adapter("numbered", "here", {}, tensors=tensors), base)


@pytest.mark.parametrize("family", ["SD15", "SD21"])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_in_which_diffusers_built_a_block_is_reported_by_shapes(family: str, order: str) -> None:
    base = cached_base(family)
    tensors, deltas = numbered(base, ORDERS[order])
    placed = read_on(base, tensors)
    assert set(placed.layers()) == set(deltas)
    for layer, delta in deltas.items():
        assert torch.allclose(placed.deltas[layer].dense(), delta, atol=1e-6), layer


@pytest.mark.parametrize("number", [0, 8, 77, 143])
def test_a_file_of_which_one_module_fits_no_order_is_refused_and_not_read_in_part(number: int) -> None:
    base = cached_base("SD15")
    tensors, _ = numbered(base, ORDERS["ff last"])
    tensors[f"unet:{number}:down"] = torch.ones(1, 999)
    with pytest.raises(UnsupportedAdapter, match=r"numbered modules of the unet: .*no order fits .*Choose a base"):
        read_on(base, tensors)


def test_a_numbered_file_of_another_architecture_is_refused() -> None:
    tensors, _ = numbered(cached_base("SD15"), ORDERS["ff last"])
    for family in ("SD21", "SDXL"):
        with pytest.raises(UnsupportedAdapter, match="fit " + family):
            read_on(cached_base(family), tensors)


def test_a_numbered_file_on_a_transformer_has_no_layers_there() -> None:
    tensors, _ = numbered(cached_base("SD15"), ORDERS["ff last"])
    with pytest.raises(UnsupportedAdapter, match="none of which names a layer"):
        read_on(cached_base("Wan 2.1 1.3B"), tensors)


def test_two_orders_that_both_fit_are_refused_with_both() -> None:
    base = cached_base("SD15")
    ambiguous = {"unet:8:up": torch.ones(320, 1), "unet:8:down": torch.ones(1, 320)}
    with pytest.raises(UnsupportedAdapter, match=r"fit SD15 in one order only.*attn1, attn2.*; attn1, ff, attn2"):
        read_on(base, ambiguous)


STRANGE = (
    "unet:²:up",
    "unet:٣:up",
    "unet:-1:up",
    "unet::up",
    "unet:1:alpha",
    "unet:" + "9" * 5000 + ":up",
    "unet:1:up:x",
)


@pytest.mark.parametrize("key", STRANGE)
def test_a_number_that_is_none_stops_no_file(key: str) -> None:
    base = cached_base("SD15")
    tensors, deltas = numbered(base, ORDERS["ff in the middle"])
    placed = read_on(base, tensors | {key: torch.ones(320, 1)})
    assert set(placed.layers()) == set(deltas)
    assert placed.unread == {key: NO_SUCH_LAYER}


def test_numbers_of_a_text_encoder_count_key_value_query_and_output() -> None:
    base = base_of("SD15", text_encoder=True)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"text_encoder:{number}:{end}": torch.randn(shape, generator=generator)
        for number in range(48)
        for end, shape in (("up", (768, 1)), ("down", (1, 768)))
    }
    placed = read_on(base, tensors)
    assert len(placed.layers()) == 48
    for number, role in enumerate(("k_proj", "v_proj", "q_proj", "out_proj")):
        layer = f"clip_l.transformer.text_model.encoder.layers.3.self_attn.{role}"
        expected = tensors[f"text_encoder:{12 + number}:up"] @ tensors[f"text_encoder:{12 + number}:down"]
        assert torch.allclose(placed.deltas[layer].dense(), expected, atol=1e-6)
    beyond = {key.replace("47", "48"): tensor for key, tensor in tensors.items()}
    with pytest.raises(UnsupportedAdapter, match="text_encoder:48:up is beyond the last of 48 modules"):
        read_on(base, beyond)
