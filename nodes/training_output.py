"""The outputs of the nodes that train."""

from typing import Any

from comfy_api.latest import io, ui

from ..core.pictures.training import training_picture
from .host.session import block_if_none, image_of, show_picture
from .host.training.train import TrainingResult
from .messages import message
from .sockets import AdapterSocket, LoraModelSocket


def training_outputs(transferred_tooltip: str) -> list[Any]:
    """The sockets: the LoRA, its tensors, the report, the graph and the previews."""
    return [
        AdapterSocket.Output(display_name="transferred", tooltip=transferred_tooltip),
        LoraModelSocket.Output(display_name="lora_model", tooltip="The same LoRA, for ComfyUI's own nodes."),
        io.String.Output(
            display_name="report", tooltip="The report as JSON: a sentence on the result, and every figure."
        ),
        io.Image.Output(
            display_name="loss_graph", tooltip="The loss of every step, and the score where it was measured."
        ),
        io.Image.Output(
            display_name="pictures",
            tooltip="Previews: what the target with the LoRA paints for the same prompt and noise, at the start and "
            "each time the score is measured.",
        ),
    ]


def training_output(node: type[io.ComfyNode], result: TrainingResult[Any], steps: int) -> io.NodeOutput:
    """What a node outputs and shows after a training. Any error saves the LoRA first."""
    with result.saving_on_error():
        picture = training_picture(result.report)
        show_picture(picture, max(1, steps))  # otherwise the page keeps showing the last preview
        graph = image_of(picture)
        return io.NodeOutput(
            result.adapter,
            result.adapter.state_dict(),
            result.report.dumps(),
            graph,
            block_if_none(result.pictures),
            ui=message(result.report.lines(), images=[ui.PreviewImage(graph, cls=node)]),
        )
