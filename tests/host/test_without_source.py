"""Transfers without the source base: by a published map, or by names, on headers of the models' real shapes."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from lora_transfer.core.errors import NothingToTransfer, UnsupportedAdapter
from lora_transfer.core.files import TensorFile
from lora_transfer.core.plan import TransferSettings
from lora_transfer.core.resources import Resources
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.base.from_file import base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from lora_transfer.nodes.host.project import ProjectResult
from lora_transfer.nodes.host.without_source import transfer_without_source
from tests.host.families import TRANSFORMERS, header_of, header_of_tensor, model_of

ANIMA_SOURCES = [block for block in range(40) if block not in (2, 5, 8, 11, 14, 17, 21, 24, 27, 30, 33, 36)]
WIDTH = 128  # Flex is as narrow as ComfyUI lets it be; Anima's width tells the family
FLEX_SOURCES = (0, 1, 2, 3, 4, 16, 17, 18)


@cache
def base(family: str, prefix: str = "", **depth: int) -> HostBase:
    """A base of a family with other numbers of blocks. Its weights are ones."""
    settings = {**TRANSFORMERS[family][2], **depth}
    tensors = {
        f"{prefix}{key}": header_of_tensor(value) for key, value in model_of(family, settings).state_dict().items()
    }
    made = base_from_header(TensorFile(header_of(family).path, tensors, {}), "target", "header")
    return replace(made, reader=lambda weight: torch.ones(weight.shape))


def anima() -> HostBase:
    return base("Anima", "net.", num_blocks=40)


def flex() -> HostBase:
    return base("Flux dev", depth=8, hidden_size=WIDTH, num_heads=1)


def marked(layers: dict[str, float], rows: int, columns: int) -> dict[str, Tensor]:
    """A LoRA of rank 1 in kohya's spelling; each layer has its mark on every place."""
    return {
        key: value
        for layer, mark in layers.items()
        for key, value in {
            f"{layer}.lora_up.weight": torch.full((rows, 1), mark),
            f"{layer}.lora_down.weight": torch.ones(1, columns),
            f"{layer}.alpha": torch.tensor(1.0),
        }.items()
    }


def transferred(tensors: dict[str, Tensor], target: HostBase, metadata: dict[str, str] | None = None) -> ProjectResult:
    adapter = Adapter("old", "hash", metadata or {}, tensors=tensors)
    return transfer_without_source(adapter, target, TransferSettings(), Resources())


def marks_of(result: ProjectResult) -> dict[str, float]:
    assert result.adapter.changes is not None
    return {layer: float(delta.dense()[0, 0]) for layer, delta in result.adapter.changes.deltas.items()}


def test_a_base_has_as_many_blocks_as_its_file() -> None:
    blocks = {layer.block for layer in anima().layers.values() if layer.block.startswith("blocks.")}
    assert blocks == {f"blocks.{number}" for number in range(40)}
    assert not anima().notes


@pytest.mark.parametrize("name", ["lora_unet_blocks_{}_cross_attn_q_proj", "net.blocks.{}.cross_attn.q_proj"])
def test_an_anima_lora_of_28_blocks_comes_to_the_40_blocks_by_the_published_map(name: str) -> None:
    tensors = marked({name.format(block): 1.0 + block for block in range(28)}, 2048, 2048)
    tensors |= marked({"lora_unet_llm_adapter_blocks_2_cross_attn_q_proj": 99.0}, 1024, 1024)
    result = transferred(tensors, anima())
    expected = {f"blocks.{target}.cross_attn.q_proj": 1.0 + source for source, target in enumerate(ANIMA_SOURCES)}
    assert marks_of(result) == expected | {"llm_adapter.blocks.2.cross_attn.q_proj": 99.0}
    assert result.adapter.metadata["ss_anima_remap"] == "28to40"
    notes = " ".join(result.notes)
    assert "could not be checked" in notes
    assert "expand manifest" in notes
    assert result.report.counts()["keys_transferred"] == len(tensors)


def test_a_lora_that_was_converted_before_is_not_converted_again() -> None:
    tensors = marked({f"lora_unet_blocks_{block}_cross_attn_q_proj": 1.0 + block for block in range(28)}, 2048, 2048)
    result = transferred(tensors, anima(), {"ss_anima_remap": "28to40"})
    assert marks_of(result) == {f"blocks.{block}.cross_attn.q_proj": 1.0 + block for block in range(28)}
    assert "ss_anima_remap" in " ".join(result.notes)
    again = transferred(result.adapter.state_dict(), anima(), dict(result.adapter.metadata))
    assert marks_of(again) == marks_of(result)


