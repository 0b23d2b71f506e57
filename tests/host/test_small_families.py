"""Whole transfers in the real host on small models of several families and precisions."""

import json
from pathlib import Path

import comfy.sd
import pytest
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from safetensors.torch import load_file, save_file

from dev.small_models import kohya_modules
from lora_transfer.nodes.host.adapter.write import to_state_dict
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.base.from_model import base_from_model
from tests.host.conftest import Host, SmallPair
from tests.host.prompts import node, transfer_prompt
from tests.host.small_families import SMALL_FAMILIES, write_small, write_small_unet
from tests.host.test_write import random_deltas

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


def lora_for(path: Path, base_path: Path, spelling: str = "diffusers") -> Path:
    """A LoRA on every layer of a base, in a spelling that its trainers use."""
    base = base_from_file(base_path, "small")
    layers = [layer for layer in base.own_layers() if base.layers[layer].block]
    deltas = {layer: delta.scaled(0.01) for layer, delta in random_deltas(base, layers).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(to_state_dict(deltas, dict.fromkeys(layers, 1.0), base, spelling), path)
    return path


def write_unet(path: Path, checkpoint: Path, dtype: torch.dtype) -> None:
    """A small UNet as a file of its own, its matrices in a precision."""
    prefix = "model.diffusion_model."
    unet = {key.removeprefix(prefix): value for key, value in load_file(checkpoint).items() if key.startswith(prefix)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.to(dtype) if value.ndim > 1 else value for key, value in unet.items()}, path)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("family", [*SMALL_FAMILIES, "SD15"])
def test_a_lora_goes_from_one_model_to_another_and_the_core_loader_takes_it(
    host: Host, pair: SmallPair, family: str, precision: str
) -> None:
    models, name = host.base / "models", f"t_{family.split()[0]}_{precision}.safetensors".lower()
    source, target = (models / "diffusion_models" / f"{end}{name}" for end in "st")
    if family == "SD15":
        write_unet(source, pair.source, DTYPES[precision])
        write_unet(target, pair.target, DTYPES[precision])
    else:
        write_small(source, family, 1, DTYPES[precision])
        write_small(target, family, 2, DTYPES[precision], drifted_from=1)
    lora_for(models / "loras" / name, source)
    prompt = transfer_prompt(
        source=f"diffusion_models/s{name}",
        target=f"diffusion_models/t{name}",
        lora=name,
        method="rotate",
        prefix=f"loras/{name[:-12]}",
    )
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    weight_dtype = "default" if precision != "fp8" else "fp8_e4m3fn"
    assert_the_core_loader_takes(host, result.outputs["save"]["text"][0], f"t{name}", weight_dtype)


def assert_the_core_loader_takes(host: Host, saved: str, unet_name: str, weight_dtype: str = "default") -> None:
    """ComfyUI's own nodes load the file on the model and leave no key over."""
    before = len(host.log.read_text())
    loaded = host.client.queue(
        {
            "model": node("UNETLoader", unet_name=unet_name, weight_dtype=weight_dtype),
            "patched": node(
                "LoraLoaderModelOnly",
                model=["model", 0],
                lora_name=saved.split("/loras/", 1)[1],
                strength_model=1.0,
            ),
            "shown": node("PreviewAny", source=["patched", 0]),
        }
    )
    assert loaded.status == "success", loaded.errors
    assert "not loaded" not in host.log.read_text()[before:].lower()


@pytest.mark.parametrize("family", ["SDXL", "SSD-1B", "Vega", "KOALA-700M"])
def test_a_lora_goes_between_two_small_models_of_sdxl_and_its_pruned_siblings(host: Host, family: str) -> None:
    models, name = host.base / "models", f"{family.lower()}_small.safetensors"
    source, target = (models / "diffusion_models" / f"{end}_{name}" for end in "st")
    write_small_unet(source, family)
    write_small_unet(target, family, drifted=True)
    base = base_from_file(source, family)
    assert base.family == {"SDXL": "SDXL", "SSD-1B": "SSD1B", "Vega": "Segmind_Vega"}.get(family, "KOALA_700M")
    layers = [layer for layer in base.own_layers() if base.layers[layer].block][::20]
    deltas = {layer: delta.scaled(0.01) for layer, delta in random_deltas(base, layers).items()}
    (models / "loras").mkdir(exist_ok=True)
    save_file(to_state_dict(deltas, dict.fromkeys(layers, 1.0), base, "kohya"), models / "loras" / name)
    files = {"source": f"diffusion_models/s_{name}", "target": f"diffusion_models/t_{name}", "lora": name}
    result = host.client.queue(transfer_prompt(**files, method="rotate", spelling="kohya", prefix=f"loras/{family}"))
    assert result.status == "success", result.errors
    counts = json.loads(result.outputs["report"]["text"][0])["counts"]
    assert (counts["transferred"], counts["skipped"], counts["keys_unread"]) == (len(layers), 0, 0)
    assert_the_core_loader_takes(host, result.outputs["save"]["text"][0], f"t_{name}")
    flux = "lora_unet_double_blocks_0_img_mlp_0"
    save_file(
        {f"{flux}.lora_up.weight": torch.ones(9, 2), f"{flux}.lora_down.weight": torch.ones(2, 3)},
        models / "loras" / "flux_on_sdxl.safetensors",
    )
    refused = host.client.queue(transfer_prompt(**files | {"lora": "flux_on_sdxl.safetensors"}))
    assert "found 2 keys, none of which names a layer" in refused.errors["similarity"]
    source.unlink()
    target.unlink()


