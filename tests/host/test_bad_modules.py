"""One bad module never stops a file: it is skipped with its reason, and every key of the file has its place."""

import json

import pytest
import torch
from torch import Tensor

from lora_transfer.core.errors import UnsupportedAdapter
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.read import AdapterOnBase, read_adapter
from lora_transfer.nodes.host.base.from_file import base_from_file, base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.host.conftest import SmallPair
from tests.host.families import header_of

LAYER = "input_blocks.3.1.transformer_blocks.0.attn2.to_k"  # (320, 768)
MODULE = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
DIFFUSERS = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
GOOD = {
    "lora_unet_time_embedding_linear_1.lora_up.weight": torch.ones(1280, 2),
    "lora_unet_time_embedding_linear_1.lora_down.weight": torch.ones(2, 320),
}
LORA = {".lora_up.weight": torch.ones(320, 4), ".lora_down.weight": torch.ones(4, 768)}
LOHA = {
    ".hada_w1_a": torch.ones(320, 4),
    ".hada_w1_b": torch.ones(4, 768),
    ".hada_w2_a": torch.ones(320, 4),
    ".hada_w2_b": torch.ones(4, 768),
}


def module(tensors: dict[str, Tensor], name: str = MODULE) -> dict[str, Tensor]:
    return {name + end: tensor for end, tensor in tensors.items()}


@pytest.fixture(scope="module")
def base(pair: SmallPair) -> HostBase:
    return base_from_file(pair.source, "small")


