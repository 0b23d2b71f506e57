"""Runs a model on noised latents inside ComfyUI's own sampling, which loads the model, moves it on and off the card,
prepares the conditioning and lets the user cancel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ....core.check import CheckSettings
from ....core.errors import NotEnoughMemory, NotMeasurable
from ..card import is_out_of_memory
from .conditioning import part
from .noise import latent_space, noise_of
from .picture_size import size_for_model

Tick = Callable[[int], None]  # gets the number of calls of the model so far; each latent counts as a call


@dataclass(frozen=True)
class Start:
    """Where the noised latents come from. latent, noise: (n, channels, ...), float32 on the CPU; levels: sigma, from
    much noise to little, (levels); sampled: whether the latent is empty, so that states come from a short sampling;
    stored: the precision to which states are rounded before the model sees them, so that storing them loses nothing."""

    latent: Tensor
    noise: Tensor
    levels: Tensor
    sampled: bool
    seed: int
    stored: torch.dtype = torch.float32

    def part(self, rows: slice) -> "Start":
        return replace(self, latent=self.latent[rows], noise=self.noise[rows])


@dataclass(frozen=True)
class Outputs:
    """states: noised latents in the model's own latent space; denoised: its prediction for each. (levels, n, channels,
    ...), float32 on the CPU."""

    states: Tensor
    denoised: Tensor


def require_comparable(source: Any, target: Any) -> None:
    """NotMeasurable if the same noised latents do not mean the same to both models."""
    spaces = [latent_space(model) for model in (source, target)]
    if spaces[0] != spaces[1]:
        raise NotMeasurable(
            f"Source and target: expected two models with the same latents, found {spaces[0]} and {spaces[1]}. Their "
            "outputs cannot be compared: judge this pair by its images."
        )
    noises = [noise_of(model) for model in (source, target)]
    if noises[0] != noises[1]:
        raise NotMeasurable(
            f"Source and target: expected the same kind of noise, found {noises[0]} and {noises[1]}. Their outputs "
            "cannot be compared: judge this pair by its images."
        )


def make_start(source: Any, target: Any, latent: Mapping[str, Any] | None, settings: CheckSettings) -> Start:
    """Noise for every seed, and noise levels that both models know. Without a latent, or with an empty one that sets
    the size, states are sampled. Several latents get a noise each; if there are more seeds, they are used in turn."""
    samples = latents_of(source, latent, settings.size)
    sampled = not bool(samples.any())
    count = settings.seeds if sampled else max(settings.seeds, len(samples))
    repeated = comfy.utils.repeat_to_batch_size(samples[:1] if sampled else samples, count).float().cpu()
    seeds = [(settings.seed + index) % 2**64 for index in range(count)]
    noises: list[Any] = [comfy.sample.prepare_noise(repeated[:1], seed) for seed in seeds]
    return Start(repeated, torch.cat(noises), _levels(source, target, settings.timesteps), sampled, settings.seed)


def latents_of(model: Any, latent: Mapping[str, Any] | None, size: int) -> Tensor:
    """The connected latents with the model's channels, or an empty one of a square picture: (n, channels, ...).
    size: in pixels; 0 is the model's own."""
    space = model.get_model_object("latent_format")
    connected = {"samples": _empty(space, size or size_for_model(model))} if latent is None else latent
    ratios = connected.get("downscale_ratio_spacial"), connected.get("downscale_ratio_temporal")
    samples = comfy.sample.fix_empty_latent_channels(model, connected["samples"], *ratios)
    if samples.is_nested or samples.shape[1] != space.latent_channels:
        channels = "several latents in one (sound and picture)" if samples.is_nested else f"{samples.shape[1]}"
        raise NotMeasurable(
            f"The latent: expected {space.latent_channels} channels, as the source model has, found {channels}. Encode "
            "the picture with this model's VAE, or leave the input empty."
        )
    return samples


