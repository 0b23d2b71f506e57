"""Written and read again: three spellings, three precisions, and ComfyUI's own loader as the judge."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import comfy.lora
import pytest
import torch

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.errors import InvalidSetting
from lora_transfer.core.files import write_new
from lora_transfer.core.layers import Layer, WeightRef
from lora_transfer.core.vectors import Vector
from lora_transfer.nodes.host.adapter.adapter import Adapter, LayerChanges, adapter_from_file
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.adapter.save import cast_for_file, respell
from lora_transfer.nodes.host.adapter.write import SPELLINGS, count_values, to_state_dict
from lora_transfer.nodes.host.base.from_file import base_from_file, base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase, join_encoder
from tests.host.conftest import SmallPair
from tests.host.families import header_of

# Rounding of each precision, with two factors multiplied.
LIMITS = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}


def random_deltas(base: HostBase, layers: list[str]) -> dict[str, LowRankDelta]:
    generator = torch.Generator().manual_seed(0)
    return {
        layer: LowRankDelta(
            torch.randn(base.layers[layer].weight.matrix_shape[0], 2, generator=generator),
            torch.randn(2, base.layers[layer].weight.matrix_shape[1], generator=generator),
        )
        for layer in layers
    }


def unmatched_by_the_host(tensors: dict[str, torch.Tensor], base: HostBase) -> set[str]:
    """Keys that ComfyUI's own loader leaves over. `base.key_map` without our names is its own map."""
    own_map = {name: target for name, target in base.key_map.items() if name not in base.extra}
    loaded = comfy.lora.load_lora(dict(tensors), own_map, log_missing=False)
    read = {key for patch in loaded.values() for key in getattr(patch, "loaded_keys", ())}
    values = {id(value) for patch in loaded.values() if isinstance(patch, tuple) for value in patch[1]}
    return {key for key, tensor in tensors.items() if key not in read and id(tensor) not in values}


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_writing_and_reading_again_is_the_identity(pair: SmallPair, spelling: str, dtype: str) -> None:
    base = base_from_file(pair.source, "small")
    first = read_adapter(adapter_from_file(pair.lora, "kohya"), base)
    written = to_state_dict(first.deltas, first.scales, base, spelling)
    tensors = cast_for_file(written, Adapter("x", "y", {}), dtype)
    assert unmatched_by_the_host(tensors, base) == set()
    again = read_adapter(Adapter("again", "y", {}, tensors=tensors), base)
    assert not again.unread
    assert set(again.deltas) == set(first.deltas)
    for layer, delta in first.deltas.items():
        assert again.deltas[layer].minus(delta).norm() <= LIMITS[dtype] * delta.norm()


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("family", ["SDXL", "Flux dev", "SD3 medium", "Wan 2.1 1.3B", "Z-Image", "Qwen-Image"])
def test_every_spelling_names_every_layer_of_a_family_or_its_fused_weight(family: str, spelling: str) -> None:
    base = base_from_header(header_of(family), family, "header")
    own = base.own_layers()
    layers = own[:2] + [layer for layer in own if base.layers[layer].block][:: len(own) // 12]
    deltas = random_deltas(base, layers)
    tensors = to_state_dict(deltas, dict.fromkeys(layers, 0.5), base, spelling)
    if spelling == "comfy":
        factors = [tensor for key, tensor in tensors.items() if not key.endswith(".alpha")]
        assert count_values(deltas, base) == sum(tensor.numel() for tensor in factors)
    assert unmatched_by_the_host(tensors, base) == set()
    again = read_adapter(Adapter("again", "y", {}, tensors=tensors), base)
    assert not again.unread
    for layer, delta in deltas.items():
        assert again.deltas[layer].minus(delta).norm() <= 1e-5 * delta.norm()


def test_kohya_names_are_those_of_the_trainer_and_diffusers_names_have_no_alpha(pair: SmallPair) -> None:
    base = base_from_file(pair.source, "small")
    placed = read_adapter(adapter_from_file(pair.lora, "kohya"), base)
    original = set(adapter_from_file(pair.lora, "kohya").state_dict())
    assert set(to_state_dict(placed.deltas, placed.scales, base, "kohya")) == original
    diffusers = to_state_dict(placed.deltas, placed.scales, base, "diffusers")
    assert "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight" in diffusers
    assert "unet.down_blocks.0.resnets.0.conv1.lora.down.weight" in diffusers
    assert not [key for key in diffusers if key.endswith("alpha")]


TEXT_ENCODERS = {
    "SD15": ("clip_l",),
    "SDXL": ("clip_l", "clip_g"),
    "Flux dev": ("clip_l", "t5xxl"),
    "SD3 medium": ("clip_l", "clip_g", "t5xxl"),
}
NAMED = {
    ("SD15", "kohya"): {
        "input_blocks.1.0.in_layers.2": "lora_unet_down_blocks_0_resnets_0_conv1",
        "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1": "lora_te_text_model_encoder_layers_0_mlp_fc1",
    },
    ("SD21", "kohya"): {
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q": (
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
        ),
    },
    ("SDXL", "kohya"): {
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q": (
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
        ),
        "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1": "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "clip_g.transformer.text_model.encoder.layers.0.mlp.fc1": "lora_te2_text_model_encoder_layers_0_mlp_fc1",
    },
    ("SD15", "diffusers"): {
        "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1": "text_encoder.text_model.encoder.layers.0.mlp.fc1",
    },
    ("SDXL", "diffusers"): {
        "label_emb.0.0": "unet.add_embedding.linear_1",
        "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1": "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        "clip_g.transformer.text_model.encoder.layers.0.mlp.fc1": "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
    },
    ("Flux dev", "kohya"): {
        "double_blocks.0.img_mlp.2": "lora_unet_double_blocks_0_img_mlp_2",
        "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1": "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.k": (
            "lora_te3_encoder_block_0_layer_0_SelfAttention_k"
        ),
    },
    ("Flux dev", "diffusers"): {
        "double_blocks.11.img_mlp.2": "transformer.transformer_blocks.11.ff.net.2",
        "double_blocks.11.txt_mlp.0": "transformer.transformer_blocks.11.ff_context.net.0.proj",
        "single_blocks.0.linear2": "transformer.single_transformer_blocks.0.proj_out",
        "double_blocks.0.img_attn.qkv[0:3072]": "transformer.transformer_blocks.0.attn.to_q",
    },
    ("Flux schnell", "diffusers"): {"double_blocks.1.img_mlp.2": "transformer.transformer_blocks.1.ff.net.2"},
    ("Chroma", "diffusers"): {"double_blocks.1.img_mlp.2": "transformer.transformer_blocks.1.ff.net.2"},
    ("Flux.2 dev", "diffusers"): {
        "double_blocks.1.img_mlp.2": "transformer.transformer_blocks.1.ff.linear_out",
        "single_blocks.0.linear2": "transformer.single_transformer_blocks.0.attn.to_out",
    },
    ("SD3 medium", "kohya"): {
        "clip_g.transformer.text_model.encoder.layers.0.mlp.fc1": "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.k": (
            "lora_te3_encoder_block_0_layer_0_SelfAttention_k"
        ),
    },
}


