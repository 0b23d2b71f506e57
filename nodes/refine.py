"""Refine LoRA."""

from typing import Any, get_args

from comfy_api.latest import io, ui

from ..core.pictures.refine import refine_picture
from ..core.refine.loop import RefineSettings
from ..core.refine.teacher_samples import MATCHES, Match
from .host.adapter.adapter import Adapter
from .host.refine.run import Wanted, refine_adapter
from .host.refine.teacher import TeacherSettings
from .host.session import image_of, or_nothing, show, show_picture
from .sockets import CATEGORY, AdapterSocket, LoraModelSocket


class RefineLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferRefine",
            display_name="Refine LoRA",
            category=CATEGORY,
            description="Trains a carried LoRA on for a few dozen steps, without data: the source with its LoRA makes "
            "the lessons, the target learns to answer as it does. Takes the memory of a LoRA training; on the card "
            "only one of the two models at a time.",
            is_output_node=True,
            inputs=[
                io.Model.Input("source_model", tooltip="The model that the LoRA was trained on, without the LoRA."),
                io.Model.Input("target_model", tooltip="The model that the LoRA is carried to, without the LoRA."),
                AdapterSocket.Input("adapter", tooltip="The LoRA as it was trained: from Load LoRA (Transfer)."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="What the source paints to make lessons: from Prompts for Refine (LoRA). Prompts on which "
                    "the LoRA shows, with its trigger words, as many and as different as you have; or join your own "
                    "with Conditioning (Combine), or a batch. From a CLIP without the LoRA.",
                ),
                io.Int.Input(
                    "steps",
                    default=RefineSettings.steps,
                    min=0,
                    max=10000,
                    tooltip="Gradient steps. Most is won in the first 40; it ends by itself where the score stops "
                    "rising. Time goes with steps times batch.",
                ),
                io.Int.Input(
                    "batch",
                    default=RefineSettings.batch,
                    min=1,
                    max=1024,
                    tooltip="Noised latents a step. As many as fit into memory go at once; where they do not, they go "
                    "in parts with the same result.",
                ),
                io.Combo.Input(
                    "match",
                    options=list(get_args(Match)),
                    default=RefineSettings.match,
                    tooltip="\n".join(f"{name}: {summary}" for name, summary in MATCHES.items()),
                ),
                io.Int.Input(
                    "samples",
                    default=TeacherSettings.samples,
                    min=2,
                    max=10000,
                    tooltip="Short samplings that the source makes, eight calls of the model each; an eighth of them "
                    "is kept for the score. They are kept on disk: another target or run with the same prompts, seed "
                    "and size asks the source nothing.",
                ),
                io.Int.Input(
                    "rank",
                    default=RefineSettings.rank,
                    min=1,
                    max=1024,
                    tooltip="Only where `transferred` is empty: the rank of the new LoRA. A carried one keeps its own.",
                ),
                io.Int.Input(
                    "seed",
                    default=RefineSettings.seed,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,  # or the page changes it at every run
                    tooltip="Of the source's noise, the order of the lessons and new factors.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Side of the pictures in pixels where no latent is connected. Take what the models paint "
                    "well: 512 for SD 1.5, 1024 for SDXL and later ones. Smaller takes less memory and time.",
                ),
                io.Int.Input(
                    "target_steps",
                    default=TeacherSettings.target_steps,
                    min=0,
                    max=100,
                    tooltip="For a turbo or lightning target: the number of steps that it is used with (1 to 8). It is "
                    "then taught at the noise levels of those steps alone. 0: any number, for all other models.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=RefineSettings.rate,
                    min=0.0001,
                    max=1.0,
                    step=0.0001,
                    advanced=True,
                    tooltip="By what share of its size a step changes a factor. Not the rate of other trainers: it "
                    "needs no change from model to model.",
                ),
                AdapterSocket.Input(
                    "transferred",
                    optional=True,
                    tooltip="The LoRA for the target to go on from: from Project LoRA, or one refined before. Empty: "
                    "from zeros, for targets to which nothing can be carried.",
                ),
                io.Conditioning.Input(
                    "target_conditioning",
                    optional=True,
                    tooltip="The same prompts in the same order by the target's own text encoder, where that is not "
                    "the source's.",
                ),
                io.Latent.Input("latent", optional=True, tooltip="An empty one gives the size, for other shapes."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the pictures on the way. Without one they are shown in rough colours.",
                ),
                io.Vae.Input(
                    "source_vae",
                    optional=True,
                    tooltip="Only for models that do not share their latents (SD 1.5 to SDXL): the source's VAE.",
                ),
                io.Vae.Input("target_vae", optional=True, tooltip="Likewise, the target's VAE."),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                AdapterSocket.Output(
                    display_name="adapter",
                    tooltip="The best of the run, for Apply LoRA and Save LoRA; the LoRA to start from, unchanged, "
                    "where no step was better.",
                ),
                LoraModelSocket.Output(display_name="lora", tooltip="The same, for ComfyUI's own LoRA nodes."),
                io.Image.Output(display_name="loss_graph", tooltip="Loss and score over the steps."),
                io.Image.Output(
                    display_name="pictures",
                    tooltip="What the target paints with the LoRA at the start, on the way and at the end: the same "
                    "prompt, from the same noise.",
                ),
                io.String.Output(display_name="report", tooltip="The sentence and every figure as JSON (schema 1)."),
            ],
        )

    @classmethod
    def execute(
        cls,
        source_model: Any,
        target_model: Any,
        adapter: Adapter,
        conditioning: Any,
        steps: int,
        batch: int,
        match: Match,
        samples: int,
        rank: int,
        seed: int,
        size: int,
        target_steps: int,
        learning_rate: float,
        transferred: Adapter | None = None,
        target_conditioning: Any = None,
        latent: dict[str, Any] | None = None,
        vae: Any = None,
        source_vae: Any = None,
        target_vae: Any = None,
    ) -> io.NodeOutput:
        node = cls.hidden.unique_id
        wanted = Wanted(
            source_model,
            target_model,
            adapter,
            conditioning,
            transferred,
            target_conditioning,
            latent,
            vae,
            source_vae,
            target_vae,
        )
        settings = RefineSettings(steps, batch, rank, match, learning_rate, seed)
        teaching = TeacherSettings(samples, seed, target_steps)
        refined = refine_adapter(wanted, settings, teaching, size, lambda text: show(node, text))
        with refined.saving_on_error():
            show(node, refined.report.sentence())
            picture = refine_picture(refined.report)
            show_picture(picture, max(1, steps))  # the page would keep the last picture on the way in its place
            graph = image_of(picture)
            return io.NodeOutput(
                refined.adapter,
                refined.adapter.state_dict(),
                graph,
                or_nothing(refined.pictures),
                refined.report.dumps(),
                ui=ui.PreviewImage(graph, cls=cls),
            )
