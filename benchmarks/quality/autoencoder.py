"""A TAESD of ComfyUI's own class, trained on the drawings: 64 px become latents (16, 8, 8) of about unit variance."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from dev.small_models import import_comfy

from .checkpoints import Checkpoints, initialise

CHANNELS = 16  # as in Flux and SD3
STEPS, BATCH, RATE = 1300, 24, 1e-3
LATENT_NOISE = 0.05  # added in training, so that a denoiser's small error in latents stays a small error in pixels


def build() -> Any:
    """A new TAESD with the scale and shift of Flux's latents, so that Flux models see these latents unchanged."""
    comfy = import_comfy()
    model = initialise(comfy.taesd.taesd.TAESD(latent_channels=CHANNELS))
    flux = comfy.latent_formats.Flux()
    model.vae_scale.data.fill_(flux.scale_factor)
    model.vae_shift.data.fill_(flux.shift_factor)
    return model.requires_grad_(requires_grad=True)


def load(path: Path) -> Any:
    """Reads the trained autoencoder."""
    model = build()
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return model.eval().requires_grad_(requires_grad=False)


def encode(model: Any, images: Tensor) -> Tensor:
    """Turns images (n, 3, 64, 64) in [0, 1] into latents (n, 16, 8, 8), scaled as the denoisers see them."""
    with torch.inference_mode():
        return torch.cat([model.taesd_encoder(part) for part in images.split(64)]).clone()


def decode(model: Any, latents: Tensor) -> Tensor:
    """Turns latents (n, 16, 8, 8) into images (n, 3, 64, 64) in [0, 1]."""
    with torch.inference_mode():
        return torch.cat([model.taesd_decoder(part).clamp(0, 1) for part in latents.split(64)]).clone()


def train(drawings: Tensor, path: Path) -> None:
    """Trains on drawings (n, 3, 64, 64), randomly mirrored, shifted and recoloured; writes the weights to `path`."""
    torch.manual_seed(0)
    model = build().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    checkpoints = Checkpoints(path.with_suffix(".checkpoint"), {"model": model, "optimizer": optimizer})
    for step in checkpoints.remaining(STEPS):
        generator = torch.Generator().manual_seed(step)
        images = vary(drawings[torch.randint(len(drawings), (BATCH,), generator=generator)], generator)
        images = images.to(memory_format=torch.channels_last)
        optimizer.param_groups[0]["lr"] = (
            RATE * min(1, step / 50) * (0.02 + 0.98 * math.cos(step / STEPS * math.pi / 2))
        )
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.taesd_encoder(images).float()
            noised = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
            decoded = model.taesd_decoder(noised).float()
        spread = latents.mean((0, 2, 3)).square().mean() + (latents.std((0, 2, 3)) - 1).square().mean()
        error = F.mse_loss(decoded, images) + 0.1 * F.l1_loss(decoded, images)
        optimizer.zero_grad()
        (error + 0.01 * spread).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(
                f"autoencoder: step {step} of {STEPS}, error {error.item():.4f}, spread {spread.item():.3f}", flush=True
            )
    save_file({key: value.half().contiguous() for key, value in model.state_dict().items()}, path)


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Randomly mirrors each image, shifts it by up to four pixels, or exchanges its colour channels."""
    variants: list[Tensor] = []
    for image in images:
        mirrored, recoloured, *shift = torch.randint(0, 9, (4,), generator=generator).tolist()
        image = image.flip(2) if mirrored < 4 else image
        image = image[torch.randperm(3, generator=generator)] if recoloured < 3 else image
        padded = F.pad(image, (4, 4, 4, 4), value=1.0)
        variants.append(padded[:, shift[0] : shift[0] + image.shape[1], shift[1] : shift[1] + image.shape[2]])
    return torch.stack(variants)
