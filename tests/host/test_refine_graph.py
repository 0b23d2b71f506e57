"""Refine LoRA as a user meets it: a graph in a real ComfyUI, over HTTP."""

import json
from typing import Any

from safetensors import safe_open

from tests.host.conftest import Host
from tests.host.prompts import said
from tests.host.refine_prompt import refine_prompt


def test_a_graph_refines_saves_and_tells_within_seconds(host: Host) -> None:
    result = host.client.queue(refine_prompt())
    assert result.status == "success", result.errors
    told = json.loads(result.outputs["report"]["text"][0])
    assert told["kind"] == "refine"
    assert told["score"]["best"] > told["score"]["before"] + 0.03
    assert result.progress["refine"] == (6, 6)
    assert len(result.outputs["refine"]["images"]) == 1
    assert len(result.outputs["pictures"]["images"]) == len(told["scores"])
    assert result.seconds < 120
    assert result.previews >= 2
    assert any(one.startswith("step 5 of 6, loss ") for one in result.texts["refine"])
    assert told["sentence"][1:] in said(result, "refine")[0]
    with safe_open(result.outputs["saved"]["text"][0], "pt") as file:
        origin = json.loads(file.metadata()["lora_transfer"])
    assert origin["refined"]["steps"] == told["score"]["best_step"]


def test_a_cancelled_run_leaves_its_best_in_a_file_to_go_on_from(host: Host) -> None:
    def cancel(kind: str, event: dict[str, Any]) -> None:
        if kind == "progress" and event["max"] == 120 and event["value"] >= 31:  # the first score was taken at 30
            host.client.interrupt()

    before = host.loras_written()
    result = host.client.queue(refine_prompt(steps=120, batch=4, transferred=None), cancel)
    assert result.status == "interrupted"
    [left] = host.loras_written() - before
    assert left.startswith("refine_interrupted")
    assert left in result.texts["refine"][-1]
    again = refine_prompt(steps=1, samples=4)
    again["kept"] = {"class_type": "LoraTransferLoadLora", "inputs": {"lora_name": left}}
    again["refine"]["inputs"]["transferred"] = ["kept", 0]
    resumed = host.client.queue(again)
    assert resumed.status == "success", resumed.errors
