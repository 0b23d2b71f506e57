"""The drawings as the denoisers see them: latents by style, subject and variant, and their prompts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from . import autoencoder, drawings, text

# Variants of each drawing for training: mirrored or not, and a shift in pixels. The first is the drawing itself.
VARIANTS = ((False, 0, 0), (True, 0, 0), (False, 2, 1), (True, -2, 2), (False, -1, -3), (True, 3, -1))
VARIANTS_SEEN = 4  # a LoRA of one subject is trained on so many; the others measure it
RECOLOURED = " recoloured"  # red, green and blue rotated: yellow faces become blue
HELD_OUT = 4  # every fourth subject is held out from the LoRAs to measure them


@dataclass(frozen=True)
class Latents:
    """The encoded drawings. names: of the subjects, which are also the prompts. context: the prompts' embeddings
    (subjects, 10, 384). styles: style -> latents (subjects, variants, 16, 8, 8)."""

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
    """Reads the latents, or makes them: downloads, renders, trains the autoencoder if it is missing, and encodes."""
    path = folder / "latents.safetensors"
    if not path.is_file():
        names, drawn = drawings.load(folder / "packages")
        if not autoencoder_path.is_file():
            autoencoder.train(torch.cat(list(drawn.values())), autoencoder_path)
        model = autoencoder.load(autoencoder_path)
        recoloured = {name + RECOLOURED: images[:, [2, 0, 1]] for name, images in drawn.items()}
        tensors = {
            name: torch.stack([autoencoder.encode(model, _variant(images, *variant)) for variant in VARIANTS], 1).half()
            for name, images in (drawn | recoloured).items()
        }
        context = text.encode(folder / "packages", names).half()
        save_file(tensors | {"context": context}, path, metadata={"names": "\n".join(names)})
    return load(path)


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
