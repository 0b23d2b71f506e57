"""Every kind of adapter, made by the libraries that trainers use or by hand, against its own formula."""

import dataclasses

import pytest
import torch
from lycoris.modules import (
    ButterflyOFTModule,
    DiagOFTModule,
    FullModule,
    GLoRAModule,
    LoConModule,
    LohaModule,
    LokrModule,
    NormModule,
)
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.read import AdapterOnBase, read_adapter
from lora_transfer.nodes.host.base.from_file import base_from_file, base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.host.conftest import SmallPair
from tests.host.families import header_of
from tests.host.formulas import changed_weight, delta_of, dora

LINEAR = "input_blocks.3.1.transformer_blocks.0.attn2.to_k"
LINEAR_KOHYA = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "input_blocks.1.0.in_layers.2"
CONV_KOHYA = "lora_unet_down_blocks_0_resnets_0_conv1"


@pytest.fixture
def base(pair: SmallPair) -> HostBase:
    return base_from_file(pair.source, "small")


def weight_of(base: HostBase, layer: str) -> Tensor:
    return base.read(base.layers[layer]).reshape(base.layers[layer].weight.shape)


def module_on(weight: Tensor) -> nn.Module:
    """The layer as torch has it, for a library to wrap."""
    if weight.ndim == 2:
        made: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    else:
        made = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=1, bias=False)
    made.weight.data.copy_(weight)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    return made


def filled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Trained in name: every factor small noise, what a library keeps for itself untouched."""
    generator = torch.Generator().manual_seed(8)
    kept = ("alpha", "dora_scale", "lora_magnitude_vector", "rescale", "bias", "scale")
    return {
        key: value.clone() if key.rpartition(".")[2] in kept or value.ndim == 0 else _noise(value, generator)
        for key, value in state.items()
    }


def _noise(value: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(value.shape, generator=generator) * 0.05


def read_on(base: HostBase, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> AdapterOnBase:
    return read_adapter(Adapter("made", "here", metadata or {}, tensors=tensors), base)


def assert_same(found: LowRankDelta, expected: Tensor, limit: float = 1e-6) -> None:
    expected = expected.double().flatten(1)
    assert float(expected.norm()) > 0
    assert float((found.dense().double() - expected).norm() / expected.norm()) <= limit


FACTORED = [
    ("LoCon", LoConModule, {}),
    ("LoCon Tucker", LoConModule, {"use_tucker": True}),
    ("LoCon rsLoRA", LoConModule, {"rs_lora": True}),
    ("LoHa", LohaModule, {}),
    ("LoHa Tucker", LohaModule, {"use_tucker": True}),
    ("LoKr", LokrModule, {"factor": 8}),
    ("LoKr both", LokrModule, {"factor": 8, "decompose_both": True}),
    ("LoKr full", LokrModule, {"factor": 8, "full_matrix": True}),
    ("LoKr Tucker", LokrModule, {"factor": 8, "use_tucker": True}),
]


@pytest.mark.parametrize(("layer", "kohya"), [(LINEAR, LINEAR_KOHYA), (CONV, CONV_KOHYA)], ids=["linear", "conv"])
@pytest.mark.parametrize(("make", "options"), [one[1:] for one in FACTORED], ids=[one[0] for one in FACTORED])
def test_lycoris_kinds_with_factors_are_exact(base: HostBase, layer: str, kohya: str, make, options) -> None:
    module = make(kohya, module_on(weight_of(base, layer)), 1.0, lora_dim=4, alpha=2.0, **options)
    state = filled(module.state_dict())
    module.load_state_dict(state)
    module.double()  # the library's own rounding is not what is tested
    tensors = {f"{kohya}.{key}": value for key, value in state.items() if not key.startswith("org_module")}
    placed = read_on(base, tensors)
    # LoHa's and LoKr's get_diff_weight multiplies the scale in twice; forward() does not.
    shape = weight_of(base, layer).shape
    once = module.get_weight(shape) if make is not LoConModule else module.get_diff_weight(1.0, shape)[0]
    assert_same(placed.deltas[layer], once.detach())
    assert [one.exact for one in placed.modules] == [True]
    assert sorted([*placed.modules[0].keys, *placed.unread]) == sorted(tensors)


@pytest.mark.parametrize(("layer", "kohya"), [(LINEAR, LINEAR_KOHYA), (CONV, CONV_KOHYA)], ids=["linear", "conv"])
@pytest.mark.parametrize(
    ("make", "alpha"),
    [
        (DiagOFTModule, 0.0),
        (DiagOFTModule, 1.0),
        (ButterflyOFTModule, 0.0),
        (ButterflyOFTModule, 1.0),
        (GLoRAModule, 5.0),
    ],
    ids=["OFT", "OFT within a norm", "BOFT", "BOFT within a norm", "GLoRA"],
)
def test_lycoris_kinds_that_need_the_weight_change_it_by_their_formula(
    base: HostBase, layer: str, kohya: str, make, alpha: float
) -> None:
    weight = weight_of(base, layer)
    module = make(kohya, module_on(weight), 1.0, lora_dim=10, alpha=alpha)
    state = filled({key: value for key, value in module.state_dict().items() if not key.startswith("org_module")})
    placed = read_on(base, {f"{kohya}.{key}": value for key, value in state.items()})
    assert_same(placed.deltas[layer], changed_weight(state, weight) - weight.double(), 2e-6)
    assert [one.exact for one in placed.modules] == [False]


@pytest.mark.parametrize(("layer", "kohya"), [(LINEAR, LINEAR_KOHYA), (CONV, CONV_KOHYA)], ids=["linear", "conv"])
@pytest.mark.parametrize("on_out", [False, True], ids=["inputs", "outputs"])
@pytest.mark.parametrize("make", [LoConModule, LohaModule, LokrModule], ids=["LoCon", "LoHa", "LoKr"])
def test_doras_of_lycoris_are_those_of_comfyui(base: HostBase, layer: str, kohya: str, make, on_out: bool) -> None:
    """Over the inputs that is lycoris' own too; over the outputs lycoris takes the norm of W + dW."""
    weight = weight_of(base, layer)
    options = {"lora_dim": 4, "alpha": 2.0, "weight_decompose": True, "wd_on_out": on_out}
    module = make(kohya, module_on(weight), 1.0, **options)
    state = filled(module.state_dict())
    state["dora_scale"] = state["dora_scale"].detach() * 1.1
    module.load_state_dict(state)
    tensors = {f"{kohya}.{key}": value for key, value in state.items() if not key.startswith("org_module")}
    without = {key: value for key, value in tensors.items() if not key.endswith("dora_scale")}
    change = read_on(base, without).deltas[layer].dense()
    expected = dora(weight, change, state["dora_scale"])
    placed = read_on(base, tensors)
    # A difference of float32 weights ten times its size.
    assert_same(placed.deltas[layer], expected - weight.double(), 1e-5)
    assert not placed.unread
    if not on_out:
        loaded = module.apply_weight_decompose(weight + change.reshape(weight.shape)).detach()
        assert_same(placed.deltas[layer], loaded - weight, 1e-5)


