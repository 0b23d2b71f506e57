"""Apply LoRA on a loaded model: what ComfyUI's own loader gives where it reads the file, and as much elsewhere."""

from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lora_transfer.core.errors import UnsupportedAdapter
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file
from lora_transfer.nodes.host.adapter.apply import apply
from tests.conftest import ROOT
from tests.host.conftest import SmallPair
from tests.host.small_families import write_small
from tests.host.test_bad_modules import DIFFUSERS, LAYER, LOHA, LORA, module
from tests.host.test_kinds import SPELLED

KEY = f"diffusion_model.{LAYER}.weight"
# The small model has no layer of the widths that the files of attention processors are for.
REAL = [path for path in sorted((ROOT.parent / "shared/data/loras").glob("*sd15__*")) if "attnprocs" not in path.name]


@pytest.fixture(scope="module")
def model(pair: SmallPair) -> Any:
    return comfy.sd.load_checkpoint_guess_config(str(pair.target), output_vae=False, output_clip=False)[0]


def patched(model: Any, key: str = KEY) -> Tensor:
    """A weight as sampling would have it."""
    weight = comfy.model_patcher.get_key_weight(model.model, key)[0].float().clone()
    return comfy.lora.calculate_weight(model.patches.get(key, []), weight, key)


def adapter(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Adapter:
    return Adapter("made", "here", metadata or {}, tensors=tensors)


@pytest.mark.parametrize("spelled", SPELLED)
def test_a_lora_in_any_spelling_is_applied(model: Any, spelled: str) -> None:
    name, up, down = SPELLED[spelled]
    applied = apply(adapter({name + up: torch.ones(320, 4), name + down: torch.ones(4, 768)}), model, None, 0.5, 0.0)
    assert torch.allclose(patched(applied.model), patched(model) + 2)
    assert applied.summary() == "all 2 keys applied"


KINDS = {
    "LoRA": LORA | {".alpha": torch.tensor(2.0)},
    "LoHa": LOHA,
    "DoRA": LORA | {".dora_scale": torch.rand(320, 1) + 1},
    "OFT": {".oft_blocks": torch.randn(32, 10, 10) * 0.1, ".alpha": torch.tensor(0.0)},
    "difference": {".diff": torch.ones(320, 768)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_exactly_what_comfyuis_own_loader_gives(model: Any, kind: str) -> None:
    tensors = module(KINDS[kind])
    ours = apply(adapter(tensors), model, None, 0.7, 0.0).model
    loaded, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 0.7, 0.0)
    assert torch.equal(patched(ours), patched(loaded))
    assert not torch.equal(patched(ours), patched(model))


def test_a_whole_file_is_exactly_what_comfyuis_own_loader_gives(model: Any, pair: SmallPair) -> None:
    ours = apply(adapter_from_file(pair.lora, "kohya"), model, None, 1.0, 0.0).model
    loaded, _ = comfy.sd.load_lora_for_models(model, None, load_file(pair.lora), 1.0, 0.0)
    assert ours.patches.keys() == loaded.patches.keys()
    for key in list(ours.patches)[::5]:
        assert torch.equal(patched(ours, key), patched(loaded, key))


def test_strength_0_gives_the_very_same_model(model: Any) -> None:
    applied = apply(adapter(module(LORA)), model, None, 0.0, 0.0)
    assert applied.model is model
    assert applied.summary() == "strength 0: nothing changed"


NUMBERED = [path for path in REAL if path.name.startswith("cloneofsimo") and "te__" not in path.name]
NAMED = [path for path in REAL if path not in NUMBERED]


@pytest.mark.skipif(not REAL, reason="the project's shared data are not beside this clone")
@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.name)
def test_a_real_file_of_numbered_modules_is_refused_on_a_smaller_model_and_not_applied_in_part(
    model: Any, path: Any
) -> None:
    with pytest.raises(UnsupportedAdapter, match=r"numbered modules of the unet: .* found that no order fits"):
        apply(adapter_from_file(path, path.name), model, None, 1.0, 0.0)


@pytest.mark.skipif(not REAL, reason="the project's shared data are not beside this clone")
@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.name)
def test_a_real_file_is_applied_as_far_as_the_small_model_has_its_layers(model: Any, path: Any) -> None:
    applied = apply(adapter_from_file(path, path.name), model, None, 1.0, 0.0)
    assert applied.keys + len(applied.not_applied) == len(adapter_from_file(path, path.name).state_dict())
    assert len(applied.model.patches) > 0


