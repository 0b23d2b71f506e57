"""Save LoRA (Transfer)."""

from comfy_api.latest import io, ui

from ..core.files import write_new
from .host.adapter.adapter import Adapter
from .host.adapter.save import SAVED_DTYPES, for_file, left_out, respelled
from .host.adapter.write import SPELLINGS
from .host.paths import metadata_allowed, output_place
from .sockets import CATEGORY, AdapterSocket


class SaveLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferSave",
            display_name="Save LoRA (Transfer)",
            category=CATEGORY,
            description="Saves the LoRA for every loader, with the original's metadata and where it came from. "
            "Nothing is ever overwritten.",
            is_output_node=True,
            inputs=[
                AdapterSocket.Input("adapter", tooltip="From Project LoRA."),
                io.String.Input(
                    "filename_prefix",
                    default="loras/transferred",
                    tooltip="Below ComfyUI's output folder; output/loras appears in the LoRA menus after a refresh.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(SAVED_DTYPES),
                    tooltip="float16 is what most LoRA files use. float32 keeps every digit at twice the size.",
                ),
                io.Combo.Input(
                    "spelling",
                    options=list(SPELLINGS),
                    tooltip="How the layers are named in the file. comfy: ComfyUI's own names, for every model. kohya: "
                    "as sd-scripts and most SD tools write. diffusers: for diffusers and what is built on it.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
        )

    @classmethod
    def execute(cls, adapter: Adapter, filename_prefix: str, dtype: str, spelling: str) -> io.NodeOutput:
        tensors = for_file(respelled(adapter, spelling), adapter, dtype)
        path = write_new(*output_place(filename_prefix), tensors, adapter.metadata if metadata_allowed() else None)
        return io.NodeOutput(str(path), ui=ui.PreviewText("\n".join((str(path), *left_out(adapter, spelling)))))
