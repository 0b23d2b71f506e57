"""The workflows that the pack ships, in a real ComfyUI."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dev.paths import BLUEPRINTS, PACK_FOLDER, SMALL_MODELS, TEMPLATES
from dev.templates.__main__ import build_workflows
from dev.templates.graph import COMFYUI, NOTE
from dev.workflow import to_prompt
from tests.host.conftest import Host
from tests.host.small_templates import with_small_models

FILES = sorted(TEMPLATES.glob("*.json"))


def test_the_files_are_what_the_builder_makes_of_todays_nodes(host: Host) -> None:
    version = host.client.get("/system_stats")["system"]["comfyui_version"]
    if version != COMFYUI:
        pytest.skip(f"The templates are written for ComfyUI {COMFYUI}; its own nodes may differ in {version}.")
    for path, workflow in build_workflows(host.client.object_info()).items():
        assert json.loads(path.read_text(encoding="utf-8")) == workflow, (
            f"{path.name} is stale: run `.run/venv/bin/python -m dev.templates`"
        )


def test_comfyui_serves_each_template_and_the_blueprint(host: Host) -> None:
    assert set(host.client.get("/workflow_templates")[PACK_FOLDER]) == {path.stem for path in FILES}
    blueprints = [entry for entry in host.client.get("/global_subgraphs").values() if PACK_FOLDER in str(entry["info"])]
    assert [entry["name"] for entry in blueprints] == [path.stem for path in BLUEPRINTS.glob("*.json")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_link_fits_its_sockets_and_every_value_its_widget(host: Host, path: Path) -> None:
    workflow, known = json.loads(path.read_text(encoding="utf-8")), host.client.object_info()
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for _, start, output, end, slot, kind in workflow["links"]:
        assert known[nodes[start]["type"]]["output"][output] == kind
        socket = nodes[end]["inputs"][slot]
        assert _inputs(known[nodes[end]["type"]])[socket["name"]][0] == kind
    for node in workflow["nodes"]:
        linked = {slot["name"] for slot in node.get("inputs", []) if slot["link"] is not None}
        required = set() if node["type"] == NOTE else set(known[node["type"]]["input"].get("required", {}))
        missing = required - linked - set(to_prompt(workflow, known).get(str(node["id"]), {}).get("inputs", {}))
        assert not missing, f"{node['type']} {node['id']}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_template_runs_when_its_example_names_are_replaced(host: Host, path: Path) -> None:
    _offer_as_diffusion_model(host, "small_target.safetensors")
    prompt = to_prompt(with_small_models(json.loads(path.read_text(encoding="utf-8"))), host.client.object_info())
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    by_kind = {prompt[key]["class_type"]: shown for key, shown in result.outputs.items()}
    if "ImageCompare" in by_kind:
        before, after = (by_kind["ImageCompare"][side][0] for side in ("a_images", "b_images"))
        are_equal = host.client.view(before) == host.client.view(after)
        assert are_equal == ("LoraTransferTrain" in by_kind)  # whose two relatives are the same small model here
    else:
        assert Path(by_kind["LoraTransferSave"]["text"][0]).name.startswith("small_lora_for_small_target")
    assert "not writable" not in host.log.read_text()  # what torch says of a picture that it may not change


def _inputs(description: dict[str, Any]) -> dict[str, Any]:
    return {**description["input"].get("required", {}), **description["input"].get("optional", {})}


def _offer_as_diffusion_model(host: Host, name: str) -> None:
    """The diffusion model's loader lists a folder of its own; it reads whole checkpoints too."""
    link = host.base / "models" / "diffusion_models" / name
    if not link.exists():
        os.link(SMALL_MODELS / "checkpoints" / name, link)
