"""Check Transfer."""

from typing import Any, get_args

from comfy_api.latest import io, ui

from ..core.check import CheckSettings, Search
from ..core.pictures.check import check_picture
from .host.adapter.adapter import Adapter
from .host.check import Sides, check
from .host.session import host_progress, image_of, show
from .sockets import CATEGORY, AdapterSocket

_MOST_MORE = 8


class CheckTransfer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferCheck",
            display_name="Check Transfer (LoRA)",
            category=CATEGORY,
            description="Measures how well the transfer worked: how far the transferred LoRA and the plain copy "
            "bring the target's output towards that of the source with its LoRA.",
            is_output_node=True,
            inputs=[
                io.Model.Input("source_model", tooltip="The model that the LoRA was trained on, without the LoRA."),
                io.Model.Input("target_model", tooltip="The model that you want to use the LoRA on, without the LoRA."),
                AdapterSocket.Input("adapter", tooltip="The LoRA as it was trained, from Load LoRA (Transfer)."),
                AdapterSocket.Input(
                    "transferred", tooltip="The LoRA for the target, from Project LoRA or Refine LoRA."
                ),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="A prompt on which the LoRA shows, with its trigger words, from a CLIP without the LoRA.",
                ),
                io.Combo.Input(
                    "search",
                    options=list(get_args(Search)),
                    default=CheckSettings.search,
                    tooltip="off: every LoRA is tried at strength 1, and the output is the transferred LoRA. strength: "
                    "every LoRA is tried at 0.25 to 1.25, and the output is the best; it takes five times as long.",
                ),
                io.Int.Input(
                    "seed",
                    default=CheckSettings.seed,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,  # or the page changes it at every run
                    tooltip="The seed of the first latent's noise; each further latent takes the next seed.",
                ),
                io.Int.Input(
                    "seeds",
                    default=CheckSettings.seeds,
                    min=1,
                    max=64,
                    tooltip="How many latents are compared. More give steadier figures and take longer.",
                ),
                io.Int.Input(
                    "timesteps",
                    default=CheckSettings.timesteps,
                    min=1,
                    max=100,
                    tooltip="At how many noise levels the models are compared. More show better where they differ.",
                ),
                io.Int.Input(
                    "size",
                    default=CheckSettings.size,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Width and height in pixels when no latent is connected. Use a size that the models paint "
                    "well: 512 for SD 1.5, 1024 for SDXL and newer models.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="An empty latent sets the size. The latent of a picture (VAE Encode) is compared on "
                    "instead of "
                    "what the source paints with the LoRA.",
                ),
                io.Conditioning.Input(
                    "target_conditioning",
                    optional=True,
                    tooltip="The same prompt from the target's text encoder. Connect it if the two models have "
                    "different ones.",
                ),
                io.Autogrow.Input(
                    "more",
                    template=io.Autogrow.TemplatePrefix(
                        AdapterSocket.Input("transferred", optional=True), prefix="transferred_", min=0, max=_MOST_MORE
                    ),
                    optional=True,
                    tooltip="More LoRAs for the target to compare with, for example from other methods of "
                    "Project LoRA.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                AdapterSocket.Output(
                    display_name="transferred",
                    tooltip="For Apply LoRA and Save LoRA. After a search: the best LoRA, scaled so that its best "
                    "strength is 1. Without a search: the transferred LoRA as it is.",
                ),
                io.Float.Output(display_name="strength", tooltip="The strength that the output LoRA was scaled by."),
                io.Float.Output(
                    display_name="gap_closed",
                    tooltip="How far the output LoRA brings the target towards the source with its LoRA: 1 all "
                    "the way, "
                    "0 no nearer than without, below 0 farther away.",
                ),
                io.Image.Output(
                    display_name="plot", tooltip="Gap closed (thick), G (thin) and cosine (dotted) at each noise level."
                ),
                io.String.Output(display_name="report", tooltip="Every figure, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        source_model: Any,
        target_model: Any,
        adapter: Adapter,
        transferred: Adapter,
        conditioning: Any,
        search: Search,
        seed: int,
        seeds: int,
        timesteps: int,
        size: int,
        latent: dict[str, Any] | None = None,
        target_conditioning: Any = None,
        more: dict[str, Adapter] | None = None,
    ) -> io.NodeOutput:
        sides = Sides(source_model, target_model, conditioning, target_conditioning or conditioning)
        others = [one for one in (more or {}).values() if one is not None]
        settings = CheckSettings(search, seed, seeds, timesteps, size)
        checked = check(sides, adapter, transferred, others, latent, settings, host_progress())
        report = checked.report
        show(cls.hidden.unique_id, report.sentence())
        plot = image_of(check_picture(report))
        _, chosen = report.chosen()
        return io.NodeOutput(
            checked.adapter,
            chosen.strength,
            chosen.pooled.score,
            plot,
            report.dumps(),
            ui=ui.PreviewImage(plot, cls=cls),
        )