def predict_outputs(
    model: Any, conditioning: Any, start: Start, states: Tensor | None, tick: Tick, what: str
) -> Outputs:
    """The model's denoised predictions on the states (levels, n, ...), or on states that it makes itself from `start`.
    All latents go at once, or one at a time if they do not fit on the card together."""
    outputs = _predict_within_memory(model, conditioning, start, states, tick, what)
    if not bool(outputs.denoised.isfinite().all()):
        raise NotMeasurable(
            f"Output of {what}: expected finite numbers, found NaN or infinity. Load the model in another precision "
            "(bf16 or fp32), or check whether the LoRA is broken."
        )
    return outputs


def _predict_within_memory(
    model: Any, conditioning: Any, start: Start, states: Tensor | None, tick: Tick, what: str
) -> Outputs:
    """All latents at once; if they do not fit on the card, one at a time and without other models beside this one."""
    try:
        return _pass(model, conditioning, start, states, tick)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    try:
        return _predict_one_by_one(model, conditioning, start, states, tick)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise NotEnoughMemory(
            f"Output of {what}: the card has no room for one latent ({error}). Choose a smaller size, or load the "
            "model in a smaller precision (fp8, GGUF)."
        ) from error


def _predict_one_by_one(model: Any, conditioning: Any, start: Start, states: Tensor | None, tick: Tick) -> Outputs:
    count = len(start.noise)
    parts: list[Outputs] = []
    for index in range(count):
        latent, before = slice(index, index + 1), index * len(start.levels)
        own = None if states is None else states[:, latent]
        prompt = part(conditioning, index, count)
        parts.append(_pass(model, prompt, start.part(latent), own, lambda done, before=before: tick(before + done)))
    return Outputs(*(torch.cat([getattr(part, name) for part in parts], 1) for name in ("states", "denoised")))


def _pass(model: Any, conditioning: Any, start: Start, states: Tensor | None, tick: Tick) -> Outputs:
    """One pass over all noise levels, as a sampler at cfg 1."""
    seen: list[tuple[Tensor, Tensor]] = []
    sampling = model.get_model_object("model_sampling")

    def walk(call: Any, state: Tensor, levels: Tensor, extra_args: dict[str, Any], **_: Any) -> Tensor:
        for index, level in enumerate(levels[:-1]):
            if states is not None:
                state = states[index].to(state)
            elif not start.sampled:
                state = sampling.noise_scaling(level, call.noise, call.latent_image)
            state = state.to(start.stored).to(state)
            denoised = call(state, level * state.new_ones(len(state)), **extra_args)
            seen.append((state.float().cpu(), denoised.float().cpu()))
            tick((index + 1) * len(state))
            state = state + (state - denoised) / level * (levels[index + 1] - level)  # an Euler step
        return state

    comfy.sample.sample_custom(
        model,
        start.noise,
        1.0,
        comfy.samplers.KSAMPLER(walk),
        torch.cat([start.levels, start.levels.new_zeros(1)]),
        conditioning,
        conditioning,
        start.latent,
        disable_pbar=True,
        seed=start.seed,
    )
    states_seen, denoised_seen = zip(*seen, strict=True)
    return Outputs(torch.stack(states_seen), torch.stack(denoised_seen))


def _levels(source: Any, target: Any, count: int) -> Tensor:
    """Sigma (count) at evenly spaced timesteps of the source, no larger than the target's largest."""
    samplings = [model.get_model_object("model_sampling") for model in (source, target)]
    levels = comfy.samplers.calculate_sigmas(samplings[0], "simple", count)[:-1]
    return levels.float().cpu().clamp(max=float(samplings[1].sigma_max))


def _empty(space: Any, size: int) -> Tensor:
    if space.latent_dimensions == 1:
        raise NotMeasurable(
            "The source model: expected a model of pictures, found a model of sound, which has no width and height. "
            "Connect an empty latent of the length that you use."
        )
    side = max(1, size // space.spacial_downscale_ratio)
    return torch.zeros(1, space.latent_channels, side, side)
