"""One model in two layouts, the native one and diffusers': the same layers, values, parameters and transferred LoRA."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_transfer.core.files import TensorFile, open_tensor_file
from lora_transfer.core.layers import Rows
from lora_transfer.core.plan import TransferSettings, plan_transfer
from lora_transfer.core.resources import Resources
from lora_transfer.core.similarity import compare
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.survey import survey
from lora_transfer.core.transfer import transfer
from lora_transfer.nodes.host.adapter.adapter import Adapter
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.adapter.write import to_state_dict
from lora_transfer.nodes.host.base.from_file import base_from_file, base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from lora_transfer.nodes.host.base.layout import Piece, header_at, read_pieces
from lora_transfer.nodes.host.base.names import layer_name
from tests.host.families import UNETS, header_of
from tests.host.layouts import TWO_LAYOUTS, diffusers_header, diffusers_tensors
from tests.host.small_families import small_header, small_settings, write_small_unet


def bases_of(family: str) -> tuple[HostBase, HostBase]:
    """Full-size headers of both layouts."""
    native = header_of(family)
    both = native, diffusers_header(native, family)
    return base_from_header(both[0], family, "native"), base_from_header(both[1], family, "diffusers")


def write_both(folder: Path, family: str, seed: int, drifted_from: int | None = None) -> tuple[HostBase, HostBase]:
    """A small model in both layouts."""
    if family in UNETS:
        native, settings = load_file(write_small_unet(folder / "unet.safetensors", family)), UNETS[family]
    else:
        native, settings = _small_weights(family, seed, drifted_from), small_settings(family)
    bases: list[HostBase] = []
    for layout, tensors in (("native", native), ("diffusers", diffusers_tensors(native, family, settings))):
        path = folder / f"{seed} {layout}.safetensors"
        save_file(tensors, path)
        bases.append(base_from_file(path, layout))
    return bases[0], bases[1]


def _small_weights(family: str, seed: int, drifted_from: int | None = None) -> dict[str, Tensor]:
    """Random values; with `drifted_from`, the model of that seed with some noise on it. Families whose sizes are fixed
    have few inputs to each layer."""
    shapes = {key: one.shape for key, one in small_header(family).tensors.items()}
    if family in ("PixArt Sigma", "Z-Image"):
        shapes = {key: (shape[0], 8) if len(shape) == 2 else shape for key, shape in shapes.items()}
    generator = torch.Generator().manual_seed(seed)
    noise = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    if drifted_from is None:
        return noise
    return {key: value + 0.3 * noise[key] for key, value in _small_weights(family, drifted_from).items()}


def lora_on_everything(base: HostBase, generator: torch.Generator) -> dict[str, Tensor]:
    """A LoRA with native names on every whole layer, and changes of every bias and norm."""
    tensors: dict[str, Tensor] = {}
    for name, layer in base.layers.items():
        if "[" not in name:
            outputs, *inputs = layer.weight.shape
            up, down = torch.randn(outputs, 2, generator=generator), torch.randn(2, *inputs, generator=generator)
            tensors[f"diffusion_model.{name}.lora_up.weight"] = up.reshape(outputs, 2, *(1 for _ in inputs[1:]))
            tensors[f"diffusion_model.{name}.lora_down.weight"] = down
    for parameter, shape in base.parameters.items():
        end = ".diff_b" if parameter.endswith(".bias") else ".diff"
        module = parameter.removesuffix(".bias").removesuffix(".weight")
        tensors[module + end] = torch.randn(shape, generator=generator)
    return tensors


@pytest.mark.parametrize("family", TWO_LAYOUTS)
def test_both_layouts_have_the_same_layers_parameters_and_names(family: str) -> None:
    native, diffusers = bases_of(family)

    assert diffusers.family == native.family
    assert list(diffusers.layers.values()) == list(native.layers.values())
    assert diffusers.parameters == native.parameters
    assert diffusers.key_map.keys() == native.key_map.keys()


SMALL = ("SDXL", "Flux dev", "SD3 medium", "AuraFlow", "PixArt Sigma", "Z-Image")


@pytest.mark.parametrize("family", SMALL)
def test_both_layouts_have_the_same_values(family: str, tmp_path: Path) -> None:
    native, diffusers = write_both(tmp_path, family, 1)

    assert list(diffusers.layers) == list(native.layers)
    for name, layer in native.layers.items():
        assert torch.equal(diffusers.read(diffusers.layers[name]), native.read(layer)), name


@pytest.mark.parametrize("family", SMALL)
def test_a_lora_with_native_names_is_the_same_on_both_layouts(
    family: str, tmp_path: Path, generator: torch.Generator
) -> None:
    native, diffusers = write_both(tmp_path, family, 1)
    tensors = lora_on_everything(native, generator)

    placed = [read_adapter(Adapter("made", "here", {}, tensors=tensors), base) for base in (native, diffusers)]

    assert not placed[0].skipped
    assert not placed[0].unread
    first, second = (
        to_state_dict(one.deltas, one.scales, base, vectors=one.vectors)
        for one, base in zip(placed, (native, diffusers), strict=True)
    )
    assert placed[1].modules == placed[0].modules
    assert not placed[1].skipped
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("method", ["restore_both", "restore", "rotate", "copy"])
@pytest.mark.parametrize("family", ["Flux dev", "SD3 medium", "AuraFlow"])
def test_a_lora_is_transferred_alike_between_bases_of_either_layout(
    family: str, method: str, tmp_path: Path, generator: torch.Generator
) -> None:
    sources, targets = write_both(tmp_path, family, 1), write_both(tmp_path, family, 2, drifted_from=1)
    swapped = "transformer.norm_out.linear"
    m, n = sources[0].layers[layer_name(sources[0].key_map[swapped])].weight.matrix_shape
    tensors = {
        f"{swapped}.lora_B.weight": torch.randn(m, 2, generator=generator),
        f"{swapped}.lora_A.weight": torch.randn(2, n, generator=generator),
        f"{swapped}.dora_scale": torch.rand(1, n, generator=generator) + m**0.5,
    }

    first, *others = (_transferred(tensors, source, target, method) for source in sources for target in targets)

    for other in others:
        assert other.keys() == first.keys()
        for layer, delta in first.items():
            assert float((other[layer] - delta).norm() / delta.norm()) <= 1e-4


def _transferred(tensors: dict[str, Tensor], source: HostBase, target: HostBase, method: str) -> dict[str, Tensor]:
    """The deltas that Project LoRA makes, dense."""
    adapter, using = Adapter("made", "here", {}, tensors=tensors), Resources()
    placed = read_adapter(adapter, source)
    surveyed = survey(source, target, placed.layers(), match_by="names", deltas=placed.factored, using=using)
    compared = compare(source, target, surveyed, RankRule("fraction", 0.5), deltas=placed.factored, using=using)
    plan = plan_transfer(compared, placed.modules, TransferSettings(method, threshold=0.0))
    transferred = transfer(compared, plan, placed.deltas, using)
    return {layer: delta.dense() for layer, delta in transferred.deltas.items()}


def test_pieces_are_read_as_the_rows_that_were_asked_for(tmp_path: Path, generator: torch.Generator) -> None:
    tensors = {name: torch.randn(rows, 3, generator=generator) for name, rows in (("q", 4), ("k", 2), ("v", 6))}
    save_file(tensors, tmp_path / "apart.safetensors")
    file = open_tensor_file(tmp_path / "apart.safetensors")
    pieces = (Piece("v", Rows(3, 6)), Piece("q", Rows(0, 4)), Piece("k", Rows(0, 2)), Piece("v", Rows(0, 3)))
    whole = torch.cat([tensors["v"][3:], tensors["q"], tensors["k"], tensors["v"][:3]])

    assert header_at(file, pieces).shape == whole.shape
    assert torch.equal(read_pieces(file, pieces, None), whole)
    for start in range(12):
        for stop in range(start + 1, 13):
            assert torch.equal(read_pieces(file, pieces, Rows(start, stop)), whole[start:stop])


def test_a_fused_layer_of_which_a_part_is_missing_is_no_layer_rather_than_a_wrong_one() -> None:
    header = diffusers_header(header_of("Flux dev"), "Flux dev")
    missing = "transformer_blocks.3.attn.to_k.weight"
    tensors = {key: one for key, one in header.tensors.items() if key != missing}
    whole, cut = (
        base_from_header(TensorFile(header.path, held, {}), "Flux", "h") for held in (header.tensors, tensors)
    )

    lost = set(whole.layers) - set(cut.layers)

    assert {name.partition("[")[0] for name in lost} == {"double_blocks.3.img_attn.qkv"}
