"""Refine LoRA."""

from typing import Any, get_args

from comfy_api.latest import io, ui

from ..core.pictures.refine import refine_picture
from ..core.refine.loop import RefineSettings
from ..core.refine.teacher_samples import MATCHES, Match
from .host.adapter.adapter import Adapter
from .host.refine.run import RefineInputs, refine_adapter
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
            description="Trains a transferred LoRA for a few dozen steps without data: the source with its LoRA is the "
            "teacher, and the target learns to answer like it. It needs as much memory as training a LoRA.",
            is_output_node=True,
            inputs=[
                io.Model.Input("source_model", tooltip="The model that the LoRA was trained on, without the LoRA."),
                io.Model.Input("target_model", tooltip="The model that the LoRA is transferred to, without the LoRA."),
                AdapterSocket.Input("adapter", tooltip="The LoRA as it was trained: from Load LoRA (Transfer)."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The prompts that the source samples, encoded by a CLIP without the LoRA: from Prompts for "
                    "Refine (LoRA). Choose many different prompts on which the LoRA shows, with its trigger words.",
                ),
                io.Int.Input(
                    "steps",
                    default=RefineSettings.steps,
                    min=0,
                    max=10000,
                    tooltip="Training steps; the run stops early where the score no longer rises. Take more where it "
                    "still rises at the end.",
                ),
                io.Int.Input(
                    "batch",
                    default=RefineSettings.batch,
                    min=1,
                    max=1024,
                    tooltip="Noised latents in each step. Where they do not fit into memory at once, they are taken in "
                    "parts with the same result.",
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
                    tooltip="How many short samplings the source makes; they are kept on disk for runs with the same "
                    "prompts, seed and size. Take more where the LoRA's style is subtle.",
                ),
                io.Int.Input(
                    "rank",
                    default=RefineSettings.rank,
                    min=1,
                    max=1024,
                    tooltip="The rank of a new LoRA, used only where `transferred` is empty.",
                ),
                io.Int.Input(
                    "seed",
                    default=RefineSettings.seed,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,  # or the page changes it at every run
                    tooltip="Seeds the source's noise, the order of the samples, and new factors.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Side of the pictures in pixels, where no latent is connected. Take what the models are "
                    "made for: 512 for SD 1.5, 1024 for SDXL and later ones.",
                ),
                io.Int.Input(
                    "target_steps",
                    default=TeacherSettings.target_steps,
                    min=0,
                    max=100,
                    tooltip="The number of steps that a turbo or lightning target is used with (1 to 8): only their "
                    "noise levels are trained. 0 for all other models.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=RefineSettings.rate,
                    min=0.0001,
                    max=1.0,
                    step=0.0001,
                    advanced=True,
                    tooltip="The share of its size by which a step changes a factor. It need not change from model to "
                    "model.",
                ),
                AdapterSocket.Input(
                    "transferred",
                    optional=True,
                    tooltip="The LoRA to start from: from Project LoRA, or refined before. Leave it empty to start "
                    "from zeros, where nothing can be transferred.",
                ),
                io.Conditioning.Input(
                    "target_conditioning",
                    optional=True,
                    tooltip="The same prompts in the same order, encoded by the target's text encoder. Only needed "
                    "where that is not the source's.",
                ),
                io.Latent.Input("latent", optional=True, tooltip="An empty latent, for pictures that are not square."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the previews. Without it they are shown in rough colours.",
                ),
                io.Vae.Input(
                    "source_vae",
                    optional=True,
                    tooltip="Only for models that do not share their latents (SD 1.5 to SDXL): the source's VAE.",
                ),
                io.Vae.Input(
                    "target_vae",
                    optional=True,
                    tooltip="Only for models that do not share their latents: the target's VAE.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                AdapterSocket.Output(
                    display_name="transferred",
                    tooltip="The best of the run, for Apply LoRA and Save LoRA. Where no step was better than the "
                    "start, it is the LoRA that you connected.",
                ),
                LoraModelSocket.Output(display_name="lora_model", tooltip="The same, for ComfyUI's own LoRA nodes."),
                io.Image.Output(display_name="loss_graph", tooltip="Loss and score over the steps."),
                io.Image.Output(
                    display_name="pictures",
                    tooltip="What the target makes of one prompt and noise with the LoRA, at the start and at each "
                    "score.",
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
        wanted = RefineInputs(
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
        teacher_settings = TeacherSettings(samples, seed, target_steps)
        refined = refine_adapter(wanted, settings, teacher_settings, size, lambda text: show(node, text))
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