def test_lycoris_full_and_norm_modules_are_differences_as_they_stand(base: HostBase) -> None:
    weight = weight_of(base, "time_embed.0")
    linear = nn.Linear(320, 1280)
    linear.weight.data.copy_(weight)
    full = FullModule("lora_unet_time_embedding_linear_1", linear, 1.0)
    full.apply_to()
    generator = torch.Generator().manual_seed(9)
    full.weight.data.add_(torch.randn(1280, 320, generator=generator))
    full.bias.data.add_(torch.randn(1280, generator=generator))
    norm = NormModule("lora_unet_down_blocks_0_resnets_0_norm1", nn.GroupNorm(32, 320), 1.0)
    made = {full: full.custom_state_dict(), norm: filled({"w_norm": norm.w_norm.data, "b_norm": norm.b_norm.data})}
    tensors = {f"{module.lora_name}.{key}": value for module, state in made.items() for key, value in state.items()}
    placed = read_on(base, tensors)
    assert_same(placed.deltas["time_embed.0"], made[full]["diff"])
    assert {one.parameter: one.values for one in placed.vectors}.keys() == {
        "diffusion_model.time_embed.0.bias",
        "diffusion_model.input_blocks.1.0.in_layers.0.weight",
        "diffusion_model.input_blocks.1.0.in_layers.0.bias",
    }
    for vector in placed.vectors:
        assert torch.equal(vector.values, tensors[vector.keys[0]])
    assert not placed.unread


