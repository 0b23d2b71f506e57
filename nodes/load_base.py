"""Load Source Base, Load Target Base."""

from typing import Any

from comfy_api.latest import io

from ..core.errors import InvalidSetting
from ..core.files.shards import shard_paths
from .host.base.describe import describe_base
from .host.base.from_file import base_from_file
from .host.base.from_model import HostBase, base_from_model, with_text_encoder
from .host.paths import base_names, base_path, state_of
from .messages import message
from .sockets import CATEGORY, BaseSocket

# The first option of both nodes. ComfyUI preselects it; a file there would be the same one on both nodes.
NO_FILE = "choose a file"


class LoadSourceBase(io.ComfyNode):
    WHICH = "the base that the LoRA was trained on"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "LoraTransferLoadSourceBase",
            "Load Source Base",
            "Opens the base model that the LoRA was trained on; reads only names and shapes, and loads no model.",
            ["old base", "original model", "model that the lora was trained on"],
        )

    @classmethod
    def fingerprint_inputs(cls, base_name: str, **_: Any) -> list[str]:
        return [] if base_name == NO_FILE else state_of(*shard_paths(base_path(base_name)))

    @classmethod
    def validate_inputs(cls, base_name: str) -> bool:
        return True  # naming the input here lets a missing file reach execute(), which says where it was looked for

    @classmethod
    def execute(cls, base_name: str, model: Any = None, clip: Any = None) -> io.NodeOutput:
        if model is None and base_name == NO_FILE:
            raise InvalidSetting(f"Base: expected a file or a model, found none. Choose {cls.WHICH}, or connect it.")
        base = _load(base_name, model, clip)
        return io.NodeOutput(base, ui=message(describe_base(base)))


class LoadTargetBase(LoadSourceBase):
    WHICH = "the base that you want to use the LoRA on"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "LoraTransferLoadTargetBase",
            "Load Target Base",
            "Opens the base model that you want to use the LoRA on; reads only names and shapes, and loads no model.",
            ["new base", "new model", "model to use the lora on"],
        )


def _schema(node_id: str, display_name: str, description: str, search_aliases: list[str]) -> io.Schema:
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category=CATEGORY,
        search_aliases=search_aliases,
        description=description,
        inputs=[
            io.Combo.Input(
                "base_name",
                options=[NO_FILE, *base_names()],
                tooltip="A safetensors file in models/checkpoints or models/diffusion_models. If the model consists of "
                "several files, choose any of them.",
            ),
            io.Model.Input(
                "model",
                optional=True,
                tooltip="A loaded model from any loader (fp8, GGUF, ...), used instead of base_name. Merges count as "
                "part of it; LoRAs on it are left out, and the node lists them.",
            ),
            io.Clip.Input(
                "clip",
                optional=True,
                tooltip="The base's text encoder. Connect it on both bases to transfer the LoRA's part for the text "
                "encoder too.",
            ),
        ],
        has_intermediate_output=True,
        outputs=[
            BaseSocket.Output(
                display_name="base",
                tooltip="The base, for Compute Subspace Similarity. Its weights are only read when they are needed.",
            )
        ],
    )


def _load(base_name: str, model: Any, clip: Any) -> HostBase:
    base = base_from_file(base_path(base_name), base_name) if model is None else base_from_model(model)
    return base if clip is None else with_text_encoder(base, clip)
