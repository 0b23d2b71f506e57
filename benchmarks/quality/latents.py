"""The drawings as the denoisers see them: latents by style, subject and variant, and their prompts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from . import autoencoder, drawings, text

# Mirrored or not, and a shift in pixels: variants of each drawing to train on; the first is the drawing itself.
VARIANTS = ((False, 0, 0), (True, 0, 0), (False, 2, 1), (True, -2, 2), (False, -1, -3), (True, 3, -1))
VARIANTS_SEEN = 4  # by a LoRA of one subject; it is judged by the others
RECOLOURED = " recoloured"  # red, green and blue exchanged in turn: yellow faces become blue ones
HELD_OUT = 4  # every fourth subject is kept from the LoRAs and is what they are judged by


@dataclass(frozen=True)
class Latents:
    """names: of the subjects, which are the prompts; context: (subjects, 10, 384) their embedding; styles: style ->
    (subjects, variants, 16, 8, 8)."""

    names: list[str]
    context: Tensor
    styles: dict[str, Tensor]

    @property
    def held_out(self) -> list[int]:
        return list(range(0, len(self.names), HELD_OUT))

    @property
    def seen(self) -> list[int]:
        return [index for index in range(len(self.names)) if index % HELD_OUT]


def prepare(folder: Path, autoencoder_path: Path) -> Latents:
    """Fetch, draw, train the autoencoder and encode: whatever of it is missing; the rest is read."""
    kept = folder / "latents.safetensors"
    if not kept.is_file():
        names, drawn = drawings.load(folder / "packages")
        if not autoencoder_path.is_file():
            autoencoder.train(torch.cat(list(drawn.values())), autoencoder_path)
        model = autoencoder.load(autoencoder_path)
        recoloured = {name + RECOLOURED: images[:, [2, 0, 1]] for name, images in drawn.items()}
        tensors = {
            name: torch.stack([autoencoder.encode(model, _variant(images, *one)) for one in VARIANTS], 1).half()
            for name, images in (drawn | recoloured).items()
        }
        context = text.encode(folder / "packages", names).half()
        save_file(tensors | {"context": context}, kept, metadata={"names": "\n".join(names)})
    return load(kept)


def load(path: Path) -> Latents:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = file.metadata()["names"].split("\n")
    tensors = {key: value.float() for key, value in load_file(path).items()}
    context = tensors.pop("context")
    return Latents(names, context, tensors)


def _variant(images: Tensor, mirrored: bool, right: int, down: int) -> Tensor:
    images = images.flip(3) if mirrored else images
    edge = 4
    padded = F.pad(images, (edge,) * 4, value=1.0)
    side = images.shape[-1]
    return padded[:, :, edge - down : edge - down + side, edge - right : edge - right + side]