@pytest.mark.parametrize("axis", [0, 1])
def test_dora_is_the_hosts_with_its_quirk(base: HostBase, axis: int) -> None:
    """Over the outputs the norm is that of W alone; over the inputs that of W + dW (docs/method.md, section 7)."""
    weight, generator = weight_of(base, LINEAR).double(), torch.Generator().manual_seed(2)
    up, down = torch.randn(320, 4, generator=generator) * 0.1, torch.randn(4, 768, generator=generator) * 0.1
    magnitude = torch.rand((320, 1) if axis == 0 else (1, 768), generator=generator) + 0.5
    tensors = {
        f"{LINEAR_KOHYA}.lora_up.weight": up,
        f"{LINEAR_KOHYA}.lora_down.weight": down,
        f"{LINEAR_KOHYA}.alpha": torch.tensor(2.0),
        f"{LINEAR_KOHYA}.dora_scale": magnitude,
    }
    moved = weight + up.double() @ down.double() * 0.5
    norm = weight.norm(dim=1, keepdim=True) if axis == 0 else moved.norm(dim=0, keepdim=True)
    assert_same(read_on(base, tensors).deltas[LINEAR], moved * magnitude.double() / norm - weight, 2e-6)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["LoRA", "rsLoRA", "DoRA"])
def test_peft_files_mean_what_peft_makes_of_them(base: HostBase, options: dict[str, bool]) -> None:
    import json

    weight = weight_of(base, LINEAR)
    inner = nn.Sequential()
    inner.add_module("to_k", module_on(weight))
    model = get_peft_model(inner, LoraConfig(r=4, lora_alpha=6, target_modules=["to_k"], **options))  # pyright: ignore
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    state = get_peft_model_state_dict(model)
    tensors = {key.replace("base_model.model.to_k", f"unet.{_diffusers()}"): value for key, value in state.items()}
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 6, **_prefixed(options)})}
    placed = read_on(base, tensors, metadata)
    merged = model.double().merge_and_unload().to_k.weight.detach()
    # DoRA's delta is a difference of float32 weights twenty times its size.
    assert_same(placed.deltas[LINEAR], merged - weight.double(), 2e-5 if options.get("use_dora") else 1e-6)
    assert not placed.unread


def _prefixed(options: dict[str, bool]) -> dict[str, bool]:
    return {f"unet.{key}": value for key, value in options.items()}


def _diffusers() -> str:
    return "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def test_full_differences_biases_norms_and_replaced_weights(base: HostBase) -> None:
    generator = torch.Generator().manual_seed(1)
    linear, norm = "diffusion_model.time_embed.0", "diffusion_model.input_blocks.1.0.in_layers.0"
    tensors = {
        f"{linear}.diff": torch.randn(1280, 320, generator=generator),
        f"{linear}.diff_b": torch.randn(1280, generator=generator),
        f"{norm}.w_norm": torch.randn(320, generator=generator),
        f"{norm}.b_norm": torch.randn(320, generator=generator),
        f"{CONV_KOHYA}.set_weight": torch.randn(320, 320, 3, 3, generator=generator),
    }
    placed = read_on(base, tensors)
    assert_same(placed.deltas["time_embed.0"], tensors[f"{linear}.diff"])
    assert_same(placed.deltas[CONV], tensors[f"{CONV_KOHYA}.set_weight"] - weight_of(base, CONV))
    assert {one.parameter: one.keys for one in placed.vectors} == {
        f"{linear}.bias": (f"{linear}.diff_b",),
        f"{norm}.weight": (f"{norm}.w_norm",),
        f"{norm}.bias": (f"{norm}.b_norm",),
    }
    keys = [key for part in (placed.modules, placed.vectors) for one in part for key in one.keys]
    assert sorted(keys) == sorted(tensors)


