"""Files that are no LoRA or base: each is refused in one sentence."""

from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_transfer.core.errors import InvalidSetting, UnreadableFile, UnsupportedBase, UnwritableFile
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.paths import choose_output_path
from tests.host.conftest import SmallPair

HELD = {
    "one tensor in a list": ([torch.ones(3, 3)], "found 1 tensors"),
    "numbers in a list": ([1, 2], "found an entry of type int"),
    "a word in a list": ([torch.ones(3, 3), "x"], "found an entry of type str"),
    "a tensor": (torch.ones(3, 3), "expected named tensors, found Tensor"),
    "a number": (5, "expected named tensors, found int"),
    "nothing": (None, "expected named tensors, found NoneType"),
    "a word": ("hello", "expected named tensors, found str"),
    "numbers as names": ({1: torch.ones(2, 2), 2: torch.ones(2, 2)}, "found Tensor under 1"),
    "numbers under names": ({"x": {"y": 3}}, "found int under 'y'"),
    "an empty list": ([], "found an empty file"),
}


@pytest.mark.parametrize("what", HELD)
def test_a_pickled_file_that_is_not_a_lora_is_refused_in_a_sentence(tmp_path: Path, what: str) -> None:
    held, sentence = HELD[what]
    torch.save(held, tmp_path / "x.pt")
    with pytest.raises(UnreadableFile, match=f"LoRA x.pt: .*{sentence}"):
        adapter_from_file(tmp_path / "x.pt", "x.pt")


def test_a_missing_file_is_reported_whatever_its_kind(tmp_path: Path) -> None:
    for name in ("x.pt", "x.safetensors"):
        with pytest.raises(UnreadableFile, match=f"{name}: not found"):
            adapter_from_file(tmp_path / name, name)


@pytest.mark.parametrize("content", [b"", b"not a pickle at all, hello"], ids=["no bytes", "text"])
def test_a_file_that_is_not_a_pickle_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UnreadableFile, match="Use a safetensors version"):
        adapter_from_file(tmp_path / "x.pt", "x.pt")


@pytest.mark.parametrize("wrapped", [lambda held: held, lambda held: {"state_dict": held}, lambda held: {"lora": held}])
def test_a_pickled_lora_is_read_within_its_wrapping(tmp_path: Path, wrapped: Any) -> None:
    held = {"a.lora_up.weight": torch.ones(3, 2), "a.lora_down.weight": torch.ones(2, 3)}
    torch.save(wrapped(held), tmp_path / "x.pt")
    assert adapter_from_file(tmp_path / "x.pt", "x.pt").state_dict().keys() == held.keys()


def test_a_pickled_base_is_refused_with_the_way_round(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(UnsupportedBase, match=r"found a pickled one \(\.ckpt\).*connect that MODEL"):
        base_from_file(tmp_path / "x.ckpt", "x.ckpt")


def test_a_base_without_a_layer_that_tells_its_family_is_refused_in_a_sentence(pair: SmallPair, tmp_path: Path) -> None:
    key = "input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"
    tensors = load_file(pair.target)
    del tensors[f"model.diffusion_model.{key}"]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UnsupportedBase, match=f"found none called .*{key}"):
        base_from_file(tmp_path / "x.safetensors", "x")


@pytest.mark.parametrize("prefix", ["../x", "/tmp/x", "loras/../../x"])  # noqa: S108  (refused, not written)
def test_a_place_outside_the_output_folder_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidSetting, match="found a path outside"):
        choose_output_path(prefix)


@pytest.mark.parametrize("prefix", ["", ".", "loras/.."])
def test_a_prefix_without_a_name_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidSetting, match="expected a name"):
        choose_output_path(prefix)


def test_a_file_where_a_folder_should_be_is_reported_in_a_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    (tmp_path / "loras").write_text("in the way")
    with pytest.raises(UnwritableFile, match="Filename prefix loras/x: expected a folder"):
        choose_output_path("loras/x")
