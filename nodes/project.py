"""Project LoRA."""

from typing import get_args

from comfy_api.latest import io

from ..core.methods import list_methods
from ..core.plan import BelowThreshold, OutRank, Rescale, TransferSettings
from ..core.similarity import Comparison
from .host.adapter.adapter import Adapter
from .host.base.from_model import HostBase
from .host.project import project
from .host.session import resources
from .inputs import gain_input, method_input, original_adapter_input, threshold_input
from .messages import message
from .sockets import CATEGORY, AdapterSocket, LoraModelSocket, SimilaritySocket

_CUTTING = list_methods(lambda method: not method.keeps_whole_delta)


class ProjectLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferProject",
            display_name="Project LoRA",
            category=CATEGORY,
            search_aliases=[
                "prolora",
                "lora-x",
                "lorax",
                "project lora",
                "rotate lora",
                "restore lora",
            ],
            description="Transfers the LoRA to the target base, layer by layer, wherever the two bases match.",
            inputs=[
                SimilaritySocket.Input(
                    "similarity", tooltip="The comparison from Compute Subspace Similarity, made with the same LoRA."
                ),
                original_adapter_input(),
                method_input(),
                threshold_input(),
                io.Combo.Input(
                    "below_threshold",
                    options=list(get_args(BelowThreshold)),
                    default=TransferSettings.below_threshold,
                    optional=True,
                    advanced=True,
                    tooltip="What happens to layers below the threshold: skip leaves them out, copy transfers the "
                    "LoRA's change as it is.",
                ),
                gain_input(),
                io.Boolean.Input(
                    "force",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Transfers even if the verdict on the two bases is refuse. Turn it on only to see the "
                    "damage.",
                ),
                io.Combo.Input(
                    "rescale",
                    options=list(get_args(Rescale)),
                    default=TransferSettings.rescale,
                    optional=True,
                    advanced=True,
                    tooltip="relative_norm: makes each layer's change as large as in the source, relative to the "
                    f"layer's weight. Refused for {_CUTTING}, which cut part of the LoRA away.",
                ),
                io.Combo.Input(
                    "out_rank",
                    options=list(get_args(OutRank)),
                    default=TransferSettings.out_rank,
                    optional=True,
                    advanced=True,
                    tooltip="The rank of the transferred LoRA. exact: what the method needs; keep: the LoRA's own "
                    "rank; cut: limited by dense_rank and dense_energy, for smaller files.",
                ),
                io.Int.Input(
                    "dense_rank",
                    default=TransferSettings.dense_rank,
                    min=1,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip="The largest rank for layers without a low-rank form (DoRA, OFT, GLoRA, full differences) "
                    "and, with out_rank cut, for all layers. Lower it for a smaller file.",
                ),
                io.Float.Input(
                    "dense_energy",
                    default=TransferSettings.dense_energy,
                    min=0.01,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Where dense_rank applies, uses the smallest rank that keeps this share of the change's "
                    "energy. Lower it for a smaller file.",
                ),
            ],
            has_intermediate_output=True,
            outputs=[
                AdapterSocket.Output(
                    display_name="transferred", tooltip="The LoRA for the target, for Apply LoRA and Save LoRA."
                ),
                LoraModelSocket.Output(display_name="lora_model", tooltip="The same LoRA, for ComfyUI's own nodes."),
                io.String.Output(display_name="report", tooltip="What happened to every layer, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        similarity: Comparison[HostBase],
        adapter: Adapter,
        method: str,
        threshold: float,
        below_threshold: BelowThreshold = TransferSettings.below_threshold,
        gain: float = TransferSettings.gain,
        force: bool = False,
        rescale: Rescale = TransferSettings.rescale,
        out_rank: OutRank = TransferSettings.out_rank,
        dense_rank: int = TransferSettings.dense_rank,
        dense_energy: float = TransferSettings.dense_energy,
    ) -> io.NodeOutput:
        settings = TransferSettings(
            method, threshold, below_threshold, rescale, out_rank, dense_rank, dense_energy, gain
        )
        result = project(similarity, adapter, settings, resources(), force=force)
        shown = message(result.lines(), result.report.for_picture())
        return io.NodeOutput(result.adapter, result.adapter.state_dict(), result.report.dumps(), ui=shown)
