"""Pictures of a student on its way: one prompt, one noise, a few steps of Euler's."""

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
_SIZE = 512  # pixels: what ComfyUI's page shows at most
_ROOM = 1.5  # times what the decoder takes must be free for it to run beside a model in training


@dataclass
class Previews:
    """Samplings of a student, kept as clean latents. vae: what decodes them, None for the host's rough colours."""

    model: Any
    vae: Any
    prompt: int
    seed: int
    steps: int
    latents: list[Tensor] = field(default_factory=list[Tensor])
    notes: list[str] = field(default_factory=list[str])

    def sample(self, student: HostStudent) -> Image.Image | None:
        """Sample once more; the picture, where it can be had without touching the model in training."""
        sampling = self.model.get_model_object("model_sampling")
        shape = student.inputs.states[:1]
        device = student.call.inner_model.device
        levels = comfy.samplers.calculate_sigmas(sampling, "simple", self.steps or _STEPS).float().to(device)
        noise: Any = comfy.sample.prepare_noise(torch.zeros(shape.shape), self.seed).to(device)
        with torch.no_grad():
            state = sampling.noise_scaling(levels[0], noise, torch.zeros_like(noise), True)
            for level, following in pairwise(levels):
                denoised = student.denoised(state, level.expand(1), [self.prompt])
                state = state + (state - denoised) / level * (following - level)
        self.latents.append(state.float().cpu())
        return self._show(self.latents[-1])

    def pictures(self) -> Tensor | None:
        """All of them, decoded (n, height, width, 3); None without any."""
        if not self.latents:
            return None
        decoded = [self._decode(one) for one in self.latents]
        if all(one is not None for one in decoded):
            return torch.cat([one for one in decoded if one is not None])
        shown = [self._draw_rough(one) for one in self.latents]
        return None if any(one is None for one in shown) else torch.cat([_tensor(one) for one in shown if one])

    def _show(self, latent: Tensor) -> Image.Image | None:
        decoded = self._decode(latent) if self._decoder_fits(latent) else None
        return self._draw_rough(latent) if decoded is None else _image(decoded)

    def _decoder_fits(self, latent: Tensor) -> bool:
        """Whether there is a decoder that can be loaded with no part of the model in training sent off the card."""
        if self.vae is None:
            return False
        device = self.vae.device
        if device.type == "cpu":
            return True
        wanted = self.vae.memory_used_decode(latent.shape, self.vae.vae_dtype) + self.vae.patcher.model_size()
        kept_free = comfy.model_management.minimum_inference_memory()  # ComfyUI makes that room first, however little
        return comfy.model_management.get_free_memory(device) > kept_free + _ROOM * wanted

    def _decode(self, latent: Tensor) -> Tensor | None:
        """A picture; None without a VAE, and with a note where it cannot decode: no training is to be lost by that."""
        if self.vae is None:
            return None
        space = self.model.get_model_object("latent_format")
        try:
            with torch.inference_mode():  # its weights were made in it
                decoded = self.vae.decode(space.process_out(latent))
        except Exception as error:  # noqa: BLE001  (VAEs of other packs raise what they like; rough colours will do)
            self.vae = None
            full = is_out_of_memory(error)
            why = "there was no room for the VAE" if full else "the VAE cannot decode the target's latents"
            self.notes.append(f"{why}, the pictures are rough ({error})")
            return None
        return decoded.reshape(-1, *decoded.shape[-3:])[:1].float().cpu()  # of a film its first frame

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