def test_an_anima_lora_with_a_block_above_the_28th_was_made_for_the_40() -> None:
    tensors = marked({f"lora_unet_blocks_{block}_cross_attn_q_proj": 1.0 for block in (3, 39)}, 2048, 2048)
    result = transferred(tensors, anima())
    assert marks_of(result) == {"blocks.3.cross_attn.q_proj": 1.0, "blocks.39.cross_attn.q_proj": 1.0}
    assert "ss_anima_remap" not in result.adapter.metadata
    assert "no published map" in " ".join(result.notes)


@pytest.mark.parametrize(("blocks", "layer"), [("28", "blocks.3"), ("40", "blocks.2"), ("junk", "blocks.3")])
def test_the_number_of_blocks_in_the_metadata_decides(blocks: str, layer: str) -> None:
    tensors = marked({"lora_unet_blocks_2_cross_attn_q_proj": 1.0}, 2048, 2048)
    result = transferred(tensors, anima(), {"ss_anima_num_blocks": blocks})
    assert set(marks_of(result)) == {f"{layer}.cross_attn.q_proj"}


def test_a_lora_of_few_blocks_says_why_it_counts_as_one_for_the_source() -> None:
    result = transferred(marked({"lora_unet_blocks_2_cross_attn_q_proj": 1.0}, 2048, 2048), anima())
    assert set(marks_of(result)) == {"blocks.3.cross_attn.q_proj"}
    assert "changes no block above blocks.2" in " ".join(result.notes)


FLUX_NAMES = (
    ("lora_unet_double_blocks_{}_img_mlp_0", "lora_unet_single_blocks_{}_linear2"),
    ("diffusion_model.double_blocks.{}.img_mlp.0", "diffusion_model.single_blocks.{}.linear2"),
    ("transformer.transformer_blocks.{}.ff.net.0.proj", "transformer.single_transformer_blocks.{}.proj_out"),
)


@pytest.mark.parametrize(("double", "single"), FLUX_NAMES)
def test_a_flux_lora_comes_to_flex_and_the_removed_blocks_are_listed_with_the_reason(double: str, single: str) -> None:
    tensors = marked({double.format(block): 1.0 + block for block in range(19)}, 4 * WIDTH, WIDTH)
    tensors |= marked({single.format(block): 100.0 + block for block in (0, 7, 37)}, WIDTH, 5 * WIDTH)
    result = transferred(tensors, flex())
    doubles = {f"double_blocks.{target}.img_mlp.0": 1.0 + source for target, source in enumerate(FLEX_SOURCES)}
    assert marks_of(result) == doubles | {f"single_blocks.{block}.linear2": 100.0 + block for block in (0, 7, 37)}
    skipped = {skipped.layer: skipped for skipped in result.report.skipped}
    assert set(skipped) == {f"double_blocks.{block}.img_mlp.0" for block in range(5, 16)}
    assert all("Flex.1 alpha was made without" in layer.reason for layer in skipped.values())
    assert skipped["double_blocks.7.img_mlp.0"].keys[0].startswith(double.format(7))
    assert result.report.lost is not None
    assert result.report.lost > 0
    counts = result.report.counts()
    assert (counts["keys"], counts["keys_skipped"], counts["keys_unread"]) == (len(tensors), 33, 0)


def test_slices_of_a_fused_layer_go_to_the_slices_of_the_block_that_the_map_names() -> None:
    names = {f"transformer.transformer_blocks.{block}.attn.to_k": 1.0 + block for block in (4, 10, 18)}
    result = transferred(marked(names, WIDTH, WIDTH), flex())
    part = "img_attn.qkv[128:256]"
    assert marks_of(result) == {f"double_blocks.4.{part}": 5.0, f"double_blocks.7.{part}": 19.0}


def test_a_flux_lora_on_few_blocks_stays_where_it_is() -> None:
    result = transferred(marked({"lora_unet_double_blocks_6_img_mlp_0": 1.0}, 4 * WIDTH, WIDTH), flex())
    assert set(marks_of(result)) == {"double_blocks.6.img_mlp.0"}


def test_pefts_settings_count_by_the_names_in_the_file_and_not_by_those_of_the_target() -> None:
    name = "transformer.transformer_blocks.{}.ff.net.0.proj"
    tensors = {
        f"{name.format(block)}.{end}": value
        for block in range(19)
        for end, value in (("lora_A.weight", torch.ones(1, WIDTH)), ("lora_B.weight", torch.ones(4 * WIDTH, 1)))
    }
    settings = {
        "transformer.r": 1,
        "transformer.lora_alpha": 1,
        "transformer.alpha_pattern": {
            "transformer_blocks.17.ff.net.0.proj": 5,
            "transformer_blocks.6.ff.net.0.proj": 9,
        },
    }
    result = transferred(tensors, flex(), {"lora_adapter_metadata": json.dumps(settings)})
    marks = marks_of(result)
    assert marks["double_blocks.6.img_mlp.0"] == 5.0
    assert sorted(marks.values()) == [1.0] * 7 + [5.0]


