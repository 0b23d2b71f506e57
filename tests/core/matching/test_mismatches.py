"""Whatever two models differ in, the way from the bases to a plan ends in a plan with reasons, or in a refusal."""

import json

import pytest
import torch

from lora_transfer.core.layers import Base
from lora_transfer.core.matching import map_blocks, match_by_blocks, match_by_channels, share_lost
from lora_transfer.core.plan import Module, TransferSettings, plan_transfer
from lora_transfer.core.reports.transfer import similarity_report
from lora_transfer.core.similarity import compare
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.verdict import judge_bases
from tests.core.matching.models import BlockBase, Weights, sdxl, transformers, weights_of

CPU = torch.device("cpu")
MODELS: dict[str, Weights] = {
    "empty": {},
    "deep": weights_of(sdxl((1, 3, 2, 2))),
    "shallow": weights_of(sdxl((1, 2, 0, 1))),
    "narrow": weights_of(
        {block: {role: (shape[0] // 2, *shape[1:]) for role, shape in roles.items()} for block, roles in sdxl().items()}
    ),
    "wide": weights_of(
        {block: {role: (2 * shape[0], *shape[1:]) for role, shape in roles.items()} for block, roles in sdxl().items()}
    ),
    "other family": weights_of({f"double_blocks.{i}": {"img_attn.qkv": (72, 24), "ff": (32, 24)} for i in range(3)}),
    "same names, other kernels": weights_of(
        {
            block: {role: (8, 8, *[1] * (len(shape) - 2)) for role, shape in roles.items()}
            for block, roles in sdxl().items()
        }
    ),
    "a row, a column and a number": weights_of({"": {"conv_in": (1, 9), "time_embed": (9, 1), "dot": (1, 1)}}),
    "dead": {key: torch.zeros_like(weight) for key, weight in weights_of(sdxl()).items()},
    "constant": {key: torch.full_like(weight, 0.1) for key, weight in weights_of(sdxl()).items()},
    "half dead": {
        key: weight * (index % 2) for index, (key, weight) in enumerate(weights_of(transformers("blocks", 4)).items())
    },
}


def modules_of(base: Base) -> list[Module]:
    return [Module(name, layer.weight.matrix_shape, (f"{name}.key",)) for name, layer in base.layers.items()]


@pytest.mark.parametrize("target", MODELS)
@pytest.mark.parametrize("source", MODELS)
def test_any_two_models_give_a_plan_with_reasons_and_a_verdict(source: str, target: str) -> None:
    bases = BlockBase(source, MODELS[source]), BlockBase(target, MODELS[target])
    measure: str = "weight_cosine" if len(source) % 2 else "subspace"
    block_map = map_blocks(*bases, measure=measure, order="free" if len(target) % 2 else "in order", device=CPU)
    by_block = match_by_blocks(bases[0].layers, bases[1].layers, block_map, bases[0].layers)
    matching = match_by_channels(*bases, by_block, device=CPU)
    assert json.loads(block_map.dumps())["blocks"] is not None
    for one in (by_block, matching):
        found = {pair.source.name for pair in one.pairs} | {skipped.layer for skipped in one.unpaired}
        assert found == set(bases[0].layers)
        assert all(pair.why for pair in one.pairs)
        assert all(skipped.reason for skipped in one.unpaired)
    comparison = compare(*bases, by_block, RankRule("fraction", 0.5))
    plan = plan_transfer(comparison, modules_of(bases[0]), TransferSettings(threshold=0.0))
    assert len(plan.pairs) + len(plan.skipped) == len(bases[0].layers)
    assert similarity_report(comparison, None, 0.0).dumps()
    judged = judge_bases(*bases, matching, device=CPU)
    assert judged.reasons
    assert judged.word == "refuse" or matching.pairs
    assert 0 <= share_lost(matching, {}) <= 1
