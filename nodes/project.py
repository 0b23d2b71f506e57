"""Project LoRA."""

from typing import get_args

from comfy_api.latest import io

from ..core.methods import METHODS, list_methods
from ..core.plan import BelowThreshold, OutRank, Rescale, TransferSettings
from ..core.similarity import Comparison
from .host.adapter.adapter import Adapter
from .host.base.from_model import HostBase
from .host.project import project
from .host.session import resources, show
from .sockets import CATEGORY, AdapterSocket, LoraModelSocket, SimilaritySocket

_CUTTING = list_methods(lambda method: not method.keeps_whole_delta)


class ProjectLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferProject",
            display_name="Project LoRA",
            category=CATEGORY,
            description="Transfers the LoRA to the target base, layer by layer, wherever the two bases match.",
            inputs=[
                SimilaritySocket.Input("similarity", tooltip="From Compute Subspace Similarity with the same LoRA."),
                AdapterSocket.Input(
                    "adapter", tooltip="The LoRA as it was trained on the source base, from Load LoRA (Transfer)."
                ),
                io.Combo.Input(
                    "method",
                    options=[method.name for method in METHODS],
                    default=TransferSettings.method,
                    tooltip="\n".join(f"{method.name}: {method.summary}" for method in METHODS),
                ),
                io.Float.Input(
                    "threshold",
                    default=TransferSettings.threshold,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Layers whose similarity is lower are not transferred by the method. Lower it if "
                    "the report says that layers of related bases were skipped.",
                ),
                io.Combo.Input(
                    "below_threshold",
                    options=list(get_args(BelowThreshold)),
                    default=TransferSettings.below_threshold,
                    tooltip="What happens to layers below the threshold: skip leaves them out, copy takes them "
                    "unchanged.",
                ),
                io.Combo.Input(
                    "rescale",
                    options=list(get_args(Rescale)),
                    default=TransferSettings.rescale,
                    tooltip="relative_norm: scales each layer's change so that it is as large beside its weight "
                    "as in the "
                    f"source. Not for {_CUTTING}, which cut a part of the LoRA away.",
                ),
                io.Combo.Input(
                    "out_rank",
                    options=list(get_args(OutRank)),
                    default=TransferSettings.out_rank,
                    tooltip="The rank of the transferred LoRA. exact: whatever the method needs; keep: the "
                    "LoRA's own rank; "
                    "cut: every layer to dense_rank and dense_energy, for smaller files.",
                ),
                io.Int.Input(
                    "dense_rank",
                    default=TransferSettings.dense_rank,
                    min=1,
                    max=4096,
                    tooltip="The largest rank of layers that have no rank of their own (DoRA, OFT, GLoRA, full "
                    "differences) "
                    "and, with out_rank cut, of all layers. The report says what is lost.",
                ),
                io.Float.Input(
                    "dense_energy",
                    optional=True,
                    default=TransferSettings.dense_energy,
                    min=0.01,
                    max=1.0,
                    step=0.001,
                    tooltip="Layers cut to dense_rank get an even smaller rank if that keeps this share of "
                    "their energy. At 1 "
                    "dense_rank alone decides.",
                ),
                io.Float.Input(
                    "gain",
                    optional=True,
                    default=TransferSettings.gain,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Multiplies the whole LoRA. Raise it if the target lacks blocks and the LoRA comes "
                    "out weak; "
                    "Check Transfer finds the best strength.",
                ),
                io.Boolean.Input(
                    "force",
                    optional=True,
                    default=False,
                    tooltip="Transfer even if the verdict on the two bases is refuse.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                AdapterSocket.Output(
                    display_name="transferred", tooltip="The LoRA for the target, for Apply LoRA and Save LoRA."
                ),
                LoraModelSocket.Output(display_name="lora_model", tooltip="For ComfyUI's own LoRA nodes."),
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
        below_threshold: BelowThreshold,
        rescale: Rescale,
        out_rank: OutRank,
        dense_rank: int,
        dense_energy: float = TransferSettings.dense_energy,
        gain: float = TransferSettings.gain,
        force: bool = False,
    ) -> io.NodeOutput:
        settings = TransferSettings(
            method, threshold, below_threshold, rescale, out_rank, dense_rank, dense_energy, gain
        )
        projected = project(similarity, adapter, settings, resources(), force=force)
        show(cls.hidden.unique_id, projected.summary())
        return io.NodeOutput(projected.adapter, projected.adapter.state_dict(), projected.report.dumps())
