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
            description="Carries the LoRA to the target base, layer by layer, where the layers are alike.",
            inputs=[
                SimilaritySocket.Input("similarity", tooltip="From Compute Subspace Similarity, with the same LoRA."),
                AdapterSocket.Input("adapter", tooltip="The LoRA, as it was trained on the source base."),
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
                    tooltip="Layers whose similarity is lower are not projected. Unrelated bases score at the chance "
                    "level that the report gives, not at zero. In benchmarks/quality 0.7 and 0.8 left out nothing that "
                    "was worth carrying, 0.9 cost up to a third of the LoRA on the farthest relative.",
                ),
                io.Combo.Input(
                    "below_threshold",
                    options=list(get_args(BelowThreshold)),
                    default=TransferSettings.below_threshold,
                    tooltip="What happens to layers below the threshold: leave them out, or carry them unchanged.",
                ),
                io.Combo.Input(
                    "rescale",
                    options=list(get_args(Rescale)),
                    default=TransferSettings.rescale,
                    tooltip="relative_norm: each layer's change is as large, relative to its weight, as in the source. "
                    f"Not for {_CUTTING}, which cut a part of the LoRA away.",
                ),
                io.Combo.Input(
                    "out_rank",
                    options=list(get_args(OutRank)),
                    default=TransferSettings.out_rank,
                    tooltip="exact: the rank that the method yields, which can be larger than the LoRA's (a LoHa or "
                    "LoKr becomes a large file). keep: cut back to the LoRA's own rank. cut: every layer to dense_rank "
                    "and dense_energy. The report says what is lost.",
                ),
                io.Int.Input(
                    "dense_rank",
                    default=TransferSettings.dense_rank,
                    min=1,
                    max=4096,
                    tooltip="The rank at which changes without a low-rank form are stored (DoRA, OFT, GLoRA, full "
                    "differences), and with out_rank cut all others; the report says what is lost.",
                ),
                io.Float.Input(
                    "dense_energy",
                    optional=True,
                    default=TransferSettings.dense_energy,
                    min=0.01,
                    max=1.0,
                    step=0.001,
                    tooltip="Where dense_rank applies: a smaller rank where it holds this share of the change (of the "
                    "sum of its squares). At 1 dense_rank alone decides.",
                ),
                io.Float.Input(
                    "gain",
                    optional=True,
                    default=TransferSettings.gain,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Every change is multiplied by it. Where the target lacks blocks, their part of the LoRA "
                    "is lost (the report says how much); 1.3 has been used in print for SSD-1B. In "
                    "benchmarks/quality 1 was best or near it, 0.75 for subtle styles on drifted targets: Check "
                    "Transfer searches it.",
                ),
                io.Boolean.Input(
                    "force",
                    optional=True,
                    default=False,
                    tooltip="Go on where the verdict on the two bases is to refuse: to see the damage.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                AdapterSocket.Output(display_name="adapter", tooltip="For Apply LoRA and Save LoRA."),
                LoraModelSocket.Output(display_name="lora_model", tooltip="For ComfyUI's own LoRA nodes."),
                io.String.Output(display_name="report", tooltip="What happened to every layer, as JSON (schema 1)."),
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
