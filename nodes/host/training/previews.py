"""Previews of a student in training: always the same prompt and noise, in a few Euler steps."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from latent_preview import Latent2RGBPreviewer
from PIL import Image
from torch import Tensor

from ..card import is_out_of_memory
from .student import HostStudent

_STEPS = 8
_ROOM = 1.5  # how many times the memory of the decoder must be free before it runs beside a model in training


@dataclass
class Previews:
    """Samplings of a student, as clean latents. vae: decodes them; None for ComfyUI's rough colours."""

    model: Any
    vae: Any
    prompt: int
    seed: int
    steps: int
    latents: list[Tensor] = field(default_factory=list[Tensor])
    notes: list[str] = field(default_factory=list[str])

    def sample(self, student: HostStudent) -> Image.Image | None:
        """Sample once more. Returns the picture, or None if there is no way to decode it."""
        sampling = self.model.get_model_object("model_sampling")
        device = student.call.inner_model.device
        levels = comfy.samplers.calculate_sigmas(sampling, "simple", self.steps or _STEPS).float().to(device)
        noise: Any = comfy.sample.prepare_noise(torch.zeros(1, *student.inputs.shape), self.seed).to(device)
        with torch.no_grad():
            state = sampling.noise_scaling(levels[0], noise, torch.zeros_like(noise), True)
            for level, following in pairwise(levels):
                denoised = student.denoised(state, level.expand(1), [self.prompt])
                state = state + (state - denoised) / level * (following - level)
        self.latents.append(state.float().cpu())
        return self._show(self.latents[-1])

    def pictures(self) -> Tensor | None:
        """All pictures (n, height, width, 3); None if there are none."""
        if not self.latents:
            return None
        decoded = [self._decode(latent) for latent in self.latents]
        if all(picture is not None for picture in decoded):
            return torch.cat([picture for picture in decoded if picture is not None])
        rough = [self._draw_rough(latent) for latent in self.latents]
        return None if None in rough else torch.cat([_tensor(picture) for picture in rough if picture])

    def _show(self, latent: Tensor) -> Image.Image | None:
        decoded = self._decode(latent) if self._decoder_fits(latent) else None
        return self._draw_rough(latent) if decoded is None else _image(decoded)

    def _decoder_fits(self, latent: Tensor) -> bool:
        """Whether there is a decoder, and it fits beside the model in training without pushing any of it off the
        card."""
        if self.vae is None:
            return False
        device = self.vae.device
        if device.type == "cpu":
            return True
        wanted = self.vae.memory_used_decode(latent.shape, self.vae.vae_dtype) + self.vae.patcher.model_size()
        kept_free = comfy.model_management.minimum_inference_memory()  # ComfyUI always frees this much first
        return comfy.model_management.get_free_memory(device) > kept_free + _ROOM * wanted

    def _decode(self, latent: Tensor) -> Tensor | None:
        """The decoded picture; None without a VAE. If the VAE fails there is a note, and the training goes on."""
        if self.vae is None:
            return None
        space = self.model.get_model_object("latent_format")
        try:
            with torch.inference_mode():  # the VAE's weights were made in it
                decoded = self.vae.decode(space.process_out(latent))
        except Exception as error:  # noqa: BLE001  (VAEs of other packs raise anything; rough colours will do)
            self.vae = None
            full = is_out_of_memory(error)
            why = "there was no memory for the VAE" if full else "the VAE cannot decode the target's latents"
            self.notes.append(f"{why}, so the pictures have rough colours ({error})")
            return None
        return decoded.reshape(-1, *decoded.shape[-3:])[:1].float().cpu()  # the first frame of a video

    def _draw_rough(self, latent: Tensor) -> Image.Image | None:
        space = self.model.get_model_object("latent_format")
        if space.latent_rgb_factors is None or latent.ndim < 4:
            return None
        previewer = Latent2RGBPreviewer(
            space.latent_rgb_factors, space.latent_rgb_factors_bias, space.latent_rgb_factors_reshape
        )
        return previewer.decode_latent_to_preview(latent)


def _image(picture: Tensor) -> Image.Image:
    return Image.fromarray(picture[0].clamp(0, 1).mul(255).round().byte().numpy())


def _tensor(picture: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels.reshape(1, picture.height, picture.width, 3).float().div(255)
