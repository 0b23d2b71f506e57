"""Models that ComfyUI's merge nodes made: a merge is patches on a model, and so is a LoRA."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import pytest
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from comfy_extras.nodes_attention_multiply import UNetSelfAttentionMultiply
from comfy_extras.nodes_model_merging import (
    CLIPAdd,
    CLIPMergeSimple,
    CLIPSubtract,
    ModelAdd,
    ModelMergeBlocks,
    ModelMergeSimple,
    ModelSubtract,
)
from safetensors.torch import load_file, save_file

from lora_transfer.nodes.host.base.from_model import HostBase, base_from_clip, base_from_model
from tests.host.conftest import SmallPair

PREFIX = "model.diffusion_model."
Merge = Callable[[Any, Any], Any]

MERGES: dict[str, Merge] = {
    "simple": lambda one, other: ModelMergeSimple().merge(one, other, 0.3)[0],
    "blocks": lambda one, other: ModelMergeBlocks().merge(one, other, input=0.2, middle=1.0, out=0.7)[0],
    "add": lambda one, other: ModelAdd().merge(one, other)[0],
    "subtract": lambda one, other: ModelSubtract().merge(one, other, 0.6)[0],
    "scaled attention": lambda one, other: UNetSelfAttentionMultiply.execute(one, 1.1, 0.9, 1.2, 0.8).result[0],
    "twice": lambda one, other: ModelMergeSimple().merge(ModelAdd().merge(one, other)[0], other, 0.5)[0],
    "of merges": lambda one, other: ModelMergeSimple().merge(one, ModelSubtract().merge(other, one, 0.5)[0], 0.4)[0],
}


def load(path: Path) -> Any:
    return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]


@pytest.fixture(scope="module")
def one(pair: SmallPair) -> Any:
    return load(pair.source)


@pytest.fixture(scope="module")
def other(pair: SmallPair) -> Any:
    return load(pair.target)


def assert_read_as_sampled(base: HostBase, model: Any) -> None:
    """Every layer is as ComfyUI computes it for sampling."""
    for layer in base.layers.values():
        stored = comfy.utils.get_attr(model.model, layer.weight.key).float()
        expected = comfy.lora.calculate_weight(model.patches.get(layer.weight.key, []), stored.clone(), layer.name)
        assert torch.allclose(base.read(layer), expected.flatten(1), atol=1e-5), layer.name


@pytest.mark.parametrize("kind", MERGES)
def test_a_merge_is_read_as_it_is_sampled(one: Any, other: Any, kind: str) -> None:
    with torch.inference_mode():
        merge = MERGES[kind](one, other)
        base = base_from_model(merge)
        assert_read_as_sampled(base, merge)
        assert base.notes == (
            f"{len(merge.patches)} weights of the connected model were changed by a merge or another node: they are "
            "read with these changes",
        )
        changed = [name for name, layer in base.layers.items() if layer.weight.key in merge.patches]
        first = base.layers[changed[0]]
        assert not torch.equal(base.read(first), base_from_model(one).read(first))


@pytest.mark.parametrize("kind", ["simple", "blocks"])
def test_a_merge_that_was_just_sampled_is_read_the_same(one: Any, other: Any, kind: str) -> None:
    with torch.inference_mode():
        merge = MERGES[kind](one, other)
        base = base_from_model(merge)
        before = {name: base.read(layer) for name, layer in base.layers.items()}
        fingerprint = base.fingerprint
        merge.patch_model()  # as sampling does
        try:
            assert all(torch.equal(base.read(base.layers[name]), weight) for name, weight in before.items())
            assert base_from_model(merge).fingerprint == fingerprint
        finally:
            merge.unpatch_model()


@pytest.mark.parametrize("where", ["on the merge", "below the merge", "inside the merge"])
def test_a_lora_beside_a_merge_is_left_out_and_named(one: Any, other: Any, pair: SmallPair, where: str) -> None:
    lora = load_file(pair.lora)

    def with_lora(model: Any) -> Any:
        return comfy.sd.load_lora_for_models(model, None, lora, 0.75, 0.0)[0]

    plain = MERGES["simple"](one, other)
    mixed = {
        "on the merge": lambda: with_lora(plain),
        "below the merge": lambda: MERGES["simple"](with_lora(one), other),
        "inside the merge": lambda: MERGES["simple"](one, with_lora(other)),
    }[where]()
    expected, base = base_from_model(plain), base_from_model(mixed)
    assert all(torch.equal(base.read(layer), expected.read(layer)) for layer in base.layers.values())
    assert base.notes[1] == "LoRAs on the connected model are left out: lora on 64 weights at strength 0.75"
    assert base.fingerprint == expected.fingerprint


def test_each_kind_of_lora_is_left_out_by_its_name(one: Any, pair: SmallPair) -> None:
    key = "diffusion_model.time_embed.0"
    files = {
        "full differences on 1 weights": {f"{key}.diff": torch.ones(1280, 320)},
        "replaced weights on 1 weights": {f"{key}.set_weight": torch.ones(1280, 320)},
        "loha on 1 weights": {
            f"{key}.hada_w{number}_{side}": torch.ones(*shape)
            for number in (1, 2)
            for side, shape in (("a", (1280, 2)), ("b", (2, 320)))
        },
    }
    stored = base_from_model(one)
    layer = stored.layers["time_embed.0"]
    for words, tensors in files.items():
        patched, _ = comfy.sd.load_lora_for_models(one, None, tensors, 0.5, 0.0)
        base = base_from_model(patched)
        assert torch.equal(base.read(layer), stored.read(layer))
        assert words in base.notes[0]
    bypassed, _ = comfy.sd.load_bypass_lora_for_models(one, None, load_file(pair.lora), 0.5, 0.0)
    assert "bypass" in base_from_model(bypassed).notes[0]


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "int8_tensorwise", "mxfp8"])
def test_a_merge_on_a_quantised_model_is_read_as_merged(pair: SmallPair, other: Any, kind: str) -> None:
    unet = {k.removeprefix(PREFIX): v for k, v in load_file(pair.source).items() if k.startswith(PREFIX)}
    stored, expected = dict(unet), {}
    settings = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
    for key in (key for key, value in unet.items() if value.ndim == 2 and ".attn" in key):
        packed = QuantizedTensor.from_float(unet[key].bfloat16(), QUANT_ALGOS[kind]["comfy_tensor_layout"])
        stored |= packed.state_dict(key)
        stored[key.replace(".weight", ".comfy_quant")] = settings
        expected[key.removesuffix(".weight")] = packed.dequantize().float()
    quantised = comfy.sd.load_diffusion_model_state_dict(stored)
    second = base_from_model(other)
    merge = ModelMergeSimple().merge(quantised, other, 0.25)[0]
    base = base_from_model(merge)
    for name, weight in expected.items():
        wanted = 0.25 * weight + 0.75 * second.read(second.layers[name])
        assert torch.allclose(base.read(base.layers[name]), wanted, rtol=1e-2, atol=1e-3)
    assert base.fingerprint != base_from_model(quantised).fingerprint


def test_a_merge_with_a_model_that_lacks_a_layer_is_read_as_comfyui_merges_it(one: Any, other: Any) -> None:
    merge = one.clone()
    key = "diffusion_model.time_embed.0.weight"
    merge.add_patches(
        {key: [(torch.ones(3, 3), lambda weight, **_: weight)]}, 0.5, 0.5
    )  # of another shape: left as it is
    assert_read_as_sampled(base_from_model(merge), merge)


class SmallClip(torch.nn.Module):
    """As much of a text encoder as a merge node asks for."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.clip_l = torch.nn.Module()
        self.clip_l.transformer = torch.nn.Module()
        self.clip_l.transformer.text_model = torch.nn.Module()
        self.clip_l.transformer.text_model.encoder = torch.nn.Module()
        layer = torch.nn.Module()
        layer.mlp = torch.nn.Module()
        layer.mlp.fc1 = torch.nn.Linear(16, 24)
        layer.mlp.fc1.weight.data.normal_(generator=generator)
        self.clip_l.transformer.text_model.encoder.layers = torch.nn.ModuleList([layer])


