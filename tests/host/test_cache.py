"""The cache of decomposed bases, and its settings, in a real ComfyUI."""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_transfer.nodes.host.settings import DEFAULTS, LIMIT, PRECISION
from tests.conftest import ROOT
from tests.host.conftest import Host
from tests.host.prompts import transfer_prompt


def kept(host: Host) -> set[str]:
    return {path.name for path in (host.base / "user" / "lora_transfer" / "subspaces").glob("*/*.safetensors")}


@pytest.fixture
def settings(host: Host) -> Iterator[Any]:
    """Sets a setting as the settings page does, and puts back what was changed."""

    def choose(name: str, value: Any) -> None:
        host.client.post(f"/settings/{name}", value)

    yield choose
    for name, value in DEFAULTS.items():
        choose(name, value)


def report_of(host: Host, which: str = "report", **settings: Any) -> dict[str, Any]:
    result = host.client.queue(transfer_prompt(prefix="loras/cache", **settings))
    assert result.status == "success", result.errors
    return json.loads(result.outputs[which]["text"][0])


def test_a_pair_is_decomposed_once_and_every_later_lora_and_method_finds_it(host: Host) -> None:
    rule = ("fraction", "fraction", 0.37)  # not used by another test
    first = report_of(host, rank_rule=rule, method="lora_x")
    before = kept(host)
    second = report_of(host, rank_rule=rule, method="rotate")
    assert kept(host) == before
    layers = {(layer["target"], layer["k"], layer["phi_left"]) for layer in first["layers"]}
    assert layers == {(layer["target"], layer["k"], layer["phi_left"]) for layer in second["layers"]}
    assert len(before) >= 2 * len({layer["target"] for layer in first["layers"]})


def test_the_settings_page_chooses_precision_and_size_and_switches_it_off(host: Host, settings: Any) -> None:
    settings(PRECISION, "off")
    before = kept(host)
    report_of(host, rank_rule=("fraction", "fraction", 0.36), method="lora_x")
    assert kept(host) == before
    settings(PRECISION, "float16")
    report_of(host, rank_rule=("fraction", "fraction", 0.35), method="lora_x")
    added = kept(host) - before
    assert added
    assert all(name.endswith("_float16.safetensors") for name in added)
    settings(LIMIT, 0.002)
    report_of(host, rank_rule=("fraction", "fraction", 0.34), method="lora_x")
    assert len(kept(host)) < len(added)


def test_the_page_and_the_server_name_the_same_settings_with_the_same_defaults(host: Host) -> None:
    address = f"http://{host.client.address}/extensions/ComfyUI-LoRA-Transfer/settings.js"
    with urllib.request.urlopen(address, timeout=60) as answer:
        served = answer.read().decode()
    assert served == (ROOT / "web" / "settings.js").read_text()
    found = re.findall(r'id: "(.*?)",.*?defaultValue: (.*?),\n', served, re.DOTALL)
    assert {name: json.loads(value) for name, value in found} == DEFAULTS


def test_by_weight_cosine_a_graph_decomposes_nothing(host: Host) -> None:
    before = kept(host)
    settings = {"measure": "weight_cosine", "method": "restore", "threshold": 0.5}
    report = report_of(host, **settings)
    assert kept(host) == before
    assert report["settings"]["measure"] == "weight_cosine"
    assert report["counts"]["transferred"] == len(report["layers"])
    assert all(layer["phi"] is None and layer["weight_cosine"] > 0.5 for layer in report["layers"])
    assert "weight cosine" in report["layers"][0]["reason"]


def test_an_unreadable_settings_file_is_no_settings(host: Host) -> None:
    path = Path(host.base) / "user" / "default" / "comfy.settings.json"
    before = path.read_text()
    path.write_text("{ not json")
    try:
        report_of(host, rank_rule=("fraction", "fraction", 0.33))
    finally:
        path.write_text(before)
