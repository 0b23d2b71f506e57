"""Which source layer feeds which target layer."""

from .block_map import BlockMap, BlockMatch, LeftAlone, block_map_by_name, given_block_map
from .blocks import blocks_of
from .by_block import BlockScores, map_blocks, score_blocks
from .by_channel import match_by_channels
from .by_name import Matching, match_by_name
from .channels import Channels
from .pairing import match_by_blocks, share_lost, share_outside
from .scores import Measure

__all__ = [
    "BlockMap",
    "BlockMatch",
    "BlockScores",
    "Channels",
    "LeftAlone",
    "Matching",
    "Measure",
    "block_map_by_name",
    "blocks_of",
    "given_block_map",
    "map_blocks",
    "match_by_blocks",
    "match_by_channels",
    "match_by_name",
    "score_blocks",
    "share_lost",
    "share_outside",
]
