"""Save LoRA (Transfer)."""

from comfy_api.latest import io, ui

from ..core.files import write_new
from .host.adapter.adapter import Adapter
from .host.adapter.save import SAVED_DTYPES, cast_for_file, note_left_out, respell
from .host.adapter.write import SPELLINGS
from .host.paths import choose_output_path, metadata_allowed
from .sockets import CATEGORY, AdapterSocket

_DTYPE = next(iter(SAVED_DTYPES))


class SaveLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferSave",
            display_name="Save LoRA (Transfer)",
            category=CATEGORY,
            search_aliases=["export lora", "lora to kohya", "lora to diffusers", "lora key names"],
            description="Saves the LoRA as a file with the original's metadata; never overwrites a file.",
            is_output_node=True,
            inputs=[
                AdapterSocket.Input(
                    "transferred", tooltip="The LoRA for the target, from Project LoRA, Check Transfer or Refine LoRA."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="loras/transferred",
                    tooltip="Folder and name in ComfyUI's output folder. Files in output/loras appear in the "
                    "LoRA menus after a refresh.",
                ),
                io.Combo.Input(
                    "spelling",
                    options=list(SPELLINGS),
                    tooltip="How the layers are named in the file. Use comfy for ComfyUI, kohya for sd-scripts and "
                    "most tools for Stable Diffusion, diffusers for the diffusers library.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(SAVED_DTYPES),
                    default=_DTYPE,
                    optional=True,
                    advanced=True,
                    tooltip="The precision of the file. float16 is usual; float32 keeps every digit at twice the size.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
        )

    @classmethod
    def execute(cls, transferred: Adapter, filename_prefix: str, spelling: str, dtype: str = _DTYPE) -> io.NodeOutput:
        tensors = cast_for_file(respell(transferred, spelling), transferred, dtype)
        path = write_new(
            *choose_output_path(filename_prefix), tensors, transferred.metadata if metadata_allowed() else None
        )
        return io.NodeOutput(
            str(path), ui=ui.PreviewText("\n".join((str(path), *note_left_out(transferred, spelling))))
        )
