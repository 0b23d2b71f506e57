"""Save LoRA (Transfer)."""

from comfy_api.latest import io

from ..core.files import write_new
from ..core.reports.line import Line
from .host.adapter.adapter import Adapter
from .host.adapter.save import SAVED_DTYPES, cast_for_file, fill_placeholders, note_left_out, respell
from .host.adapter.write import SPELLINGS
from .host.paths import choose_output_path, metadata_allowed
from .messages import message
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
                    default="loras/{lora}_for_{target}",
                    tooltip="Folder and name in ComfyUI's output folder; {lora} and {target} stand for the names of "
                    "the LoRA and the target. Files in output/loras appear in the LoRA menus after a refresh.",
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
        prefix = fill_placeholders(filename_prefix, transferred)
        path = write_new(*choose_output_path(prefix), tensors, transferred.metadata if metadata_allowed() else None)
        lines = [
            Line("good", f"Saved as {path}"),
            *(Line("warn", note) for note in note_left_out(transferred, spelling)),
        ]
        return io.NodeOutput(str(path), ui={**message(lines), "text": [str(path)]})  # text: for scripts
