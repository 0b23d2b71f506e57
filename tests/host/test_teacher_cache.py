"""What a kept set of lessons must not be taken for."""

from typing import Any

import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from comfy_extras.nodes_model_merging import ModelMergeSimple

from lora_transfer.nodes.host.adapter.apply import apply
from lora_transfer.nodes.host.refine.teacher_cache import changes_of
from tests.host.conftest import SmallPair
from tests.host.small_check import Models, loaded, strengthened


@pytest.fixture(scope="module")
def models(pair: SmallPair) -> Models:
    return loaded(pair)


def test_merges_with_other_models_and_other_loras_are_told_apart(models: Models) -> None:
    with torch.inference_mode():
        merges = [ModelMergeSimple().merge(models.target, other, 0.5)[0] for other in (models.source, models.target)]
        loras = [apply(one, models.source, None, 1.0, 0.0).model for one in (models.lora, strengthened(models.lora, 2))]
        told = [changes_of(one) for one in (*merges, *loras, models.source)]
        again = ModelMergeSimple().merge(models.target, models.source, 0.5)[0]
        assert changes_of(again) == told[0]
    assert all(one not in told[:place] for place, one in enumerate(told))


def test_a_model_of_velocity_is_told_from_one_of_noise_at_the_same_levels(models: Models) -> None:
    kinds = [ModelSamplingDiscrete().patch(models.source, kind, False)[0] for kind in ("eps", "v_prediction")]
    first, second = (changes_of(one) for one in kinds)
    assert first is not None
    assert first != second


def test_a_model_whose_changes_cannot_be_told_keeps_no_lessons(models: Models) -> None:
    changed: list[Any] = [models.source.clone() for _ in range(3)]
    changed[0].set_model_attn1_patch(lambda q, k, v, _: (q, k, v))
    changed[1].add_wrapper("apply_model", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    changed[2].add_object_patch("diffusion_model.time_embed", torch.nn.Identity())
    assert [changes_of(one) for one in changed] == [None] * 3
