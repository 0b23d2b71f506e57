"""Compute Subspace Similarity."""

import time
from typing import Any, get_args

from comfy_api.latest import io, ui

from ..core.pictures.block_map import block_map_picture
from ..core.pictures.depth import depth_picture
from ..core.pictures.heatmap import similarity_heatmap
from ..core.reports.transfer import Identity, similarity_report
from ..core.similarity import Measure, compare
from ..core.subspace import RankRule
from ..core.survey import MatchBy, survey
from .host.adapter.adapter import Adapter
from .host.adapter.place import place
from .host.base.from_model import HostBase
from .host.refine.estimate import outlook_here
from .host.session import image_of, resources, show
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
                "restore and restore_both then gives the plain copy.",
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
                    "the weights themselves, without any decomposition: takes seconds, and copy, restore and "
                    "restore_both need no more.",
                ),
                io.Combo.Input(
                    "match_by",
                    options=list(get_args(MatchBy)),
                    tooltip="Which layers pair. blocks: whole blocks by their weights, in the model's order; finds "
                    "what a pruned or grown model kept. blocks by subspaces: the same by their singular directions, "
                    "slower. blocks in any order: without the order. names: as loading the old LoRA does.",
                ),
                io.String.Input(
                    "block_map",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip='Your own map in place of the one that is found: {"target block": "source block"}, or what '
                    "the block_map output gives, changed. Empty: find it.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                SimilaritySocket.Output(display_name="similarity", tooltip="For Project LoRA."),
                io.Image.Output(display_name="heatmap", tooltip="Every layer, coloured by similarity above chance."),
                io.String.Output(
                    display_name="report", tooltip="The verdict and every layer's figures as JSON (schema 1)."
                ),
                io.String.Output(display_name="block_map", tooltip="Which block feeds which, as JSON to change."),
                io.Image.Output(
                    display_name="blocks", tooltip="Every block of one base against every block of the other."
                ),
                io.Image.Output(display_name="depth", tooltip="Similarity along the depth of the target."),
            ],
        )

    @classmethod
    def execute(
        cls,
        source: HostBase,
        target: HostBase,
        rank_rule: dict[str, Any],
        measure: Measure,
        match_by: MatchBy,
        block_map: str = "",
        adapter: Adapter | None = None,
    ) -> io.NodeOutput:
        started, using = time.monotonic(), resources()
        placed = None if adapter is None else place(adapter, source)
        wanted = source.own_layers() if placed is None else placed.layers()
        deltas = None if placed is None else placed.factored
        found = survey(source, target, wanted, match_by=match_by, given=block_map, deltas=deltas, using=using)
        refine = outlook_here(found.verdict, target)
        if found.verdict is not None and refine is not None:
            show(cls.hidden.unique_id, f"{found.verdict.summary()}\n{refine.sentence()}")
        comparison = compare(
            source,
            target,
            found,
            _rank_rule(rank_rule),
            measure=measure,
            deltas=deltas,
            adapter=None if adapter is None else adapter.fingerprint,
            using=using,
        )
        identity = None if adapter is None else Identity.of(adapter)
        report = similarity_report(comparison, identity, time.monotonic() - started, refine)
        pictures = [
            image_of(picture)
            for picture in (
                similarity_heatmap(report),
                block_map_picture(found.scores, found.block_map, source.name, target.name),
                depth_picture(report),
            )
        ]
        show(cls.hidden.unique_id, report.summary())
        shown = ui.PreviewImage(pictures[0], cls=cls)
        shown.values += [saved for one in pictures[1:] for saved in ui.PreviewImage(one, cls=cls).values]
        return io.NodeOutput(
            comparison, pictures[0], report.dumps(), found.block_map.dumps(), pictures[1], pictures[2], ui=shown
        )


def _rank_rule(chosen: dict[str, Any]) -> RankRule:
    """ComfyUI gives a dynamic combo as {its name: the choice, the choice's own input: amount}."""
    kind = chosen["rank_rule"]
    return RankRule(kind, chosen["rank" if kind == "fixed" else kind])
