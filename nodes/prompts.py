"""Prompts for Refine."""

from typing import Any

from comfy_api.latest import io

from .host.adapter.adapter import Adapter
from .host.refine.prompt_list import choose, conditioning_of
from .host.session import host_progress, show
from .sockets import CATEGORY, AdapterSocket


class PromptsForRefine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferPrompts",
            display_name="Prompts for Refine (LoRA)",
            category=CATEGORY,
            description="Prompts for the source to paint while it teaches: your own, those of the LoRA's own tags, or "
            "plain ones with its trigger words.",
            inputs=[
                AdapterSocket.Input("adapter", tooltip="The LoRA as it was trained: from Load LoRA (Transfer)."),
                io.Clip.Input("clip", tooltip="The source's text encoder, without the LoRA."),
                io.Clip.Input(
                    "target_clip",
                    optional=True,
                    tooltip="The target's text encoder, where that is not the source's.",
                ),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip="Your own prompts, one a line, with the trigger words in each. Empty: from what the LoRA's "
                    "file says of its training, or plain ones.",
                ),
                io.Int.Input(
                    "count",
                    default=16,
                    min=1,
                    max=256,
                    tooltip="How many prompts at most. More are more varied lessons, at the cost of their encoding.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,  # or the page changes it at every run
                    tooltip="Which tags or plain prompts are drawn; your own are taken from the first on.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="An entry for each prompt, in order."),
                io.Conditioning.Output(
                    display_name="target_conditioning",
                    tooltip="The same prompts by target_clip; without one, the same conditioning.",
                ),
                io.String.Output(display_name="prompts", tooltip="One a line: to look at, change and give back."),
            ],
        )

    @classmethod
    def execute(
        cls, adapter: Adapter, clip: Any, text: str, count: int, seed: int, target_clip: Any = None
    ) -> io.NodeOutput:
        chosen = choose(text, adapter.metadata, count, seed)
        show(cls.hidden.unique_id, chosen.origin)
        conditioning = conditioning_of(clip, chosen.prompts, "clip", host_progress())
        theirs = (
            conditioning
            if target_clip is None
            else conditioning_of(target_clip, chosen.prompts, "target_clip", host_progress())
        )
        return io.NodeOutput(conditioning, theirs, "\n".join(chosen.prompts))
