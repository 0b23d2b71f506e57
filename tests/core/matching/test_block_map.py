import json

import pytest
import torch

from lora_transfer.core.errors import InvalidSetting
from lora_transfer.core.matching import map_blocks, parse_block_map
from tests.core.matching.models import BlockBase, child_of, transformers, weights_of

SOURCES, TARGETS = ["s.0", "s.1", "s.2"], ["t.0", "t.1"]


def test_a_map_goes_through_json_and_back() -> None:
    parent = weights_of(transformers("blocks", 4))
    child = child_of(parent, {block: block for block, _ in parent if not block.endswith("2")}, cosine=0.9)
    found = map_blocks(BlockBase("parent", parent), BlockBase("child", child), device=torch.device("cpu"))
    assert found.unused_blocks
    names = [list(dict.fromkeys(block for block, _ in weights)) for weights in (parent, child)]
    given = parse_block_map(found.dumps(), *names)
    assert [(match.target, match.source) for match in given.matches] == [
        (match.target, match.source) for match in found.matches
    ]
    assert [block.source for block in given.unused_blocks] == [block.source for block in found.unused_blocks]


def test_a_person_may_write_a_plain_map_and_leave_blocks_out() -> None:
    given = parse_block_map('{"t.1": "s.2"}', SOURCES, TARGETS)
    assert [(match.target, match.source, match.score) for match in given.matches] == [
        ("t.0", None, None),
        ("t.1", "s.2", None),
    ]
    assert [block.source for block in given.unused_blocks] == ["s.0", "s.1"]
    assert parse_block_map('{"t.1": "s.2", "t.0": null}', SOURCES, TARGETS) == given


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "found other text"),
        ("[1]", "found list"),
        ('{"blocks": [1]}', "found other text"),
        (json.dumps({"t.0": 3}), "name of a block or null, found 3"),
        (json.dumps({"t.0": "t.0"}), "block of the source base, found 't.0'"),
        (json.dumps({"t.9": "s.0"}), "block of the target base, found 't.9'"),
    ],
)
def test_a_map_that_does_not_fit_the_bases_is_refused_with_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(InvalidSetting, match=words):
        parse_block_map(text, SOURCES, TARGETS)
