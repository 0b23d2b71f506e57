from types import MappingProxyType

import pytest

from lora_transfer.core.files import TensorHeader
from lora_transfer.core.matching.blocks import blocks_of, kinds_of
from lora_transfer.nodes.host.base.from_file import base_from_header
from lora_transfer.nodes.host.base.names import block_and_role, layers_of
from tests.host.families import header_of


@pytest.mark.parametrize(
    ("name", "block", "role"),
    [
        ("input_blocks.1.0.in_layers.2", "input_blocks.1.0", "in_layers.2"),
        ("input_blocks.4.1.proj_in", "input_blocks.4.1", "proj_in"),
        ("middle_block.1.transformer_blocks.9.ff.net.0.proj", "middle_block.1.transformer_blocks.9", "ff.net.0.proj"),
        ("double_blocks.3.img_attn.qkv[0:3072]", "double_blocks.3", "img_attn.qkv[0:3072]"),
        ("noise_refiner.1.attention.out", "noise_refiner.1", "attention.out"),
        ("layers.7.feed_forward.w1", "layers.7", "feed_forward.w1"),
        ("t_block.1", "", "t_block.1"),
        ("time_embed.0", "", "time_embed.0"),
    ],
)
def test_a_layer_belongs_to_the_innermost_block_that_its_name_counts(name: str, block: str, role: str) -> None:
    assert block_and_role(name) == (block, role)


def test_layers_stand_in_the_models_order_whatever_the_order_of_the_file() -> None:
    key_map = {f"lora_{index}": f"diffusion_model.blocks.{index}.q.weight" for index in range(12)}
    headers = {key: TensorHeader((4, 4), "F16") for key in sorted(key_map.values())}
    layers = layers_of(MappingProxyType(key_map), headers)
    assert [layer.block for layer in layers.values()] == [f"blocks.{index}" for index in range(12)]


@pytest.mark.parametrize(
    ("parent", "child", "deepest"),
    [("SDXL", "SSD-1B", (60, 26)), ("SDXL", "Vega", (60, 10)), ("SDXL", "KOALA-700M", (60, 15))],
)
def test_every_block_of_a_published_child_finds_blocks_of_its_make_in_the_parent(
    parent: str, child: str, deepest: tuple[int, int]
) -> None:
    bases = [base_from_header(header_of(family), family, "header") for family in (parent, child)]
    kinds = kinds_of(*(blocks_of(base.layers.values()) for base in bases))
    assert not [block.name for kind in kinds if not kind.sources for block in kind.targets]
    assert max((len(kind.sources), len(kind.targets)) for kind in kinds) == deepest
