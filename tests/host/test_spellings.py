"""Every prefix that trainers use, before every name that a family is known by, on every full-size architecture."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import comfy.supported_models as supported_models
import pytest
import torch
from torch import Tensor

from lora_transfer.core.errors import UnsupportedAdapter
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.group import NO_SUCH_LAYER, group_by_module
from lora_transfer.nodes.host.adapter.read import AdapterOnBase, read_adapter
from lora_transfer.nodes.host.adapter.spelling.index import NameIndex
from lora_transfer.nodes.host.adapter.spelling.names import names_table, templates_of
from lora_transfer.nodes.host.adapter.write import SPELLINGS, to_state_dict
from lora_transfer.nodes.host.base.from_file import base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from lora_transfer.nodes.host.base.names import UNET, layer_name, row_order, slice_of
from tests.host.families import FAMILIES, TRANSFORMERS, UNETS, header_of
from tests.host.formats_table import prefixes_in_the_document
from tests.host.test_families import base_of
from tests.host.test_write import unmatched_by_the_host

# The modules of diffusers' models with the shapes of their weights; a{0..2}b stands for a0b, a1b and a2b.
DIFFUSERS: dict[str, dict[str, list[int]]] = json.loads(Path(__file__).with_name("diffusers_modules.json").read_text())
PREFIXES = prefixes_in_the_document()
UNDERSCORED = tuple(prefix for prefix in PREFIXES if prefix.endswith("_"))
TOGETHER = (
    "transformer.base_model.model.",
    "base_model.model.diffusion_model.",
    "base_model.model.base_model.model.",
    "unet.base_model.model.",
    "unet.unet.",
    "diffusion_model.transformer.",
    "pipe.dit.base_model.model.",
    "lora_unet_transformer_",
    "lycoris_base_model_model_",
)


@cache
def cached_base(family: str) -> HostBase:
    return base_from_header(header_of(family), family, "header")


def expanded(family: str) -> Iterator[tuple[str, list[int]]]:
    """(name, shape) of every module of diffusers' model of a family."""
    for pattern, shape in DIFFUSERS[family].items():
        found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
        numbers = range(int(found[1]), int(found[2]) + 1) if found else ("",)
        yield from ((re.sub(r"\{.*\}", str(number), pattern), shape) for number in numbers)


@cache
def cached_index(family: str) -> NameIndex:
    return NameIndex(cached_base(family).key_map)


