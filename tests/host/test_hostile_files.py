"""A small file cannot make the server work or remember more than is really in it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lora_transfer.core.errors import InvalidSetting, UnreadableFile, UnsupportedBase
from lora_transfer.core.files.header import TensorHeader
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
from lora_transfer.nodes.host.base.from_file import base_from_header
from lora_transfer.nodes.host.refine.prompt_list import encode_prompts
from tests.conftest import ROOT
from tests.host.families import header_of
from tests.host.hostile_files import GOOD, HOSTILE
from tests.host.test_memory import RUN, START

MOST_GROWTH = 200e6  # bytes above the file's own
MOST_SECONDS = 20  # of CPU; each takes under two on a machine with nothing else to do


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What is said of every hostile file, and what it costs, by the file's name."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (content, _) in HOSTILE.items():
        (folder / name).write_bytes(content())
    command = [sys.executable, "-c", START + RUN, ROOT / "tests", ROOT / "tests/host/answer_hostile.py"]
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [*command, *(folder / name for name in HOSTILE)], env=variables, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    told = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    assert "code of the file ran" not in finished.stdout
    return {one["name"]: {**one, "size": (folder / one["name"]).stat().st_size} for one in told}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_answered_in_a_sentence_within_little_time_and_memory(
    answers: dict[str, dict[str, Any]], name: str
) -> None:
    told = answers[name]
    print({**told, "said": told["said"][:400]})
    assert HOSTILE[name][1] in told["said"]
    assert len(told["said"]) < 1500
    assert told["longest"] < 5000  # characters of a prompt: encoding 1 MB took 21 GB
    assert told["grown"] - told["size"] < MOST_GROWTH
    assert told["cpu"] < MOST_SECONDS


def test_a_lora_that_is_cut_short_while_it_is_in_use_keeps_its_values(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a.lora_up.weight": torch.ones(1000, 1000)}, path)
    tensors = adapter_from_file(path, "x").state_dict()
    mapped = Path("/proc/self/maps").read_text() if sys.platform == "linux" else ""
    assert str(path) not in mapped  # touching a mapped file that is cut short ends the process
    os.truncate(path, 8)
    assert float(tensors["a.lora_up.weight"].sum()) == 1e6


def test_a_lora_that_is_cut_short_between_its_header_and_its_values_is_reported_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(GOOD, path)
    adapter = adapter_from_file(path, "x")
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(UnreadableFile, match="changed, replaced or cut short"):
        adapter.state_dict()


def test_a_prompt_that_no_text_encoder_reads_is_refused_before_it_is_encoded() -> None:
    with pytest.raises(InvalidSetting, match=r"at most 20,000 characters, found a prompt of 1,000,000"):
        encode_prompts(object(), ("a face", "a " * 500_000), "clip")


def test_a_base_of_more_blocks_than_any_model_is_refused_before_comfyui_builds_them() -> None:
    whole = header_of("Flux dev")
    more = {f"model.diffusion_model.double_blocks.{index}.x": TensorHeader((1, 1), "F16") for index in range(20_000)}
    with pytest.raises(UnsupportedBase, match="found a block with number 19,999"):
        base_from_header(replace(whole, tensors={**whole.tensors, **more}), "deep", "header")


def test_a_large_vector_of_a_base_takes_no_memory_before_it_is_read() -> None:
    whole = header_of("SD15")
    vector = {"model.diffusion_model.x": TensorHeader((1 << 50,), "F16")}
    assert base_from_header(replace(whole, tensors={**whole.tensors, **vector}), "wide", "header").layers