def test_of_two_names_for_one_layer_the_one_that_comfyui_takes_is_applied_and_the_other_reported(model: Any) -> None:
    tensors = module(LORA) | module({**LORA, ".lora_up.weight": torch.ones(320, 4) * 3}, f"diffusion_model.{LAYER}")
    applied = apply(adapter(tensors), model, None, 1.0, 0.0)
    loaded, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0.0)
    assert torch.equal(patched(applied.model), patched(loaded))
    assert applied.summary() == (
        "2 of 4 keys applied; not applied: 2 (2: the file changes this layer under another name too)"
    )


def test_a_bias_on_a_slice_which_comfyui_drops_is_applied(tmp_path: Path) -> None:
    write_small(tmp_path / "flux.safetensors", "Flux dev", 1, torch.float16)
    flux = comfy.sd.load_diffusion_model(str(tmp_path / "flux.safetensors"))
    to_k = "transformer.transformer_blocks.0.attn.to_k"
    tensors = {
        f"{to_k}.lora_B.weight": torch.zeros(128, 2),
        f"{to_k}.lora_A.weight": torch.ones(2, 128),
        f"{to_k}.diff_b": torch.ones(128),
    }
    applied = apply(adapter(tensors), flux, None, 1.0, 0.0)
    assert applied.summary() == (
        "all 3 keys applied; differs from ComfyUI's own loader in 1 module: it drops the bias of a layer whose name "
        "stands for some of its rows, or for rows in another order"
    )
    bias = "diffusion_model.double_blocks.0.img_attn.qkv.bias"
    change = patched(applied.model, bias) - patched(flux, bias)
    assert torch.allclose(change, torch.cat([torch.zeros(128), torch.ones(128), torch.zeros(128)]), atol=1e-6)


def test_keys_that_are_not_applied_are_reported_with_their_reason(model: Any) -> None:
    tensors = module(LORA) | module(LORA, "lora_te_text_model_encoder_layers_0_mlp_fc1")
    applied = apply(adapter(tensors), model, None, 1.0, 1.0)
    assert applied.summary() == (
        "2 of 4 keys applied; not applied: 2 (2: it belongs to a text encoder, and no CLIP is connected)"
    )


def test_a_module_that_does_not_fit_is_reported_and_the_others_are_applied(model: Any) -> None:
    wrong = {"lora_unet_time_embedding_linear_1.lora_up.weight": torch.ones(7, 2)}
    wrong |= {"lora_unet_time_embedding_linear_1.lora_down.weight": torch.ones(2, 9)}
    applied = apply(adapter(module(LORA) | wrong), model, None, 1.0, 0.0)
    assert (applied.keys, set(applied.not_applied)) == (2, set(wrong))
    assert "expected its lora to fit" in applied.summary()


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (module(LORA, "lora_unet_double_blocks_0_img_mlp_0"), "none of which names a layer of it"),
        (module(LORA, "lora_te_text_model_encoder_layers_0_mlp_fc1"), "Connect the CLIP too"),
        (module({**LORA, ".lora_down.weight": torch.ones(4, 9)}), "expected modules that fit, found none"),
    ],
    ids=["another family", "a text encoder's", "another shape"],
)
def test_a_lora_without_anything_that_fits_the_model_is_refused(
    model: Any, tensors: dict[str, Tensor], sentence: str
) -> None:
    with pytest.raises(UnsupportedAdapter, match=sentence):
        apply(adapter(tensors), model, None, 1.0, 1.0)


def test_a_spelling_that_comfyui_does_not_read_is_applied_at_the_scale_of_pefts_settings(model: Any) -> None:
    tensors = {
        f"unet.{DIFFUSERS}.lora_B.weight": torch.ones(320, 4),
        f"unet.{DIFFUSERS}.lora_A.weight": torch.ones(4, 768),
    }
    metadata = {"lora_adapter_metadata": '{"unet.lora_alpha": 8}'}
    applied = apply(adapter(tensors, metadata), model, None, 1.0, 0.0)
    assert torch.allclose(patched(applied.model), patched(model) + 8)
