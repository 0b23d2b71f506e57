"""A key that changes what a module's other keys mean, and is not understood, makes the module skipped with that key in
the reason; what is said of a key is true."""

import dataclasses

import pytest
import torch
from torch import Tensor

from lora_transfer.core.errors import UnsupportedAdapter
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.apply import apply
from lora_transfer.nodes.host.base.from_file import base_from_file, base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.host.conftest import SmallPair
from tests.host.families import header_of
from tests.host.test_apply import model, patched  # noqa: F401  (a fixture)
from tests.host.test_bad_modules import DIFFUSERS, GOOD, LAYER, LOHA, LORA, MODULE, module, read_on

PEFT = {".lora_B.weight": torch.ones(320, 4), ".lora_A.weight": torch.ones(4, 768)}


@pytest.fixture(scope="module")
def base(pair: SmallPair) -> HostBase:
    return base_from_file(pair.source, "small")


CHANGING: dict[str, tuple[dict[str, Tensor], str]] = {
    ".magnitude of another length": ({**LORA, ".magnitude": torch.ones(5)}, ".magnitude has 5 values"),
    "a strange key": ({**LORA, ".strange": torch.ones(4)}, ".strange is not understood"),
    "a gate": ({**LORA, ".gate": torch.ones(1)}, ".gate is not understood"),
    "a scalar": ({**LORA, ".scalar": torch.tensor(0.5)}, ".scalar is not understood"),
    "a rescaled OFT": (
        {".oft_blocks": torch.zeros(32, 10, 10), ".rescale": torch.full((320, 1), 2.0)},
        ".rescale is not understood",
    ),
    "a LoRA with rescale": ({**LORA, ".rescale": torch.full((320, 1), 2.0)}, ".rescale is not understood"),
    "PEFT's bias": ({**PEFT, ".bias": torch.ones(320)}, ".bias is not understood"),
    "PEFT's lora_bias": ({**PEFT, ".lora_B.bias": torch.ones(320)}, ".lora_B.bias is not understood"),
    "a Tucker core under PEFT's names": (
        {**PEFT, ".lora_mid.weight": torch.ones(4, 4, 1, 1)},
        ".lora_mid.weight is not understood",
    ),
    "norms of PEFT on a LoHa": ({**LOHA, ".lora_magnitude_vector": torch.ones(320)}, "lora_magnitude_vector is not"),
    "norms of one dimension on a LoHa": ({**LOHA, ".dora_scale": torch.ones(320)}, ".dora_scale is not understood"),
    "norms of no dimension": ({**LORA, ".dora_scale": torch.tensor(1.0)}, "expected its lora to fit"),
    "norms twice": (
        {**LORA, ".dora_scale": torch.ones(320, 1), ".lora_magnitude_vector": torch.ones(320)},
        "norms of DoRA twice",
    ),
    "norms of PEFT beside a Tucker core": (
        {**LORA, ".lora_mid.weight": torch.ones(4, 4), ".lora_magnitude_vector": torch.ones(320)},
        "together with lora_mid",
    ),
    "half a Tucker LoHa": ({**LOHA, ".hada_t1": torch.ones(4, 4)}, "hada_t2 is missing"),
    "the other half": ({**LOHA, ".hada_t2": torch.ones(4, 4)}, ".hada_t2 is not understood"),
    "reshape_weight of no dimension": ({**LORA, ".reshape_weight": torch.tensor(3)}, "to be a layer's shape, found 3"),
    "reshape_weight of fractions": ({**LORA, ".reshape_weight": torch.tensor([320.5, 768.0])}, "to be a layer's shape"),
    "reshape_weight of another shape": (
        {**LORA, ".reshape_weight": torch.tensor([320, 900])},
        "reshape_weight is expected to be",
    ),
    "reshape_weight that narrows": (
        {
            ".lora_up.weight": torch.ones(20, 4),
            ".lora_down.weight": torch.ones(4, 68),
            ".reshape_weight": torch.tensor([20, 68]),
        },
        "reshape_weight is expected to be",
    ),
    "reshape_weight of a LoHa": ({**LOHA, ".reshape_weight": torch.tensor([320, 768])}, "reshape_weight is not"),
    "complex factors": ({**LORA, ".lora_up.weight": torch.ones(320, 4, dtype=torch.complex64)}, "real numbers"),
    "AdaLoRA": ({".lora_A": torch.ones(4, 768), ".lora_B": torch.ones(320, 4), ".lora_E": torch.ones(4, 1)}, "AdaLoRA"),
    "AdaLoRA with PEFT's later names": ({**PEFT, ".lora_E.weight": torch.ones(4, 1)}, "AdaLoRA"),
    "VeRA": ({".vera_lambda_b": torch.ones(320), ".vera_lambda_d": torch.ones(4)}, "VeRA"),
    "FourierFT": ({".fourierft_spectrum": torch.ones(9)}, "FourierFT"),
    "OFTv2": ({".oft_R.weight": torch.ones(96, 28)}, "OFT of PEFT"),
    "PEFT's BOFT": ({".boft_R": torch.ones(1, 4, 8, 8), ".boft_s": torch.ones(320, 1)}, "BOFT of PEFT"),
    "IA3": ({".ia3_l": torch.ones(1, 768)}, "IA3"),
    "IA3 of lycoris": ({".weight": torch.ones(320, 1), ".on_input": torch.tensor(0)}, "IA3"),
    "VB-LoRA": ({".vblora_logits_A": torch.ones(4, 9), ".vblora_logits_B": torch.ones(9, 4)}, "VB-LoRA"),
    "a LoRA of an embedding": ({".lora_embedding_A": torch.ones(4, 9)}, "LoRA of an embedding"),
}


