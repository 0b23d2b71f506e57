"""Transfers a LoRA whose source base is not on this disk: by a published map of blocks, or by names."""

from ...core.plan import TransferSettings
from ...core.resources import Resources
from .adapter.adapter import Adapter
from .base.from_model import HostBase
from .project import ProjectResult


def transfer_without_source(
    adapter: Adapter, target: HostBase, settings: TransferSettings, using: Resources
) -> ProjectResult:
    """Copy the LoRA to the target: by a known map if one fits the LoRA's blocks and the target's, else by names.

    Of the settings only gain, out_rank, dense_rank and dense_energy count. The result's notes say that nothing could be
    checked. UnsupportedAdapter if nothing of the LoRA fits the target.
    """
    raise NotImplementedError
