"""Load LoRA (Transfer)."""

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from .host.adapter.adapter import adapter_from_file, adapter_from_state_dict
from .host.adapter.describe import describe_adapter
from .host.paths import adapter_names, adapter_path, state_of
from .messages import message
from .sockets import CATEGORY, AdapterSocket, LoraModelSocket


class LoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferLoadLora",
            display_name="Load LoRA (Transfer)",
            category=CATEGORY,
            search_aliases=["open lora"],
            description="Loads the LoRA that you want to transfer to another base.",
            inputs=[
                io.Combo.Input(
                    "lora_name",
                    options=adapter_names(),
                    tooltip="A file in models/loras: safetensors, .pt or .bin. No code inside the file is run.",
                ),
                LoraModelSocket.Input(
                    "lora_model",
                    optional=True,
                    tooltip="A LoRA from another node, such as Train LoRA, used instead of lora_name.",
                ),
            ],
            has_intermediate_output=True,
            outputs=[AdapterSocket.Output(display_name="adapter", tooltip="The LoRA, for the nodes of LoRA Transfer.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **_: Any) -> list[str]:
        return state_of(adapter_path(lora_name))

    @classmethod
    def validate_inputs(cls, lora_name: str) -> bool:
        return True  # naming the input here lets a missing file reach execute(), which says where it was looked for

    @classmethod
    def execute(cls, lora_name: str, lora_model: Mapping[str, Tensor] | None = None) -> io.NodeOutput:
        adapter = (
            adapter_from_file(adapter_path(lora_name), lora_name)
            if lora_model is None
            else adapter_from_state_dict(lora_model, "(connected LoRA)")
        )
        return io.NodeOutput(adapter, ui=message(describe_adapter(adapter)))