@pytest.mark.parametrize("what", CHANGING)
def test_a_module_with_a_key_that_is_not_understood_is_skipped_with_that_key(base: HostBase, what: str) -> None:
    tensors, reason = CHANGING[what]
    placed = read_on(base, module(tensors) | GOOD)
    assert placed.layers() == ["time_embed.0"]
    (skipped,) = placed.skipped
    assert (skipped.layer, skipped.keys) == (LAYER, tuple(module(tensors)))
    assert reason in skipped.reason


HARMLESS: dict[str, dict[str, Tensor]] = {
    "a scalar of one": {**LORA, ".scalar": torch.tensor(1.0)},
    "rescale of ones": {**LORA, ".rescale": torch.ones(320, 1)},
    "the base's weight": {**LORA, ".base_layer.weight": torch.ones(320, 768)},
}


@pytest.mark.parametrize("what", HARMLESS)
def test_a_key_that_changes_nothing_is_reported_and_the_module_is_read(base: HostBase, what: str) -> None:
    placed = read_on(base, module(HARMLESS[what]))
    assert torch.equal(placed.deltas[LAYER].dense(), torch.full((320, 768), 4.0))
    assert len(placed.unread) == 1


def test_alpha_beside_a_full_difference_is_reported_and_scales_nothing(base: HostBase) -> None:
    placed = read_on(base, module({".diff": torch.ones(320, 768), ".alpha": torch.tensor(0.5)}))
    assert torch.equal(placed.deltas[LAYER].dense(), torch.ones(320, 768))
    assert placed.unread == {f"{MODULE}.alpha": "alpha scales factors, and this module has none"}


NORMS = [
    ".lora_magnitude_vector",
    ".lora_magnitude_vector.weight",
    ".lora_magnitude_vector.default",
    ".magnitude",
    ".dora_scale",
]


@pytest.mark.parametrize("end", NORMS)
def test_norms_of_one_dimension_are_pefts_dora_whatever_they_are_called(base: HostBase, end: str) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(320, 768, generator=generator)
    base = dataclasses.replace(base, reader=lambda _: weight)
    up, down = torch.randn(320, 4, generator=generator) * 0.1, torch.randn(4, 768, generator=generator) * 0.1
    norms = torch.rand(320, generator=generator) + 20
    tensors = {".lora_up.weight": up, ".lora_down.weight": down, ".alpha": torch.tensor(2.0), end: norms}
    placed = read_on(base, module(tensors))
    moved = weight.double() + up.double() @ down.double() / 2
    expected = moved * norms.double()[:, None] / moved.norm(dim=1, keepdim=True) - weight.double()
    found = placed.deltas[LAYER].dense().double()
    assert float((found - expected).norm() / expected.norm()) <= 1e-5
    assert not placed.unread


def reasons_of(base: HostBase, tensors: dict[str, Tensor]) -> set[str]:
    placed = read_on(base, tensors | GOOD)
    return set(placed.unread.values()) | {one.reason for one in placed.skipped}


def test_ia3_on_a_text_encoder_is_not_reported_to_connect_a_clip(base: HostBase) -> None:
    name = "lora_te_text_model_encoder_layers_0_mlp_fc2"
    tensors = {f"{name}.on_input": torch.tensor(True), f"{name}.weight": torch.ones(1, 3072)}
    assert reasons_of(base, tensors) == {"it is of the kind IA3, which is not read"}


def test_what_stands_under_pefts_wrapper_tells_its_own_kind_and_no_other_keys(base: HostBase) -> None:
    tensors = {"base_model.vera_A": torch.ones(4, 9), "base_model.model.x.lora_A.weight": torch.ones(4, 9)}
    assert reasons_of(base, tensors) == {
        "it is of the kind VeRA, which is not read",
        "the base has no layer of this name",
    }


