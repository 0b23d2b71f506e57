"""Compute Subspace Similarity."""

import time
from typing import Any, get_args

import torch
from comfy_api.latest import io, ui

from ..core.heatmap import similarity_heatmap
from ..core.matching import match_by_name
from ..core.report import Identity, similarity_report
from ..core.similarity import Measure, compare
from ..core.subspace import RankRule
from .host.adapter import Adapter
from .host.base import HostBase
from .host.placing import place
from .host.session import resources, show
from .sockets import CATEGORY, AdapterSocket, BaseSocket, SimilaritySocket

_RANK_RULES = [
    io.DynamicCombo.Option(
        "fraction",
        [
            io.Float.Input(
                "fraction",
                default=0.5,
                min=0.01,
                max=1.0,
                step=0.01,
                tooltip="Share of the layer's smaller side. At 1 nothing is cut: on square layers every method but "
                "restore then gives the plain copy.",
            )
        ],
    ),
    io.DynamicCombo.Option(
        "fixed",
        [
            io.Int.Input(
                "rank",
                default=320,
                min=1,
                max=16384,
                tooltip="The same number for every layer; LoRA-X uses 320. Sides no wider than this tell nothing.",
            )
        ],
    ),
    io.DynamicCombo.Option(
        "energy",
        [
            io.Float.Input(
                "energy",
                default=0.9,
                min=0.01,
                max=1.0,
                step=0.01,
                tooltip="As many directions as hold this share of the squared singular values.",
            )
        ],
    ),
]


class ComputeSimilarity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraTransferSimilarity",
            display_name="Compute Subspace Similarity",
            category=CATEGORY,
            description="How alike the layers of two bases are, beside what chance gives.",
            inputs=[
                BaseSocket.Input("source", tooltip="The base that the LoRA was trained on."),
                BaseSocket.Input("target", tooltip="The base that the LoRA is carried to."),
                AdapterSocket.Input(
                    "adapter", optional=True, tooltip="Compare only the layers that this LoRA touches: much faster."
                ),
                io.DynamicCombo.Input(
                    "rank_rule",
                    options=_RANK_RULES,
                    tooltip="How many singular directions of a layer make its subspace.",
                ),
                io.Combo.Input(
                    "measure",
                    options=list(get_args(Measure)),
                    tooltip="subspace: overlap of the leading singular directions, as in the papers. weight_cosine: "
                    "the weights themselves, without any decomposition: takes seconds, and copy and restore need no "
                    "more.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                SimilaritySocket.Output(display_name="similarity", tooltip="For Project LoRA."),
                io.Image.Output(display_name="heatmap", tooltip="Every layer, coloured by similarity above chance."),
                io.String.Output(display_name="report", tooltip="Every layer's figures as JSON (schema 1)."),
            ],
        )

    @classmethod
    def execute(
        cls,
        source: HostBase,
        target: HostBase,
        rank_rule: dict[str, Any],
        measure: Measure,
        adapter: Adapter | None = None,
    ) -> io.NodeOutput:
        started = time.monotonic()
        placed = None if adapter is None else place(adapter, source)
        wanted = source.own_layers() if placed is None else placed.layers()
        comparison = compare(
            source,
            target,
            match_by_name(source.layers, target.layers, wanted),
            _rank_rule(rank_rule),
            measure=measure,
            deltas=None if placed is None else placed.factored,
            adapter=None if adapter is None else adapter.fingerprint,
            using=resources(),
        )
        identity = None if adapter is None else Identity.of(adapter)
        report = similarity_report(comparison, identity, time.monotonic() - started)
        heatmap = (
            torch.from_numpy(similarity_heatmap(report).copy()).float().div(255).unsqueeze(0)
        )  # (1, height, width, 3)
        show(cls.hidden.unique_id, report.summary())
        return io.NodeOutput(comparison, heatmap, report.dumps(), ui=ui.PreviewImage(heatmap, cls=cls))


def _rank_rule(chosen: dict[str, Any]) -> RankRule:
    """ComfyUI gives a dynamic combo as {its name: the choice, the choice's own input: amount}."""
    kind = chosen["rank_rule"]
    return RankRule(kind, chosen["rank" if kind == "fixed" else kind])
