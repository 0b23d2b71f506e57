"""What a check asks of the models: on which latents and noise levels, in which memory, and which models it refuses."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sd
import pytest
import torch

from lora_transfer.core.errors import NotMeasurable
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
from lora_transfer.nodes.host.sampling import outputs as host_outputs
from tests.host.conftest import SmallPair
from tests.host.small_check import SEARCH, SMALL, Models, loaded, pooled, strengthened, text
from tests.host.small_families import SMALL_FAMILIES, write_small
from tests.host.test_small_families import lora_for

POOLED = {"SD3 medium": 2048, "Flux dev": 768}


@pytest.fixture(scope="module", autouse=True)
def as_nodes_run() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def models(pair: SmallPair) -> Models:
    return loaded(pair)


def test_a_cancelled_check_leaves_the_models_as_they_were(models: Models) -> None:
    class Cancelled(BaseException):
        pass

    def stop(done: int, total: int, layer: str) -> None:
        if done > 20:
            raise Cancelled

    before = models.check(models.lora)
    with pytest.raises(Cancelled):
        models.check(models.lora, progress=stop)
    assert pooled(models.check(models.lora)) == pooled(before)


def test_a_given_latent_takes_the_place_of_sampling_and_an_empty_one_gives_the_size(models: Models) -> None:
    picture = torch.randn(3, 4, 8, 16, generator=torch.Generator().manual_seed(1))
    given = models.check(models.lora, latent={"samples": picture})
    empty = models.check(models.lora, latent={"samples": torch.zeros(3, 4, 8, 8)})
    by_size = models.check(models.lora)
    assert given.report.settings["states"] == "given"
    assert given.report.settings["latents"] == 3
    assert (empty.report.settings["states"], empty.report.settings["latents"]) == ("sampled", 2)
    assert pooled(empty) == pooled(by_size) != pooled(given)
    on_itself = models.check(models.lora, latent={"samples": picture}, target=models.source)
    assert pooled(on_itself).change_match == pytest.approx(1, abs=1e-6)


def test_a_given_latent_is_noised_by_the_models_own_rule(models: Models) -> None:
    picture = torch.ones(1, 4, 8, 8)
    settings = replace(SMALL, seeds=1)
    start = host_outputs.make_start(models.source, models.source, {"samples": picture}, settings)
    found = host_outputs.predict_outputs(models.source, text(768), start, None, lambda _: None, "the source")
    space = models.source.model.latent_format
    for level, state in zip(start.levels, found.states, strict=True):
        assert torch.allclose(state, space.process_in(picture) + level * start.noise, atol=1e-4)


def test_what_does_not_fit_the_card_at_once_goes_one_at_a_time(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = models.check(models.lora)
    one_pass, batches = host_outputs._pass, []

    def small_card(model: Any, conditioning: Any, start: Any, states: Any, tick: Any) -> Any:
        batches.append(len(start.noise))
        if len(start.noise) > 1:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return one_pass(model, conditioning, start, states, tick)

    monkeypatch.setattr(host_outputs, "_pass", small_card)
    told: list[tuple[int, int]] = []
    apart = models.check(models.lora, progress=lambda done, total, _: told.append((done, total)))
    assert batches == [2, 1, 1] * 5
    assert pooled(apart).change_match == pytest.approx(pooled(whole).change_match, abs=1e-4)
    assert told == [(done, 30) for done in range(1, 31)]


def test_progress_counts_every_call_of_a_model(models: Models) -> None:
    told: list[tuple[int, int]] = []
    models.check(models.lora, SEARCH, progress=lambda done, total, _: told.append((done, total)))
    assert told == [(done, 39) for done in range(1, 40)]  # 3 levels, (3 + 2 adapters * 5 strengths) passes


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_every_family_is_checked_without_a_latent(models: Models, tmp_path: Path, family: str) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("source", "target", "lora")]
    write_small(paths[0], family, 1, torch.float32)
    write_small(paths[1], family, 2, torch.float32, drifted_from=1)
    lora = adapter_from_file(lora_for(paths[2], paths[0]), "lora")
    source, target = (comfy.sd.load_diffusion_model(str(path)) for path in paths[:2])
    settings = replace(SMALL, seeds=1, timesteps=2)
    shared: dict[str, Any] = {"adapter": lora, "source": source, "conditioning": text(4096, POOLED.get(family, 0))}
    itself, other = (models.check(lora, settings, target=one, **shared) for one in (source, target))
    assert pooled(itself).change_match == pytest.approx(1, abs=1e-4)
    assert pooled(other).change_match < 0.99
    print(family, other.report.sentence())


def test_noise_levels_stay_within_what_the_target_knows(models: Models) -> None:
    class Edm(comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.EDM):
        pass

    louder = models.source.clone()
    louder.add_object_patch("model_sampling", Edm())
    levels = host_outputs.make_start(louder, models.target, None, replace(SMALL, timesteps=6)).levels
    assert float(levels.max()) == pytest.approx(14.6146, abs=1e-3)
    assert len(levels) == 6


def test_models_of_another_latent_space_are_refused_in_words(models: Models, tmp_path: Path) -> None:
    wan = comfy.sd.load_diffusion_model(
        str(write_small(tmp_path / "wan.safetensors", "Wan 2.1 1.3B", 1, torch.float32))
    )
    with pytest.raises(NotMeasurable, match=r"found SD15 \(4 channels\) and Wan21 \(16 channels\)"):
        models.check(models.lora, target=wan)


def test_another_kind_of_noise_is_refused_in_words(models: Models) -> None:
    class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    flow = models.source.clone()
    flow.add_object_patch("model_sampling", Flow())
    with pytest.raises(NotMeasurable, match=r"found latent \+ 0\.5 noise \(diffusion: eps, v\) and 0\.5 latent \+"):
        models.check(models.lora, target=flow)


def test_eps_and_v_are_compared(models: Models) -> None:
    class Velocity(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    other = models.source.clone()
    other.add_object_patch("model_sampling", Velocity())
    checked = models.check(models.lora, target=other)
    assert 0 < pooled(checked).cosine < 1


def test_a_latent_of_other_channels_is_refused_in_words(models: Models) -> None:
    with pytest.raises(NotMeasurable, match="expected 4 channels, as the source model has, found 16"):
        models.check(models.lora, latent={"samples": torch.ones(1, 16, 8, 8)})


def test_output_that_is_not_finite_is_reported_with_what_made_it(models: Models) -> None:
    broken = strengthened(models.lora, 1e30)
    with pytest.raises(NotMeasurable, match="Output of the target with transferred at strength 1: expected finite"):
        models.check(broken)
