"""The engine: transfers a LoRA's deltas between two base models. It is plain torch and does not use ComfyUI.

A transfer is four calls (CONTRIBUTING.md shows them on two small models):

    survey        pairs the layers of two bases and judges from a sample of layers whether a transfer can work
    compare       measures how alike the paired layers are
    plan_transfer decides for every module of the adapter: transfer, copy, or skip with a reason
    transfer      computes the target's deltas, one layer at a time

Their inputs and results:

    Base, MemoryBase     a base model whose weights are read one at a time; a base model in memory
    LowRankDelta         dW = up . down, the change of one layer
    RankRule             how many singular directions a layer's subspace has
    Resources            the device, the workers, the cache and the progress of a run
    Survey, Comparison, TransferPlan, Transferred    the results of the four calls
    Module, modules_of   what an adapter contains for one layer; modules for deltas that come from no file
    TransferSettings     the settings of a transfer, and their defaults
    METHODS, DEFAULT     all transfer methods, and the default
    LoraTransferError    the base class of all errors that the engine raises on purpose

Importing any part of the engine imports all of these, with torch, SciPy and safetensors (about two seconds), but not
the pictures, reports and refining. Here `transfer` and `survey` are functions; use `from lora_transfer.core.transfer
import ...` for names of the modules.
"""

from .delta import LowRankDelta
from .errors import LoraTransferError
from .layers import Base
from .memory_base import MemoryBase
from .methods import DEFAULT, METHODS
from .plan import Module, TransferPlan, TransferSettings, modules_of, plan_transfer
from .resources import Resources
from .similarity import Comparison, compare
from .subspace import RankRule
from .survey import Survey, survey
from .transfer import Transferred, transfer

__all__ = [
    "DEFAULT",
    "METHODS",
    "Base",
    "Comparison",
    "LoraTransferError",
    "LowRankDelta",
    "MemoryBase",
    "Module",
    "RankRule",
    "Resources",
    "Survey",
    "TransferPlan",
    "TransferSettings",
    "Transferred",
    "compare",
    "modules_of",
    "plan_transfer",
    "survey",
    "transfer",
]