def encoder_named(base: HostBase, encoders: tuple[str, ...]) -> HostBase:
    """The base with a layer of each text encoder."""
    names = [
        f"{encoder}.transformer.encoder.block.0.layer.0.SelfAttention.k"
        if encoder == "t5xxl"
        else f"{encoder}.transformer.text_model.encoder.layers.0.mlp.fc1"
        for encoder in encoders
    ]
    keys = SimpleNamespace(state_dict=lambda: dict.fromkeys(f"{name}.weight" for name in names))
    layers = {
        name: Layer(name, "role", "block", WeightRef(f"{name}.weight", (8, 8), "F16"), text_encoder=True)
        for name in names
    }
    encoder = replace(base, key_map=comfy.lora.model_lora_keys_clip(keys, {}), layers=layers, parameters={})
    return join_encoder(base, encoder)


@pytest.mark.parametrize(("family", "spelling"), NAMED)
def test_names_are_those_of_the_trainers_and_of_diffusers(family: str, spelling: str) -> None:
    base = base_from_header(header_of(family), family, "header")
    base = encoder_named(base, TEXT_ENCODERS.get(family, ()))
    named = NAMED[family, spelling]
    tensors = to_state_dict(random_deltas(base, list(named)), dict.fromkeys(named, 1.0), base, spelling)
    modules = {re.sub(r"[._]lora([._])(up|down|A|B)\.weight$|\.alpha$", "", key) for key in tensors}
    assert modules == set(named.values())


