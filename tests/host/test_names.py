from types import MappingProxyType

import pytest

from lora_transfer.core.files import TensorHeader
from lora_transfer.nodes.host.names import block_and_role, layers_of


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
