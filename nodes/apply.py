"""Apply LoRA (Transfer)."""

from typing import Any

from comfy_api.latest import io

from .host.adapter.adapter import Adapter
from .host.adapter.apply import apply
from .inputs import strength_input
from .messages import message
from .sockets import CATEGORY, AdapterSocket


class ApplyLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferApply",
            display_name="Apply LoRA (Transfer)",
            category=CATEGORY,
            search_aliases=["apply transferred lora", "lora without saving"],
            description="Applies a LoRA to a model without saving it to a file first.",
            inputs=[
                io.Model.Input("model", tooltip="The model to apply the LoRA to: the target, for a transferred LoRA."),
                AdapterSocket.Input(
                    "adapter", tooltip="A transferred LoRA, or a LoRA from Load LoRA (Transfer) to compare with."
                ),
                strength_input("strength_model", "Strength of the LoRA on the model; 0 leaves the model as it is."),
                strength_input("strength_clip", "Strength of the LoRA on the text encoder; 0 leaves it as it is."),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoder. Connect it if the LoRA changes it too."
                ),
            ],
            has_intermediate_output=True,
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA."),
                io.Clip.Output(display_name="clip", tooltip="The text encoder with the LoRA."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, adapter: Adapter, strength_model: float, strength_clip: float, clip: Any = None
    ) -> io.NodeOutput:
        applied = apply(adapter, model, clip, strength_model, strength_clip)
        return io.NodeOutput(applied.model, applied.clip, ui=message(applied.lines()))
