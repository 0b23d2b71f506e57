"""What a LoRA's file says about its base, and the warning if the user chose another source."""

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.base.from_model import HostBase
from lora_transfer.nodes.host.source_doubts import doubt_source
from tests.host.test_families import base_of

OLD, NEW = "checkpoints/realisticVision_v51.safetensors", "checkpoints/dreamshaper_8.safetensors"


header_base = cache(base_of)


def base(name: str, family: str = "SD15", path: Path | None = None) -> HostBase:
    return replace(header_base(family), name=name, path=path)


def doubts(metadata: dict[str, str], source: HostBase | None = None, target: str = "other.safetensors") -> str:
    adapter = Adapter("lora", "hash", metadata)
    return " ".join(doubt_source(adapter, source or base(NEW), base(target)))


@pytest.mark.parametrize(
    "metadata",
    [
        {"ss_sd_model_name": "realisticVision_v51.safetensors"},
        {"ss_sd_model_name": "D:\\models\\realisticVision_v51.ckpt"},
        {"base_model_name_or_path": "SG161222/realisticVision_v51"},
        {"lora_adapter_metadata": json.dumps({"base_model_name_or_path": "x/realisticVision_v51"})},
        {"config": json.dumps({"model": {"name_or_path": "x/realisticVision_v51"}})},
        {"ot_config": json.dumps({"base_model_name": "x/realisticVision_v51"})},
        {"lora_transfer": json.dumps({"source": {"name": NEW}, "target": {"name": OLD}})},
    ],
)
def test_a_lora_of_another_source_of_the_same_architecture_is_doubted_with_both_names(metadata: dict[str, str]) -> None:
    text = doubts(metadata)
    assert "trained on" in text
    assert "realisticVision_v51" in text
    assert NEW in text
    assert doubts(metadata, base(OLD)) == ""


def test_a_lora_of_another_architecture_is_doubted_even_if_its_layers_have_the_same_names() -> None:
    text = doubts({"ss_base_model_version": "sd_v2", "ss_sd_model_name": "dreamshaper_8.safetensors"})
    assert "sd_v2" in text
    assert "SD15" in text
    for same in ("sd_v1", "stable-diffusion-v1/lora", "sd_1.5", "of an unknown kind"):
        assert doubts({"modelspec.architecture": same}) == ""


def test_exchanged_bases_are_named_as_such() -> None:
    text = doubts({"ss_sd_model_name": "realisticVision_v51.safetensors"}, target=OLD)
    assert "swapped" in text


@pytest.mark.parametrize("name", ["", "None", "model.safetensors", "unet/diffusion_pytorch_model.safetensors", None])
def test_a_file_that_says_nothing_is_not_doubted(name: str | None) -> None:
    assert doubts({} if name is None else {"ss_sd_model_name": name}) == ""
    assert doubts({"config": "no JSON", "lora_transfer": "[1]", "ot_config": '{"base_model_name": 3}'}) == ""


def test_a_renamed_file_is_recognised_by_the_short_hash_that_the_lora_names(tmp_path: Path) -> None:
    path = tmp_path / "renamed.safetensors"
    content = bytes(0x100000) + bytes(range(256)) * 300
    path.write_bytes(content)
    expected = hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    metadata = {"ss_sd_model_name": "realisticVision_v51.safetensors", "ss_sd_model_hash": expected}
    assert doubts(metadata, base("renamed.safetensors", path=path)) == ""
    assert doubts({**metadata, "ss_sd_model_hash": "00000000"}, base("renamed.safetensors", path=path)) != ""


def test_a_fine_tune_that_shares_the_short_hash_is_told_apart_by_the_whole_hash(tmp_path: Path) -> None:
    path = tmp_path / "fine_tune.safetensors"
    content = bytes(0x100000) + bytes(range(256)) * 300
    path.write_bytes(content)
    short, whole = hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8], hashlib.sha256(content).hexdigest()
    metadata = {"ss_sd_model_name": "realisticVision_v51.safetensors", "ss_sd_model_hash": short}
    chosen = base("fine_tune.safetensors", path=path)
    assert doubts({**metadata, "ss_new_sd_model_hash": whole}, chosen) == ""
    assert "realisticVision_v51" in doubts({**metadata, "ss_new_sd_model_hash": "0" * 64}, chosen)
