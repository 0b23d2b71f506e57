"""Pictures with captions to train on, from the lists that ComfyUI's own nodes for training make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ....core.errors import InvalidSetting, NotMeasurable
from ..sampling.conditioning import Prompt, split_conditioning

_PIXELS = 8  # of a latent's value, as ComfyUI counts them where a model is told the size of its picture


@dataclass
class Dataset:
    """latents: clean, (channels, ...), in the model's own scale; prompts: all captions; captions: the number of each
    picture's caption; without_caption: the number of the empty prompt for each picture, if there is one."""

    latents: list[Tensor]
    captions: list[int] = field(default_factory=list[int])
    without_caption: list[int] = field(default_factory=list[int])
    prompts: list[Prompt] = field(default_factory=list[Prompt])


def read_dataset(model: Any, latents: Sequence[Mapping[str, Any]], captions: Sequence[Any], empty: Any) -> Dataset:
    """Read latents and captions, one caption for each picture or one for all. empty: the empty prompt, or None."""
    dataset = Dataset([latent for batch in latents for latent in _split_latents(model, batch["samples"])])
    prompts = split_conditioning([entry for caption in captions for entry in caption])
    count = len(dataset.latents)
    if len(prompts) not in (1, count):
        raise InvalidSetting(
            f"latents and positive: expected a caption for each picture, or one for all, found {count} pictures and "
            f"{len(prompts)} captions. Connect both outputs of Make Training Dataset."
        )
    dataset.captions = _add_prompts(dataset, prompts * count if len(prompts) == 1 else prompts)
    if empty is not None:
        dataset.without_caption = _add_prompts(dataset, split_conditioning(empty)[:1] * count)
    return dataset


def _split_latents(model: Any, samples: Any) -> Sequence[Tensor]:
    space = model.get_model_object("latent_format")
    dimensions = space.latent_dimensions + 2
    if samples.is_nested or samples.ndim not in (4, dimensions) or samples.shape[1] != space.latent_channels:
        raise NotMeasurable(
            f"latents: expected {space.latent_channels} channels, as the model has, found a latent of the shape "
            f"{list(samples.shape)}. Encode the pictures with this model's VAE."
        )
    if not bool(samples.isfinite().all()):
        raise NotMeasurable(
            "latents: expected finite numbers, found NaN or infinity. Encode the pictures with another VAE, or in fp32."
        )
    whole = samples if samples.ndim == dimensions else samples.unsqueeze(2)  # a picture is a video of one frame
    return list(space.process_in(whole.float().cpu()))


def _add_prompts(dataset: Dataset, prompts: Sequence[Prompt]) -> list[int]:
    """Adds a prompt for each picture, and returns its number. Models like SDXL are told the size of their picture.
    ComfyUI takes it from a single latent for all prompts, so where sizes differ, each prompt says its own."""
    are_equal = len({latent.shape for latent in dataset.latents}) == 1
    numbers: dict[tuple[int, Any], int] = {}
    chosen: list[int] = []
    for latent, prompt in zip(dataset.latents, prompts, strict=True):
        key = id(prompt), latent.shape
        if key not in numbers:
            numbers[key] = len(dataset.prompts)
            dataset.prompts.append(prompt if are_equal else _with_size(prompt, latent))
        chosen.append(numbers[key])
    return chosen


def _with_size(prompt: Prompt, latent: Tensor) -> Prompt:
    height, width = (side * _PIXELS for side in latent.shape[1:3])
    return replace(prompt, options={"width": width, "height": height, **prompt.options})
