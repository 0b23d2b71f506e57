"""Bad input gets one sentence on the node that met it, and nothing is written."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dev.small_models import write_checkpoint
from tests.host.conftest import Host
from tests.host.prompts import transfer_prompt


@pytest.fixture(scope="module")
def bad(host: Host) -> Path:
    """Files of every bad kind among the host's models, removed at the end."""
    loras, checkpoints = host.base / "models" / "loras", host.base / "models" / "checkpoints"
    whole = (loras / "small_lora.safetensors").read_bytes()
    (loras / "bad_truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (checkpoints / "bad_truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({}, loras / "bad_empty.safetensors")
    flux = {
        "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.zeros(9, 2),
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(2, 3),
    }
    save_file(flux, loras / "bad_flux.safetensors")
    save_file({"some.weight": torch.zeros(3, 3)}, checkpoints / "bad_no_model.safetensors")
    lora = load_file(loras / "small_lora.safetensors")
    torn = {key: value[:5] if key.endswith("lora_down.weight") else value for key, value in lora.items()}
    save_file(torn, loras / "bad_torn.safetensors")
    write_checkpoint(checkpoints / "bad_unrelated.safetensors", 99, include_clip=False)
    save_file({"control_model.x.weight": torch.zeros(3, 3)}, loras / "bad_controlnet.safetensors")
    (loras / "bad_checkpoint.safetensors").hardlink_to(checkpoints / "small_source.safetensors")
    torch.save({"lora.weight": _Code(host.base / "code_was_run")}, loras / "bad_code.pt")
    nan = load_file(checkpoints / "small_source.safetensors")
    nan = {key: value for key, value in nan.items() if not key.startswith("cond_stage_model")}
    nan["model.diffusion_model.time_embed.0.weight"] = nan["model.diffusion_model.time_embed.0.weight"] * float("nan")
    save_file(nan, checkpoints / "bad_nan.safetensors")
    yield host.base
    for path in host.base.glob("models/*/bad_*"):
        path.unlink()
    assert not (host.base / "code_was_run").exists()


class _Code:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("node", "inputs", "sentence"),
    [
        ("source", {"source": "checkpoints/none.safetensors"}, "Base checkpoints/none.safetensors: not found in"),
        ("target", {"target": "elsewhere/x.safetensors"}, "Base elsewhere/x.safetensors: not found in"),
        ("target", {"target": "checkpoints/bad_truncated.safetensors"}, "expected a whole safetensors file"),
        ("target", {"target": "checkpoints/bad_no_model.safetensors"}, "expected a diffusion model"),
        ("similarity", {"target": "checkpoints/bad_nan.safetensors"}, "layer time_embed.0: expected finite numbers"),
        ("source", {"source": "choose a file"}, "Choose the base that the LoRA was trained on"),
        ("target", {"target": "choose a file"}, "Choose the base that you want to use the LoRA on"),
        ("lora", {"lora": "none.safetensors"}, "LoRA none.safetensors: not found in"),
        ("lora", {"lora": "bad_truncated.safetensors"}, "expected a whole safetensors file"),
        ("lora", {"lora": "bad_empty.safetensors"}, "expected tensors, found an empty file"),
        ("lora", {"lora": "bad_controlnet.safetensors"}, "expected a LoRA, found a ControlNet"),
        ("lora", {"lora": "bad_checkpoint.safetensors"}, "expected a LoRA, found a whole checkpoint"),
        ("lora", {"lora": "bad_code.pt"}, "could run code"),
        ("similarity", {"lora": "bad_flux.safetensors"}, "found 2 keys, none of which names a layer"),
        ("similarity", {"lora": "bad_torn.safetensors"}, "the file is damaged: download it again"),
        (
            "project",
            {"target": "checkpoints/bad_unrelated.safetensors", "threshold": 0.8},
            "recovered 91% of a trained LoRA's gain",
        ),
        ("project", {"method": "lora_x", "rescale": "relative_norm"}, "more harm than a random LoRA"),
    ],
)
def test_one_sentence_on_the_node_and_nothing_written(
    host: Host, bad: Path, node: str, inputs: dict[str, str | float], sentence: str
) -> None:
    before = host.loras_written()
    result = host.client.queue(transfer_prompt(**inputs))  # pyright: ignore[reportArgumentType]
    assert result.status == "error"
    assert set(result.errors) == {node}
    assert sentence in result.errors[node]
    assert "\n" not in result.errors[node]
    assert host.loras_written() == before
