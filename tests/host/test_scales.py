"""The scale of a module: from its alpha, from PEFT's settings, or from plain entries of the file's header."""

import json
import time
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from lora_transfer.core.errors import UnsupportedAdapter
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.name_patterns import name_patterns
from lora_transfer.nodes.host.adapter.peft import PeftSettings, peft_settings
from lora_transfer.nodes.host.adapter.read import AdapterOnBase, read_adapter
from lora_transfer.nodes.host.adapter.save import cast_for_file, respell
from lora_transfer.nodes.host.adapter.write import SPELLINGS
from lora_transfer.nodes.host.base.from_file import base_from_file, base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.host.conftest import SmallPair
from tests.host.families import header_of
from tests.host.test_bad_modules import DIFFUSERS, GOOD, LAYER, MODULE, PEFT, module
from tests.host.test_metadata import transferred


@pytest.fixture(scope="module")
def base(pair: SmallPair) -> HostBase:
    return base_from_file(pair.source, "small")


def read_on(base: HostBase, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> AdapterOnBase:
    return read_adapter(Adapter("made", "here", metadata or {}, tensors=tensors), base)


NAMES = [
    "transformer_blocks.1.attn.to_q",
    "transformer_blocks.11.attn.to_q",
    "proj_out",
    "single_blocks.0.proj_out",
    "q",
]
PATTERNS = [
    *["^proj_out", "proj_out", "attn.to_q", r"attn\.to_q$", "^transformer_blocks.1.attn.to_q", "to_q", "o_q", ""],
    *["transformer_blocks.(1|2).attn.to_q", "[0-9].attn.to_[kq]", r"\d+.attn.to_q", ".*to_q", "^.*", "(?:q|k)", "^q$"],
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_names_the_modules_that_peft_takes_it_for(pattern: str, name: str) -> None:
    pefts = get_pattern_key([pattern], name) == pattern if pattern != name else True
    assert (name_patterns((pattern,)).first([name]) == 0) == pefts


def test_of_several_patterns_the_first_counts_as_in_peft() -> None:
    patterns = ("^proj_out", "to_q", "attn.to_q", "single_blocks.0.proj_out", "proj_out")
    for name in NAMES[:4]:
        place = name_patterns(patterns).first([name])
        assert place is not None
        assert patterns[place] == get_pattern_key(patterns, name)


SLOW = [
    r"([\w.]+)+!",
    "(a*)*b",
    "(a|a)*b",
    "(?:.*.*)*!",
    ".*.*.*.*!",
    "(a|aa)+$",
    r"(\w+\.)+x",
    "(?=a)",
    "(?P<n>a)",
    "a{9}",
]


@pytest.mark.parametrize("pattern", SLOW)
def test_a_pattern_that_could_run_for_hours_is_reported_and_not_run(base: HostBase, pattern: str) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.alpha_pattern": {pattern: 4}})}
    started = time.process_time()
    with pytest.raises(UnsupportedAdapter, match="which is not understood"):
        read_on(base, PEFT, metadata)
    assert time.process_time() - started < 20


def test_a_pattern_that_is_not_understood_concerns_no_module_that_an_earlier_one_names(base: HostBase) -> None:
    patterns = {"attn2.to_k": 12, "(a*)*b": 4}
    tensors = PEFT | {key.replace("to_k", "to_v"): tensor for key, tensor in PEFT.items()}
    settings = {"unet.lora_alpha": 8, "unet.alpha_pattern": patterns}
    placed = read_on(base, tensors, {"lora_adapter_metadata": json.dumps(settings)})
    assert (placed.layers(), placed.scales[LAYER]) == ([LAYER], 3.0)
    (skipped,) = placed.skipped
    assert "'(a*)*b'" in skipped.reason


def test_a_thousand_patterns_of_a_thousand_modules_take_no_time() -> None:
    names = [f"transformer_blocks.{index}.attn.to_q" for index in range(1000)]
    settings = PeftSettings(
        {"": {"lora_alpha": 1, "alpha_pattern": {f"^{name}": 8 for name in names}}}, "adapter_config"
    )
    started = time.process_time()
    assert all(settings.scale(f"transformer.{name}", 4) == 2 for name in names)
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    "prefix", ["transformer.", "base_model.model.", "base_model.model.transformer.", "diffusion_model.", ""]
)
def test_an_anchored_pattern_is_held_against_the_name_inside_the_model(prefix: str) -> None:
    settings = PeftSettings({"": {"lora_alpha": 32, "alpha_pattern": {"^proj_out": 16}}}, "adapter_config")
    assert settings.scale(f"{prefix}proj_out", 16) == 1
    assert settings.scale(f"{prefix}single_blocks.0.proj_out", 16) == 2


def test_patterns_that_diffusers_anchors_count_in_a_whole_file() -> None:
    flux = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    one, other = "transformer.single_transformer_blocks.0.proj_mlp", "transformer.proj_out"
    tensors = {
        f"{one}.lora_B.weight": torch.ones(12288, 4),
        f"{one}.lora_A.weight": torch.ones(4, 3072),
        f"{other}.lora_B.weight": torch.ones(64, 16),
        f"{other}.lora_A.weight": torch.ones(16, 3072),
    }
    pattern = {"^single_transformer_blocks.0.proj_mlp": 4, "^proj_out": 16}
    settings = {"transformer.r": 16, "transformer.lora_alpha": 32, "transformer.alpha_pattern": pattern}
    placed = read_on(flux, tensors, {"lora_adapter_metadata": json.dumps(settings)})
    assert set(placed.scales.values()) == {1.0}
    assert len(placed.scales) == 2


PLAIN: list[tuple[dict[str, str], float]] = [
    ({"alpha": "8", "rank": "4"}, 2.0),
    ({"lora_alpha": "8.0"}, 2.0),
    ({"network_alpha": "8", "network_dim": "4"}, 2.0),
    ({"unet.lora_alpha": "8", "unet.r": "4"}, 2.0),
    ({"text_encoder.lora_alpha": "8"}, 1.0),
    ({"lora_alpha": "8", "alpha": "8"}, 2.0),
    ({"lora_alpha": "8", "use_rslora": "True"}, 4.0),
    ({"rank": "4"}, 1.0),
    ({"modelspec.alpha": "8"}, 1.0),
]


@pytest.mark.parametrize(("entries", "scale"), PLAIN)
def test_alpha_as_a_plain_entry_of_the_header_counts(base: HostBase, entries: dict[str, str], scale: float) -> None:
    assert read_on(base, PEFT, entries).scales[LAYER] == scale
    with_alpha = {**PEFT, f"unet.{DIFFUSERS}.alpha": torch.tensor(2.0)}
    assert read_on(base, with_alpha, entries).scales[LAYER] == 0.5


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_alpha_of_the_header_is_not_applied_again_when_the_file_is_read(base: HostBase, spelling: str) -> None:
    adapter = transferred(PEFT, {"alpha": "8", "unet.lora_alpha": "8", "title": "x"}, base)
    assert "title" in adapter.metadata
    tensors = cast_for_file(respell(adapter, spelling), adapter, "float32")
    again = read_adapter(Adapter("again", "z", adapter.metadata, tensors=tensors), base)
    assert torch.allclose(again.deltas[LAYER].dense(), torch.full((320, 768), 8.0))


STRANGE = [
    ({"alpha": "auto"}, "to say a number as alpha, found 'auto'"),
    ({"lora_alpha": "nan"}, "to say a number as lora_alpha, found 'nan'"),
    ({"lora_alpha": "8", "alpha": "4"}, "expected a single alpha in the metadata, found lora_alpha 8 and alpha 4"),
    ({"lora_alpha": "8", "use_rslora": "perhaps"}, "to say true or false as use_rslora"),
    ({"lora_adapter_metadata": '{"unet.lora_alpha": "8e999"}'}, "to say a number as lora_alpha"),
    ({"lora_adapter_metadata": '{"unet.lora_alpha": [8]}'}, "to say a number as lora_alpha"),
    ({"lora_adapter_metadata": '{"unet.alpha_pattern": [8]}'}, "numbers by the names of modules"),
    ({"lora_adapter_metadata": '{"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_k": null}}'}, "as alpha_pattern"),
]


@pytest.mark.parametrize(("entries", "sentence"), STRANGE)
def test_a_module_whose_scale_is_not_understood_is_skipped_and_the_others_are_read(
    base: HostBase, entries: dict[str, str], sentence: str
) -> None:
    good = GOOD | {"lora_unet_time_embedding_linear_1.alpha": torch.tensor(2.0)}
    placed = read_on(base, PEFT | good, entries)
    assert placed.layers() == ["time_embed.0"]
    assert sentence in placed.skipped[0].reason


def made_by_peft(config: Any) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of an adapter of PEFT on the layer, and its change of the layer's weight."""
    inner = nn.Sequential()
    inner.add_module("to_k", nn.Linear(768, 320, bias=False))
    weight = inner.to_k.weight.detach().double().clone()
    model = get_peft_model(inner, config)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if "base_layer" not in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    tensors = {
        key.replace("base_model.model.to_k", f"unet.{DIFFUSERS}"): value.clone()
        for key, value in get_peft_model_state_dict(model).items()
    }
    return tensors, model.double().merge_and_unload().to_k.weight.detach() - weight


OF_PEFT = {
    "LoRA": LoraConfig(r=4, lora_alpha=6, target_modules=["to_k"]),
    "rsLoRA by pattern": LoraConfig(
        r=2,
        lora_alpha=6,
        use_rslora=True,
        rank_pattern={"^to_k": 4},
        alpha_pattern={"^to_k": 3},
        target_modules=["to_k"],
    ),
    "LoHa": LoHaConfig(r=4, alpha=6, target_modules=["to_k"]),
    "LoHa by pattern": LoHaConfig(
        r=2, alpha=6, rank_pattern={"to_k": 4}, alpha_pattern={"to_k": 3}, target_modules=["to_k"]
    ),
    "LoKr": LoKrConfig(r=4, alpha=6, target_modules=["to_k"]),
    "LoKr of both": LoKrConfig(r=2, alpha=6, decompose_both=True, target_modules=["to_k"]),
    "LoKr of full matrices": LoKrConfig(r=400, alpha=600, target_modules=["to_k"]),
    "LoKr of full matrices by pattern": LoKrConfig(
        r=2, alpha=600, rank_pattern={"to_k": 400}, alpha_pattern={"^to_k": 900}, target_modules=["to_k"]
    ),
}


@pytest.mark.parametrize("kind", OF_PEFT)
def test_kinds_of_peft_have_the_scale_of_pefts_settings(base: HostBase, kind: str) -> None:
    tensors, change = made_by_peft(OF_PEFT[kind])
    settings = {key: sorted(one) if isinstance(one, set) else one for key, one in OF_PEFT[kind].to_dict().items()}
    written = json.dumps(settings, default=str).replace("^to_k", f"^{DIFFUSERS}")
    placed = read_on(base, tensors, {"adapter_config": written})
    found = placed.deltas[LAYER].dense().double()
    assert float((found - change).norm() / change.norm()) <= 1e-5


def test_a_lokr_of_full_matrices_without_pefts_rank_is_skipped_in_words(base: HostBase) -> None:
    tensors = {f"unet.{DIFFUSERS}.lokr_w1": torch.ones(8, 8), f"unet.{DIFFUSERS}.lokr_w2": torch.ones(40, 96)}
    placed = read_on(base, tensors | GOOD, {"adapter_config": '{"alpha": 8}'})
    assert "expected the rank r in PEFT's settings" in placed.skipped[0].reason
    assert read_on(base, tensors, {"alpha": "8", "rank": "4"}).scales[LAYER] == 1


@pytest.mark.parametrize("alpha", [float("inf"), float("nan"), 9999999999.0, 0.5])
def test_alpha_of_a_lokr_of_full_matrices_is_never_used(base: HostBase, alpha: float) -> None:
    tensors = module({".lokr_w1": torch.ones(8, 8), ".lokr_w2": torch.ones(40, 96), ".alpha": torch.tensor(alpha)})
    placed = read_on(base, tensors)
    assert torch.equal(placed.deltas[LAYER].dense(), torch.ones(320, 768))
    assert set(placed.modules[0].keys) == set(tensors)


def test_an_infinite_alpha_that_counts_is_reported(base: HostBase) -> None:
    half = {".lokr_w1": torch.ones(8, 8), ".lokr_w2_a": torch.ones(40, 4), ".lokr_w2_b": torch.ones(4, 96)}
    placed = read_on(base, module({**half, ".alpha": torch.tensor(float("inf"))}) | GOOD)
    assert f"{MODULE}.alpha holds NaN or infinity" in placed.skipped[0].reason


def test_settings_that_say_dora_without_its_norms_leave_the_module_out(base: HostBase) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.use_dora": True})}
    with pytest.raises(UnsupportedAdapter, match=r"its norms \(lora_magnitude_vector\) are missing"):
        read_on(base, PEFT, metadata)
    norms = {f"unet.{DIFFUSERS}.lora_magnitude_vector": torch.ones(320)}
    assert read_on(base, PEFT | norms, metadata).layers() == [LAYER]


def test_deep_settings_are_reported_in_a_sentence() -> None:
    for written in ("[" * 100_000, '{"a":' * 100_000, "9" * 5000, "[]", "null"):
        with pytest.raises(UnsupportedAdapter, match="expected PEFT's settings in its metadata"):
            peft_settings({"adapter_config": written}, "x")
