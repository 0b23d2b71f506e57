"""T-LoRA files as LyCORIS writes them: read with the source base, or refused with the reason."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris import LycorisNetwork, create_lycoris, create_lycoris_from_weights
from lycoris.modules.tlora import TLoraModule
from torch import Tensor, nn

from lora_transfer.core.errors import NothingToTransfer, UnsupportedAdapter
from lora_transfer.core.plan import TransferSettings
from lora_transfer.core.resources import Resources
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file
from lora_transfer.nodes.host.adapter.apply import apply
from lora_transfer.nodes.host.adapter.contents import describe_contents
from lora_transfer.nodes.host.base.from_file import base_from_file, base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from lora_transfer.nodes.host.compare import CompareSettings, compare_bases
from lora_transfer.nodes.host.project import project
from lora_transfer.nodes.host.without_source import transfer_without_source
from tests.host.conftest import SmallPair
from tests.host.families import header_of
from tests.host.test_apply import KEY, model, patched  # noqa: F401  (a fixture)
from tests.host.test_bad_modules import DIFFUSERS, GOOD, LAYER, MODULE, read_on

LINEAR, CONV_OF_ONE, CONV = LAYER, "output_blocks.0.0.skip_connection", "input_blocks.1.0.in_layers.2"
_OWN = 5e-3  # LyCORIS takes an SVD in float32, and the change is a small difference
STARTS = ("principal", "middle", "last")


@pytest.fixture(scope="module")
def base(pair: SmallPair) -> HostBase:
    return base_from_file(pair.source, "small")


def weight_of(base: HostBase, layer: str) -> Tensor:
    return base.read(base.layers[layer]).reshape(base.layers[layer].weight.shape).float()


def layer_of(weight: Tensor) -> nn.Module:
    rows, columns, *kernel = weight.shape
    made = nn.Conv2d(columns, rows, 1, bias=False) if kernel else nn.Linear(columns, rows, bias=False)
    made.weight.data.copy_(weight)
    return made


def train(module: Any, steps: int = 5) -> None:
    """A few steps away from the start."""
    generator = torch.Generator().manual_seed(3)
    for parameter in (module.q_layer.weight, module.p_layer.weight, module.lambda_layer):
        for _ in range(steps):
            change = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.02 * float(parameter.data.norm() / change.norm()) * change)


def make_tlora(weight: Tensor, **options: Any) -> tuple[dict[str, Tensor], Tensor]:
    """(the tensors of a trained T-LoRA by the end of their keys, LyCORIS's own change of the weight)."""
    module = TLoraModule("made", layer_of(weight), lora_dim=4, alpha=2, **options)
    train(module)
    change = module.get_diff_weight()[0].detach()
    return {f".{end}": tensor.detach().clone() for end, tensor in module.state_dict().items()}, change


def naive_change(tensors: dict[str, Tensor], weight: Tensor, start: str = "principal") -> Tensor:
    """alpha / r (P diag(l) Q - P0 diag(l0) Q0) in float64, with the second product from numpy's SVD of the weight."""
    left, values, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    rank = tensors[".lambda_layer"].numel()
    first = {"principal": 0, "middle": (len(values) - rank) // 2, "last": len(values) - rank}[start]
    chosen = slice(first, first + rank)
    base = left[:, chosen] @ values[chosen].diag() @ right[chosen]
    p, q = (tensors[f".{name}_layer.weight"].flatten(1).double() for name in "pq")
    return (p @ tensors[".lambda_layer"].double().flatten().diag() @ q - base) * float(tensors[".alpha"]) / rank


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double().flatten(1)).norm() / expected.double().norm())


def named(tensors: dict[str, Tensor], module: str = MODULE) -> dict[str, Tensor]:
    return {module + end: tensor for end, tensor in tensors.items()}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("layer", [LINEAR, CONV_OF_ONE], ids=["linear", "convolution"])
def test_the_change_is_that_of_lycoris_and_of_its_formula(base: HostBase, layer: str, start: str) -> None:
    weight = weight_of(base, layer)
    tensors, change = make_tlora(weight, sig_type=start)
    placed = read_on(base, named(tensors, f"diffusion_model.{layer}"))
    found = placed.deltas[layer]
    assert found.rank == 8
    assert difference(found.dense(), naive_change(tensors, weight, start)) <= 1e-5
    assert difference(found.dense(), change) <= _OWN
    assert not placed.unread
    assert any("T-LoRA" in note for note in placed.notes)


def test_a_file_that_lycoris_wrote_is_read_as_lycoris_reads_it_back(base: HostBase, tmp_path: Path) -> None:
    weight = weight_of(base, LINEAR)
    *parents, name = DIFFUSERS.split(".")
    unet = layer_of(weight)
    for part in (name, *reversed(parents)):
        unet = nn.ModuleDict({part: unet})
    LycorisNetwork.apply_preset({"target_module": ["Linear"]})
    network = create_lycoris(unet, 1.0, 4, 2, algo="tlora")
    network.apply_to()  # before that the network has no modules to save
    train(network.loras[0])
    path = tmp_path / "tlora.safetensors"
    network.save_weights(str(path), torch.float32, {})
    again, _ = create_lycoris_from_weights(1.0, str(path), unet)
    file = adapter_from_file(path, "tlora")
    placed = read_on(base, dict(file.state_dict()))
    assert difference(placed.deltas[LINEAR].dense(), again.loras[0].get_diff_weight()[0].detach()) <= _OWN
    contents = describe_contents(file)
    assert (contents.kinds, contents.ranks) == ({"T-LoRA": 1}, {4: 1})


