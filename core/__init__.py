"""The engine: transfers a LoRA's deltas between two base models. Plain torch; it knows nothing of ComfyUI.

A whole transfer is four calls (CONTRIBUTING.md shows them on two small models):

    survey        pairs the layers of two bases and judges whether a transfer can work, from a sample of layers
    compare       measures how alike the paired layers are
    plan_transfer decides for every module of the adapter: transfer, copy, or skip with a reason
    transfer      computes the target's deltas, one layer at a time

What they take and give:

    Base, MemoryBase     a base model: layers by name, one weight read at a time; one that is held in memory
    LowRankDelta         dW = up . down, the change of one layer
    RankRule             how many singular directions make a layer's subspace
    Resources            the device, the workers, the cache and the progress of a run
    Survey, Comparison, TransferPlan, Transferred    the results of the four calls
    Module, modules_of   what an adapter holds for one layer; the modules of deltas that come from no file
    TransferSettings     the choices of a transfer, and their defaults
    METHODS, DEFAULT     every transfer method, and the one that is used unless another is chosen
    LoraTransferError    the root of every error that the engine raises on purpose

Importing any part of the engine imports all of these, and with them torch, SciPy and safetensors (about two seconds);
pictures, reports and refining are not among them. `transfer` and `survey` are the functions; modules of these names are
reached by `from lora_transfer.core.transfer import ...`.
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
