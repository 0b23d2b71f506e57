"""The bases and their LoRAs: A, its children (drifted, pruned, guidance-distilled), and unrelated bases."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from core.subspace import RankRule

from .distil import distil
from .families import Family, Shape
from .latents import RECOLOURED, VARIANTS_SEEN, Latents
from .training import Inside, denoising_loss, distilling_loss, train, train_lora

DIAGONAL_RATE = 5e-2  # the best of .002, .006, .02 and .05: each number stands for a whole direction
BATCH, FIRST_BATCH = 32, 48  # drawings a step: for children and LoRAs, and for bases from scratch


@dataclass(frozen=True)
class Course:
    """How a base is trained. styles: of the drawings. child: whether it starts from A. guidance: it learns A's answers
    at this guidance; None: it learns from drawings."""

    styles: tuple[str, ...]
    steps: int
    rate: float
    shape: Shape = "whole"
    child: bool = True
    guidance: float | None = None
    once: bool = False  # one base serves all seeds, because it takes as long as A


STYLES = ("line", "3d")

BASES = {
    "A": Course(("noto",), 3000, 1.5e-3, child=False, once=True),
    "near": Course(("twemoji",), 150, 1e-4),
    "drifted": Course(("noto" + RECOLOURED, "flat"), 400, 5e-4),
    "far": Course(("modern" + RECOLOURED, "twemoji"), 600, 1.5e-3),
    "pruned": Course(("noto",), 500, 5e-4, shape="pruned", guidance=1.0),
    "turbo": Course(("noto",), 250, 3e-4, guidance=2.5),
    "other": Course(("noto",), 2000, 1.5e-3, child=False, once=True),
    "wide": Course(("noto",), 1200, 1.5e-3, shape="wide", child=False, once=True),
    "stump": Course(("noto",), 500, 5e-4, shape="stump", guidance=1.0),
}


@dataclass(frozen=True)
class LoraCourse:
    """How a LoRA is trained: on drawings of all seen subjects in one style, or of one subject, some of whose variants
    are held out.

    inside: inside the base's subspaces; None for a plain LoRA. batches: the name of another LoRA whose batches it sees;
    None for its own. teacher: the name of a LoRA on the same base that it learns from, without data."""

    style: str
    rank: int
    subject: str | None = None
    steps: int = 200
    rate: float = 2e-3
    inside: Inside | None = None
    batches: str | None = None
    teacher: str | None = None


# LoRA-X by rank (0: diagonal) and share of the singular directions; the first is the one to compare, the rest ablates.
LORA_X = ((16, 0.5), (0, 1.0), (16, 1.0), (16, 0.25), (0, 0.5), (16, 0.75), (4, 0.5), (64, 0.5))


def lora_x_name(style: str, rank: int, share: float) -> str:
    kind = f"inside {rank}" if rank else "diagonal"
    return f"{style} {kind} of {share:g}"


def _lora_x(style: str, rank: int, share: float) -> LoraCourse:
    inside = Inside(RankRule("fraction", share), diagonal=not rank)
    rate = 2e-3 if rank else DIAGONAL_RATE
    return LoraCourse(style, rank, rate=rate, inside=inside, batches=f"{style} 16")


def made_name(style: str) -> str:
    """A LoRA-X that was made of a plain LoRA without data."""
    return f"{style} made inside"


LORAS = {
    "line 16": LoraCourse("line", 16),
    "line 4": LoraCourse("line", 4),
    "line 64": LoraCourse("line", 64),
    "3d 16": LoraCourse("3d", 16),
    "robot 4": LoraCourse("3d" + RECOLOURED, 4, "robot"),  # a recoloured robot: no base knows this drawing
    **{lora_x_name(style, *kind): _lora_x(style, *kind) for style in STYLES for kind in LORA_X},
    **{
        made_name(style): LoraCourse(style, 16, inside=Inside(RankRule("fraction", 0.5)), teacher=f"{style} 16")
        for style in STYLES
    },
}


@dataclass(frozen=True)
class ModelStore:
    """Reads the weights of one family from a folder, and trains those that are missing."""

    family: Family
    latents: Latents
    folder: Path
    elsewhere: Mapping[str, Path] = field(default_factory=dict[str, Path])  # name -> path of a file outside the folder

    def path(self, name: str) -> Path:
        return self.elsewhere.get(name, self.folder / f"{name}.safetensors")

    def shape(self, base: str) -> Shape:
        return BASES[base].shape

    def base(self, name: str, seed: int) -> dict[str, Tensor]:
        """Reads a base, or trains it; returns all its weights."""
        course = BASES[name]
        seed = 0 if course.once else seed
        number = 100 * list(BASES).index(name) + seed
        path = self.path(f"{name}.{seed}")
        label = f"{self.family.name} {name} {seed}"
        if path.is_file():
            return train(label, self.family, self.family.build(course.shape), _fail_if_called, 0, 0, path)
        torch.manual_seed(number)
        model = self.family.build(course.shape)
        teacher = self.base("A", 0) if course.child else None
        if teacher is not None:
            start = self.family.pruned_weights(teacher, course.shape) if course.shape in self.family.pruned else teacher
            model.load_state_dict(start)
        batch_size = FIRST_BATCH if course.once else BATCH
        if course.guidance is None or teacher is None:
            subjects = list(range(len(self.latents.names)))
            loss = denoising_loss(self.family, self.latents, course.styles, subjects, batch_size, number)
        else:
            loss = distilling_loss(self.family, self.latents, teacher, course.guidance, batch_size, number)
        return train(label, self.family, model, loss, course.steps, course.rate, path)

    def lora(self, name: str, base: str, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Reads a LoRA trained on a base, or trains it; returns up and down by layer."""
        course = LORAS[name]
        weights = self.base(base, seed)
        number = 10_000 + 1000 * list(LORAS).index(course.batches or name) + 100 * list(BASES).index(base) + seed
        path = self.path(f"{name.replace(' ', '_')}.{base}.{seed}")
        if course.teacher and course.inside:
            teacher = self.lora(course.teacher, base, seed)
            return distil(self.family, self.latents, weights, teacher, course.rank, course.inside, path, seed)
        subjects = [self.latents.names.index(course.subject)] if course.subject else self.latents.seen
        variants = VARIANTS_SEEN if course.subject else None
        loss = denoising_loss(self.family, self.latents, (course.style,), subjects, BATCH, number, variants)
        label = f"{self.family.name} {name} on {base} {seed}"
        model = self.family.build(self.shape(base))
        return train_lora(
            label, self.family, model, weights, loss, course.rank, course.steps, course.rate, path, seed, course.inside
        )


def _fail_if_called(*_: object) -> Tensor:
    raise AssertionError