def test_biases_and_norms_are_written_so_that_the_host_adds_them(pair: SmallPair) -> None:
    base = base_from_file(pair.source, "small")
    vectors = (
        Vector("diffusion_model.time_embed.0.bias", "diff", torch.ones(1280), ("a",)),
        Vector("diffusion_model.input_blocks.1.0.in_layers.0.weight", "diff", torch.ones(320), ("b",)),
        Vector("diffusion_model.input_blocks.1.0.in_layers.0.weight", "set", torch.ones(320), ("c",)),
    )
    for vector in vectors:
        tensors = to_state_dict({}, {}, base, vectors=(vector,))
        assert unmatched_by_the_host(tensors, base) == set()
        (again,) = read_adapter(Adapter("again", "y", {}, tensors=tensors), base).vectors
        assert (again.parameter, again.kind) == (vector.parameter, vector.kind)
        assert torch.equal(again.values, vector.values)


def test_a_bias_on_a_slice_of_a_fused_weight_is_not_lost() -> None:
    base = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    module = "transformer.transformer_blocks.0.attn.to_k"
    tensors = {
        f"{module}.lora_B.weight": torch.ones(3072, 2),
        f"{module}.lora_A.weight": torch.ones(2, 3072),
        f"{module}.diff_b": torch.ones(3072),
    }
    placed = read_adapter(Adapter("x", "y", {}, tensors=tensors), base)
    (vector,) = placed.vectors
    assert vector.parameter == "diffusion_model.double_blocks.0.img_attn.qkv.bias"
    assert vector.values[3072:6144].eq(1).all()
    assert vector.values.sum() == 3072
    assert [module.layer for module in placed.modules] == ["double_blocks.0.img_attn.qkv[3072:6144]"]


def test_biases_of_all_slices_of_a_fused_weight_are_written_together() -> None:
    base = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    tensors: dict[str, torch.Tensor] = {}
    for index, role in enumerate("qkv"):
        module = f"transformer.transformer_blocks.0.attn.to_{role}"
        tensors |= {
            f"{module}.lora_B.weight": torch.ones(3072, 2),
            f"{module}.lora_A.weight": torch.ones(2, 3072),
            f"{module}.diff_b": torch.full((3072,), index + 1.0),
        }
    placed = read_adapter(Adapter("x", "y", {}, tensors=tensors), base)
    written = to_state_dict(placed.deltas, placed.scales, base, vectors=placed.vectors)
    bias = written["diffusion_model.double_blocks.0.img_attn.qkv.diff_b"]
    assert [float(bias[first]) for first in (0, 3072, 6144)] == [1, 2, 3]
    (vector,) = placed.vectors
    assert len(vector.keys) == 3


def test_a_delta_on_a_fused_weight_becomes_one_on_each_of_its_slices() -> None:
    base = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    fused = random_deltas(base, ["double_blocks.3.txt_attn.qkv"])["double_blocks.3.txt_attn.qkv"]
    tensors = {
        "lora_unet_double_blocks_3_txt_attn_qkv.lora_up.weight": fused.up,
        "lora_unet_double_blocks_3_txt_attn_qkv.lora_down.weight": fused.down,
    }
    placed = read_adapter(Adapter("x", "y", {}, tensors=tensors), base)
    assert [(one.layer.partition("[")[2], one.shape) for one in placed.modules] == [
        ("0:3072]", (3072, 3072)),
        ("3072:6144]", (3072, 3072)),
        ("6144:9216]", (3072, 3072)),
    ]
    joined = torch.cat([placed.deltas[one.layer].dense() for one in placed.modules])
    assert torch.allclose(joined, fused.dense(), atol=1e-5)
    whole = to_state_dict(placed.deltas, placed.scales, base, "kohya")
    assert set(whole) == {*tensors, "lora_unet_double_blocks_3_txt_attn_qkv.alpha"}


