"""Train LoRA-X."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.refine.parameterisation import PARAMETERISATIONS, Parameterisation
from .host.adapter.adapter import Adapter
from .host.lora_x.run import DEFAULTS, TrainInputs, train_adapter
from .host.lora_x.start import LoraXSettings
from .host.session import resources, show
from .inputs import learning_rate_input, seed_input
from .sockets import CATEGORY, AdapterSocket
from .training_output import training_output, training_outputs


class TrainLoraX(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferTrain",
            display_name="Train LoRA-X",
            category=CATEGORY,
            search_aliases=["train lora", "lora-xs", "lora x training", "trainable in subspace", "train on pictures"],
            description="Trains a LoRA on your pictures, inside the main directions of the model's weights (LoRA-X) or "
            "as an ordinary LoRA.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to train on: later the source of every transfer."),
                io.Latent.Input(
                    "latents",
                    tooltip="The pictures, encoded by Make Training Dataset; Resolution Bucket fits too. From 16 "
                    "pictures on, an eighth is kept for the score.",
                ),
                io.Conditioning.Input(
                    "positive", tooltip="The captions from Make Training Dataset: one for each picture, or one for all."
                ),
                io.Combo.Input(
                    "parameterisation",
                    options=list(PARAMETERISATIONS),
                    tooltip="\n".join(f"{name}: {summary}" for name, summary in PARAMETERISATIONS.items()),
                ),
                io.Int.Input(
                    "steps",
                    default=DEFAULTS.steps,
                    min=0,
                    max=100000,
                    tooltip="The number of training steps. Raise it if the score still rises at the end; the best LoRA "
                    "of the run counts, not the last.",
                ),
                io.Int.Input(
                    "rank",
                    default=DEFAULTS.rank,
                    min=1,
                    max=1024,
                    tooltip="The rank of a new LoRA: higher learns more, in a larger file. diagonal ignores it, and "
                    "has a rank as large as its number of directions.",
                ),
                AdapterSocket.Input(
                    "transferred",
                    optional=True,
                    tooltip="A LoRA for this model to train further, such as the file that a cancelled run saved.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The model's VAE, to decode the previews; without it they have rough colours.",
                ),
                io.Conditioning.Input(
                    "empty_prompt",
                    optional=True,
                    tooltip="The empty prompt. If connected, it replaces a tenth of the captions, so that the LoRA "
                    "also works with a higher cfg.",
                ),
                io.Float.Input(
                    "directions",
                    default=LoraXSettings.share,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="The share of each layer's singular directions that the LoRA stays inside of. More can "
                    "learn more, and needs more memory; plain ignores it.",
                ),
                seed_input("Seeds the noise, the order of the pictures, which are held out, and new factors."),
                io.Int.Input(
                    "batch",
                    default=DEFAULTS.batch,
                    min=1,
                    max=1024,
                    optional=True,
                    advanced=True,
                    tooltip="How many noised pictures each step learns from. If they do not fit into memory together, "
                    "the step is computed in parts, with the same result.",
                ),
                learning_rate_input(DEFAULTS.rate),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=training_outputs(
                "The best LoRA of the run, for Apply LoRA and Save LoRA. It has the model's own names, and fits it."
            ),
        )

    @classmethod
    def execute(
        cls,
        model: Sequence[Any],
        latents: Sequence[Mapping[str, Any]],
        positive: Sequence[Any],
        parameterisation: Sequence[Parameterisation],
        steps: Sequence[int],
        rank: Sequence[int],
        transferred: Sequence[Adapter | None] = (None,),
        vae: Sequence[Any] = (None,),
        empty_prompt: Sequence[Any] = (None,),
        directions: Sequence[float] = (LoraXSettings.share,),
        seed: Sequence[int] = (DEFAULTS.seed,),
        batch: Sequence[int] = (DEFAULTS.batch,),
        learning_rate: Sequence[float] = (DEFAULTS.rate,),
    ) -> io.NodeOutput:
        node = cls.hidden.unique_id
        inputs = TrainInputs(model[0], latents, positive, empty_prompt[0], transferred[0], vae[0])
        settings = replace(DEFAULTS, steps=steps[0], batch=batch[0], rank=rank[0], rate=learning_rate[0], seed=seed[0])
        lora_x = LoraXSettings(parameterisation[0], directions[0])
        trained = train_adapter(inputs, settings, lora_x, resources(), lambda text: show(node, text))
        return training_output(cls, trained, steps[0])
