"""Bases and adapters read through ComfyUI's own parts, inside this process."""

import json
from pathlib import Path
from types import SimpleNamespace

import comfy.memory_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import pytest
import torch
from comfy.ldm.ace.ace_step15 import AceStepConditionGenerationModel
from safetensors.torch import load_file, save_file

from lora_transfer.core.errors import UnreadableFile
from lora_transfer.core.files import TensorFile, TensorHeader, open_tensor_file
from lora_transfer.core.matching import match_by_name
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file, adapter_from_state_dict
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.adapter.write import to_state_dict
from lora_transfer.nodes.host.base.detect import KeepClassValues
from lora_transfer.nodes.host.base.from_file import base_from_file, base_from_header
from lora_transfer.nodes.host.base.from_model import base_from_clip, base_from_model
from tests.host.conftest import SmallPair
from tests.host.families import header_of

PREFIX = "model.diffusion_model."


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_file_gives_every_matrix_of_the_model_by_its_own_name(
    pair: SmallPair, monkeypatch: pytest.MonkeyPatch, dynamic: bool
) -> None:
    """ComfyUI loads weights dynamically on NVIDIA's cards: it then builds linear layers without a weight."""
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", dynamic)
    base = base_from_file(pair.source, "small")
    stored = load_file(pair.source)
    matrices = {
        key.removeprefix(PREFIX).removesuffix(".weight")
        for key, value in stored.items()
        if key.startswith(PREFIX) and value.ndim >= 2
    }
    assert base.family == "SD15"
    assert set(base.layers) == set(base.own_layers()) == matrices
    layer = base.layers["input_blocks.3.1.transformer_blocks.0.attn2.to_k"]
    assert (layer.block, layer.role) == ("input_blocks.3.1.transformer_blocks.0", "attn2.to_k")
    assert torch.equal(base.read(layer), stored[PREFIX + layer.name + ".weight"].float())


def test_a_loaded_model_gives_the_same_layers_and_weights_as_its_file(pair: SmallPair) -> None:
    model, *_ = comfy.sd.load_checkpoint_guess_config(str(pair.source), output_vae=False, output_clip=False)
    from_model, from_file = base_from_model(model), base_from_file(pair.source, "small")
    assert from_model.layers.keys() == from_file.layers.keys()
    assert from_model.name == pair.source.name
    for name, layer in from_file.layers.items():
        assert torch.equal(from_model.read(from_model.layers[name]), from_file.read(layer))


def test_patches_on_a_loaded_model_are_left_out(pair: SmallPair) -> None:
    model, *_ = comfy.sd.load_checkpoint_guess_config(str(pair.source), output_vae=False, output_clip=False)
    patched, _ = comfy.sd.load_lora_for_models(model, None, load_file(pair.lora), 1.0, 0.0)
    stored = base_from_file(pair.source, "small")
    pristine = stored.read(stored.layers["time_embed.0"])
    patched.patch_model()  # as sampling does
    try:
        written = patched.model.diffusion_model.time_embed[0].weight.float()
        assert not torch.equal(written, pristine)
        base = base_from_model(patched)
        assert torch.equal(base.read(base.layers["time_embed.0"]), pristine)
        assert base.notes == ("LoRAs on the connected model are left out: lora on 64 weights at strength 1",)
    finally:
        patched.unpatch_model()


def test_bases_of_another_family_are_compared_by_nothing_and_say_why(pair: SmallPair) -> None:
    source = base_from_file(pair.source, "small")
    matching = match_by_name(source.layers, {}, source.own_layers())
    assert not matching.pairs
    assert len(matching.unpaired) == len(source.layers)