def test_biases_and_norms_go_with_their_blocks() -> None:
    tensors = marked({f"diffusion_model.double_blocks.{block}.img_mlp.0": 1.0 for block in range(19)}, 4 * WIDTH, WIDTH)
    tensors |= {f"diffusion_model.double_blocks.{block}.img_mlp.0.diff_b": torch.ones(4 * WIDTH) for block in (7, 18)}
    result = transferred(tensors, flex())
    assert [vector.parameter for vector in result.report.vectors] == ["diffusion_model.double_blocks.7.img_mlp.0.bias"]
    assert result.report.counts()["keys_unread"] == 0


def test_a_dora_is_computed_from_the_targets_weight_and_a_replaced_weight_is_skipped() -> None:
    name = "lora_unet_blocks_{}_adaln_modulation_self_attn_1"
    tensors = marked({name.format(2): 0.0}, 256, 2048)
    tensors[f"{name.format(2)}.dora_scale"] = torch.full((256, 1), 2 * 2048**0.5)  # twice the norm of a row of ones
    tensors[f"{name.format(1)}.set_weight"] = torch.zeros(256, 2048)
    result = transferred(tensors, anima())
    assert marks_of(result) == {"blocks.3.adaln_modulation_self_attn.1": pytest.approx(1.0, abs=1e-3)}
    assert "computed from the target's weight" in " ".join(result.notes)
    (skipped,) = result.report.skipped
    assert skipped.layer == "blocks.1.adaln_modulation_self_attn.1"
    assert "without the source base" in skipped.reason
    assert skipped.keys == (f"{name.format(1)}.set_weight",)


def test_a_module_of_another_shape_is_skipped_with_the_reason() -> None:
    tensors = marked({f"lora_unet_blocks_{block}_cross_attn_q_proj": 1.0 for block in range(28)}, 2048, 2048)
    tensors |= marked({"lora_unet_blocks_3_cross_attn_v_proj": 1.0}, 2048, 77)
    result = transferred(tensors, anima())
    assert [skipped.layer for skipped in result.report.skipped] == ["blocks.3.cross_attn.v_proj"]
    assert len(marks_of(result)) == 28


def test_by_names_everything_that_fits_is_copied_with_the_text_encoder() -> None:
    lora = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = marked({lora: 2.0}, 320, 320) | marked({"lora_te_text_model_encoder_layers_0_mlp_fc1": 1.0}, 3072, 768)
    result = transferred(tensors, base_from_header(header_of("SD15"), "target", "header"))
    assert list(marks_of(result).values()) == [2.0]
    assert "no CLIP is connected" in next(iter(result.report.unread.values()))
    with_encoder = base_from_header(header_of("SD15", text_encoder=True), "target", "header")
    assert sorted(marks_of(transferred(tensors, with_encoder)).values()) == [1.0, 2.0]


def test_the_gain_counts_and_the_report_names_a_source_that_is_not_there() -> None:
    adapter = Adapter("old", "hash", {}, tensors=marked({"lora_unet_blocks_0_cross_attn_q_proj": 1.0}, 2048, 2048))
    result = transfer_without_source(adapter, anima(), TransferSettings(gain=3.0), Resources())
    assert list(marks_of(result).values()) == [3.0]
    said = " ".join(line.text for line in result.lines())
    assert "could not be checked" in said
    assert "Check Transfer" not in said  # it would need the source
    written = json.loads(result.adapter.metadata["lora_transfer"])
    assert "not on this disk" in written["source"]["name"]
    assert json.loads(result.report.dumps())["settings"]["method"] == "copy"


def test_a_lora_of_replaced_weights_alone_needs_its_source() -> None:
    tensors = {"lora_unet_blocks_1_cross_attn_q_proj.set_weight": torch.zeros(2048, 2048)}
    with pytest.raises(NothingToTransfer, match=r"to target: .*without the source base.*put it on this disk"):
        transferred(tensors, anima())


def test_a_lora_that_fits_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedAdapter, match=r"a LoRA for target .*none of which names a layer"):
        transferred(marked({"lora_unet_double_blocks_0_img_mlp_0": 1.0}, 4, 4), anima())
