"""Check Transfer."""

from typing import Any, get_args

from comfy_api.latest import io, ui

from ..core.check import CheckSettings, Search
from ..core.pictures.check import arrival_picture
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
            description="How much of the LoRA arrived: how far the projected one and the plain copy bring the target's "
            "output to that of the source with its LoRA, on the same noised latents. No data, no training.",
            is_output_node=True,
            inputs=[
                io.Model.Input("source_model", tooltip="The model that the LoRA was trained on, without the LoRA."),
                io.Model.Input("target_model", tooltip="The model that the LoRA is carried to, without the LoRA."),
                AdapterSocket.Input("adapter", tooltip="The LoRA as it was trained: from Load LoRA (Transfer)."),
                AdapterSocket.Input("projected", tooltip="The LoRA for the target: from Project LoRA."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="What to paint: a prompt on which the LoRA shows, with its trigger words; from a CLIP "
                    "without the LoRA.",
                ),
                io.Combo.Input(
                    "search",
                    options=list(get_args(Search)),
                    default=CheckSettings.search,
                    tooltip="strength: try every LoRA and the plain copy at 0.25 to 1.25, and give out the best at its "
                    "best strength; five times as long. off: each at 1, and the projected LoRA goes through unchanged.",
                ),
                io.Int.Input(
                    "seed",
                    default=CheckSettings.seed,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,  # or the page changes it at every run
                    tooltip="The noise of the first latent; each further one takes the next seed.",
                ),
                io.Int.Input(
                    "seeds",
                    default=CheckSettings.seeds,
                    min=1,
                    max=64,
                    tooltip="How many noises: more are steadier figures and a longer run.",
                ),
                io.Int.Input(
                    "timesteps",
                    default=CheckSettings.timesteps,
                    min=1,
                    max=100,
                    tooltip="At how many noise levels the models are compared, evenly spread over the source's.",
                ),
                io.Int.Input(
                    "size",
                    default=CheckSettings.size,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Side of the picture in pixels where no latent is connected. Take what the models paint "
                    "well: 512 for SD 1.5, 1024 for SDXL and later ones.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="An empty one gives the size. A picture (VAE Encode) is noised and compared on, in place "
                    "of what the source paints with the LoRA.",
                ),
                io.Conditioning.Input(
                    "target_conditioning",
                    optional=True,
                    tooltip="The same prompt by the target's own text encoder, where that is not the source's.",
                ),
                io.Autogrow.Input(
                    "more",
                    template=io.Autogrow.TemplatePrefix(
                        AdapterSocket.Input("adapter", optional=True), prefix="adapter_", min=0, max=_MOST_MORE
                    ),
                    optional=True,
                    tooltip="Further LoRAs for the target, such as other methods of Project LoRA, to compare with.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                AdapterSocket.Output(
                    display_name="adapter",
                    tooltip="For Apply LoRA and Save LoRA: after a search the best one, scaled so that its best is "
                    "strength 1; without one the projected LoRA as it is.",
                ),
                io.Float.Output(display_name="strength", tooltip="The strength that is in the adapter given out."),
                io.Float.Output(
                    display_name="score",
                    tooltip="Of the adapter given out, the share of the way that it covers from the bare target to the "
                    "source with its LoRA: 1 all of it, 0 no nearer than without, below 0 farther. What undoes the "
                    "drift between the models counts too; G in the report looks at the LoRA's change alone. 0 also "
                    "where there is no way to go.",
                ),
                io.Image.Output(display_name="plot", tooltip="The score (thick), G (thin) and the cosine (dotted)."),
                io.String.Output(display_name="report", tooltip="The sentence and every figure as JSON (schema 1)."),
            ],
        )

    @classmethod
    def execute(
        cls,
        source_model: Any,
        target_model: Any,
        adapter: Adapter,
        projected: Adapter,
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
        checked = check(sides, adapter, projected, others, latent, settings, host_progress())
        report = checked.report
        show(cls.hidden.unique_id, report.sentence())
        plot = image_of(arrival_picture(report))
        _, chosen = report.chosen()
        return io.NodeOutput(
            checked.adapter,
            chosen.strength,
            chosen.pooled.score,
            plot,
            report.dumps(),
            ui=ui.PreviewImage(plot, cls=cls),
        )
