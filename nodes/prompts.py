"""Prompts for Refine."""

from typing import Any

from comfy_api.latest import io

from ..core.reports.line import Line
from .host.adapter.adapter import Adapter
from .host.refine.prompt_list import choose_prompts, encode_prompts
from .host.session import host_progress
from .inputs import original_adapter_input, seed_input
from .messages import message
from .sockets import CATEGORY


class PromptsForRefine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferPrompts",
            display_name="Prompts for Refine (LoRA)",
            category=CATEGORY,
            search_aliases=["trigger words", "teacher prompts", "prompts without data"],
            description="Makes the prompts that Refine LoRA learns from: your own, prompts from the LoRA's tags, or "
            "plain prompts with its trigger words.",
            inputs=[
                original_adapter_input(),
                io.Clip.Input("clip", tooltip="The source's text encoder, without the LoRA."),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip="Your own prompts, one per line, each with the trigger words. Leave it empty to use the "
                    "tags in the LoRA's file, or plain prompts.",
                ),
                io.Int.Input(
                    "count",
                    default=16,
                    min=1,
                    max=256,
                    tooltip="The largest number of prompts. Raise it for more variety; encoding takes longer.",
                ),
                io.Clip.Input(
                    "target_clip",
                    optional=True,
                    tooltip="The target's text encoder. Connect it if the two models have different ones.",
                ),
                seed_input("Chooses the tags or the plain prompts. Your own prompts are used in order."),
            ],
            has_intermediate_output=True,
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="One entry for each prompt, in order."),
                io.Conditioning.Output(
                    display_name="target_conditioning",
                    tooltip="The same prompts, encoded by target_clip. Equals conditioning if target_clip is empty.",
                ),
                io.String.Output(display_name="prompts", tooltip="The prompts, one per line, to read or to edit."),
            ],
        )

    @classmethod
    def execute(
        cls, adapter: Adapter, clip: Any, text: str, count: int, target_clip: Any = None, seed: int = 0
    ) -> io.NodeOutput:
        chosen = choose_prompts(text, adapter.metadata, count, seed)
        conditioning = encode_prompts(clip, chosen.prompts, "clip", host_progress())
        target_conditioning = (
            conditioning
            if target_clip is None
            else encode_prompts(target_clip, chosen.prompts, "target_clip", host_progress())
        )
        shown = message([Line.sentence("plain", chosen.origin)])
        return io.NodeOutput(conditioning, target_conditioning, "\n".join(chosen.prompts), ui=shown)