def test_every_key_of_an_adapter_is_accounted_for(pair: SmallPair) -> None:
    tensors = load_file(pair.lora)
    tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"] = torch.tensor(1.0)
    tensors["lora_unet_nowhere.lora_up.weight"] = torch.zeros(2, 2)
    tensors["lora_unet_conv_in.strange"] = torch.zeros(2)
    tensors["lora_unet_time_embedding_linear_1.oft_blocks"] = torch.zeros(128, 10, 10)
    for name in ("lora_up.weight", "lora_down.weight", "alpha"):
        del tensors[f"lora_unet_time_embedding_linear_1.{name}"]
    placed = read_adapter(adapter_from_state_dict(tensors, "mixed"), base_from_file(pair.source, "small"))
    transferred = [key for module in placed.modules for key in module.keys]
    skipped = [key for one in placed.skipped for key in one.keys]
    assert sorted([*transferred, *skipped, *placed.unread]) == sorted(tensors)
    assert {module.layer for module in placed.modules if not module.exact} == {"time_embed.0"}
    assert "no CLIP is connected" in placed.unread["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"]
    (strange,) = (one for one in placed.skipped if "lora_unet_conv_in.strange" in one.keys)
    assert "lora_unet_conv_in.strange is not understood" in strange.reason


def test_an_adapter_is_read_and_written_unchanged(pair: SmallPair) -> None:
    base = base_from_file(pair.source, "small")
    first = read_adapter(adapter_from_file(pair.lora, "kohya"), base)
    written = to_state_dict(first.deltas, first.scales, base)
    again = read_adapter(adapter_from_state_dict(written, "comfy"), base)
    assert again.scales == first.scales
    for layer, delta in first.deltas.items():
        assert again.deltas[layer].minus(delta).norm() <= 1e-6 * delta.norm()
    ranks = {key: len(value) for key, value in written.items() if key.endswith(".lora_down.weight")}
    for key, rank in ranks.items():
        assert float(written[key.replace(".lora_down.weight", ".alpha")]) == 0.5 * rank


def test_a_tucker_core_is_contracted_into_down(pair: SmallPair) -> None:
    generator = torch.Generator().manual_seed(0)
    up, mid, down = (
        torch.randn(*shape, generator=generator) for shape in ((320, 3, 1, 1), (3, 3, 3, 3), (3, 320, 1, 1))
    )
    module = "diffusion_model.input_blocks.1.0.in_layers.2"
    tensors = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down, f"{module}.lora_mid.weight": mid}
    placed = read_adapter(adapter_from_state_dict(tensors, "tucker"), base_from_file(pair.source, "small"))
    expected = torch.einsum("oi,ijhw,jc->ochw", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    assert torch.allclose(placed.deltas["input_blocks.1.0.in_layers.2"].dense(), expected.flatten(1), atol=1e-4)


def test_a_quantised_file_is_refused_with_the_way_round(pair: SmallPair, tmp_path) -> None:
    import pytest

    from lora_transfer.core.errors import UnsupportedBase

    tensors = load_file(pair.source) | {PREFIX + "time_embed.0.scale_weight": torch.ones(1)}
    save_file(tensors, tmp_path / "quantised.safetensors")
    with pytest.raises(UnsupportedBase, match="connect that MODEL"):
        base_from_file(tmp_path / "quantised.safetensors", "quantised")


def test_an_adapter_between_nodes_never_hands_out_its_own_dict() -> None:
    adapter = Adapter("x", "y", {}, tensors={"a": torch.zeros(1)})
    adapter.state_dict().clear()
    assert set(adapter.state_dict()) == {"a"}


def in_shards(path: Path, folder: Path, count: int, index: bool) -> list[Path]:
    """The file's tensors dealt out to `count` files, as Hugging Face does it."""
    folder.mkdir()
    tensors = load_file(path)
    keys = list(tensors)
    names = [f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count)]
    homes = {key: names[place * count // len(keys)] for place, key in enumerate(keys)}
    for name in names:
        save_file({key: value for key, value in tensors.items() if homes[key] == name}, folder / name)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))
    return [folder / name for name in names]


@pytest.mark.parametrize("index", [True, False])
def test_any_shard_of_a_base_stands_for_the_whole(pair: SmallPair, tmp_path: Path, index: bool) -> None:
    whole = base_from_file(pair.source, "whole")
    found: set[str] = set()
    for path in in_shards(pair.source, tmp_path / "shards", 3, index):
        base = base_from_file(path, path.name)
        assert base.layers.keys() == whole.layers.keys()
        assert base.parameters == whole.parameters
        assert all(torch.equal(base.read(layer), whole.read(whole.layers[name])) for name, layer in base.layers.items())
        found.add(base.fingerprint)
    assert len(found) == 1