def test_embeddings_in_a_file_are_reported_as_such(base: HostBase) -> None:
    tensors = {"bundle_emb.style.string_to_param.*": torch.ones(2, 768), "<style>": torch.ones(768)}
    (reason,) = reasons_of(base, tensors)
    assert "save it as an embedding" in reason


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (
            {f"oft_unet_{DIFFUSERS.replace('.', '_')}.oft_blocks": torch.zeros(4, 80, 80)},
            "OFT of sd-scripts, which is not",
        ),
        ({f"unet.{DIFFUSERS}.oft_R.weight": torch.ones(96, 28)}, "OFT of PEFT, which is not read"),
        (
            {f"base_model.model.x.{end}": torch.ones(4) for end in ("vera_lambda_b", "vera_lambda_d")},
            "VeRA, which is not",
        ),
        (
            module({".lora_A": torch.ones(4, 768), ".lora_B": torch.ones(320, 4), ".lora_E": torch.ones(4, 1)}),
            "AdaLoRA",
        ),
        ({"bundle_emb.style.clip_l": torch.ones(2, 768)}, "save it as an embedding"),
    ],
    ids=["OFT of sd-scripts", "OFTv2", "VeRA", "AdaLoRA", "an embedding"],
)
def test_a_file_of_a_kind_that_is_not_read_is_refused_with_the_kind(
    base: HostBase, tensors: dict[str, Tensor], sentence: str
) -> None:
    with pytest.raises(UnsupportedAdapter, match=sentence) as refusal:
        read_on(base, tensors)
    for advice in ("damaged", "base that it was trained on", "CLIP"):
        assert advice not in str(refusal.value)


def test_a_control_lora_that_widens_its_first_layer_is_not_called_damaged() -> None:
    flux = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    tensors = {
        "transformer.x_embedder.lora_B.weight": torch.ones(3072, 4),
        "transformer.x_embedder.lora_A.weight": torch.ones(4, 128),
    }
    with pytest.raises(
        UnsupportedAdapter, match=r"has 128 inputs, too many to fit the layer's \[3072, 64\]"
    ) as refusal:
        read_on(flux, tensors)
    assert "damaged" not in str(refusal.value)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_pefts_dora_is_applied_with_its_norms(model, base: HostBase, strength: float) -> None:  # noqa: F811
    generator = torch.Generator().manual_seed(5)
    up, down = torch.randn(320, 4, generator=generator) * 0.1, torch.randn(4, 768, generator=generator) * 0.1
    norms = torch.rand(320, generator=generator) + 20
    tensors = module(
        {".lora_up.weight": up, ".lora_down.weight": down, ".alpha": torch.tensor(2.0), ".magnitude": norms}
    )
    applied = apply(Adapter("made", "here", {}, tensors=tensors), model, None, strength, 0.0)
    assert not applied.not_applied
    weight = patched(model).double()
    moved = weight + up.double() @ down.double() / 2
    change = moved * norms.double()[:, None] / moved.norm(dim=1, keepdim=True) - weight
    found = patched(applied.model).double() - weight
    assert float((found - strength * change).norm() / change.norm()) <= 1e-5
    ((_, patch, *_),) = applied.model.patches[f"diffusion_model.{LAYER}.weight"]
    assert type(patch)(patch.loaded_keys, patch.weights).weights is patch.weights  # as ComfyUI brings it to a device


def test_norms_of_another_number_are_not_applied(model) -> None:  # noqa: F811
    tensors = module({**LORA, ".lora_magnitude_vector": torch.ones(5)})
    applied = apply(Adapter("made", "here", {}, tensors=tensors | GOOD), model, None, 1.0, 0.0)
    assert set(applied.not_applied) == set(tensors)
    assert all("lora_magnitude_vector has 5 values" in reason for reason in applied.not_applied.values())


def test_a_key_of_an_encoder_that_the_base_has_in_another_make_is_not_told_to_connect_it() -> None:
    """A CLIP is there, but the file's is a T5: connecting it would not help."""
    base = base_from_header(header_of("SD15", text_encoder=True), "SD15", "header")
    module_of_t5 = "lora_te3_encoder_block_0_layer_0_SelfAttention_q"
    good = {"lora_unet_time_embedding_linear_1.diff": torch.ones(1280, 320)}
    tensors = {f"{module_of_t5}.lora_up.weight": torch.ones(9, 2), f"{module_of_t5}.lora_down.weight": torch.ones(2, 9)}
    placed = read_on(base, tensors | good)
    assert set(placed.unread.values()) == {
        "it belongs to a text encoder, and that of the base has no layer of this name"
    }
