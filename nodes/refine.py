"""Refine LoRA."""

from typing import Any, get_args

from comfy_api.latest import io

from ..core.refine.loop import RefineSettings
from ..core.refine.teacher_samples import MATCHES, Match
from .host.adapter.adapter import Adapter
from .host.refine.run import RefineInputs, refine_adapter
from .host.refine.teacher import TeacherSettings
from .host.session import show
from .inputs import comparison_inputs, learning_rate_input, seed_input, size_input, target_conditioning_input
from .sockets import CATEGORY, AdapterSocket
from .training_output import training_output, training_outputs


class RefineLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferRefine",
            display_name="Refine LoRA",
            category=CATEGORY,
            search_aliases=[
                "distill lora",
                "train lora without data",
                "data-free training",
                "improve lora",
                "finetune lora",
            ],
            description="Trains a transferred LoRA for a few dozen steps, without data, until the target answers more "
            "like the source with its LoRA; needs as much memory as training a LoRA.",
            is_output_node=True,
            inputs=[
                *comparison_inputs(),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The prompts to learn from, made by Prompts for Refine (LoRA). Use many different prompts "
                    "that show what the LoRA does, with its trigger words.",
                ),
                io.Int.Input(
                    "steps",
                    default=RefineSettings.steps,
                    min=0,
                    max=10000,
                    tooltip="The largest number of training steps; the run stops early when the score no longer rises. "
                    "Raise it if the score still rises at the end.",
                ),
                io.Int.Input(
                    "samples",
                    default=TeacherSettings.samples,
                    min=2,
                    max=10000,
                    tooltip="How many short samplings of the source the LoRA learns from; they stay on disk for the "
                    "next run. Raise it if the LoRA's style is subtle.",
                ),
                io.Int.Input(
                    "target_steps",
                    default=TeacherSettings.target_steps,
                    min=0,
                    max=100,
                    tooltip="The number of steps that you use a turbo or lightning target with: only the noise levels "
                    "of these steps are trained. Leave it at 0 for all other models.",
                ),
                AdapterSocket.Input(
                    "transferred",
                    optional=True,
                    tooltip="The LoRA to start from, made by Project LoRA or by an earlier run of this node. If "
                    "nothing can be transferred, leave it empty to start from zeros.",
                ),
                io.Vae.Input(
                    "target_vae",
                    optional=True,
                    tooltip="The target's VAE, to decode the previews; without it they have rough colours. Connect "
                    "both VAEs if the models have different latents.",
                ),
                io.Vae.Input(
                    "source_vae",
                    optional=True,
                    tooltip="The source's VAE. Connect both VAEs if the models have different latents, such as SD 1.5 "
                    "and SDXL.",
                ),
                target_conditioning_input(),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="An empty latent that sets the size. Connect it for pictures that are not square.",
                ),
                io.Combo.Input(
                    "match",
                    options=list(get_args(Match)),
                    default=RefineSettings.match,
                    optional=True,
                    advanced=True,
                    tooltip="\n".join(f"{name}: {summary}" for name, summary in MATCHES.items()),
                ),
                size_input(),
                seed_input("Seeds the source's noise, the order of the samples, and new factors."),
                io.Int.Input(
                    "batch",
                    default=RefineSettings.batch,
                    min=1,
                    max=1024,
                    optional=True,
                    advanced=True,
                    tooltip="How many noised latents each step learns from. If they do not fit into memory together, "
                    "the step is computed in parts, with the same result.",
                ),
                io.Int.Input(
                    "rank",
                    default=RefineSettings.rank,
                    min=1,
                    max=1024,
                    optional=True,
                    advanced=True,
                    tooltip="The rank of a new LoRA. Only used if `transferred` is not connected.",
                ),
                learning_rate_input(RefineSettings.rate),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=training_outputs(
                "The best LoRA of the run, for Apply LoRA and Save LoRA. If no step was better than the start, it is "
                "the LoRA that you connected."
            ),
        )

    @classmethod
    def execute(
        cls,
        source_model: Any,
        target_model: Any,
        adapter: Adapter,
        conditioning: Any,
        steps: int,
        samples: int,
        target_steps: int,
        transferred: Adapter | None = None,
        target_vae: Any = None,
        source_vae: Any = None,
        target_conditioning: Any = None,
        latent: dict[str, Any] | None = None,
        match: Match = RefineSettings.match,
        size: int = 0,
        seed: int = RefineSettings.seed,
        batch: int = RefineSettings.batch,
        rank: int = RefineSettings.rank,
        learning_rate: float = RefineSettings.rate,
    ) -> io.NodeOutput:
        node = cls.hidden.unique_id
        inputs = RefineInputs(
            source_model,
            target_model,
            adapter,
            conditioning,
            transferred,
            target_conditioning,
            latent,
            target_vae,
            source_vae,
        )
        settings = RefineSettings(steps, batch, rank, match, learning_rate, seed)
        teacher_settings = TeacherSettings(samples, seed, target_steps)
        refined = refine_adapter(inputs, settings, teacher_settings, size, lambda text: show(node, text))
        return training_output(cls, refined, steps)
