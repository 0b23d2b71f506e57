"""What a drawing looks like, in numbers: a small network that tells styles and subjects apart, trained here on latents.

Its features judge generated drawings: how far they are from a style's real ones, and how much they differ among
themselves. Accuracy on subjects it never saw in training is printed when it is trained.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from .latents import RECOLOURED, Latents
from .training import save

STEPS, BATCH, WIDTH = 600, 128, 64


class Features(nn.Module):
    """(n, 16, 8, 8) -> (n, 64)."""

    def __init__(self, styles: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(16, WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(WIDTH * 16, WIDTH),
        )
        self.style = nn.Linear(WIDTH, styles)

    def forward(self, latents: Tensor) -> Tensor:
        return F.layer_norm(self.trunk(latents), (WIDTH,))


@dataclass(frozen=True)
class Eye:
    """The trained features and the names of the styles that they tell apart."""

    model: Features
    styles: list[str]

    def seen(self, latents: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.model(latents)

    def style_share(self, latents: Tensor, style: str) -> float:
        """The share of drawings that are taken for this style's."""
        with torch.inference_mode():
            found = self.model.style(self.model(latents)).argmax(1)
        return float((found == self.styles.index(style)).float().mean())

    def distance(self, latents: Tensor, real: Tensor) -> float:
        """The distance of the mean features of two sets, squared, in units of the real set's own spread."""
        ours, theirs = self.seen(latents), self.seen(real)
        return float((ours.mean(0) - theirs.mean(0)).square().sum() / theirs.var(0).sum())

    def diversity(self, latents: Tensor, real: Tensor) -> float:
        """The spread of drawings of different subjects, in units of the real ones' spread."""
        return float((self.seen(latents).var(0).sum() / self.seen(real).var(0).sum()).sqrt())


def eye(latents: Latents, path: Path) -> Eye:
    """Trained in a minute, or read."""
    styles = [style for style in latents.styles if style != "line" + RECOLOURED]  # black and white stay as they are
    model = Features(len(styles))
    if not path.is_file():
        _train(model, latents, styles)
        save(model.state_dict(), path)
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return Eye(model.eval().requires_grad_(requires_grad=False), styles)


def _train(model: Features, latents: Latents, styles: list[str]) -> None:
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    drawn = torch.stack([latents.styles[style] for style in styles])  # (styles, subjects, variants, 16, 8, 8)
    seen = torch.tensor(latents.seen)
    for _ in range(STEPS):
        style = torch.randint(len(styles), (BATCH,), generator=generator)
        subject = seen[torch.randint(len(seen), (BATCH,), generator=generator)]
        variant = torch.randint(drawn.shape[2], (BATCH,), generator=generator)
        images = drawn[style, subject, variant]
        images = images + 0.2 * torch.randn(images.shape, generator=generator)
        loss = F.cross_entropy(model.style(model(images)), style)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held = drawn[:, latents.held_out, 0]
    with torch.inference_mode():
        right = [
            float((model.style(model(images)).argmax(1) == index).float().mean()) for index, images in enumerate(held)
        ]
    print(
        "features: share of held-out drawings taken for their style: "
        + ", ".join(f"{style} {share:.2f}" for style, share in zip(styles, right, strict=True)),
        flush=True,
    )