@pytest.mark.parametrize("weight_dtype", [torch.float8_e4m3fn, torch.bfloat16], ids=["fp8", "bf16"])
def test_a_model_that_the_host_holds_in_low_precision_is_read_as_it_holds_it(
    pair: SmallPair, weight_dtype: torch.dtype
) -> None:
    tensors = load_file(pair.source)
    unet = {key: value for key, value in tensors.items() if key.startswith("model.diffusion_model.")}
    model = comfy.sd.load_diffusion_model_state_dict(dict(unet), model_options={"dtype": weight_dtype})
    base = base_from_model(model)
    for key in list(kohya_modules(pair.source).values())[::9]:
        layer = base.layers[key.removeprefix("model.diffusion_model.").removesuffix(".weight")]
        assert torch.equal(base.read(layer), tensors[key].to(weight_dtype).float().flatten(1))


def test_the_text_encoder_of_two_checkpoints_that_share_it_passes_the_lora_through(host: Host) -> None:
    generator = torch.Generator().manual_seed(5)
    module = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    tensors = {
        f"{module}.lora_up.weight": torch.randn(3072, 2, generator=generator),
        f"{module}.lora_down.weight": torch.randn(2, 768, generator=generator),
        f"{module}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, host.base / "models" / "loras" / "text_encoder.safetensors")
    result = host.client.queue(transfer_prompt(lora="text_encoder.safetensors", method="lora_x", prefix="loras/te"))
    assert result.status == "success", result.errors
    saved = load_file(result.outputs["save"]["text"][0])
    key = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
    assert torch.equal(saved[f"{key}.lora_down.weight"], tensors[f"{module}.lora_down.weight"])
    assert torch.allclose(saved[f"{key}.lora_up.weight"], tensors[f"{module}.lora_up.weight"])


def _unet(pair: SmallPair) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The small UNet's tensors, and which of them files of lower precision quantise."""
    prefix = "model.diffusion_model."
    unet = {k.removeprefix(prefix): v for k, v in load_file(pair.source).items() if k.startswith(prefix)}
    return unet, [key for key, value in unet.items() if value.ndim == 2 and ".attn" in key]


def test_a_scaled_fp8_model_of_the_old_kind_is_dequantised_layer_by_layer(pair: SmallPair) -> None:
    unet, linear = _unet(pair)
    stored: dict[str, torch.Tensor] = {**unet, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    expected: dict[str, torch.Tensor] = {}
    for key in linear:
        scale = unet[key].float().abs().max() / 448
        stored[key] = (unet[key].float() / scale).to(torch.float8_e4m3fn)
        stored[key.replace(".weight", ".scale_weight")] = scale
        expected[key.removesuffix(".weight")] = stored[key].float() * scale
    base = base_from_model(comfy.sd.load_diffusion_model_state_dict(stored))
    assert len(expected) == 24
    for name, weight in expected.items():
        assert torch.allclose(base.read(base.layers[name]), weight, rtol=1e-3)


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "nvfp4", "mxfp8", "int8_tensorwise"])
def test_a_quantised_model_is_read_as_the_host_dequantises_it(pair: SmallPair, kind: str) -> None:
    unet, linear = _unet(pair)
    stored, expected = dict(unet), {}
    settings = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
    # The host tells SD1.5 by attn2's width, which nvfp4 packs two to a byte.
    for key in (one for one in linear if kind != "nvfp4" or ".attn1" in one):
        packed = QuantizedTensor.from_float(unet[key].bfloat16(), QUANT_ALGOS[kind]["comfy_tensor_layout"])
        stored |= packed.state_dict(key)
        stored[key.replace(".weight", ".comfy_quant")] = settings
        expected[key.removesuffix(".weight")] = packed.dequantize().float()
    base = base_from_model(comfy.sd.load_diffusion_model_state_dict(stored))
    for name, weight in expected.items():
        layer = base.layers[name]
        assert layer.weight.shape == weight.shape
        assert torch.allclose(base.read(layer), weight, rtol=1e-2, atol=1e-3)


def test_a_lora_of_biases_and_norms_alone_is_transferred(host: Host) -> None:
    key = "diffusion_model.input_blocks.1.0.in_layers.0.w_norm"
    save_file({key: torch.ones(320)}, host.base / "models" / "loras" / "norms.safetensors")
    result = host.client.queue(transfer_prompt(lora="norms.safetensors", prefix="loras/norms"))
    assert result.status == "success", result.errors
    saved = load_file(result.outputs["save"]["text"][0])
    assert {name: float(value.sum()) for name, value in saved.items()} == {key.replace("w_norm", "diff"): 320.0}
