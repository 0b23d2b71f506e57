"""Decides which source layer feeds which target layer: by name, by whole blocks, or by the channels that were kept."""

from .block_map import BlockMap, BlockMatch, UnusedBlock, block_map_by_name, parse_block_map
from .blocks import blocks_of
from .by_block import BlockScores, map_blocks, score_blocks
from .by_channel import match_by_channels
from .by_name import Matching, match_by_name
from .channels import Channels
from .pairing import match_by_blocks, share_lost, share_outside
from .scores import MEASURES, Measure

__all__ = [
    "MEASURES",
    "BlockMap",
    "BlockMatch",
    "BlockScores",
    "Channels",
    "Matching",
    "Measure",
    "UnusedBlock",
    "block_map_by_name",
    "blocks_of",
    "map_blocks",
    "match_by_blocks",
    "match_by_channels",
    "match_by_name",
    "parse_block_map",
    "score_blocks",
    "share_lost",
    "share_outside",
]
