"""The emoji drawings as pictures with captions, as lists like those of ComfyUI's own nodes for training."""

from typing import Any

import comfy.latent_formats
from safetensors.torch import load_file

from dev.paths import DEMO_MODELS
from tests.host.small_refine import demo_prompts, known_names


def line_drawings(count: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """Latents, in the scale of their VAE, and captions of so many line drawings."""
    latents = load_file(DEMO_MODELS / "evaluation" / "latents.safetensors")["line"][:count, :1].float()
    as_encoded = comfy.latent_formats.Flux().process_out(latents)
    return [{"samples": latent} for latent in as_encoded], [demo_prompts([name]) for name in known_names()[:count]]
