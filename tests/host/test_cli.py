"""The command line: in this process where it can be, and as a user starts it where that matters."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_transfer.core.library.manifest import NAME
from tests.conftest import ROOT
from tests.host.run_cli import COMFYUI, call
from tests.host.small_library import SmallLibrary, bytes_in, lines_in, write_library, write_lora


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> SmallLibrary:
    return write_library(tmp_path_factory.mktemp("cli"))


def test_a_folder_is_transferred_and_everything_is_said(
    library: SmallLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    code = call(library.source, library.target, library.loras, "--out", out, "--suffix", "_t", "--threshold", 0)
    said = capsys.readouterr()
    assert code == 1  # two files have no result
    assert "transferred  styles/lora_1.safetensors: " in said.out
    assert "-> styles/lora_1_t.safetensors" in said.out
    assert "unusable     broken.safetensors: " in said.out
    assert "4 transferred, 2 unusable" in said.out
    assert (out / "summary.html").is_file()
    assert load_file(out / "styles" / "lora_1_t.safetensors")
    assert call(library.source, library.target, library.loras, "--out", out, "--suffix", "_t", "--threshold", 0) == 1
    assert "6 of them done before" in capsys.readouterr().out


def test_json_is_a_line_for_each_file_and_nothing_else(
    library: SmallLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = library.loras / "lora_0.safetensors"
    code = call(library.source, library.target, lora, "--out", tmp_path, "--json", "--method", "copy", "--threshold", 0)
    (line,) = capsys.readouterr().out.splitlines()
    entry = json.loads(line)
    assert code == 0
    assert entry["outcome"] == "transferred"
    assert entry["settings"]["method"] == "copy"
    assert json.loads((tmp_path / NAME).read_text()) == entry


def test_a_dry_run_writes_nothing(library: SmallLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = library.loras / "**" / "lora_*"
    out = tmp_path / "out"
    assert call(library.source, library.target, pattern, "--out", out, "--dry-run", "--threshold", 0) == 0
    assert "4 planned" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "--help shows examples"),
        (("a", "b"), "required: LORA"),
        (("{source}", "{target}", "nothing_here*"), "found nothing there"),
        (("{source}", "no such base", "{loras}"), "Base no such base: expected a file"),
        (
            ("{source}", "{loras}/broken.safetensors", "{loras}"),
            "broken.safetensors: expected a whole safetensors file",
        ),
        (("{source}", "{target}", "{loras}", "--method", "magic"), "expected one of copy"),
        (("{source}", "{target}", "{loras}", "--gain", "much"), "invalid float value"),
        (("{source}", "{target}", "{loras}", "--dtype", "int3"), "Precision: expected one of float16"),
        (("{source}", "{target}", "{loras}", "--workers", "0"), "expected a number of at least 1"),
        (("{source}", "{target}", "{loras}", "--threshold", "7"), "Threshold: expected"),
        (("{source}", "{target}", "{loras}", "--block-map", "nothing.json"), "Block map nothing.json"),
        (
            ("{source}", "{target}", "{loras}", "--out", "{loras}/x", "--block-map", "{map}"),
            "expected a block of the target",
        ),
        (("{source}", "{source}", "{loras}", "--out", "{loras}/x"), "No transfer is needed"),
        (("{source}", "{target}", "{loras}", "--ray", "nowhere"), "expected auto or HOST:PORT"),
        (("{source}", "{target}", "{loras}", "--out", "{loras}"), "none outside of the folder of the results"),
        (("{lora}", "{source}", "{target}"), "The order is SOURCE TARGET LORA"),
        (("verdit", "{source}", "{target}"), "Did you mean verdict?"),
        (("verdict", "{source}"), "required: TARGET"),
        (("inspect", "nothing_here"), "found nothing there"),
        (("extract", "{source}", "{source}", "--out", "{loras}/x.st"), "expected layers that differ"),
    ],
)
def test_a_wrong_command_ends_with_a_sentence(
    library: SmallLibrary, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    paths = {"source": library.source, "target": library.target, "loras": library.loras}
    paths["lora"] = library.loras / "lora_0.safetensors"
    paths["map"] = library.source.with_name("map.json")
    paths["map"].write_text('{"no block": "blocks.0"}')
    assert call(*(argument.format(**paths) for argument in arguments)) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert not said.out


@pytest.mark.parametrize("command", [(), ("transfer",), ("verdict",), ("inspect",), ("extract",)])
def test_help_teaches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert call(*command, "--help") == 0
    said = capsys.readouterr().out
    assert "usage: cli.py" in said
    assert max(map(len, said.splitlines())) <= 80


def test_a_verdict_is_said_with_its_reasons(library: SmallLibrary, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("verdict", library.source, library.target, library.loras / "lora_0.safetensors") == 0
    assert "weight cosine" in capsys.readouterr().out
    assert call("verdict", library.source, library.target, "--json") == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["word"] in ("works", "risky")
    assert judged["target"] == "target.safetensors"
    assert not any("LoRA" in reason for reason in judged["reasons"])  # none was named
    assert call("verdict", library.source, library.source) == 0
    assert "are equal in both bases" in capsys.readouterr().out


def test_contents_of_files_are_said(library: SmallLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", library.loras) == 1  # one is broken
    said = capsys.readouterr().out
    assert re.search(r"lora_0.safetensors: \d+ modules of kind LoRA\n  spelling ComfyUI", said)
    assert "expected a whole safetensors file" in said
    tensors = {"lora_unet_x.hada_w1_a": torch.ones(4, 2), "lora_unet_x.hada_w1_b": torch.ones(2, 4)}
    torch.save({**tensors, "lora_unet_y.diff": torch.ones(2, 2)}, tmp_path / "kinds.pt")
    assert call("inspect", tmp_path / "kinds.pt", "--json") == 0
    contents = json.loads(capsys.readouterr().out)
    assert contents["kinds"] == {"LoHa": 1, "full difference": 1}
    assert contents["spelling"] == "kohya"
    assert contents["ranks"] == {"2": 1}


def test_what_a_lora_was_trained_on_is_read_as_the_nodes_read_it(
    library: SmallLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a trainer's JSON, in a file beside the LoRA, and in a hash."""
    lora = write_lora(tmp_path / "peft" / "lora.safetensors", library.source, 1)
    lora.with_name("adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    settings = {"config": {"process": [{"model": {"name_or_path": "another/base"}}]}}
    metadata = {"training_info": json.dumps(settings), "ss_sd_model_hash": "0123abcd", "modelspec.architecture": "sdxl"}
    save_file(load_file(lora), tmp_path / "kit.safetensors", metadata)
    assert call("inspect", lora, tmp_path / "kit.safetensors") == 0
    peft, kit = (line for line in capsys.readouterr().out.splitlines() if "trained on" in line)
    assert "some/base (adapter_config.json, a weak clue)" in peft
    for said in ("another/base (training_info)", "kind of model: sdxl", "short hash 0123abcd"):
        assert said in kit
    assert call("inspect", lora, "--json") == 0
    assert json.loads(capsys.readouterr().out)["trained_on"]["names"][0]["name"] == "some/base"


@pytest.mark.parametrize("origin", ["[]", '"text"', '{"source": {}, "settings": 3}', '{"target": [1]}', "{"])
def test_strange_metadata_do_not_stop_a_description(
    library: SmallLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str], origin: str
) -> None:
    lora = load_file(library.loras / "lora_0.safetensors")
    hostile = {"lora_transfer": origin, "modelspec.trigger_phrase": "word\x1b[2J", "ss_tag_frequency": origin}
    save_file(lora, tmp_path / "lora.safetensors", hostile)
    assert call("inspect", tmp_path) == 0
    said = capsys.readouterr().out
    assert "lora.safetensors: " in said
    assert "\x1b" not in said


