"""Transfer LoRA Folder."""

from functools import partial
from typing import Any

from comfy_api.latest import io, ui

from ..core.methods import METHODS
from ..core.plan import TransferSettings
from .host.base.from_model import HostBase
from .host.library.folder import files_below_loras, transfer_folder
from .host.library.settings import LibrarySettings, compare_settings_for
from .host.paths import metadata_allowed
from .host.session import image_of, resources, show
from .messages import message
from .sockets import CATEGORY, BaseSocket


class TransferLoraFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferFolder",
            display_name="Transfer LoRA Folder",
            category=CATEGORY,
            search_aliases=["batch lora", "convert all loras", "lora library", "lora folder", "bulk transfer"],
            description="Transfers all LoRAs of a folder to another base, and goes on where an earlier run stopped.",
            is_output_node=True,
            inputs=[
                BaseSocket.Input("source", tooltip="The base that the LoRAs were trained on."),
                BaseSocket.Input("target", tooltip="The base that you want to use the LoRAs on."),
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder below models/loras; empty for all LoRAs. Results go to output/loras, into a "
                    "folder with the target's name.",
                ),
                io.String.Input(
                    "name_filter",
                    default="*",
                    tooltip="Only files whose name fits this pattern, such as *style*.",
                ),
                io.Boolean.Input("subfolders", default=True, tooltip="Includes the folders inside the folder."),
                io.Combo.Input(
                    "method",
                    options=[method.name for method in METHODS],
                    default=TransferSettings.method,
                    optional=True,
                    advanced=True,
                    tooltip="How each layer is transferred; Project LoRA explains the methods.",
                ),
                io.Boolean.Input(
                    "force",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Transfers LoRAs that the verdict refuses too. Turn it on only to see the damage.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.String.Output(display_name="report", tooltip="A line for each file: what became of it, and why."),
                io.String.Output(display_name="manifest", tooltip="The file that says everything about every file."),
                io.Image.Output(display_name="table", tooltip="The report as a picture."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        return float("nan")  # files may have changed; what is done is skipped anyway

    @classmethod
    def execute(
        cls,
        source: HostBase,
        target: HostBase,
        folder: str,
        name_filter: str,
        subfolders: bool,
        method: str = TransferSettings.method,
        force: bool = False,
    ) -> io.NodeOutput:
        files = files_below_loras(folder, name_filter, subfolders, target)
        settings = LibrarySettings(
            compare_settings_for(method), TransferSettings(method), force=force, metadata=metadata_allowed()
        )
        tell = partial(show, cls.hidden.unique_id)
        result = transfer_folder(source, target, files, settings, resources(), tell)
        table = image_of(result.picture())
        shown = message(result.lines(), images=[ui.PreviewImage(table, cls=cls)])
        return io.NodeOutput(result.table(), str(result.manifest), table, ui=shown)
