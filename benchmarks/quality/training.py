"""Trains bases, their children and LoRAs. A stopped training continues where it was."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from core.refine.parameterisation import (
    DiagonalFactors,
    FreeFactors,
    InsideFactors,
    Trainable,
    TrainableDelta,
    compute_deltas,
)
from core.subspace import RankRule, decompose

from .checkpoints import Checkpoints
from .families import Family, State
from .latents import Latents

EMPTY_PROMPTS = 0.1  # share of drawings without their prompt, which guidance needs
DECAY = 0.995  # decay of the running average of weights, which is what is saved


def draw_batch(
    latents: Latents,
    styles: tuple[str, ...],
    subjects: list[int],
    size: int,
    generator: torch.Generator,
    variants: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws clean latents (size, 16, 8, 8) and their prompts' embeddings, some of them empty."""
    pick = torch.tensor(subjects)[torch.randint(len(subjects), (size,), generator=generator)]
    variant = torch.randint(variants or latents.styles[styles[0]].shape[1], (size,), generator=generator)
    style = torch.randint(len(styles), (size,), generator=generator)
    clean = torch.stack([latents.styles[styles[s]][p, v] for s, p, v in zip(style, pick, variant, strict=True)])
    not_empty = torch.rand(size, generator=generator) >= EMPTY_PROMPTS
    return clean, latents.context[pick] * not_empty[:, None, None]


def levels(size: int, generator: torch.Generator) -> Tensor:
    """Draws noise levels in (0, 1), more of them in the middle."""
    return (0.5 + 0.5 * torch.erf(torch.randn(size, generator=generator) * 0.9)).clamp(0.002, 0.998)


Loss = Callable[[nn.Module, State, int], Tensor]


@dataclass(frozen=True)
class Inside:
    """A LoRA-X: trained inside the leading singular subspaces, with as many directions as the rule says. diagonal: one
    number for each direction, as published; else factors of the LoRA's rank."""

    rule: RankRule
    diagonal: bool = False


