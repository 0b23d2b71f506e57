"""Prompts for Refine: out of real files' metadata, out of broken ones, and as ComfyUI encodes them."""

import json
from collections.abc import Mapping

import comfy.sd
import pytest
import torch

from dev.paths import SMALL_MODELS
from dev.small_models import write_all
from lora_transfer.core.errors import InvalidSetting
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
from lora_transfer.nodes.host.refine.prompt_list import choose_prompts, encode_prompts, read_plain_prompts, read_words
from nodes import CLIPTextEncode  # ComfyUI's own
from tests.host.conftest import Host
from tests.host.prompts import node
from tests.host.test_families import SHARED, needs_shared

TOLD = ["lycoris-lokr__sd15__smart_falcon_16.safetensors", "lycoris-lokr__sd15__smart_falcon_4.safetensors"]
UNTOLD = ["cloneofsimo-sf__sd15inpaint__disney_pti_rank1_fp16.safetensors", "cloneofsimo-pt__sd2__lora_disney_r4.pt"]
FALCON = r"smart falcon \(umamusume\)"
TAGS = {"hat": 5, "red coat": 4, "sitting": 3, "outdoors": 2, "smile": 2, "night": 1, "window": 1, "snow": 1}


def metadata(tags: object = None, trigger: str = "") -> dict[str, str]:
    told = {} if tags is None else {"ss_tag_frequency": json.dumps(tags)}
    return told | ({"modelspec.trigger_phrase": trigger} if trigger else {})


def of_file(name: str) -> Mapping[str, str]:
    return adapter_from_file(SHARED / "loras" / name, name).metadata


def test_your_own_lines_come_first_and_in_order() -> None:
    text = "  a cat\n\n a dog \r\na bird\n"
    found = choose_prompts(text, metadata({"a": TAGS}, "sks"), 16, 0)
    assert found.prompts == ("a cat", "a dog", "a bird")
    assert found.origin == "3 prompts of your own"
    fewer = choose_prompts(text, {}, 2, 5)
    assert fewer.prompts == ("a cat", "a dog")
    assert fewer.origin == "2 prompts of your own, the first of 3"


@needs_shared
@pytest.mark.parametrize("name", TOLD)
def test_a_real_files_tags_make_prompts_that_lead_with_its_trigger(name: str) -> None:
    found = choose_prompts("", of_file(name), 16, 0)
    assert len(set(found.prompts)) == 16
    assert found.origin == f"16 prompts from the LoRA's own tags, each with “{FALCON}”"
    tags = read_words(of_file(name)).tags
    assert tags[FALCON] == max(tags.values()) == 130
    for prompt in found.prompts:
        trigger, *others = prompt.split(", ")
        assert trigger == FALCON
        assert 2 <= len(set(others)) == len(others) <= 5
        assert set(others) <= tags.keys() - {FALCON}


@needs_shared
@pytest.mark.parametrize("name", UNTOLD)
def test_a_real_file_that_tells_no_words_gets_plain_prompts_and_that_is_said(name: str) -> None:
    found = choose_prompts("", of_file(name), 16, 0)
    assert set(found.prompts) < set(read_plain_prompts())
    assert found.origin == "16 prompts from the bundled list: the file names no trigger words"


def test_frequent_tags_come_more_often() -> None:
    counts = {"trigger": 100, "common": 50} | {f"rare {index}": 1 for index in range(40)}
    prompts = choose_prompts("", metadata({"a": counts}), 64, 0).prompts
    assert sum("common" in one.split(", ") for one in prompts) > 40
    assert all(one.startswith("trigger, ") for one in prompts)


def test_a_trigger_phrase_goes_before_the_most_frequent_tag() -> None:
    found = choose_prompts("", metadata({"a": TAGS}, " sks \n style "), 4, 0)
    assert all(one.startswith("sks style, ") for one in found.prompts)


def test_a_caption_stands_alone_beside_the_trigger() -> None:
    captions = {f"a drawing of thing number {index} on a table": 1 for index in range(12)}
    prompts = choose_prompts("", metadata({"a": {"sks": 12, **captions}}), 12, 0).prompts
    assert len(prompts) > 8
    assert all(one.removeprefix("sks, ") in captions for one in prompts)


def test_few_tags_lead_plain_prompts_instead() -> None:
    found = choose_prompts("", metadata({"a": {"smallstyle": 12}}), 9, 0)
    assert found.origin == "9 prompts from the bundled list with “smallstyle” in front"
    assert all(one.removeprefix("smallstyle, ") in read_plain_prompts() for one in found.prompts)


