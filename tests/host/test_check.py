"""How much of the gap a LoRA closes, measured on small models in the real host."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sd
import pytest
import torch
from safetensors.torch import load_file

from lora_transfer.core.check import STRENGTHS
from lora_transfer.core.errors import NotMeasurable, UnsupportedAdapter
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file, adapter_from_state_dict
from lora_transfer.nodes.host.adapter.apply import apply
from lora_transfer.nodes.host.adapter.metadata import method_of
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.adapter.strength import scale_adapter
from lora_transfer.nodes.host.base.from_model import base_from_model
from tests.host.conftest import Host, SmallPair
from tests.host.prompts import node, transfer_prompt
from tests.host.small_check import SEARCH, SMALL, Models, loaded, pooled, random_like, strengthened, text
from tests.host.small_families import write_small
from tests.host.test_bad_modules import LOHA, LORA, module
from tests.host.test_small_families import lora_for

FIELDS = {
    "schema",
    "kind",
    "pack",
    "source",
    "target",
    "adapter",
    "settings",
    "sentence",
    "notes",
    "chosen",
    "noise_levels",
    "trials",
    "seconds",
}


@pytest.fixture(scope="module", autouse=True)
def as_nodes_run() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def models(pair: SmallPair) -> Models:
    return loaded(pair)


def test_on_its_own_model_a_lora_closes_the_whole_gap_at_every_level(models: Models) -> None:
    checked = models.check(models.lora, target=models.source)
    for trial in checked.report.trials:
        for level in (*trial.at_strength_one().levels, trial.at_strength_one().pooled):
            assert level is not None
            assert level.gap_closed == pytest.approx(1, abs=1e-6)
            assert level.change_match == pytest.approx(1, abs=1e-6)
            assert level.cosine == pytest.approx(1, abs=1e-6)
            assert level.norm_ratio == pytest.approx(1, abs=1e-6)
    assert checked.report.sentence().startswith("the transferred LoRA closes 100% of the gap to the source")
    assert checked.adapter is models.lora
    assert checked.report.noise_levels[0] == pytest.approx(14.6, abs=0.1)


def test_on_a_near_relative_a_lora_closes_part_of_the_gap_and_random_factors_close_nothing(models: Models) -> None:
    own, other = models.check(models.lora), models.check(random_like(models.lora))
    assert 0.1 < pooled(own).change_match < 1
    assert 0.01 < pooled(own).gap_closed < 0.9  # the drift between the two is left
    assert pooled(own) == pooled(own, "copy")
    assert pooled(other).change_match < min(0, pooled(other, "copy").change_match)
    assert abs(pooled(other).cosine) < 0.3
    assert pooled(other).gap_closed < min(0, pooled(other, "copy").gap_closed)
    assert other.report.sentence().startswith("leads away")
    assert pooled(other, "copy") == pooled(own, "copy")


def test_where_the_lora_is_part_of_the_target_there_is_no_gap_to_close(models: Models) -> None:
    merged = models.source
    for strength in (0.3, 0.7):  # two steps round otherwise than one
        merged = apply(models.lora, merged, None, strength, 0.0).model
    checked = models.check(models.lora, SEARCH, target=merged)
    assert pooled(checked).gap_closed is None
    assert checked.report.sentence().startswith("nothing to transfer")
    assert checked.adapter is models.lora
    assert json.loads(checked.report.dumps())["chosen"]["gap_closed"] is None


def test_the_check_is_the_same_every_time_and_another_with_another_seed(models: Models) -> None:
    first, again, other = (models.check(models.lora, replace(SMALL, seed=seed)) for seed in (0, 0, 5))
    assert pooled(first) == pooled(again)
    assert pooled(first) != pooled(other)


def test_a_search_finds_that_a_weak_lora_is_better_stronger_and_a_strong_one_weaker(models: Models) -> None:
    weak, strong = (models.check(strengthened(models.lora, by), SEARCH, target=models.source) for by in (0.5, 2.0))
    assert [one.strength for one in weak.report.transferred.attempts] == list(STRENGTHS)
    assert weak.report.transferred.best_attempt().strength == 1.25
    assert strong.report.transferred.best_attempt().strength == 0.5
    assert strong.report.transferred.best_attempt().pooled.gap_closed == pytest.approx(1, abs=1e-3)


def test_a_search_on_its_own_model_finds_strength_1_and_gives_the_lora_itself(models: Models) -> None:
    checked = models.check(models.lora, SEARCH, target=models.source)
    assert checked.report.chosen() == (checked.report.transferred, checked.report.transferred.at_strength_one())
    assert checked.adapter is models.lora


def test_the_best_trial_several_is_found(models: Models) -> None:
    wild, weak = random_like(models.lora), strengthened(models.lora, 0.8)
    checked = models.check(wild, SEARCH, more=[wild, weak], target=models.source)
    assert [trial.label for trial in checked.report.trials] == ["transferred", "more 1", "more 2", "the plain copy"]
    assert checked.report.chosen()[0].role == "copy"  # the LoRA itself, on its own model
    assert checked.adapter is models.lora
    best = [trial.best_attempt() for trial in checked.report.trials]
    assert best[2].strength == 1.25
    assert best[2].pooled.gap_closed == pytest.approx(1, abs=1e-3)
    assert best[0] == best[1]
    assert best[0].pooled.score < 0.1


def test_where_the_plain_copy_is_best_it_is_given_out(models: Models) -> None:
    checked = models.check(random_like(models.lora), SEARCH)
    trial, attempt = checked.report.chosen()
    assert trial.role == "copy"
    again = models.check(checked.adapter, replace(SEARCH, search="off"))
    assert pooled(again).gap_closed == pytest.approx(attempt.pooled.gap_closed, abs=1e-2)
    assert f"best of the search: the plain copy at strength {attempt.strength:g}" in checked.report.sentence()


def test_a_scaled_adapter_of_any_kind_is_on_the_model_what_the_strength_makes_of_it(models: Models) -> None:
    base = base_from_model(models.target)
    adapter = adapter_from_state_dict(module(LOHA), "loha")
    half = scale_adapter(adapter, 0.5, base).adapter
    [whole], [part] = (list(read_adapter(one, base).deltas.values()) for one in (adapter, half))
    assert torch.allclose(part.dense(), whole.dense() / 2, atol=1e-6)
    assert json.loads(half.metadata["lora_transfer"])["scaled_by"] == 0.5
    twice = scale_adapter(half, 0.5, base).adapter
    assert json.loads(twice.metadata["lora_transfer"])["scaled_by"] == 0.25
    assert apply(half, models.target, None, 1.0, 0.0).keys == 3
    assert scale_adapter(adapter, 1.0, base).adapter is adapter


def test_a_scaled_adapter_keeps_its_origin_and_its_rank_and_leaves_out_a_scale_that_is_in_the_factors(
    models: Models,
) -> None:
    origin = {"settings": {"method": "rotate"}}
    metadata = {
        "lora_transfer": json.dumps(origin),
        "ss_network_dim": "99",
        "modelspec.trigger_phrase": "smallstyle",
        "lora_adapter_metadata": '{"unet.lora_alpha": 8}',
    }
    made = scale_adapter(
        Adapter("made", "here", metadata, tensors=module(LORA)), 0.5, base_from_model(models.target)
    ).adapter
    assert method_of(made.metadata) == "rotate"
    assert json.loads(made.metadata["lora_transfer"]) == {**origin, "scaled_by": 0.5}
    kept = {key: value for key, value in made.metadata.items() if key != "lora_transfer"}
    assert kept == {"ss_network_dim": "4", "modelspec.trigger_phrase": "smallstyle"}


def test_scaling_tells_what_it_cuts_and_what_it_leaves_out(models: Models) -> None:
    change = torch.randn(320, 768, generator=torch.Generator().manual_seed(3))
    tensors = module({".diff": change}) | module(LORA, "lora_te_text_model_encoder_layers_0_mlp_fc1")
    made = scale_adapter(adapter_from_state_dict(tensors, "full"), 0.5, base_from_model(models.target))
    assert made.notes[0].startswith("full x 0.5 lacks 2 keys: ")
    assert made.notes[1].startswith("full x 0.5: 1 layers without a low-rank form are cut to rank 64; the worst loses ")
    assert apply(made.adapter, models.target, None, 1.0, 0.0).keys == 3


def test_a_lora_that_the_target_cannot_take_is_checked_without_a_plain_copy(models: Models, tmp_path: Path) -> None:
    source = comfy.sd.load_diffusion_model(
        str(write_small(tmp_path / "wan.safetensors", "Wan 2.1 1.3B", 1, torch.float32))
    )
    other = comfy.sd.load_diffusion_model(
        str(write_small(tmp_path / "wide.safetensors", "Wan 2.1 1.3B", 2, torch.float32, dim=256, num_heads=2))
    )
    lora = adapter_from_file(lora_for(tmp_path / "lora.safetensors", tmp_path / "wan.safetensors"), "lora")
    wide = adapter_from_file(lora_for(tmp_path / "wide_lora.safetensors", tmp_path / "wide.safetensors"), "wide")
    checked = models.check(
        wide, replace(SMALL, timesteps=2), adapter=lora, source=source, target=other, conditioning=text(4096)
    )
    assert [trial.role for trial in checked.report.trials] == ["transferred"]
    assert "plain copy" not in checked.report.sentence()
    assert checked.report.notes[0].startswith("there is no plain copy to compare with: LoRA lora on wide.safetensors: ")
    assert abs(pooled(checked).cosine) < 0.5
    with pytest.raises(UnsupportedAdapter, match="expected modules that fit, found none"):
        models.check(lora, adapter=lora, source=source, target=other, conditioning=text(4096))


def test_a_lora_without_effect_is_reported_in_a_sentence(models: Models) -> None:
    with pytest.raises(NotMeasurable, match="found no change at any noise level"):
        models.check(models.lora, adapter=strengthened(models.lora, 0.0))


def test_the_report_has_every_field_and_says_what_stands_beside_the_figures(models: Models) -> None:
    patched = apply(random_like(models.lora), models.target, None, 0.1, 0.0).model
    with_text = adapter_from_state_dict(
        {
            **models.lora.state_dict(),
            **module(
                {".lora_up.weight": torch.ones(4, 2), ".lora_down.weight": torch.ones(2, 4)},
                "lora_te_text_model_encoder_layers_0_mlp_fc1",
            ),
        },
        "with text",
    )
    told = json.loads(models.check(models.lora, adapter=with_text, target=patched).report.dumps())
    assert set(told) == FIELDS
    assert told["kind"] == "check"
    assert told["source"]["name"] == "source.safetensors"
    assert told["source"]["fingerprint"].startswith("weights-blake3:")
    assert told["settings"] == {
        "search": "off",
        "seed": 0,
        "seeds": 2,
        "timesteps": 3,
        "size": 64,
        "latents": 2,
        "states": "sampled",
    }
    assert len(told["noise_levels"]) == len(told["trials"][0]["strengths"][0]["levels"]) == 3
    assert told["trials"][0]["applied"].startswith("all ")
    notes = "\n".join(told["notes"])
    assert "the connected target model has" in notes
    assert "the LoRA's part for text encoders is not measured" in notes


def test_a_whole_graph_shows_the_plot_the_sentence_and_gives_an_adapter_that_is_saved(host: Host) -> None:
    result = host.client.queue(check_prompt())
    assert result.status == "success", result.errors
    told = json.loads(result.outputs["check_report"]["text"][0])
    assert set(told) == FIELDS
    labels = [trial["label"] for trial in told["trials"]]
    assert labels == ["transferred (restore_both)", "more 1 (copy)", "the plain copy"]
    assert told["chosen"]["label"] == labels[0]
    assert result.outputs["check"]["images"]
    assert float(result.outputs["gap_closed"]["text"][0]) == pytest.approx(told["chosen"]["gap_closed"])
    assert float(result.outputs["strength"]["text"][0]) == told["chosen"]["strength"]
    saved = load_file(result.outputs["saved"]["text"][0])
    assert any(key.endswith("lora_up.weight") for key in saved)
    assert result.progress["check"] == (6, 6)  # the source twice, the target without a LoRA and with three


def check_prompt(**settings: Any) -> dict[str, Any]:
    """A transfer by two methods, neither of which decomposes anything, and its check, at 64 px."""
    inputs = {"search": "off", "seed": 0, "seeds": 1, "timesteps": 1, "size": 64, **settings}
    transfer = transfer_prompt(prefix="loras/checked", measure="weight_cosine")
    copied = {**transfer["project"]["inputs"], "method": "copy"}
    return {
        **transfer,
        "copied": node("LoraTransferProject", **copied),
        "source_model": node("CheckpointLoaderSimple", ckpt_name="small_source.safetensors"),
        "target_model": node("CheckpointLoaderSimple", ckpt_name="small_target.safetensors"),
        "text": node("CLIPTextEncode", text="a house", clip=["source_model", 1]),
        "check": node(
            "LoraTransferCheck",
            source_model=["source_model", 0],
            target_model=["target_model", 0],
            adapter=["lora", 0],
            transferred=["project", 0],
            conditioning=["text", 0],
            **{"more.transferred_0": ["copied", 0]},
            **inputs,
        ),
        "strength": node("PreviewAny", source=["check", 1]),
        "gap_closed": node("PreviewAny", source=["check", 2]),
        "check_report": node("PreviewAny", source=["check", 3]),
        "saved": node(
            "LoraTransferSave",
            transferred=["check", 0],
            filename_prefix="loras/best",
            dtype="float32",
            spelling="kohya",
        ),
    }
