"""A small network that tells drawing styles apart, trained here on latents.

Its features measure generated drawings: their distance to a style's real drawings, and their diversity. Training prints
its accuracy on subjects that it never saw.
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
    """The network: latents (n, 16, 8, 8) -> features (n, 64)."""

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
class StyleNetwork:
    """The trained network and the names of the styles that it tells apart."""

    model: Features
    styles: list[str]

    def features(self, latents: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.model(latents)

    def style_share(self, latents: Tensor, style: str) -> float:
        """The share of drawings that the network assigns to this style."""
        with torch.inference_mode():
            assigned = self.model.style(self.model(latents)).argmax(1)
        return float((assigned == self.styles.index(style)).float().mean())

    def distance(self, latents: Tensor, real: Tensor) -> float:
        """The squared distance between the mean features of two sets, over the variance of the real set."""
        drawn_features, real_features = self.features(latents), self.features(real)
        gap = drawn_features.mean(0) - real_features.mean(0)
        return float(gap.square().sum() / real_features.var(0).sum())

    def diversity(self, latents: Tensor, real: Tensor) -> float:
        """The spread over subjects, relative to that of real drawings."""
        return float((self.features(latents).var(0).sum() / self.features(real).var(0).sum()).sqrt())


def load_style_network(latents: Latents, path: Path) -> StyleNetwork:
    """Reads the network, or trains it in a minute."""
    styles = [
        style for style in latents.styles if style != "line" + RECOLOURED
    ]  # recolouring leaves black and white unchanged
    model = Features(len(styles))
    if not path.is_file():
        _train(model, latents, styles)
        save(model.state_dict(), path)
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return StyleNetwork(model.eval().requires_grad_(requires_grad=False), styles)


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
    held_out = drawn[:, latents.held_out, 0]
    with torch.inference_mode():
        right = [
            float((model.style(model(images)).argmax(1) == index).float().mean())
            for index, images in enumerate(held_out)
        ]
    print(
        "style network: share of held-out drawings assigned to their style: "
        + ", ".join(f"{style} {share:.2f}" for style, share in zip(styles, right, strict=True)),
        flush=True,
    )