def test_a_seed_gives_the_same_prompts_and_another_others() -> None:
    for told in ({}, metadata({"a": TAGS})):
        one, same, other = (choose_prompts("", told, 12, seed).prompts for seed in (7, 7, 2**64 - 1))
        assert one == same != other


def test_no_more_prompts_than_there_are() -> None:
    assert sorted(choose_prompts("", {}, 256, 0).prompts) == sorted(read_plain_prompts())
    few = {f"a thing number {index} on a table": 1 for index in range(8)}
    assert len(choose_prompts("", metadata({"a": {"sks": 8, **few}}), 256, 0).prompts) == 8


def test_the_bundled_prompts_are_varied_and_clean() -> None:
    lines = read_plain_prompts()
    assert len(set(lines)) == len(lines) == 48
    assert all(line == line.strip() and line for line in lines)
    assert max(len(line.split()) for line in lines) > 15


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("oops", "its ss_tag_frequency was ignored: it is not JSON"),
        ("[" * 100_000, "its ss_tag_frequency was ignored: it is nested too deep"),
        ("9" * 5_000_000, "its ss_tag_frequency was ignored: it has 5,000,000 characters"),
        ("[1, 2]", "its ss_tag_frequency was ignored: it is not a table of datasets"),
        ("null", "its ss_tag_frequency was ignored: it is not a table of datasets"),
        ('{"a": 3, "b": [1]}', "2 odd entries of its ss_tag_frequency were ignored"),
        ('{"a": {"x": "many", "y": null, "z": true, " ": 1, "n": NaN, "m": -1, "i": 1e999}}', "7 odd entries"),
    ],
)
def test_malformed_metadata_is_ignored_and_reported(written: str, said: str) -> None:
    found = choose_prompts("", {"ss_tag_frequency": written, "modelspec.trigger_phrase": "sks"}, 3, 0)
    assert said in found.origin
    assert all(one.startswith("sks, ") for one in found.prompts)


def test_what_is_sound_beside_malformed_entries_is_used() -> None:
    found = choose_prompts("", metadata({"a": {**TAGS, "x": None}, "b": 3}), 3, 0)
    assert found.origin.startswith("3 prompts from the LoRA's own tags, each with “hat”; 2 odd entries")


def test_an_empty_table_of_tags_is_not_called_odd() -> None:
    assert (
        choose_prompts("", metadata({}), 3, 0).origin
        == "3 prompts from the bundled list: the file names no trigger words"
    )


def test_a_clip_that_is_missing_is_reported_in_a_sentence() -> None:
    with pytest.raises(InvalidSetting, match="target_clip: expected a text encoder, found none"):
        encode_prompts(None, ("a cat",), "target_clip")


def test_a_prompt_is_encoded_as_comfyui_does_with_an_entry_for_each() -> None:
    write_all(SMALL_MODELS)
    source = SMALL_MODELS / "checkpoints" / "small_source.safetensors"
    _, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(source), output_vae=False, output_model=False)
    prompts, steps = ("a cat", FALCON, " ".join(["long"] * 99)), list[int]()
    with torch.inference_mode():
        found = encode_prompts(clip, prompts, "clip", lambda done, total, prompt: steps.append(done))
        assert len(found) == 3
        for prompt, entry in zip(prompts, found, strict=True):
            ((wanted, rest),) = CLIPTextEncode().encode(clip, prompt)[0]
            assert torch.equal(entry[0], wanted)
            assert torch.equal(entry[1]["pooled_output"], rest["pooled_output"])
    assert steps == [0, 1, 2, 3]
    assert found[2][0].shape[1] == 2 * found[0][0].shape[1]


def test_the_node_gives_its_prompts_and_conditioning_that_samples(host: Host) -> None:
    graph = {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name="small_source.safetensors"),
        "lora": node("LoraTransferLoadLora", lora_name="small_lora.safetensors"),
        "prompts": node("LoraTransferPrompts", adapter=["lora", 0], clip=["checkpoint", 1], text="", count=3, seed=1),
        "text": node("PreviewAny", source=["prompts", 2]),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node(
            "KSampler",
            model=["checkpoint", 0],
            positive=["prompts", 0],
            negative=["prompts", 1],
            latent_image=["latent", 0],
            seed=3,
            steps=1,
            cfg=1.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decoded": node("VAEDecode", samples=["sampler", 0], vae=["checkpoint", 2]),
        "image": node("PreviewImage", images=["decoded", 0]),
    }
    result = host.client.queue(graph)
    assert result.status == "success", result.errors
    lines = result.outputs["text"]["text"][0].splitlines()
    assert len(lines) == 3
    assert all(line.startswith("smallstyle, ") for line in lines)