def small_clip(seed: int) -> Any:
    """ComfyUI's CLIP around it."""
    clip = comfy.sd.CLIP(no_init=True)
    clip.cond_stage_model = SmallClip(seed)
    clip.patcher = comfy.model_patcher.ModelPatcher(clip.cond_stage_model, torch.device("cpu"), torch.device("cpu"))
    clip.tokenizer, clip.layer_idx, clip.use_clip_schedule, clip.tokenizer_options = None, None, False, {}
    clip.apply_hooks_to_conds = None
    return clip


@pytest.mark.parametrize(
    ("node", "factors"),
    [
        (lambda one, other: CLIPMergeSimple().merge(one, other, 0.3)[0], (0.3, 0.7)),
        (lambda one, other: CLIPAdd().merge(one, other)[0], (1.0, 1.0)),
        (lambda one, other: CLIPSubtract().merge(one, other, 0.5)[0], (0.5, -0.5)),
    ],
)
def test_a_merged_text_encoder_is_read_as_merged(node: Merge, factors: tuple[float, float]) -> None:
    one, other = small_clip(1), small_clip(2)
    bases = [base_from_clip(clip) for clip in (one, other, node(one, other))]
    (layer,) = bases[0].layers.values()
    first, second, merged = (base.read(layer) for base in bases)
    assert torch.allclose(merged, factors[0] * first + factors[1] * second, atol=1e-6)
    assert "connected text encoder were changed by a merge" in bases[2].notes[0]
    assert len({base.fingerprint for base in bases}) == 3


