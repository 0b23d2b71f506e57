"""The demo's own nodes. Their prompts were encoded in advance, as every text encoder is too large to ship."""

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from safetensors import safe_open


class EmojiPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferDemoEmojiPrompts",
            display_name="Emoji Prompts (demo)",
            category="LoRA Transfer/demo",
            description="Encodes emoji names for the small models of LoRA Transfer's demo.",
            inputs=[
                io.String.Input(
                    "names",
                    multiline=True,
                    default="grinning face",
                    tooltip="English names of emoji, one a line, one for each image. Empty: the empty prompt.",
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, names: str) -> io.NodeOutput:
        return io.NodeOutput(encode([line.strip() for line in names.splitlines() if line.strip()]))


class EmojiClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferDemoEmojiClip",
            display_name="Emoji CLIP (demo)",
            category="LoRA Transfer/demo",
            description="Encodes captions for the small models of LoRA Transfer's demo, in place of a text encoder.",
            inputs=[],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(_Clip())


class _Clip:
    """The part of a CLIP that Make Training Dataset calls."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[Any]:
        return encode([tokens] if tokens else [])


def encode(names: list[str]) -> list[Any]:
    """Names of emoji as a CONDITIONING with a row for each; without any, the empty prompt."""
    with safe_open(Path(folder_paths.models_dir, "emoji_prompts", "emoji_prompts.safetensors"), "pt") as file:
        known = file.metadata()["names"].split("\n")
        context, pooled = (file.get_tensor(key).float() for key in ("context", "pooled"))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"Emoji Prompts does not know '{unknown[0]}'. Use some of its {len(known)} names: {', '.join(known)}."
        )
    if not names:
        return [[torch.zeros_like(context[:1]), {"pooled_output": torch.zeros_like(pooled[:1])}]]
    chosen = [known.index(name) for name in names]
    return [[context[chosen], {"pooled_output": pooled[chosen]}]]


class DemoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [EmojiPrompts, EmojiClip]


async def comfy_entrypoint() -> DemoExtension:
    return DemoExtension()