SPELLED = {
    "kohya": (LINEAR_KOHYA, ".lora_up.weight", ".lora_down.weight"),
    "diffusers today": (f"unet.{_diffusers()}", ".lora.up.weight", ".lora.down.weight"),
    "PEFT": (f"unet.{_diffusers()}", ".lora_B.weight", ".lora_A.weight"),
    "PEFT's adapter name": (_diffusers(), ".lora_B.default.weight", ".lora_A.default.weight"),
    "PEFT around a UNet": (f"base_model.model.{_diffusers()}", ".lora_B.weight", ".lora_A.weight"),
    "attention processors": (
        _diffusers().replace("attn2.", "attn2.processor."),
        "_lora.up.weight",
        "_lora.down.weight",
    ),
    "a doubled prefix": (f"unet.unet.{_diffusers()}", ".lora_B.weight", ".lora_A.weight"),
    "underscores": (LINEAR_KOHYA, "_lora_up.weight", "_lora_down.weight"),
    "ComfyUI": (f"diffusion_model.{LINEAR}", ".lora_up.weight", ".lora_down.weight"),
    "a checkpoint's names": (f"model.diffusion_model.{LINEAR}", ".lora_up.weight", ".lora_down.weight"),
    "text model of transformers": (
        f"unet.{_diffusers()}",
        ".lora_linear_layer.up.weight",
        ".lora_linear_layer.down.weight",
    ),
}


@pytest.mark.parametrize("spelled", SPELLED)
def test_a_lora_in_any_spelling_is_read(base: HostBase, spelled: str) -> None:
    module, up_end, down_end = SPELLED[spelled]
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn(320, 4, generator=generator), torch.randn(4, 768, generator=generator)
    placed = read_on(base, {module + up_end: up, module + down_end: down})
    assert_same(placed.deltas[LINEAR], up.double() @ down.double())
    assert not placed.unread


def test_the_naive_formula_agrees_with_itself_on_a_plain_lora() -> None:
    up, down = torch.ones(3, 2), torch.ones(2, 5)
    tensors = {"m.lora_up.weight": up, "m.lora_down.weight": down, "m.alpha": torch.tensor(1.0)}
    assert torch.equal(delta_of(tuple(tensors), tensors), torch.ones(3, 5).double())


def test_a_bias_that_the_base_does_not_have_is_listed_and_not_lost(base: HostBase) -> None:
    tensors = {
        f"{LINEAR_KOHYA}.lora_up.weight": torch.ones(320, 2),
        f"{LINEAR_KOHYA}.lora_down.weight": torch.ones(2, 768),
        f"{LINEAR_KOHYA}.diff_b": torch.ones(320),
        "diffusion_model.input_blocks.1.0.in_layers.0.w_norm": torch.ones(7, 7),
    }
    placed = read_on(base, tensors)
    assert placed.modules[0].keys == tuple(list(tensors)[:2])
    assert {one.keys for one in placed.skipped} == {(key,) for key in list(tensors)[2:]}
    assert not placed.vectors
    assert not placed.unread


def test_pefts_dora_on_a_slice_of_a_fused_weight_takes_the_slices_norms() -> None:
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(9216, 3072, generator=generator)
    flux = base_from_header(header_of("Flux dev"), "Flux dev", "header")
    flux = dataclasses.replace(flux, reader=lambda ref: weight[ref.rows.as_slice] if ref.rows else weight)
    module = "transformer.transformer_blocks.0.attn.to_v"
    up, down = torch.randn(3072, 2, generator=generator) * 0.1, torch.randn(2, 3072, generator=generator) * 0.1
    magnitude = torch.rand(3072, generator=generator) + 50
    tensors = {
        f"{module}.lora_B.weight": up,
        f"{module}.lora_A.weight": down,
        f"{module}.lora_magnitude_vector": magnitude,
    }
    placed = read_on(flux, tensors)
    (layer,) = placed.layers()
    rows = weight[6144:].double()
    moved = rows + up.double() @ down.double()
    expected = moved * magnitude.double()[:, None] / moved.norm(dim=1, keepdim=True) - rows
    assert_same(placed.deltas[layer], expected, 1e-5)


def test_two_keys_of_one_meaning_are_both_accounted_for(base: HostBase) -> None:
    module = f"unet.{_diffusers()}"
    tensors = {
        f"{module}.lora_B.weight": torch.ones(320, 2),
        f"{module}.lora_A.weight": torch.ones(2, 768),
        f"{module}.lora_B.default.weight": torch.zeros(320, 2),
    }
    for order in (tensors, dict(reversed(tensors.items()))):
        placed = read_on(base, order)  # half a change is not mixed into a whole one
        assert_same(placed.deltas[LINEAR], torch.full((320, 768), 2.0))
        assert set(placed.unread) == {f"{module}.lora_B.default.weight"}
