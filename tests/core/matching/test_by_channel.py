import pytest
import torch
from torch import Tensor

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.errors import ShapeMismatch
from lora_transfer.core.matching import Matching, match_by_channels, match_by_name
from tests.core.matching.models import BlockBase, Weights, carried, perturbed, weights_of

# A small UNet level: layer -> (rows, input channels) by the stream whose channels they are, and the kernel.
STREAMS = {"latent": 4, "time": 40, "text": 30, "wide": 64, "hidden": 48, "inner": 56, "narrow": 32}
PLACES = {
    "conv_in": ("wide", "latent", 3),
    "res.conv1": ("hidden", "wide", 3),
    "res.emb": ("hidden", "time", 1),
    "res.conv2": ("wide", "hidden", 3),
    "attn.to_q": ("inner", "wide", 0),
    "attn.to_k": ("inner", "text", 0),
    "attn.to_v": ("narrow", "text", 0),
    "attn.to_out": ("wide", "narrow", 0),
    "conv_out": ("latent", "wide", 3),
}
KEPT = {"wide": 48, "hidden": 32, "inner": 40, "narrow": 24}


def parent_weights(seed: int = 0) -> Weights:
    shapes = {
        name: (STREAMS[out], STREAMS[into], *[taps] * 2 * (taps > 0)) for name, (out, into, taps) in PLACES.items()
    }
    return weights_of({name: {"weight": shape} for name, shape in shapes.items()}, seed)


def pruned(parent: Weights, cosine: float = 1.0) -> tuple[Weights, dict[str, Tensor]]:
    """The parent with channels left out of four of its streams, and the channels that were kept."""
    generator = torch.Generator().manual_seed(5)
    kept = {
        stream: torch.randperm(width, generator=generator)[: KEPT.get(stream, width)].sort().values
        for stream, width in STREAMS.items()
    }
    return {
        (name, "weight"): perturbed(parent[name, "weight"][kept[out]][:, kept[into]], cosine, generator)
        for name, (out, into, _) in PLACES.items()
    }, kept


def followed(parent: Weights, child: Weights) -> tuple[BlockBase, BlockBase, Matching]:
    source, target = BlockBase("parent", parent), BlockBase("child", child)
    by_name = match_by_name(source.layers, target.layers, source.layers)
    return source, target, match_by_channels(source, target, by_name, device=torch.device("cpu"))


@pytest.mark.parametrize("cosine", [1.0, 0.95, 0.8])
def test_the_channels_that_a_child_kept_are_found_from_the_sides_that_it_shares(cosine: float) -> None:
    child, kept = pruned(parent_weights(), cosine)
    _, _, found = followed(parent_weights(), child)
    assert not found.unpaired
    for name, (out, into, _) in PLACES.items():
        channels = found.channels[f"{name}.weight"]
        assert torch.equal(channels.rows, kept[out]), name
        assert torch.equal(channels.columns, kept[into]), name
    assert all("channels kept from the source: correlation" in pair.why for pair in found.pairs)


@pytest.mark.parametrize("method", ["copy", "restore"])
def test_a_narrower_child_gets_the_kept_part_of_its_parents_delta_exactly(method: str) -> None:
    child, kept = pruned(parent_weights())
    source, target, found = followed(parent_weights(), child)
    for pair in found.pairs:
        out, into, _ = PLACES[pair.target.name.removesuffix(".weight")]
        rows, columns = pair.source.weight.matrix_shape
        delta = LowRankDelta(torch.ones(rows, 2) + torch.eye(rows, 2), torch.arange(2.0 * columns).reshape(2, columns))
        channels = found.channels[pair.target.name]
        weights = found.source_weight(pair, source.read(pair.source)), target.read(pair.target)
        moved = carried(method, channels.delta(delta), weights)
        whole = delta.dense().unflatten(1, pair.source.weight.shape[1:])
        assert torch.allclose(moved.dense(), whole[kept[out]][:, kept[into]].flatten(1), rtol=1e-3)


def test_unrelated_weights_of_another_width_are_refused_with_the_reason() -> None:
    child, _ = pruned(parent_weights(seed=8))
    _, _, found = followed(parent_weights(), child)
    assert not found.pairs
    reasons = {one.layer: one.reason for one in found.unpaired}
    assert set(reasons) == {f"{name}.weight" for name in PLACES}
    assert "was not made by removing channels" in reasons["conv_in.weight"]
    assert "neither side is shared by both bases" in reasons["res.conv2.weight"]


def test_wider_targets_and_other_kernels_are_refused_in_words() -> None:
    parent = weights_of({"a": {"w": (16, 8)}, "b": {"w": (8, 4, 3, 3)}})
    child = weights_of({"a": {"w": (20, 8)}, "b": {"w": (8, 4, 1, 1)}})
    _, _, found = followed(parent, child)
    reasons = {one.layer: one.reason for one in found.unpaired}
    assert reasons["a.w"].startswith("the target is wider, [16, 8] in the source, [20, 8] in the target")
    assert "kernels of different size" in reasons["b.w"]


def test_a_chain_that_breaks_in_the_middle_keeps_what_came_before() -> None:
    child, kept = pruned(parent_weights())
    stranger, _ = pruned(parent_weights(seed=3))
    child["res.conv2", "weight"] = stranger["res.conv2", "weight"]
    _, _, found = followed(parent_weights(), child)
    assert [one.layer for one in found.unpaired] == ["res.conv2.weight"]
    assert torch.equal(found.channels["res.conv1.weight"].rows, kept["hidden"])


def test_a_matrix_that_does_not_come_in_groups_of_the_kernel_is_an_error() -> None:
    child, _ = pruned(parent_weights())
    _, _, found = followed(parent_weights(), child)
    with pytest.raises(ShapeMismatch, match="groups of 9"):
        found.channels["conv_in.weight"].weight(torch.zeros(64, 35))


def test_layers_that_fit_by_name_are_left_as_they_are() -> None:
    _, target, found = followed(parent_weights(), parent_weights())
    assert len(found.pairs) == len(target.layers)
    assert not found.channels
    assert torch.equal(found.source_weight(found.pairs[0], torch.ones(2, 2)), torch.ones(2, 2))


def test_the_chain_leads_through_layers_that_the_adapter_does_not_touch() -> None:
    child, _ = pruned(parent_weights())
    source, target = BlockBase("parent", parent_weights()), BlockBase("child", child)
    by_name = match_by_name(source.layers, target.layers, ["attn.to_out.weight", "nowhere"])
    found = match_by_channels(source, target, by_name, device=torch.device("cpu"))
    assert [pair.source.name for pair in found.pairs] == list(found.channels) == ["attn.to_out.weight"]
    assert [one.reason for one in found.unpaired] == ["the source base has no such layer"]
