"""Compute Subspace Similarity."""

from functools import partial
from typing import Any, get_args

from comfy_api.latest import io, ui

from ..core.methods import list_methods
from ..core.similarity import Measure
from ..core.subspace import RankRule
from ..core.survey import MatchBy
from .host.adapter.adapter import Adapter
from .host.base.from_model import HostBase
from .host.compare import CompareSettings, compare_bases
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
                tooltip="Share of the layer's smaller side. At 1 nothing is cut: on square layers "
                f"{list_methods(lambda method: method.needs_subspaces)} then give the plain copy.",
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
            description="Judges whether a transfer can work, pairs the layers of the two bases, and measures "
            "how alike they are.",
            inputs=[
                BaseSocket.Input("source", tooltip="The base that the LoRA was trained on."),
                BaseSocket.Input("target", tooltip="The base that you want to use the LoRA on."),
                AdapterSocket.Input(
                    "adapter",
                    optional=True,
                    tooltip="Compares only the layers that this LoRA changes, which is much faster.",
                ),
                io.DynamicCombo.Input(
                    "rank_rule",
                    options=_RANK_RULES,
                    tooltip="How many singular directions make a layer's subspace. Change it only to compare "
                    "with the papers.",
                ),
                io.Combo.Input(
                    "measure",
                    options=list(get_args(Measure)),
                    tooltip="subspace: overlap of the leading singular directions, as in the papers. weight_cosine: "
                    "the weights themselves, without any decomposition: it takes seconds, and "
                    f"{list_methods(lambda method: not method.needs_subspaces)} need nothing else.",
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
                io.Image.Output(
                    display_name="heatmap", tooltip="Every layer, coloured by its similarity above chance."
                ),
                io.String.Output(display_name="report", tooltip="The verdict and every layer's figures, as JSON."),
                io.String.Output(
                    display_name="block_map",
                    tooltip="Which source block feeds which target block, as JSON that you can edit and connect "
                    "to block_map.",
                ),
                io.Image.Output(
                    display_name="blocks",
                    tooltip="Every source block against every target block, with the chosen pairs framed.",
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
        settings = CompareSettings(_rank_rule(rank_rule), measure, match_by, block_map)
        tell = partial(show, cls.hidden.unique_id)
        compared = compare_bases(source, target, adapter, settings, resources(), tell)
        tell(compared.report.summary())
        heatmap, blocks, depth = map(image_of, compared.pictures())
        shown = ui.PreviewImage(heatmap, cls=cls)
        shown.values += [value for image in (blocks, depth) for value in ui.PreviewImage(image, cls=cls).values]
        report, chosen_map = compared.report.dumps(), compared.survey.block_map.dumps()
        return io.NodeOutput(compared.comparison, heatmap, report, chosen_map, blocks, depth, ui=shown)


def _rank_rule(chosen: dict[str, Any]) -> RankRule:
    """ComfyUI gives a dynamic combo as {its name: the choice, the choice's own input: amount}."""
    kind = chosen["rank_rule"]
    return RankRule(kind, chosen["rank" if kind == "fixed" else kind])