def denoising_loss(
    family: Family,
    latents: Latents,
    styles: tuple[str, ...],
    subjects: list[int],
    size: int,
    seed: int,
    variants: int | None = None,
) -> Loss:
    """Makes a loss: a denoiser's mean squared error on drawings of these styles, with a new batch each step. variants:
    how many variants of each drawing to use; None: all."""

    def loss(model: nn.Module, weights: State, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
        clean, context = draw_batch(latents, styles, subjects, size, generator, variants)
        level, noise = levels(size, generator), torch.randn(clean.shape, generator=generator)
        answer = family.predict(model, weights, family.add_noise(clean, noise, level), level, context)
        return F.mse_loss(answer, family.aim(clean, noise))

    return loss


def distilling_loss(
    family: Family,
    latents: Latents,
    teacher: State,
    guidance: float,
    size: int,
    seed: int,
    styles: tuple[str, ...] = ("noto",),
) -> Loss:
    """Makes a loss: the mean squared difference from the teacher's answer at a guidance, which the student learns."""
    whole, subjects = family.build("whole"), list(range(len(latents.names)))

    def loss(model: nn.Module, weights: State, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
        clean, context = draw_batch(latents, styles, subjects, size, generator)
        level, noise = levels(size, generator), torch.randn(clean.shape, generator=generator)
        noised = family.add_noise(clean, noise, level)
        with torch.no_grad():
            aim = family.predict(whole, teacher, noised, level, context)
            if guidance != 1:
                plain = family.predict(whole, teacher, noised, level, torch.zeros_like(context))
                aim = plain + guidance * (aim - plain)
        return F.mse_loss(family.predict(model, weights, noised, level, context), aim)

    return loss


def train(
    name: str, family: Family, model: nn.Module, loss: Loss, steps: int, rate: float, path: Path
) -> dict[str, Tensor]:
    """Reads all weights of a model from `path`, or trains it and writes its averaged weights there in float16."""
    if not path.is_file():
        model.requires_grad_(requires_grad=True)
        parameters = dict(model.named_parameters())
        average = _RunningAverage(parameters)
        optimizer = torch.optim.AdamW(parameters.values(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
        parts = {"model": model, "optimizer": optimizer, "averaged": average}
        for step in Checkpoints(path.with_suffix(".checkpoint"), parts).remaining(steps):
            _step(name, family, optimizer, partial(loss, model, parameters, step), step, steps, rate)
            average.update(parameters, step)
        save(average.weights, path)
    return {key: value.float() for key, value in load_file(path).items()}


def train_lora(
    name: str,
    family: Family,
    model: nn.Module,
    base: State,
    loss: Loss,
    rank: int,
    steps: int,
    rate: float,
    path: Path,
    seed: int,
    inside: Inside | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Reads a LoRA from `path`, or trains one on all matrices and convolutions of the blocks: layer -> (up, down).

    inside: it is trained inside the base's singular subspaces; None for a plain LoRA."""
    if not path.is_file():
        generator = torch.Generator().manual_seed(seed)
        deltas = {key: start_delta(base[key], rank, inside, generator) for key in layers_of_a_lora(base)}
        parameters = nn.ParameterDict(
            {key.replace(".", "/"): nn.ParameterList(delta.parameters) for key, delta in deltas.items()}
        )
        deltas = {key: delta.with_parameters(tuple(parameters[key.replace(".", "/")])) for key, delta in deltas.items()}
        optimizer = torch.optim.Adam(parameters.parameters(), lr=rate, betas=(0.9, 0.99))
        parts = {"model": parameters, "optimizer": optimizer}
        for step in Checkpoints(path.with_suffix(".checkpoint"), parts).remaining(steps):
            _step(name, family, optimizer, partial(_lora_loss, loss, model, base, deltas, step), step, steps, rate)
        save_lora({key: (delta.up, delta.down) for key, delta in compute_deltas(deltas).items()}, path)
    return load_lora(path)


def layers_of_a_lora(base: State) -> list[str]:
    """All matrices and convolutions of the blocks."""
    return [
        key
        for key, weight in base.items()
        if weight.ndim > 1 and "blocks." in key and not key.startswith("input_blocks.0.")
    ]


def start_delta(weight: Tensor, rank: int, inside: Inside | None, generator: torch.Generator) -> TrainableDelta:
    """A delta of zeros for a weight, with this benchmark's random numbers."""
    matrix = weight.flatten(1)
    if inside is None:
        return FreeFactors(torch.zeros(len(matrix), rank), _random_down(rank, matrix.shape[1], generator))
    decomposition = decompose(matrix, inside.rule.max_rank((matrix.shape[0], matrix.shape[1])))
    space = decomposition.cut(inside.rule.rank(decomposition))
    if inside.diagonal:
        return DiagonalFactors(space, torch.zeros(space.rank))
    rank = min(rank, space.rank)
    return InsideFactors(space, torch.zeros(space.rank, rank), _random_down(rank, space.rank, generator))


def _random_down(rank: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rank, width, generator=generator) / rank**0.5 / 3


def save_lora(factors: Mapping[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """Writes up and down of each layer in float16."""
    save({f"{key}.{part}": pair[part == "down"] for key, pair in factors.items() for part in ("up", "down")}, path)


def load_lora(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Reads layer -> (up, down)."""
    tensors = load_file(path)
    keys = [key.removesuffix(".up") for key in tensors if key.endswith(".up")]
    return {key: (tensors[f"{key}.up"].float(), tensors[f"{key}.down"].float()) for key in keys}


def with_lora(base: State, factors: Mapping[str, tuple[Tensor, Tensor]], strength: float = 1.0) -> dict[str, Tensor]:
    """The weights of a base with strength * up @ down added."""
    changed = {
        key: torch.addmm(base[key].flatten(1), up, down, alpha=strength).reshape(base[key].shape)
        for key, (up, down) in factors.items()
    }
    return {**base, **changed}


def save(weights: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file({key: value.detach().half().contiguous() for key, value in weights.items()}, unfinished)
    unfinished.replace(path)


def _lora_loss(loss: Loss, model: nn.Module, base: State, deltas: Trainable, step: int) -> Tensor:
    return loss(model, with_lora(base, {key: delta.factors() for key, delta in deltas.items()}), step)


def _step(
    name: str,
    family: Family,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    step: int,
    steps: int,
    rate: float,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * min(1, (step + 1) / 50) * (0.05 + 0.95 * math.cos(step / steps * math.pi / 2))
    optimizer.zero_grad()
    with family.gradients():
        value = loss()
        value.backward()
    nn.utils.clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group["params"]], 1.0)
    optimizer.step()
    if (step + 1) % 100 == 0:
        print(f"{name}: step {step + 1} of {steps}, loss {value.item():.4f}", flush=True)


class _RunningAverage:
    """The running average of weights; it draws better than the weights of the last step."""

    def __init__(self, parameters: State) -> None:
        self.weights = {key: value.detach().clone() for key, value in parameters.items()}

    def update(self, parameters: State, step: int) -> None:
        share = 1 - min(DECAY, (step + 1) / (step + 10))
        for key, value in parameters.items():
            self.weights[key].lerp_(value.detach(), share)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.weights = state
