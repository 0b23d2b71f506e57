"""A node for the demo alone: prompts that were encoded in advance, for no text encoder is small enough to ship."""

from pathlib import Path

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
            description="Conditioning for the small emoji models of LoRA Transfer's demo, and for nothing else.",
            inputs=[
                io.String.Input(
                    "names",
                    multiline=True,
                    default="grinning face",
                    tooltip="One emoji's English name a line: one image of the batch each. Empty: the empty prompt.",
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, names: str) -> io.NodeOutput:
        wanted = [line.strip() for line in names.splitlines() if line.strip()]
        with safe_open(Path(folder_paths.models_dir, "emoji_prompts", "emoji_prompts.safetensors"), "pt") as file:
            known = file.metadata()["names"].split("\n")
            context, pooled = (file.get_tensor(key).float() for key in ("context", "pooled"))
        if unknown := [name for name in wanted if name not in known]:
            raise ValueError(f"Emoji Prompts knows no '{unknown[0]}'. Its {len(known)} names are: {', '.join(known)}.")
        chosen = [known.index(name) for name in wanted]
        if not chosen:
            return io.NodeOutput([[torch.zeros_like(context[:1]), {"pooled_output": torch.zeros_like(pooled[:1])}]])
        return io.NodeOutput([[context[chosen], {"pooled_output": pooled[chosen]}]])


class DemoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [EmojiPrompts]


async def comfy_entrypoint() -> DemoExtension:
    return DemoExtension()
