"""Compute Subspace Similarity."""

from functools import partial
from typing import Any, get_args

from comfy_api.latest import io, ui

from ..core.methods import list_methods
from ..core.pictures.drawing import FILE, NODE
from ..core.similarity import Measure
from ..core.subspace import RankRule
from ..core.survey import MATCH_BY
from .host.adapter.adapter import Adapter
from .host.base.from_model import HostBase
from .host.compare import CompareSettings, compare_bases
from .host.session import image_of, resources, show
from .messages import message
from .sockets import CATEGORY, AdapterSocket, BaseSocket, SimilaritySocket

_RANK_RULES = [
    io.DynamicCombo.Option(
        "fraction",
        [
            io.Float.Input(
                "fraction",
                default=CompareSettings.rule.amount,
                min=0.01,
                max=1.0,
                step=0.01,
                advanced=True,
                tooltip="The number of directions, as a share of the layer's smaller side. At 1 nothing is cut off, "
                f"and on square layers {list_methods(lambda method: method.needs_subspaces)} give the plain copy.",
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
                advanced=True,
                tooltip="The same number of directions for every layer. Layers with fewer directions cannot be "
                "compared.",
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
                advanced=True,
                tooltip="Uses as many directions as are needed to hold this share of the squared singular values.",
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
            search_aliases=[
                "compare bases",
                "compare checkpoints",
                "model similarity",
                "lora compatibility",
                "block map",
            ],
            description="Judges whether a transfer can work, pairs the layers of the two bases, and measures how "
            "similar they are.",
            inputs=[
                BaseSocket.Input("source", tooltip="The base that the LoRA was trained on."),
                BaseSocket.Input("target", tooltip="The base that you want to use the LoRA on."),
                AdapterSocket.Input(
                    "adapter",
                    optional=True,
                    tooltip="The LoRA to transfer. Connect it to compare only the layers that it changes, which is "
                    "much faster.",
                ),
                io.Combo.Input(
                    "measure",
                    options=list(get_args(Measure)),
                    default=CompareSettings.measure,
                    optional=True,
                    advanced=True,
                    tooltip="weight_cosine: compares the weights themselves, which takes seconds.\n"
                    "subspace: compares the leading singular directions, as the papers do; takes minutes and gigabytes "
                    "of disk for a large model. Project LoRA computes what its method needs either way.",
                ),
                io.Combo.Input(
                    "match_by",
                    options=list(MATCH_BY),
                    default=CompareSettings.match_by,
                    optional=True,
                    advanced=True,
                    tooltip="blocks: pairs whole blocks with similar weights, in the model's order, even if blocks "
                    "were removed or added.\n"
                    "blocks by subspaces: pairs blocks with similar singular directions instead; slower.\n"
                    "blocks in any order: pairs blocks with similar weights, but ignores their order.\n"
                    "names: pairs layers that have the same name, as loading the LoRA without a transfer does.",
                ),
                io.String.Input(
                    "block_map",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip='Your own pairs of blocks as JSON: {"target block": "source block"}, or an edited '
                    "block_map output. Leave it empty to let the node pair the blocks.",
                ),
                io.DynamicCombo.Input(
                    "rank_rule",
                    options=_RANK_RULES,
                    optional=True,
                    extra_dict={"advanced": True},
                    tooltip="How many singular directions make up a layer's subspace. Change it only to compare with "
                    "the papers.",
                ),
            ],
            has_intermediate_output=True,
            hidden=[io.Hidden.unique_id],
            outputs=[
                SimilaritySocket.Output(display_name="similarity", tooltip="The comparison, for Project LoRA."),
                io.String.Output(display_name="report", tooltip="The verdict and every layer's figures, as JSON."),
                io.String.Output(
                    display_name="block_map",
                    tooltip="Which source block feeds which target block, as JSON; edit it and connect it to the "
                    "block_map input to change the pairs.",
                ),
                io.Image.Output(
                    display_name="heatmap", tooltip="Every layer, coloured by its similarity above chance."
                ),
                io.Image.Output(
                    display_name="blocks",
                    tooltip="The similarity of every source block and every target block, with the chosen pairs "
                    "framed.",
                ),
                io.Image.Output(display_name="depth", tooltip="Similarity along the depth of the target."),
            ],
        )

    @classmethod
    def execute(
        cls,
        source: HostBase,
        target: HostBase,
        adapter: Adapter | None = None,
        measure: Measure = CompareSettings.measure,
        match_by: str = CompareSettings.match_by,
        block_map: str = "",
        rank_rule: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        settings = CompareSettings(_rank_rule(rank_rule), measure, match_by, block_map)
        tell = partial(show, cls.hidden.unique_id)
        compared = compare_bases(source, target, adapter, settings, resources(), tell)
        heatmap, blocks, depth = map(image_of, compared.pictures(FILE))
        images = [ui.PreviewImage(image_of(picture), cls=cls) for picture in compared.pictures(NODE)]
        shown = message(compared.lines(), compared.report.for_picture(), images)
        report, chosen_map = compared.report.dumps(), compared.survey.block_map.dumps()
        return io.NodeOutput(compared.comparison, report, chosen_map, heatmap, blocks, depth, ui=shown)


def _rank_rule(chosen: dict[str, Any] | None) -> RankRule:
    """The rule from a dynamic combo's value, which is {"rank_rule": the choice, the choice's own input: its value}."""
    if chosen is None:
        return CompareSettings.rule
    kind = chosen["rank_rule"]
    return RankRule(kind, chosen["rank" if kind == "fixed" else kind])
