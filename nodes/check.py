"""Check Transfer."""

from typing import Any, get_args

from comfy_api.latest import io, ui

from ..core.check import CheckSettings, Search
from ..core.pictures.check import check_picture
from .host.adapter.adapter import Adapter
from .host.check import CheckInputs, check
from .host.session import host_progress, image_of
from .inputs import comparison_inputs, seed_input, size_input, target_conditioning_input
from .messages import message
from .sockets import CATEGORY, AdapterSocket

_MOST_MORE = 8  # further LoRAs to compare


class CheckTransfer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferCheck",
            display_name="Check Transfer (LoRA)",
            category=CATEGORY,
            search_aliases=["test lora", "measure lora", "compare loras", "best lora strength", "evaluate transfer"],
            description="Measures how well a transfer worked: how close the transferred LoRA and the plain copy bring "
            "the target's output to that of the source with its LoRA.",
            is_output_node=True,
            inputs=[
                *comparison_inputs(),
                AdapterSocket.Input(
                    "transferred", tooltip="The LoRA for the target, from Project LoRA or Refine LoRA."
                ),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="A prompt that shows what the LoRA does, with its trigger words, encoded by a CLIP without "
                    "the LoRA.",
                ),
                io.Combo.Input(
                    "search",
                    options=list(get_args(Search)),
                    default=CheckSettings.search,
                    tooltip="off: tries every LoRA at strength 1 and outputs the transferred LoRA.\n"
                    "strength: tries every LoRA at 0.25 to 1.25 and outputs the best; takes five times as long.",
                ),
                target_conditioning_input(),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="An empty latent sets the size of the pictures. Connect the latent of a picture (VAE "
                    "Encode) to compare the models on that picture.",
                ),
                seed_input("The seed of the first latent's noise; each further latent takes the next seed."),
                io.Int.Input(
                    "seeds",
                    default=CheckSettings.seeds,
                    min=1,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip="How many latents are compared. Raise it for steadier figures; the run takes longer.",
                ),
                io.Int.Input(
                    "timesteps",
                    default=CheckSettings.timesteps,
                    min=1,
                    max=100,
                    optional=True,
                    advanced=True,
                    tooltip="The number of noise levels to compare the models at. Raise it to see in more detail where "
                    "they differ.",
                ),
                size_input(),
                io.Autogrow.Input(
                    "more",
                    template=io.Autogrow.TemplatePrefix(
                        AdapterSocket.Input("transferred", optional=True), prefix="transferred_", min=0, max=_MOST_MORE
                    ),
                    optional=True,
                    tooltip="More LoRAs for the target, to compare with: for example from other methods of Project "
                    "LoRA.",
                ),
            ],
            outputs=[
                AdapterSocket.Output(
                    display_name="transferred",
                    tooltip="After a search, the best LoRA, scaled so that strength 1 is its best strength. Without a "
                    "search, the transferred LoRA as it is.",
                ),
                io.Float.Output(display_name="strength", tooltip="The strength that the LoRA was scaled by."),
                io.Float.Output(
                    display_name="gap_closed",
                    tooltip="How far the LoRA brings the target towards the source with its LoRA: 1 is all the way, 0 "
                    "is no closer than without a LoRA, below 0 is farther away.",
                ),
                io.String.Output(display_name="report", tooltip="Every figure, as JSON."),
                io.Image.Output(
                    display_name="plot", tooltip="Gap closed (thick), G (thin) and cosine (dotted) at each noise level."
                ),
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
        target_conditioning: Any = None,
        latent: dict[str, Any] | None = None,
        seed: int = CheckSettings.seed,
        seeds: int = CheckSettings.seeds,
        timesteps: int = CheckSettings.timesteps,
        size: int = CheckSettings.size,
        more: dict[str, Adapter] | None = None,
    ) -> io.NodeOutput:
        inputs = CheckInputs(source_model, target_model, conditioning, target_conditioning or conditioning)
        others = [candidate for candidate in (more or {}).values() if candidate is not None]
        settings = CheckSettings(search, seed, seeds, timesteps, size)
        checked = check(inputs, adapter, transferred, others, latent, settings, host_progress())
        report = checked.report
        plot = image_of(check_picture(report))
        _, chosen = report.chosen()
        return io.NodeOutput(
            checked.adapter,
            chosen.strength,
            chosen.pooled.score,
            report.dumps(),
            plot,
            ui=message(report.lines(), images=[ui.PreviewImage(plot, cls=cls)]),
        )