def test_it_is_read_on_rows_of_a_fused_weight() -> None:
    weight = torch.randn(9216, 256, generator=torch.Generator().manual_seed(5))
    flux = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    module = "lycoris_transformer_blocks_0_attn_to_v"
    layer = flux.layers["double_blocks.0.img_attn.qkv[6144:9216]"]
    layer = dataclasses.replace(layer, weight=dataclasses.replace(layer.weight, shape=(3072, 256)))
    flux = dataclasses.replace(
        flux,
        layers={**flux.layers, layer.name: layer},
        reader=lambda ref: weight[ref.rows.as_slice] if ref.rows else weight,
    )
    tensors, change = make_tlora(weight[6144:])
    placed = read_on(flux, named(tensors, module))
    assert difference(placed.deltas[layer.name].dense(), change) <= _OWN


def test_rows_in_another_order_in_the_file_come_into_the_models_order() -> None:
    flux = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    name = "final_layer.adaLN_modulation.1"
    weight = torch.randn(flux.layers[name].weight.matrix_shape, generator=torch.Generator().manual_seed(6))[:, :96]
    layer = dataclasses.replace(
        flux.layers[name], weight=dataclasses.replace(flux.layers[name].weight, shape=tuple(weight.shape))
    )
    flux = dataclasses.replace(flux, layers={**flux.layers, name: layer}, reader=lambda _: weight)
    tensors, change = make_tlora(torch.cat(weight.chunk(2)[::-1]))
    placed = read_on(flux, named(tensors, "transformer.norm_out.linear"))
    assert difference(placed.deltas[name].dense(), torch.cat(change.chunk(2)[::-1])) <= _OWN


def test_apply_changes_a_model_as_lycoris_does(model: Any, pair: SmallPair) -> None:  # noqa: F811
    weight = weight_of(base_from_file(pair.target, "target"), LAYER)
    tensors, change = make_tlora(weight)
    applied = apply(Adapter("made", "here", {}, tensors=named(tensors)), model, None, 0.5, 0.0)
    assert difference(patched(applied.model, KEY) - weight, change / 2) <= _OWN
    assert applied.summary().startswith("all 4 keys applied")


@pytest.mark.parametrize("options", [{"use_data_init": False}, {}], ids=["random directions", "another base"])
def test_a_change_that_the_source_does_not_tell_is_refused(base: HostBase, options: dict[str, bool]) -> None:
    weight = weight_of(base, LINEAR)
    torch.manual_seed(8)  # LyCORIS draws its random directions from torch's own generator
    tensors, _ = make_tlora(weight if options else torch.randn_like(weight), **options)
    placed = read_on(base, named(tensors))
    with pytest.raises(UnsupportedAdapter, match="T-LoRA") as refusal:
        placed.deltas[LINEAR]
    assert "Choose the base that it was trained on" in str(refusal.value)


BAD = {
    "without its lambda": ({".lambda_layer": None}, "lambda_layer is missing"),
    "of another width": ({".q_layer.weight": torch.ones(4, 1024)}, "expected its tlora to fit"),
    "of two ranks": ({".lambda_layer": torch.ones(1, 5)}, "expected its tlora to fit"),
    "with an alpha of nearly infinity": ({".alpha": torch.tensor(1e30)}, "alpha gives a scale"),
    "with NaN": ({".lambda_layer": torch.full((1, 4), float("nan"))}, "NaN"),
    "with a strange key": ({".strange": torch.ones(4)}, ".strange is not understood"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_module_is_skipped_with_its_reason(base: HostBase, what: str) -> None:
    changes, reason = BAD[what]
    tensors = make_tlora(weight_of(base, LINEAR))[0] | changes
    placed = read_on(base, named({end: tensor for end, tensor in tensors.items() if tensor is not None}) | GOOD)
    (skipped,) = placed.skipped
    assert reason in skipped.reason


def test_a_convolution_with_a_kernel_is_skipped_because_lycoris_cannot_train_it(base: HostBase) -> None:
    module = TLoraModule("made", nn.Conv2d(320, 320, 3, padding=1), lora_dim=4, alpha=2)
    with pytest.raises(RuntimeError):
        module.forward(torch.ones(1, 320, 4, 4))
    tensors = {f".{end}": tensor.detach() for end, tensor in module.state_dict().items()}
    (skipped,) = read_on(base, named(tensors, f"diffusion_model.{CONV}") | GOOD).skipped
    assert "no kernel" in skipped.reason


def test_it_is_transferred_as_a_lora_of_twice_its_rank(base: HostBase, pair: SmallPair) -> None:
    tensors, change = make_tlora(weight_of(base, LINEAR))
    adapter = Adapter("made", "here", {}, tensors=named(tensors))
    using, target = Resources(), base_from_file(pair.target, "target")
    compared = compare_bases(base, target, adapter, CompareSettings(), using, lambda _: None)
    transferred = project(compared.comparison, adapter, TransferSettings("copy"), using)
    written = transferred.adapter.state_dict()
    up, down = (next(tensor for key, tensor in written.items() if f"lora_{part}" in key) for part in ("up", "down"))
    assert up.shape[1] == 8
    assert difference(up @ down, change) <= _OWN
    assert any("T-LoRA" in note for note in transferred.notes)


def test_without_the_source_it_is_not_transferred(base: HostBase) -> None:
    tensors, _ = make_tlora(weight_of(base, LINEAR))
    adapter = Adapter("made", "here", {}, tensors=named(tensors))
    with pytest.raises(NothingToTransfer, match="the source base is missing"):
        transfer_without_source(adapter, base, TransferSettings(), Resources())
