"""What a node shows travels as JSON in its `ui` result."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lora_transfer.core.errors import LoraTransferError, UnreadableFile
from lora_transfer.core.reports.line import Line
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file, adapter_from_state_dict
from lora_transfer.nodes.host.adapter.describe import describe_adapter
from lora_transfer.nodes.host.adapter.save import fill_placeholders
from lora_transfer.nodes.host.base.describe import describe_base
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.messages import KEY, message
from tests.host.conftest import Host, SmallPair
from tests.host.prompts import said, transfer_prompt


def test_a_message_holds_its_sentences_in_order_as_json() -> None:
    shown = message([Line("good", "It works."), Line("next", "Save it.")], report={"kind": "similarity"})
    (content,) = json.loads(json.dumps(shown))[KEY]
    assert [line["tone"] for line in content["lines"]] == ["good", "next"]
    assert content["lines"][1]["text"] == "Save it."
    assert content["report"] == {"kind": "similarity"}


def test_a_message_without_a_picture_has_neither_report_nor_images() -> None:
    shown = message([Line("plain", "Nothing to see.")])
    assert set(shown) == {KEY}
    assert set(shown[KEY][0]) == {"lines"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("works well", "Works well."),
        ("it says: no", "It says: no."),
        ("sdxl_base.safetensors: one note", "sdxl_base.safetensors: one note."),
        ("Is it so?", "Is it so?"),
    ],
)
def test_a_sentence_has_a_capital_letter_and_a_full_stop_but_a_files_name_stays(text: str, shown: str) -> None:
    assert Line.sentence("plain", text).text == shown


def test_an_error_is_its_sentence_without_path_or_class_where_comfyui_names_it() -> None:
    for error in (UnreadableFile, *LoraTransferError.__subclasses__()):
        assert (error.__module__, error.__qualname__) == ("builtins", "LoRA Transfer")
        assert error.__name__ != "LoRA Transfer"  # for whoever debugs


def test_a_lora_is_described_by_kind_rank_layers_and_base(pair: SmallPair) -> None:
    lines = [line.text for line in describe_adapter(adapter_from_file(pair.lora, "small.safetensors"))]
    assert "rank 8" in lines[0]
    assert "layers" in lines[0]
    assert lines[1].startswith("Its file")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a.lora_down.weight": (4, 9), "a.lora_up.weight": (7, 4), "a.alpha": ()}, ["A LoRA of rank 4 on 1 layer."]),
        (
            {"lora_te_b.lora_A.weight": (2, 9), "lora_te_b.lora_B.weight": (7, 2), "x.lora_A.weight": (3, 9)},
            ["ranks 2 to 3", "2 layers, 1 of them in a text encoder"],
        ),
        ({"a.hada_w1_a": (7, 2), "a.hada_w1_b": (2, 9)}, ["LoHa"]),
        ({"a.lora_down.weight": (4, 9), "a.lora_up.weight": (7, 4), "a.dora_scale": (7, 1)}, ["DoRA", "on 1 layer"]),
        ({"unet:0:up": (7, 2), "unet:0:down": (2, 9)}, ["names are not known"]),
    ],
)
def test_kinds_of_loras_are_told_apart(tensors: dict[str, Any], words: list[str]) -> None:
    adapter = adapter_from_state_dict({key: torch.zeros(shape) for key, shape in tensors.items()}, "x")
    text = describe_adapter(adapter)[0].text
    assert all(word in text for word in words), text


def test_a_long_text_of_a_file_is_cut(tmp_path: Path) -> None:
    metadata = {"ss_sd_model_name": "a base\n" * 400}
    save_file({"a.lora_down.weight": torch.zeros(2, 3)}, tmp_path / "x.safetensors", metadata)
    line = describe_adapter(adapter_from_file(tmp_path / "x.safetensors", "x"))[1]
    assert len(line.text) < 300
    assert "\n" not in line.text


def test_a_base_is_described_by_its_family_and_layers(pair: SmallPair) -> None:
    assert describe_base(base_from_file(pair.source, "small"))[0].text.startswith("SD15: ")


@pytest.mark.parametrize(
    ("lora", "prefix", "stem"),
    [
        ("styles/My style (v2).safetensors", "loras/{lora}_for_{target}", "loras/My_style_v2_for_its_own_base"),
        ("a%year%b:c.PT", "{lora}", "a_year_b_c"),
        ("..", "{lora}", "unnamed"),
        ("ü漢字.safetensors", "x/{lora} %year%", "x/ü漢字 %year%"),
        ("x", "{other}", "{other}"),
    ],
)
def test_placeholders_become_names_that_every_file_system_takes(lora: str, prefix: str, stem: str) -> None:
    assert fill_placeholders(prefix, adapter_from_state_dict({"a": torch.zeros(1)}, lora)) == stem


def test_a_graph_says_what_happened_and_says_it_again_when_all_of_it_is_cached(host: Host) -> None:
    prompt = transfer_prompt(prefix="loras/{lora}_for_{target}")
    first, second = host.client.queue(prompt), host.client.queue(prompt)
    assert first.status == "success", first.errors
    path = first.outputs["save"]["text"][0]
    assert Path(path).name.startswith("small_lora_for_small_target")
    assert path in said(first, "save")[0]
    for name in ("source", "target", "lora", "similarity", "project", "save"):
        assert said(first, name)
        assert said(second, name) == said(first, name)
    assert second.outputs["similarity"]["images"] == first.outputs["similarity"]["images"]


def test_an_error_reaches_the_page_without_path_or_class(host: Host) -> None:
    kinds: list[str] = []

    def listen(kind: str, event: dict[str, Any]) -> None:
        if kind == "execution_error":
            kinds.append(event["exception_type"])

    result = host.client.queue(transfer_prompt(lora="nowhere.safetensors"), listen)
    assert result.status == "error"
    assert kinds == ["LoRA Transfer"]