def read_on(base: HostBase, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> AdapterOnBase:
    placed = read_adapter(Adapter("made", "here", metadata or {}, tensors=tensors), base)
    accounted = [
        *(key for part in (placed.modules, placed.vectors, placed.skipped) for one in part for key in one.keys),
        *placed.unread,
    ]
    assert sorted(accounted) == sorted(tensors)
    return placed


BAD = {
    "NaN in a factor": ({**LORA, ".lora_up.weight": torch.full((320, 4), float("nan"))}, "holds NaN or infinity"),
    "infinity in a factor": ({**LORA, ".lora_up.weight": torch.full((320, 4), float("inf"))}, "holds NaN or infinity"),
    "NaN as alpha": ({**LORA, ".alpha": torch.tensor(float("nan"))}, "holds NaN or infinity"),
    "four values of alpha": ({**LORA, ".alpha": torch.ones(4)}, "alpha is expected to be one number, found [4]"),
    "up without down": ({".lora_up.weight": torch.ones(320, 4)}, "lora_down.weight is missing"),
    "rank 0": ({".lora_up.weight": torch.ones(320, 0), ".lora_down.weight": torch.ones(0, 768)}, "is empty"),
    "a vector as up": ({".lora_up.weight": torch.ones(320), ".lora_down.weight": torch.ones(768)}, "[320, 768]"),
    "a LoRA of another width": ({**LORA, ".lora_down.weight": torch.ones(4, 1024)}, "[320, 768]"),
    "a LoHa of two widths": ({**LOHA, ".hada_w2_b": torch.ones(4, 700)}, "expected its loha to fit"),
    "half a LoKr": ({".lokr_w1": torch.ones(8, 8)}, "expected its lokr to fit"),
    "OFT blocks of another size": ({".oft_blocks": torch.ones(7, 13, 13)}, "expected its oft to fit"),
    "a BOFT without alpha, which ComfyUI cannot compute": (
        {".oft_blocks": torch.ones(2, 32, 10, 10)},
        "its boft to fit",
    ),
    "DoRA norms of another number": ({**LORA, ".dora_scale": torch.ones(5, 1)}, "expected its lora to fit"),
    "PEFT's norms of another number": ({**LORA, ".lora_magnitude_vector": torch.ones(5)}, "has 5 values"),
    "a difference of another shape": ({".diff": torch.ones(320, 700)}, "its diff has shape [320, 700]"),
    "a vector as difference": ({".diff": torch.ones(320)}, "its diff has shape [320]"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_module_is_skipped_with_its_reason_and_the_rest_is_read(base: HostBase, what: str) -> None:
    tensors, reason = BAD[what]
    placed = read_on(base, module(tensors) | GOOD)
    assert placed.layers() == ["time_embed.0"]
    (skipped,) = placed.skipped
    assert skipped.layer == LAYER
    assert reason in skipped.reason


def test_a_file_of_bad_modules_alone_is_refused_with_the_reason_of_the_first(base: HostBase) -> None:
    with pytest.raises(UnsupportedAdapter, match=rf"found 1 of which none does\. The first, {LAYER}: .*NaN"):
        read_on(base, module({**LORA, ".lora_up.weight": torch.full((320, 4), float("nan"))}))


ZERO = {
    "OFT": {".oft_blocks": torch.zeros(32, 10, 10), ".alpha": torch.tensor(0.0)},
    "GLoRA": {
        ".a1.weight": torch.ones(768, 4),
        ".a2.weight": torch.zeros(4, 768),
        ".b1.weight": torch.ones(320, 4),
        ".b2.weight": torch.zeros(4, 768),
    },
}


@pytest.mark.parametrize("kind", ZERO)
def test_a_change_of_zeros_that_needs_the_weight_stays_zero(base: HostBase, kind: str) -> None:
    placed = read_on(base, module(ZERO[kind]))
    assert placed.deltas[LAYER].norm() == 0
    assert not placed.skipped


def test_a_dora_that_changes_nothing_stays_zero(base: HostBase) -> None:
    norms = torch.linalg.vector_norm(base.read(base.layers[LAYER]), dim=1, keepdim=True)
    unchanged = {".lora_up.weight": torch.zeros(320, 4), ".dora_scale": norms + torch.finfo(torch.float32).eps}
    placed = read_on(base, module({**LORA, **unchanged}))
    assert placed.deltas[LAYER].norm() <= 1e-5


def test_a_row_that_pefts_dora_leaves_empty_stays_finite(base: HostBase) -> None:
    weight = base.read(base.layers[LAYER])
    undone = {".lora_up.weight": torch.eye(320, 1), ".lora_down.weight": -weight[:1]}  # row 0 of W + dW is zero
    placed = read_on(base, module({**undone, ".lora_magnitude_vector": torch.ones(320)}))
    assert torch.equal(placed.deltas[LAYER].dense()[0], -weight[0])


def test_three_spellings_of_one_module_are_all_accounted_for(base: HostBase) -> None:
    tensors: dict[str, Tensor] = {}
    for number, (prefix, end) in enumerate((("unet.", ""), ("unet.unet.", ""), ("unet.", ".default"))):
        tensors |= {
            f"{prefix}{DIFFUSERS}.lora_B{end}.weight": torch.full((320, 4), number + 1.0),
            f"{prefix}{DIFFUSERS}.lora_A{end}.weight": torch.ones(4, 768),
        }
    placed = read_on(base, tensors)
    assert placed.deltas[LAYER].dense().eq(4).all()
    assert set(placed.unread.values()) == {
        f"{what} unet.{DIFFUSERS}.lora_{end}.weight, which was read"
        for end in "AB"
        for what in ("another spelling of", "of another adapter in the file than")
    }


def test_of_two_changes_in_one_module_the_one_that_comfyui_takes_is_transferred_and_the_other_named(
    base: HostBase,
) -> None:
    placed = read_on(base, module({**LORA, **LOHA}))
    assert placed.deltas[LAYER].dense().eq(16).all()  # the LoHa: (4 x 4) elementwise
    assert sorted(placed.modules[0].keys) == sorted(module(LOHA))
    assert set(placed.unread) == set(module(LORA))
    assert set(placed.unread.values()) == {"the module holds two changes, of which ComfyUI uses the loha"}


def test_a_change_of_a_fused_weight_and_one_of_its_slice_add_up_as_in_comfyui() -> None:
    base = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    fused, slice_of_it = "lora_unet_double_blocks_3_txt_attn_qkv", "transformer.transformer_blocks.3.attn.add_q_proj"
    whole = {f"{fused}.lora_up.weight": torch.ones(9216, 2), f"{fused}.lora_down.weight": torch.ones(2, 3072)}
    q = {f"{slice_of_it}.lora_B.weight": torch.ones(3072, 3), f"{slice_of_it}.lora_A.weight": torch.ones(3, 3072)}
    for tensors in (q | whole, whole | q):
        placed = read_on(base, tensors)
        assert not placed.skipped
        assert [float(placed.deltas[layer].dense()[0, 0]) for layer in placed.layers()] == [5, 2, 2]


PEFT = {f"unet.{DIFFUSERS}.lora_B.weight": torch.ones(320, 4), f"unet.{DIFFUSERS}.lora_A.weight": torch.ones(4, 768)}


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"unet.lora_alpha": 8, "text_encoder.lora_alpha": 32}, 2.0),
        ({"text_encoder.lora_alpha": 32, "text_encoder_2.lora_alpha": 32}, 1.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 12, "to_k": 4}}, 3.0),
        ({"unet.lora_alpha": 8, "text_encoder.alpha_pattern": {"to_k": 4}}, 2.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True, "text_encoder.use_rslora": False}, 4.0),
        ({"lora_alpha": 8}, 2.0),
    ],
)
def test_pefts_settings_count_for_the_part_of_the_pipeline_that_they_name(
    base: HostBase, settings: dict[str, object], scale: float
) -> None:
    placed = read_on(base, PEFT, {"lora_adapter_metadata": json.dumps(settings)})
    assert float(placed.deltas[LAYER].dense()[0, 0]) == 4 * scale


@pytest.mark.parametrize("written", ["not json", "[1]", '{"unet.lora_alpha": "much"}'])
def test_settings_of_peft_that_cannot_be_read_are_refused_in_a_sentence(base: HostBase, written: str) -> None:
    with pytest.raises(UnsupportedAdapter, match="expected PEFT's settings in its metadata"):
        read_on(base, PEFT, {"lora_adapter_metadata": written})


def test_a_module_with_a_pattern_of_peft_that_is_not_understood_is_skipped_with_the_pattern(base: HostBase) -> None:
    with pytest.raises(UnsupportedAdapter, match=r"PEFT's settings in the metadata, found the expression '\*to_k'"):
        read_on(base, PEFT, {"lora_adapter_metadata": '{"unet.alpha_pattern": {"*to_k": 4}}'})


def test_a_lora_of_a_text_encoder_alone_is_told_to_connect_the_clip(base: HostBase) -> None:
    with pytest.raises(UnsupportedAdapter, match=r"changes the text encoder alone.*Connect the CLIP too"):
        read_on(base, module(LORA, "lora_te_text_model_encoder_layers_0_mlp_fc1"))
