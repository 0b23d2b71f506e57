"""Reports of the size of real models, with invented figures: a picture's speed does not depend on the figures."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from core.drift import WeightFigures
from core.layers import Layer, LayerPair, Skipped, WeightRef
from core.matching import BlockMap
from core.matching.block_map import BlockMatch, UnusedBlock
from core.matching.blocks import blocks_of
from core.plan import Module, TransferSettings, plan_transfer
from core.reports.envelope import Identity
from core.reports.layer import LayerReport
from core.reports.transfer import Report, similarity_report, transfer_report
from core.similarity import Comparison, LayerSimilarity, Measure, SideSimilarity
from core.subspace import RankRule

_Inventory = dict[str, dict[str, tuple[int, ...]]]  # block -> role -> shape

SDXL_DEPTHS = {"input_blocks": (0, 0, 2, 2, 10, 10), "middle_block": (10,), "output_blocks": (10, 10, 10, 2, 2, 2)}
PRUNED_DEPTHS = {"input_blocks": (0, 0, 2, 2, 4, 4), "middle_block": (0,), "output_blocks": (4, 4, 10, 2, 1, 1)}
_KEPT_BLOCKS = {4: (0, 2, 5, 9), 1: (0,)}  # the source's transformer blocks that a pruned model kept, by their number


class Inventory:
    """A base without weights: names and shapes are all that a report needs."""

    def __init__(self, name: str, blocks: _Inventory) -> None:
        self.name = self.fingerprint = name
        self.notes: tuple[str, ...] = ()
        self.layers: dict[str, Layer] = {}
        for block, roles in blocks.items():
            for role, shape in roles.items():
                layer_name = f"{block}.{role}" if block else role
                weight = WeightRef(layer_name, shape, "F16")
                self.layers[layer_name] = Layer(layer_name, role, block, weight, text_encoder=block.startswith("clip"))

    def read(self, layer: Layer) -> torch.Tensor:
        raise NotImplementedError(f"{layer.name} has no weight")


def sdxl(name: str, depths: Mapping[str, tuple[int, ...]] = SDXL_DEPTHS) -> Inventory:
    """The layers of SDXL with its text encoders, or of a model of other depths: 1059 layers."""
    blocks: _Inventory = {"": {"time_embed.0": (1280, 320), "time_embed.2": (1280, 1280)}}
    blocks["input_blocks.0"] = {"0": (320, 4, 3, 3)}
    for number, depth in zip((1, 2, 4, 5, 7, 8), depths["input_blocks"], strict=True):
        width = (320, 640, 1280)[(number - 1) // 3]
        blocks |= {f"input_blocks.{number}.0": _resnet(width), **_transformer(f"input_blocks.{number}.1", width, depth)}
        if number in (2, 5):
            blocks[f"input_blocks.{number + 1}.0"] = {"op": (width, width, 3, 3)}
    (depth,) = depths["middle_block"]
    if depth:
        blocks |= {"middle_block.0": _resnet(1280), **_transformer("middle_block.1", 1280, depth)}
    for number, depth in zip(range(9), (*depths["output_blocks"], 0, 0, 0), strict=True):
        width = (1280, 640, 320)[number // 3]
        blocks[f"output_blocks.{number}.0"] = {**_resnet(width), "skip_connection": (width, 2 * width, 1, 1)}
        blocks |= _transformer(f"output_blocks.{number}.1", width, depth)
    blocks[""]["out.2"] = (4, 320, 3, 3)
    for encoder, width, count in (("clip_l", 768, 12), ("clip_g", 1280, 32)):
        roles = {f"self_attn.{side}_proj": (width, width) for side in ("q", "k", "v", "out")}
        roles |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        blocks |= {f"{encoder}.transformer.text_model.encoder.layers.{index}": dict(roles) for index in range(count)}
    return Inventory(name, blocks)


def flux(name: str) -> Inventory:
    """The layers of Flux dev, with its fused weights and their parts."""
    blocks: _Inventory = {"": {"img_in": (3072, 64), "txt_in": (3072, 4096)}}
    for index in range(19):
        roles: dict[str, tuple[int, ...]] = {}
        for stream in ("img", "txt"):
            roles[f"{stream}_mod.lin"] = (18432, 3072)
            roles |= {f"{stream}_attn.qkv[{start}:{start + 3072}]": (3072, 3072) for start in (0, 3072, 6144)}
            roles[f"{stream}_attn.proj"] = (3072, 3072)
            roles |= {f"{stream}_mlp.0": (12288, 3072), f"{stream}_mlp.2": (3072, 12288)}
        blocks[f"double_blocks.{index}"] = roles
    for index in range(38):
        roles = {f"linear1[{start}:{start + 3072}]": (3072, 3072) for start in (0, 3072, 6144)}
        blocks[f"single_blocks.{index}"] = {
            **roles,
            "linear1[9216:21504]": (12288, 3072),
            "linear2": (3072, 15360),
            "modulation.lin": (9216, 3072),
        }
    return Inventory(name, blocks)


def compare_inventories(
    source: Inventory, target: Inventory, measure: Measure = "weight_cosine", likeness: float = 0.8
) -> Comparison[Any]:
    """A comparison with invented similarities around `likeness`. A model with fewer blocks kept evenly spaced ones."""
    block_map = _map_blocks(source, target)
    generator = torch.Generator().manual_seed(1)
    layers: dict[str, tuple[LayerPair, LayerSimilarity]] = {}
    names = [(layer.block or layer.name, layer.role) for layer in source.layers.values()]
    by_role = dict(zip(names, source.layers.values(), strict=True))
    feeds = {match.target: match.source for match in block_map.matches}
    for depth, layer in enumerate(target.layers.values()):
        origin = by_role.get((feeds.get(layer.block or layer.name) or "", layer.role))
        if origin is not None:
            noise = torch.randn((), generator=generator).item()
            share = likeness + 0.12 * math.sin(depth / 70) + 0.04 * noise - (0.1 if "ff" in layer.role else 0.0)
            layers[layer.name] = LayerPair(origin, layer, "same role"), _similarity(min(0.995, share), measure)
    fed = {pair.source.name for pair, _ in layers.values()}
    unpaired = {
        name: Skipped(name, f"{layer.block or name} feeds no block of the target")
        for name, layer in source.layers.items()
        if name not in fed
    }
    rule = RankRule("fraction", 0.5)
    return Comparison(source, target, layers, unpaired, rule, measure, block_map=block_map)


def comparison_report(comparison: Comparison[Any], adapter: str | None) -> Report:
    return similarity_report(comparison, None if adapter is None else Identity(adapter, adapter), 4.0)


def transferred_report(comparison: Comparison[Any], adapter: str, threshold: float) -> Report:
    """The report of a transfer of an adapter that changes every layer of the source."""
    modules = [
        Module(
            layer.name, layer.weight.matrix_shape, (f"{layer.name}.lora_up.weight", f"{layer.name}.lora_down.weight")
        )
        for layer in comparison.source.layers.values()
    ]
    plan = plan_transfer(comparison, modules, TransferSettings(threshold=threshold))
    layers = tuple(
        LayerReport(
            planned.pair,
            planned.similarity,
            "copied" if planned.action == "copy" else "transferred",
            planned.reason,
            planned.by_threshold,
            planned.module.keys,
        )
        for planned in plan.pairs
    )
    return transfer_report(comparison, plan, layers, Identity(adapter, adapter), lost=0.3, seconds=1.5)


def _similarity(share: float, measure: Measure) -> LayerSimilarity:
    weights = WeightFigures(share, 1 - share, (1.0, 1.0))
    if measure == "weight_cosine":
        return LayerSimilarity(weights)
    side = SideSimilarity(0.5 + share / 2, 0.5)
    return LayerSimilarity(weights, side, side, rank=640)


def _map_blocks(source: Inventory, target: Inventory) -> BlockMap:
    """Blocks of one name match; where the target has fewer transformer blocks it kept evenly spaced ones."""
    sources, targets = ([block.name for block in blocks_of(base.layers.values())] for base in (source, target))
    counts = {name: sum(block.startswith(name) for block in targets) for name in {_stem(block) for block in targets}}
    matches: list[BlockMatch] = []
    for name in targets:
        stem, number = _stem(name), name.rpartition(".")[2]
        kept = _KEPT_BLOCKS.get(counts[stem]) if stem.endswith("transformer_blocks") else None
        origin = name if kept is None else f"{stem}.{kept[int(number)]}"
        matches.append(BlockMatch(name, origin if origin in sources else None, "most similar block", 0.8))
    used = {match.source for match in matches}
    unused = [UnusedBlock(name, "no target block is like it") for name in sources if name not in used]
    return BlockMap("weight_cosine", tuple(matches), tuple(unused))


def _stem(block: str) -> str:
    return block.rpartition(".")[0]


def _resnet(width: int) -> dict[str, tuple[int, ...]]:
    convolution = (width, width, 3, 3)
    return {"in_layers.2": convolution, "emb_layers.1": (width, 1280), "out_layers.3": convolution}


def _transformer(block: str, width: int, depth: int) -> _Inventory:
    if not depth:
        return {}
    roles: dict[str, tuple[int, ...]] = {}
    for attention, context in (("attn1", width), ("attn2", 2048)):
        roles |= {f"{attention}.to_q": (width, width)}
        roles |= {f"{attention}.to_{side}": (width, context) for side in ("k", "v")}
        roles[f"{attention}.to_out.0"] = (width, width)
    roles |= {"ff.net.0.proj": (8 * width, width), "ff.net.2": (width, 4 * width)}
    blocks = {f"{block}.transformer_blocks.{index}": dict(roles) for index in range(depth)}
    return {block: {"proj_in": (width, width), "proj_out": (width, width)}, **blocks}
