"""The nodes of the pack: each is a schema and one call."""

from comfy_api.latest import ComfyExtension, io

from .apply import ApplyLora
from .check import CheckTransfer
from .folder import TransferLoraFolder
from .load_base import LoadSourceBase, LoadTargetBase
from .load_lora import LoadLora
from .loader import LoadLoraFromAnotherBase
from .project import ProjectLora
from .prompts import PromptsForRefine
from .refine import RefineLora
from .save import SaveLora
from .similarity import ComputeSimilarity
from .train import TrainLoraX

NODES: list[type[io.ComfyNode]] = [
    LoadLoraFromAnotherBase,
    LoadSourceBase,
    LoadTargetBase,
    LoadLora,
    ComputeSimilarity,
    ProjectLora,
    ApplyLora,
    CheckTransfer,
    RefineLora,
    PromptsForRefine,
    TrainLoraX,
    SaveLora,
    TransferLoraFolder,
]


class LoraTransferExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
