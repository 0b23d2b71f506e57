"""Load LoRA from Another Base."""

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..core.plan import TransferSettings
from .host.loader import LoaderInputs, load_from_another_base
from .host.paths import adapter_names, adapter_path, state_of
from .host.session import resources, show
from .host.source import AUTO, trained_on_options, watch_source
from .inputs import gain_input, method_input, strength_input, threshold_input
from .messages import message
from .sockets import CATEGORY, LoraModelSocket


class LoadLoraFromAnotherBase(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferLoader",
            # The page ranks a word in the name above every alias, and finds other nodes for these two by their aliases.
            display_name="Load LoRA from Another Base (Convert, Rebase)",
            category=CATEGORY,
            description="Loads a LoRA that was trained on another base model, in place of Load LoRA: it transfers the "
            "LoRA to the connected model once, and keeps the result.",
            search_aliases=[
                "convert lora",
                "lora converter",
                "rebase lora",
                "migrate lora",
                "port lora",
                "transfer lora",
                "lora transfer",
                "adapt lora",
                "sdxl to ssd",
                "lora for another model",
                "change base model",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to use the LoRA on. LoRAs on it stay."),
                io.Combo.Input(
                    "lora_name",
                    options=adapter_names(),
                    tooltip="A file in models/loras: safetensors, .pt or .bin. No code inside the file is run.",
                ),
                io.Combo.Input(
                    "trained_on",
                    options=trained_on_options(),
                    default=AUTO,
                    tooltip="The base that the LoRA was trained on. auto: as the LoRA's file tells.\n"
                    "not on this disk: transfers by names alone; nothing can be checked.",
                ),
                strength_input("strength_model", "Strength of the LoRA on the model; 0 leaves the model as it is."),
                strength_input("strength_clip", "Strength of the LoRA on the text encoder; 0 leaves it as it is."),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The model's text encoder. Connect it if the LoRA changes it too."
                ),
                io.Model.Input(
                    "source_model",
                    optional=True,
                    advanced=True,
                    tooltip="The base that the LoRA was trained on as a loaded model (.ckpt, fp8, GGUF), used instead "
                    "of trained_on.",
                ),
                method_input(optional=True, advanced=True),
                threshold_input(optional=True, advanced=True),
                gain_input(),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,  # or the page forgets what a cached node says
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA."),
                io.Clip.Output(display_name="clip", tooltip="The text encoder with the LoRA."),
                LoraModelSocket.Output(
                    display_name="lora_model", tooltip="The transferred LoRA, for ComfyUI's own nodes."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, trained_on: str, **_: Any) -> list[str]:
        return [*state_of(adapter_path(lora_name)), *watch_source(trained_on)]

    @classmethod
    def validate_inputs(cls, lora_name: str, trained_on: str) -> bool:
        return True  # naming inputs here lets a missing file reach execute(), which says where it was looked for

    @classmethod
    def execute(
        cls,
        model: Any,
        lora_name: str,
        trained_on: str,
        strength_model: float,
        strength_clip: float,
        clip: Any = None,
        source_model: Any = None,
        method: str = TransferSettings.method,
        threshold: float = TransferSettings.threshold,
        gain: float = TransferSettings.gain,
    ) -> io.NodeOutput:
        inputs = LoaderInputs(model, clip, lora_name, trained_on, source_model)
        settings = TransferSettings(method, threshold, gain=gain)
        tell = partial(show, cls.hidden.unique_id)
        loaded = load_from_another_base(inputs, strength_model, strength_clip, settings, resources, tell)
        return io.NodeOutput(
            loaded.model, loaded.clip, dict(loaded.lora_model), ui=message(loaded.lines, loaded.report)
        )