def read_names(family: str, names: list[str], end: str = ".lora_A.weight") -> list[str | None]:
    """The layers that modules of these names are read as; None where the base has none."""
    found = [cached_index(family).module_of(name + end)[0] for name in names]
    return [None if own is None else layer_name(cached_base(family).key_map[own]) for own in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_prefix_before_every_own_name_of_every_layer_is_read(family: str) -> None:
    layers = [layer for layer in cached_base(family).layers if slice_of(layer)[0] is None]
    flat = [layer.replace(".", "_") for layer in layers]
    for prefix in ("", *PREFIXES, *TOGETHER):
        assert read_names(family, [prefix + layer for layer in layers]) == layers, prefix
    for prefix in ("", *UNDERSCORED, "lora_unet__", "lora_unet_lora_unet_", "lycoris_transformer_"):
        assert read_names(family, [prefix + name for name in flat], ".lora_down.weight") == layers, prefix


@pytest.mark.parametrize("family", DIFFUSERS)
def test_every_prefix_before_every_name_that_diffusers_has_for_a_layer_is_read(family: str) -> None:
    base = cached_base(family)
    names, shapes = zip(*expanded(family), strict=True)
    expected = read_names(family, list(names))
    assert len(set(expected)) == len(expected)
    for layer, shape in zip(expected, shapes, strict=True):
        rows, columns = base.layers[layer].weight.matrix_shape
        assert rows * columns == torch.Size(shape).numel(), layer
    for prefix in (*PREFIXES, *TOGETHER):
        assert read_names(family, [prefix + name for name in names]) == expected, prefix
    flat = [name.replace(".", "_") for name in names]
    for prefix in ("", *UNDERSCORED, "lora_unet__"):
        assert read_names(family, [prefix + name for name in flat], ".lora_down.weight") == expected, prefix


@pytest.mark.parametrize("family", UNETS)
def test_every_prefix_before_todays_diffusers_names_of_a_unet_is_read(family: str) -> None:
    base = cached_base(family)
    names = [name for name in base.diffusers if "class_embedding" not in name]
    expected = [base.diffusers[name].removeprefix(UNET).removesuffix(".weight") for name in names]
    for prefix in ("", *PREFIXES, *TOGETHER):
        assert read_names(family, [prefix + name for name in names]) == expected, prefix
    flat = [name.replace(".", "_") for name in names]
    for prefix in ("", *UNDERSCORED, "lora_unet__"):
        assert read_names(family, [prefix + name for name in flat], ".lora_down.weight") == expected, prefix


def lora_on(base: HostBase, names: dict[str, str]) -> dict[str, Tensor]:
    """A LoRA of rank 1 with a module name for each layer."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for layer, name in names.items():
        shape = base.layers[layer].weight.shape
        tensors[f"{name}.lora_A.weight"] = torch.randn(1, *shape[1:], generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(shape[0], 1, *(1 for _ in shape[2:]), generator=generator)
    return tensors


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_on_every_layer_is_read_saved_and_read_again_in_all_spellings(family: str) -> None:
    base = cached_base(family)
    if family in DIFFUSERS:
        others = [name for name, _ in expanded(family)]
        names = dict(zip(read_names(family, others), (f"transformer.{name}" for name in others), strict=True))
    else:
        names = {own: f"transformer.{own}" for own in (slice_of(layer)[0] or layer for layer in base.own_layers())}
    placed = read_adapter(Adapter("all", "here", {}, tensors=lora_on(base, names)), base)
    assert not placed.unread
    assert not placed.skipped
    assert set(placed.layers()) == {part for layer in names for part in (base.parts_of(layer) or [layer])}
    for spelling in SPELLINGS:
        tensors = to_state_dict(placed.deltas, placed.scales, base, spelling)
        assert unmatched_by_the_host(tensors, base) == set()
        assert_same(read_adapter(Adapter("again", "here", {}, tensors=tensors), base), placed)


def assert_same(again: AdapterOnBase, placed: AdapterOnBase) -> None:
    """The same changes, judged by what they do to one input: a norm of each would take minutes."""
    assert not again.unread
    assert not again.skipped
    assert set(again.layers()) == set(placed.layers())
    for layer in placed.layers():
        outputs = [delta.up @ delta.down.sum(1) for delta in (placed.deltas[layer], again.deltas[layer])]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4, msg=layer)


def test_every_line_of_the_table_of_names_lands_on_a_layer_of_some_family() -> None:
    unused = {(family, rule.own) for family, rule in names_table()} - NOT_AT_HAND
    for family in (*TRANSFORMERS, *UNETS):
        parents = {parent.__name__ for parent in getattr(supported_models, cached_base(family).family).__mro__}
        templates = {template for layer in cached_base(family).layers for template, _ in templates_of(layer)}
        unused -= {(parent, own) for parent, own in unused if parent in parents and own in templates}
    assert unused == set()


# Of models of which no header can be made here (more_families.py says why), and of variants of others.
NOT_AT_HAND = {
    *((family, rule.own) for family, rule in names_table() if family in ("StableAudio", "ACEStep15")),
    *(("CogVideoX_T2V", f"ofs_embedding_linear_{number}") for number in (1, 2)),
    *(
        (family, f"{part}.{end}_layer")
        for family in ("HunyuanImage21", "HunyuanVideo15")
        for part in ("time_r_in", "guidance_in")
        for end in ("in", "out")
    ),
}


def test_a_lora_on_a_fused_weight_is_saved_at_its_own_rank_though_it_is_read_as_slices() -> None:
    base = cached_base("HunyuanVideo")
    fused = "double_blocks.0.img_attn.qkv"
    placed = read_adapter(
        Adapter("fused", "here", {}, tensors=lora_on(base, {fused: f"diffusion_model.{fused}"})), base
    )
    assert len(placed.layers()) == 3
    tensors = to_state_dict(placed.deltas, placed.scales, base, "comfy")
    assert tensors[f"diffusion_model.{fused}.lora_up.weight"].shape == (9216, 1)


SLICED = {
    ("HunyuanVideo", "single_transformer_blocks.3.proj_mlp"): "single_blocks.3.linear1[9216:21504]",
    ("HunyuanVideo", "transformer_blocks.3.attn.add_v_proj"): "double_blocks.3.txt_attn.qkv[6144:9216]",
    ("Lumina 2", "layers.7.attn.to_q"): "layers.7.attention.qkv[0:2304]",
    ("Lumina 2", "layers.7.attn.to_k"): "layers.7.attention.qkv[2304:3072]",
    ("Lumina 2", "layers.7.attn.to_v"): "layers.7.attention.qkv[3072:3840]",
    ("Mochi", "transformer_blocks.0.attn1.add_k_proj"): "blocks.0.attn.qkv_y[3072:6144]",
    ("HunyuanDiT", "blocks.0.attn2.to_v"): "blocks.0.attn2.kv_proj[1408:2816]",
    ("Wan 2.1 1.3B", "blocks.0.attn2.to_out.0"): "blocks.0.cross_attn.o",
    ("Anima", "transformer_blocks.5.attn1.to_out.0"): "blocks.5.self_attn.output_proj",
    ("Flux.2 dev", "single_stream_modulation.linear"): "single_stream_modulation.lin",
}


@pytest.mark.parametrize(("family", "name"), SLICED)
def test_a_name_of_diffusers_means_the_right_rows_of_the_right_layer(family: str, name: str) -> None:
    assert read_names(family, [f"transformer.{name}"]) == [SLICED[family, name]]


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("HunyuanVideo", "norm_out.linear"),
        ("Mochi", "norm_out.linear"),
        ("Mochi", "transformer_blocks.0.ff.net.0.proj"),
        ("HunyuanDiT", "norm_out.linear"),
        ("MiniMax H3", "transformer_blocks.0.ff.net.0.proj"),
    ],
)
def test_halves_that_diffusers_swaps_are_swapped_back(family: str, name: str) -> None:
    base = cached_base(family)
    swap = row_order(base.key_map[name])
    assert swap is not None
    assert torch.equal(swap(torch.arange(6)), torch.tensor([3, 4, 5, 0, 1, 2]))


@pytest.mark.parametrize("adapter", ["default", "default_0", "my-style", "pouce"])
@pytest.mark.parametrize("ends", [(".lora_A", ".lora_B"), (".lora_A", ".lora_B", ".weight")])
def test_pefts_name_for_the_adapter_may_be_any_word(adapter: str, ends: tuple[str, ...]) -> None:
    base = cached_base("Wan 2.1 1.3B")
    down, up, *weight = ends
    tail = "".join(weight)
    tensors = {
        f"blocks.0.self_attn.q{down}.{adapter}{tail}": torch.ones(2, 1536),
        f"blocks.0.self_attn.q{up}.{adapter}{tail}": torch.ones(1536, 2),
    }
    placed = read_adapter(Adapter("peft", "here", {}, tensors=tensors), base)
    assert placed.layers() == ["blocks.0.self_attn.q"]
    assert not placed.unread


def test_factors_of_two_adapters_are_never_mixed() -> None:
    base = cached_base("Wan 2.1 1.3B")
    keys = [
        f"blocks.0.self_attn.q.lora_{end}.{name}.weight"
        for end, name in (("A", "x"), ("B", "y"), ("B", "x"), ("A", "y"))
    ]
    shapes = {"A": (2, 1536), "B": (1536, 2)}
    tensors = {key: torch.full(shapes[key.split("lora_")[1][0]], 2.0 if ".x." in key else 3.0) for key in keys}
    placed = read_adapter(Adapter("two", "here", {}, tensors=tensors), base)
    assert placed.deltas["blocks.0.self_attn.q"].dense().eq(8).all()
    assert set(placed.unread) == {key for key in keys if ".y." in key}


def test_pefts_settings_call_a_module_by_the_name_in_the_file() -> None:
    base = cached_base("Wan 2.1 1.3B")
    name = "transformer.blocks.0.attn1.to_k"
    tensors = {f"{name}.lora_A.weight": torch.ones(4, 1536), f"{name}.lora_B.weight": torch.ones(1536, 4)}
    settings = {"transformer.lora_alpha": 4, "transformer.alpha_pattern": {"attn1.to_k": 12}}
    placed = read_adapter(Adapter("x", "y", {"lora_adapter_metadata": json.dumps(settings)}, tensors=tensors), base)
    assert placed.deltas["blocks.0.self_attn.k"].dense().eq(12).all()


def test_a_name_that_could_mean_two_layers_is_refused_with_both() -> None:
    base = base_of("SD15", text_encoder=True)
    clip = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    two = base.key_map | {"lora_te2_text_model_encoder_layers_0_mlp_fc1": clip.replace("clip_l", "clip_g")}
    name = "base_model.model.text_model.encoder.layers.0.mlp.fc1"
    groups, _ = group_by_module({f"{name}.lora_A.weight": torch.ones(1)}, base)
    assert list(groups) == ["lora_te_text_model_encoder_layers_0_mlp_fc1"]
    with pytest.raises(UnsupportedAdapter, match=rf"{name}: .*can mean lora_te_text.* or lora_te2_text"):
        group_by_module({f"{name}.lora_A.weight": torch.ones(1)}, replace(base, key_map=two))


def test_keys_without_end_or_sense_take_no_time() -> None:
    base = cached_base("SDXL")
    hostile = ["." * 200_000, "lora_unet_" * 20_000, "transformer." * 20_000, "unet.unet_" * 20_000, ".lora_A" * 30_000]
    hostile += [f"{'transformer.' * 30}x{number}.lora_A.weight" for number in range(5000)]
    tensors = dict.fromkeys(hostile, torch.ones(1))
    start = time.process_time()
    groups, unread = group_by_module(tensors, base)
    assert time.process_time() - start < 30  # CPU-seconds: half of one now, minutes if time grows with the square
    assert not groups
    assert set(unread.values()) == {NO_SUCH_LAYER}


def test_nothing_read_does_not_blame_the_base_alone() -> None:
    with pytest.raises(UnsupportedAdapter, match=r"made for another model.*or its trainer gives layers names"):
        read_adapter(
            Adapter("x", "y", {}, tensors={"unknown.lora_A.weight": torch.ones(1, 1)}), cached_base("Wan 2.1 1.3B")
        )