def test_the_difference_of_two_bases_brings_the_first_near_the_second(
    library: SmallLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "difference.safetensors"
    options = ("--rank", 128, "--dtype", "float32", "--out", path)
    assert call("extract", library.source, library.target, *options) == 0
    assert "of the difference of their weights" in capsys.readouterr().out
    written, old, new = (load_file(file) for file in (path, library.source, library.target))
    name = "blocks.0.self_attn.q"
    up, down = (written[f"diffusion_model.{name}.lora_{part}.weight"] for part in ("up", "down"))
    change = new[f"{name}.weight"].float() - old[f"{name}.weight"].float()
    assert torch.allclose(up @ down, change, atol=1e-4)
    assert call("extract", library.source, library.target, *options) == 2  # never overwritten
    assert "it exists" in capsys.readouterr().err
    assert call("inspect", path) == 0
    assert "trained on: source" in capsys.readouterr().out  # it is a LoRA for the first base


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_started_as_a_user_does_stopped_and_started_again(library: SmallLibrary, tmp_path: Path) -> None:
    """Ctrl-C after the first result: the exit code is 130, and the same command goes on. The lines are longer than a
    small pipe holds, so the run cannot end before it is interrupted, however slow this process is."""
    loras = tmp_path / "loras"
    for index in range(40):
        write_lora(loras / f"{index:02}{'x' * 220}.safetensors", library.source, index)
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "cli.py", library.source, library.target, loras, "--out", out, "--threshold", "0"]
    environment = {**os.environ, "COMFYUI_PATH": str(COMFYUI)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, pipesize=4096
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("transferred  00x")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    done = len(lines_in(out))
    assert 1 <= done < 40
    assert len(bytes_in(out)) in (done, done + 1)
    assert call(library.source, library.target, loras, "--out", out, "--threshold", 0) == 0
    assert len(lines_in(out)) == len(bytes_in(out)) == 40


def test_without_comfyui_a_sentence_says_where_to_put_it(tmp_path: Path) -> None:
    environment = {**os.environ, "COMFYUI_PATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, ROOT / "cli.py", "--help"], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("ComfyUI: expected it two folders above")
