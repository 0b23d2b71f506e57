"""Bases and adapters read through ComfyUI's own parts, inside this process."""

import comfy.sd
import torch
from safetensors.torch import load_file, save_file

from lora_transfer.core.matching import match_by_name
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file, adapter_from_state_dict
from lora_transfer.nodes.host.adapter.place import place
from lora_transfer.nodes.host.adapter.write import to_state_dict
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.base.from_model import base_from_model
from tests.host.conftest import SmallPair

PREFIX = "model.diffusion_model."


def test_a_file_gives_every_matrix_of_the_model_by_its_own_name(pair: SmallPair) -> None:
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
    placed = place(adapter_from_state_dict(tensors, "mixed"), base_from_file(pair.source, "small"))
    transferred = [key for module in placed.modules for key in module.keys]
    skipped = [key for one in placed.skipped for key in one.keys]
    assert sorted([*transferred, *skipped, *placed.unread]) == sorted(tensors)
    assert {module.layer for module in placed.modules if not module.exact} == {"time_embed.0"}
    assert "connect the CLIP" in placed.unread["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"]
    assert placed.unread["lora_unet_conv_in.strange"] == "the host reads no such key of a LoRA"


def test_an_adapter_goes_through_placing_and_writing_unchanged(pair: SmallPair) -> None:
    base = base_from_file(pair.source, "small")
    first = place(adapter_from_file(pair.lora, "kohya"), base)
    written = to_state_dict(first.deltas, first.scales, base)
    again = place(adapter_from_state_dict(written, "comfy"), base)
    assert again.scales == first.scales
    for layer, delta in first.deltas.items():
        assert again.deltas[layer].minus(delta).norm() <= 1e-6 * delta.norm()
    assert all(float(value) == 4.0 for key, value in written.items() if key.endswith(".alpha"))


def test_a_tucker_core_is_contracted_into_down(pair: SmallPair) -> None:
    generator = torch.Generator().manual_seed(0)
    up, mid, down = (
        torch.randn(*shape, generator=generator) for shape in ((320, 3, 1, 1), (3, 3, 3, 3), (3, 320, 1, 1))
    )
    module = "diffusion_model.input_blocks.1.0.in_layers.2"
    tensors = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down, f"{module}.lora_mid.weight": mid}
    placed = place(adapter_from_state_dict(tensors, "tucker"), base_from_file(pair.source, "small"))
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
