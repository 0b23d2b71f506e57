"""Small denoising models that train in seconds on a CPU, and the drawings that they train on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812  (its usual name)

SIDE, WIDTH, TIME, BLOCKS = 12, 32, 32, 4
_BATCH = 16


class Block(nn.Module):
    """A residual block with attention, as in a diffusion UNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.emb = nn.Linear(TIME, WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = F.silu(self.conv1(F.group_norm(x, 4))) + self.emb(time)[:, :, None, None]
        x = x + self.conv2(F.silu(F.group_norm(hidden, 4)))
        rows = F.group_norm(x, 4).flatten(2).mT
        mixed = F.scaled_dot_product_attention(self.to_q(rows), self.to_k(rows), self.to_v(rows))
        return x + self.to_out(mixed).mT.reshape(x.shape)


class Denoiser(nn.Module):
    """Predicts the noise in (batch, 3, 12, 12) drawings at a noise level in [0, 1]; 100,000 parameters."""

    def __init__(self, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.time_embed = nn.Linear(TIME, TIME)
        self.conv_in = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.conv_out = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        angles = level[:, None] * torch.exp(torch.linspace(0, math.log(200), TIME // 2))
        time = F.silu(self.time_embed(torch.cat([angles.sin(), angles.cos()], 1)))
        x = self.conv_in(x)
        for block in self.blocks:
            x = block(x, time)
        return self.conv_out(F.silu(F.group_norm(x, 4)))


def make_drawings(kind: str, count: int, generator: torch.Generator) -> Tensor:
    """Random drawings (count, 3, 12, 12) in [-1, 1]: "discs" on plain ground, "stripes", or "rings" in few colours."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    axis = torch.linspace(-1, 1, SIDE)
    y, x = axis[None, :, None], axis[None, None, :]
    centre, size = uniform(2, 1, 1) * 1.2 - 0.6, 0.25 + 0.4 * uniform(1, 1)
    distance = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt()
    if kind == "discs":
        mask = (distance < size).float()
    elif kind == "rings":
        mask = ((distance - size).abs() < 0.2).float()
    else:
        angle = uniform(1, 1) * math.pi
        mask = (((x * angle.cos() + y * angle.sin()) * 6 / (0.5 + size)).sin() > 0).float()
    ink, ground = uniform(2, 3, 1, 1).unbind(1)
    if kind == "rings":
        ink, ground = ink * torch.tensor([1, 0.2, 0.2])[:, None, None], ground * 0.2
    return 2 * (mask[:, None] * ink + (1 - mask[:, None]) * ground) - 1


def noise_drawings(kind: str, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Makes random drawings and adds noise to them: (noised drawings, noise levels, noise)."""
    level, noise = torch.rand(count, generator=generator), torch.randn(count, 3, SIDE, SIDE, generator=generator)
    share = level[:, None, None, None] * math.pi / 2
    return share.cos() * make_drawings(kind, count, generator) + share.sin() * noise, level, noise


@dataclass(frozen=True)
class Training:
    """The settings of a training: kind of drawings, steps, learning rate and seed."""

    kind: str
    steps: int
    rate: float
    seed: int


def read_or_train(start: Mapping[str, Tensor] | None, course: Training, path: Path) -> dict[str, Tensor]:
    """Trains from `start` (None: from scratch) and returns the weights; reads them from `path` if an earlier run wrote
    them."""
    if path.is_file():
        return torch.load(path)
    torch.manual_seed(course.seed)
    blocks = BLOCKS if start is None else len({name.split(".")[1] for name in start if name.startswith("blocks.")})
    model, generator = Denoiser(blocks), torch.Generator().manual_seed(course.seed)
    if start is not None:
        model.load_state_dict(start)
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.rate, weight_decay=0.05)
    for _ in range(course.steps):
        x, level, noise = noise_drawings(course.kind, _BATCH, generator)
        loss = F.mse_loss(model(x, level), noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights := {name: value.detach() for name, value in model.state_dict().items()}, path)
    return weights


def read_or_train_lora(
    base: Mapping[str, Tensor], kind: str, path: Path, rank: int = 4
) -> dict[str, tuple[Tensor, Tensor]]:
    """Trains a LoRA on drawings of a kind, or reads it from `path`: matrix name -> (up, down), for every matrix of a
    base."""
    if path.is_file():
        return torch.load(path)
    generator = torch.Generator().manual_seed(1)
    matrices = {name: weight for name, weight in base.items() if weight.ndim > 1}
    factors = {
        name: (
            torch.zeros(len(weight), rank, requires_grad=True),
            (torch.randn(rank, weight[0].numel(), generator=generator) / rank).requires_grad_(),
        )
        for name, weight in matrices.items()
    }
    optimizer = torch.optim.Adam([factor for pair in factors.values() for factor in pair], lr=3e-3)
    for _ in range(250):
        x, level, noise = noise_drawings(kind, _BATCH, generator)
        loss = F.mse_loss(predict_with_lora(base, factors, x, level), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(lora := {name: (up.detach(), down.detach()) for name, (up, down) in factors.items()}, path)
    return lora


def predict_with_lora(
    base: Mapping[str, Tensor], factors: Mapping[str, tuple[Tensor, Tensor]], x: Tensor, level: Tensor
) -> Tensor:
    """The prediction of a base with up @ down added to its matrices."""
    changed = {name: (up @ down).reshape(base[name].shape) + base[name] for name, (up, down) in factors.items()}
    return functional_call(_MODEL, {**base, **changed}, (x, level))


_MODEL = Denoiser()
