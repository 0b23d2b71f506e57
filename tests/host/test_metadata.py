"""What a saved file says of itself is true of it."""

import json

import pytest
import torch

from lora_transfer.core.reports.envelope import Identity
from lora_transfer.core.reports.transfer import Report
from lora_transfer.nodes.host.adapter.adapter import Adapter, LayerChanges, adapter_from_file, transferred_adapter
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.adapter.save import cast_for_file, note_growth, respell
from lora_transfer.nodes.host.adapter.write import SPELLINGS
from lora_transfer.nodes.host.base.from_file import base_from_file, base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.host.conftest import SmallPair
from tests.host.families import header_of
from tests.host.test_bad_modules import LAYER, LOHA, PEFT, module

CONV = {
    "lora_unet_down_blocks_0_resnets_0_conv1.hada_w1_a": torch.ones(320, 2),
    "lora_unet_down_blocks_0_resnets_0_conv1.hada_w1_b": torch.ones(2, 2880),
    "lora_unet_down_blocks_0_resnets_0_conv1.hada_w2_a": torch.ones(320, 2),
    "lora_unet_down_blocks_0_resnets_0_conv1.hada_w2_b": torch.ones(2, 2880),
}


def transferred(tensors: dict[str, torch.Tensor], metadata: dict[str, str], base: HostBase) -> Adapter:
    """The adapter copied onto a base, as Project LoRA does it."""
    adapter = Adapter("made", "here", metadata, tensors=tensors)
    placed = read_adapter(adapter, base)
    identity = Identity("x", "y")
    report = Report("transfer", identity, identity, identity, {"measure": "subspace"}, (), ())
    return transferred_adapter(adapter, LayerChanges(base, placed.deltas, placed.scales), report)


def _changes(adapter: Adapter) -> LayerChanges:
    assert adapter.changes is not None
    return adapter.changes


@pytest.fixture(scope="module")
def base(pair: SmallPair) -> HostBase:
    return base_from_file(pair.source, "small")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_scale_of_pefts_settings_is_not_applied_again_when_the_file_is_read(base: HostBase, spelling: str) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8})}
    adapter = transferred(PEFT, metadata, base)
    assert "lora_adapter_metadata" not in adapter.metadata
    tensors = cast_for_file(respell(adapter, spelling), adapter, "float32")
    again = read_adapter(Adapter("again", "z", adapter.metadata, tensors=tensors), base)
    assert torch.allclose(again.deltas[LAYER].dense(), torch.full((320, 768), 8.0))


def test_a_loha_says_that_it_is_a_lora_now_and_a_locon_where_it_has_convolutions(base: HostBase) -> None:
    metadata = {
        "ss_network_module": "lycoris.kohya",
        "ss_network_args": '{"algo": "loha"}',
        "ss_network_dim": "4",
        "ss_network_alpha": "4",
        "ss_tag_frequency": "{}",
    }
    linear = transferred(module(LOHA), metadata, base).metadata
    assert (linear["ss_network_module"], json.loads(linear["ss_network_args"])) == ("networks.lora", {})
    assert (linear["ss_network_dim"], linear["ss_tag_frequency"]) == ("16", "{}")
    both = transferred(module(LOHA) | CONV, metadata, base).metadata
    assert both["ss_network_module"] == "lycoris.kohya"
    assert json.loads(both["ss_network_args"]) == {"algo": "locon", "conv_dim": "4", "conv_alpha": "4"}
    assert both["ss_network_dim"] == "16"


def test_the_base_is_named_where_its_family_tells_it_and_not_named_otherwise(base: HostBase) -> None:
    old = {"ss_base_model_version": "sdxl_base_v1-0", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    found = transferred(PEFT, old, base).metadata
    assert found["ss_base_model_version"] == "sd_v1"
    assert found["modelspec.architecture"] == "stable-diffusion-v1/lora"
    qwen = base_from_header(header_of("Qwen-Image"), "Qwen-Image", "header")
    layer = "diffusion_model.transformer_blocks.0.attn.to_q"
    lora = {f"{layer}.lora_up.weight": torch.ones(3072, 2), f"{layer}.lora_down.weight": torch.ones(2, 3072)}
    assert not old.keys() & transferred(lora, old, qwen).metadata.keys()
    assert not old.keys() & transferred(PEFT, {}, base).metadata.keys()


@pytest.mark.parametrize(("before", "kept"), [('{"schema": 1}', {"schema": 1}), ("oops", "oops")])
def test_an_earlier_origin_is_kept_even_where_it_is_no_json(base: HostBase, before: str, kept: object) -> None:
    found = json.loads(transferred(PEFT, {"lora_transfer": before}, base).metadata["lora_transfer"])
    assert found["before"] == kept


def test_a_loha_that_grows_many_times_is_reported_of_with_the_way_to_make_it_smaller(base: HostBase) -> None:
    loha = {key: torch.ones(16, 768) if key.endswith("_b") else torch.ones(320, 16) for key in module(LOHA)}
    (note,) = note_growth(Adapter("made", "here", {}, tensors=loha), _changes(transferred(loha, {}, base)))
    assert note.startswith("this LoRA is 8 times as large as its file (1 MB in float16)")
    assert "set out_rank to cut" in note
    assert not note_growth(Adapter("made", "here", {}, tensors=PEFT), _changes(transferred(PEFT, {}, base)))


def test_rank_and_alpha_of_a_lora_follow(base: HostBase, pair: SmallPair) -> None:
    adapter = adapter_from_file(pair.lora, "kohya")
    found = transferred(adapter.state_dict(), {"ss_network_dim": "1", "ss_network_alpha": "9"}, base).metadata
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("8", "4")
