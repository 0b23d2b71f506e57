"""The published maps of blocks as data: each against the lists that its source published."""

import pytest

from lora_transfer.core.matching.known_maps import KNOWN_MAPS, KnownMap, known_maps_to

ANIMA, FLEX = KNOWN_MAPS
ANIMA_BLOCKS = [f"blocks.{number}" for number in range(40)]
FLEX_BLOCKS = [f"double_blocks.{number}" for number in range(8)] + [f"single_blocks.{number}" for number in range(38)]


def sources_by_target(known: KnownMap, blocks: list[str]) -> dict[str, str | None]:
    return {match.target: match.source for match in known.block_map(blocks).matches}


def test_animas_old_blocks_fill_the_places_that_the_new_ones_leave_free() -> None:
    sources = sources_by_target(ANIMA, ANIMA_BLOCKS)
    new = [2, 5, 8, 11, 14, 17, 21, 24, 27, 30, 33, 36]
    assert [block for block, source in sources.items() if source is None] == [f"blocks.{number}" for number in new]
    published = {0: 0, 1: 1, 3: 2, 4: 3, 6: 4, 7: 5, 9: 6, 20: 14, 39: 27}
    assert {target: sources[f"blocks.{target}"] for target in published} == {
        target: f"blocks.{source}" for target, source in published.items()
    }
    assert [source for source in sources.values() if source] == [f"blocks.{number}" for number in range(28)]
    assert not ANIMA.block_map(ANIMA_BLOCKS).unused_blocks


def test_flex_lacks_eleven_double_blocks_of_flux_and_keeps_every_single_block() -> None:
    sources = sources_by_target(FLEX, FLEX_BLOCKS)
    doubles = [sources[f"double_blocks.{number}"] for number in range(8)]
    assert doubles == [f"double_blocks.{number}" for number in (0, 1, 2, 3, 4, 16, 17, 18)]
    assert all(sources[f"single_blocks.{number}"] == f"single_blocks.{number}" for number in range(38))
    unused = FLEX.block_map(FLEX_BLOCKS).unused_blocks
    assert [block.source for block in unused] == [f"double_blocks.{number}" for number in range(5, 16)]
    assert all("Flex.1 alpha was made without" in block.why for block in unused)


@pytest.mark.parametrize(
    ("family", "blocks", "targets"),
    [
        ("Anima", ANIMA_BLOCKS, [ANIMA]),
        ("Anima", ANIMA_BLOCKS[:28], []),
        ("CosmosT2IPredict2", ANIMA_BLOCKS, []),
        ("Flux", FLEX_BLOCKS, [FLEX]),
        ("Flux", FLEX_BLOCKS[:-1], []),
        ("Flux", [*FLEX_BLOCKS, *(f"double_blocks.{number}" for number in range(8, 19))], []),
        ("Anima", [*ANIMA_BLOCKS, "llm_adapter.blocks.0", "blocks.0.inner.1"], [ANIMA]),
    ],
)
def test_a_map_fits_a_target_of_its_family_with_its_numbers_of_blocks(
    family: str, blocks: list[str], targets: list[KnownMap]
) -> None:
    assert known_maps_to(family, blocks) == targets


def test_a_lora_is_the_sources_if_its_blocks_are_no_more_than_the_sources_and_no_target_has_them_all() -> None:
    assert [ANIMA.fits_adapter(highest) for highest in (None, 3, 27, 28, 39)] == [False, True, True, False, False]
    assert [FLEX.fits_adapter(highest) for highest in (None, 7, 8, 18, 19)] == [False, False, True, True, False]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("double_blocks.3", 3),
        ("double_blocks.13.img_attn.qkv[0:3072]", 13),
        ("single_blocks.3.linear1", None),
        ("x.double_blocks.3", None),
        ("double_blocks.3x", None),
    ],
)
def test_a_name_has_the_number_of_its_block_in_the_maps_stack_alone(name: str, number: int | None) -> None:
    assert FLEX.number_of(name) == number


def test_every_known_map_feeds_each_block_once_and_in_order() -> None:
    for known in KNOWN_MAPS:
        sources = [source for source in known.sources if source is not None]
        assert sources == sorted(set(sources))
        assert set(sources) <= set(range(known.depth))
        assert known.origin