def test_fingerprints_of_loaded_models_tell_every_weight(one: Any, other: Any, pair: SmallPair) -> None:
    merges = [MERGES[kind](one, other) for kind in MERGES]
    found = [base_from_model(model).fingerprint for model in (one, other, *merges)]
    assert len(set(found)) == len(found)
    again = [MERGES[kind](one, other) for kind in MERGES]
    assert [base_from_model(model).fingerprint for model in again] == found[2:]
    assert base_from_model(load(pair.source)).fingerprint == found[0]


@pytest.mark.parametrize("role", ["weight", "bias"])
def test_a_fingerprint_follows_any_single_layer(pair: SmallPair, tmp_path: Path, role: str) -> None:
    tensors = load_file(pair.source)
    keys = [key for key in tensors if key.startswith(PREFIX) and key.endswith(role)]
    found = {base_from_model(load(pair.source)).fingerprint}
    for key in keys[3 :: len(keys) // 5]:
        changed = tensors[key].clone()
        changed.view(-1)[-1] += 1
        save_file({**tensors, key: changed}, tmp_path / "changed.safetensors")
        found.add(base_from_model(load(tmp_path / "changed.safetensors")).fingerprint)
    assert len(found) == len(keys[3 :: len(keys) // 5]) + 1


def test_a_model_is_hashed_once_and_again_when_it_was_changed_in_place(
    pair: SmallPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_transfer.nodes.host.base import fingerprint

    counted: list[int] = []
    real = fingerprint._hash_of
    monkeypatch.setattr(fingerprint, "_hash_of", lambda values: (counted.append(1), real(values))[1])
    model = load(pair.source)
    first = base_from_model(model).fingerprint
    assert base_from_model(model.clone()).fingerprint == first
    assert len(counted) == 1
    with torch.no_grad():
        model.model.diffusion_model.time_embed[2].bias.add_(1)
    assert base_from_model(model).fingerprint != first
    assert len(counted) == 2
    assert model.model in fingerprint._known


def test_the_node_says_what_it_left_out(one: Any, pair: SmallPair) -> None:
    from lora_transfer.nodes import load_base

    patched, _ = comfy.sd.load_lora_for_models(one, None, load_file(pair.lora), 1.0, 0.0)
    shown = load_base.LoadTargetBase.execute("", model=patched).ui
    said = [line["text"] for line in shown["lora_transfer"][0]["lines"]]
    assert "LoRAs on the connected model are left out: lora on 64 weights at strength 1." in said
