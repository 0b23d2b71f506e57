"""Source and target models that are swapped are found out, where a transferred LoRA is used between them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lora_transfer.core.errors import InvalidSetting
from lora_transfer.core.plan import TransferSettings
from lora_transfer.core.resources import Resources
from lora_transfer.core.subspace import RankRule
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.base.from_model import base_from_model
from lora_transfer.nodes.host.compare import CompareSettings, compare_bases
from lora_transfer.nodes.host.project import project
from lora_transfer.nodes.host.swapped import require_target
from tests.host.conftest import SmallPair
from tests.host.small_check import Models, loaded
from tests.host.small_refine import Emoji, emoji


@pytest.fixture(scope="module", autouse=True)
def as_nodes_run() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def models(pair: SmallPair) -> Models:
    return loaded(pair)


@pytest.fixture(scope="module")
def transferred(pair: SmallPair, models: Models) -> Adapter:
    bases = base_from_file(pair.source, "source.safetensors"), base_from_file(pair.target, "target.safetensors")
    settings = CompareSettings(RankRule("fraction", 0.5), "weight_cosine")
    compared = compare_bases(*bases, models.lora, settings, Resources(), lambda text: None)
    return project(compared.comparison, models.lora, TransferSettings(threshold=0.1), Resources()).adapter


def test_a_check_between_swapped_models_is_refused_in_a_sentence_that_names_both(
    models: Models, transferred: Adapter
) -> None:
    with pytest.raises(InvalidSetting, match=r"swapped.*other way round") as caught:
        models.check(transferred, source=models.target, target=models.source)
    assert "target.safetensors" in str(caught.value)


def test_a_lora_from_a_file_that_was_transferred_earlier_is_refused_by_the_names_in_it(
    models: Models, transferred: Adapter, tmp_path: Path
) -> None:
    path = tmp_path / "saved.safetensors"
    save_file(transferred.state_dict(), path, dict(transferred.metadata))
    saved = adapter_from_file(path, path.name)
    bases = base_from_model(models.source), base_from_model(models.target)
    assert require_target(saved, *bases) == ()
    with pytest.raises(InvalidSetting, match="swapped"):
        require_target(saved, *reversed(bases))


def test_a_refinement_between_swapped_models_is_refused_before_anything_is_sampled() -> None:
    faces: Emoji = emoji()
    made_for_target = replace(faces.lora, fits=base_from_model(faces.target))
    told: list[str] = []
    with pytest.raises(InvalidSetting, match="swapped"):
        faces.refined(source=faces.target, target=faces.source, transferred=made_for_target, told=told)
    assert told == []


def test_a_lora_on_a_model_that_it_was_not_made_for_is_noted(models: Models, transferred: Adapter) -> None:
    base, target = base_from_model(models.source), base_from_model(models.target)

    def read_other(weight: Any) -> torch.Tensor:
        return -target.reader(weight)

    other = replace(target, name="other.safetensors", reader=read_other)
    notes = require_target(transferred, replace(base, reader=read_other), other)
    assert "other.safetensors" in notes[0]
    assert "other weights" in notes[0]
    assert require_target(transferred, base, target) == ()
    assert require_target(models.lora, target, base) == ()  # never transferred: a plain copy to compare with