@pytest.mark.parametrize("index", [True, False])
def test_a_shard_without_the_others_is_refused(pair: SmallPair, tmp_path: Path, index: bool) -> None:
    first, second, third = in_shards(pair.source, tmp_path / "shards", 3, index)
    second.unlink()
    for path in (first, third):
        with pytest.raises(UnreadableFile, match=f"{second.name} is not beside it"):
            base_from_file(path, path.name)
    with pytest.raises(UnreadableFile, match="one of the 3 files"):
        base_from_header(open_tensor_file(first), "first", "header")


def test_a_part_of_a_model_under_another_name_is_reported() -> None:
    whole = {key.removeprefix(PREFIX): header for key, header in header_of("Flux dev").tensors.items()}
    part = TensorFile(Path("renamed.safetensors"), dict(list(whole.items())[:300]), {})
    (note,) = base_from_header(part, "renamed", "header").notes
    assert "it may be a part" in note


@pytest.mark.parametrize("family", ["Flux dev", "SD3 medium", "Wan 2.1 1.3B", "SDXL"])
def test_a_whole_model_has_no_note_of_missing_matrices(family: str) -> None:
    assert base_from_header(header_of(family), family, "header").notes == ()


def test_the_node_watches_every_shard(pair: SmallPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_transfer.nodes import load_base

    first, second, third = in_shards(pair.source, tmp_path / "shards", 3, True)
    monkeypatch.setattr(load_base, "base_path", lambda _: first)
    before = load_base.LoadSourceBase.fingerprint_inputs("any")
    third.write_bytes(third.read_bytes())
    after = load_base.LoadSourceBase.fingerprint_inputs("any")
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False]
    second.unlink()
    assert load_base.LoadSourceBase.fingerprint_inputs("any")[1] == "missing"


def test_the_fingerprint_of_a_file_is_taken_only_when_it_is_asked_for(
    pair: SmallPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_transfer.nodes.host.base import from_file

    counted: list[int] = []
    real = from_file.model_fingerprint
    monkeypatch.setattr(from_file, "model_fingerprint", lambda *rest: (counted.append(1), real(*rest))[1])
    base = base_from_file(pair.source, "small")
    assert not counted
    assert base.fingerprint == base.fingerprint
    assert len(counted) == 1


def test_a_base_whose_class_reads_values_of_its_own_is_read() -> None:
    operations = comfy.ops.disable_weight_init
    with KeepClassValues():
        made = AceStepConditionGenerationModel(device="meta", dtype=torch.float16, operations=operations)
    shapes = {f"{PREFIX}{key}": TensorHeader(tuple(one.shape), "F16") for key, one in made.state_dict().items()}
    base = base_from_header(TensorFile(Path("x"), shapes, {}), "ACE-Step 1.5", "header")
    assert base.family == "ACEStep15"
    module = "base_model.model.layers.3.self_attn.q_proj"
    tensors = {f"{module}.lora_B.weight": torch.ones(2048, 2), f"{module}.lora_A.weight": torch.ones(2, 2048)}
    assert read_adapter(adapter_from_state_dict(tensors, "made"), base).layers() == [
        "decoder.layers.3.self_attn.q_proj"
    ]


def test_a_projection_of_clip_l_that_no_file_has_written_is_no_layer() -> None:
    encoder = comfy.sd1_clip.SD1ClipModel(dtype=torch.float32)
    patcher = comfy.model_patcher.ModelPatcher(encoder, torch.device("cpu"), torch.device("cpu"))
    clip = SimpleNamespace(cond_stage_model=encoder, patcher=patcher)
    name = "clip_l.transformer.text_projection"
    projection = encoder.clip_l.transformer.text_projection.weight
    with torch.no_grad():
        projection.zero_()
        assert name in base_from_clip(clip).layers
        projection.fill_(torch.nan)
        assert name not in base_from_clip(clip).layers