def test_scale_and_shift_of_fluxs_last_modulation_change_places_once() -> None:
    base = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    up, down = torch.randn(6144, 2), torch.randn(2, 3072)
    tensors = {"transformer.norm_out.linear.lora_B.weight": up, "transformer.norm_out.linear.lora_A.weight": down}
    placed = read_adapter(Adapter("x", "y", {}, tensors=tensors), base)
    swapped = torch.cat([up[3072:], up[:3072]])
    assert torch.equal(placed.deltas["final_layer.adaLN_modulation.1"].up, swapped)


def test_an_adapter_as_it_was_loaded_is_saved_as_it_is_spelled_and_not_otherwise(pair: SmallPair) -> None:
    adapter = adapter_from_file(pair.lora, "kohya")
    assert set(respell(adapter, "comfy")) == set(adapter.state_dict())
    with pytest.raises(InvalidSetting, match="Transfer it first"):
        respell(adapter, "diffusers")


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_fused_lora_of_which_all_slices_share_a_factor_can_be_written(
    tmp_path: Path, spelling: str, dtype: str
) -> None:
    base = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    module = "lora_unet_double_blocks_3_txt_attn_qkv"
    fused = {f"{module}.lora_up.weight": torch.ones(9216, 2), f"{module}.lora_down.weight": torch.ones(2, 3072)}
    placed = read_adapter(Adapter("x", "y", {}, tensors=fused), base)
    adapter = LayerChanges(base, placed.deltas, placed.scales).adapter("x", {})
    pointers = [tensor.untyped_storage().data_ptr() for tensor in adapter.state_dict().values()]
    assert len(set(pointers)) == len(pointers)  # the LORA_MODEL socket's reader may write it too
    written = cast_for_file(respell(adapter, spelling), adapter, dtype)
    write_new(tmp_path, "fused", written, {})
    # If the spelling names q, k and v there are three modules, else one on the fused weight. All have the LoRA's rank.
    ranks = [len(tensor) for key, tensor in written.items() if "down" in key or "lora_A" in key]
    assert ranks == [2] * (3 if spelling == "diffusers" else 1)


def test_tensors_that_share_memory_in_a_loaded_adapter_are_written_apart(tmp_path: Path) -> None:
    shared = torch.ones(4, 4)
    tensors = {"a.lora_up.weight": shared, "a.lora_down.weight": shared}
    write_new(tmp_path, "shared", cast_for_file(tensors, Adapter("x", "y", {}), "float32"), {})


def test_values_beyond_float16_are_refused_before_anything_is_written() -> None:
    with pytest.raises(InvalidSetting, match="choose bfloat16 or float32"):
        cast_for_file({"a": torch.tensor([1e6])}, Adapter("x", "y", {}), "float16")


def test_a_module_that_widens_its_layer_goes_through_with_its_shape() -> None:
    base = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    tensors = {
        "diffusion_model.img_in.lora_up.weight": torch.randn(3072, 4),
        "diffusion_model.img_in.lora_down.weight": torch.randn(4, 128),
        "diffusion_model.img_in.reshape_weight": torch.tensor([3072, 128]),
    }
    placed = read_adapter(Adapter("x", "y", {}, tensors=tensors), base)
    written = to_state_dict(placed.deltas, placed.scales, base, widened=placed.widened())
    assert unmatched_by_the_host(written, base) == set()
    for key, tensor in tensors.items():
        assert torch.allclose(written[key].float(), tensor.float())
