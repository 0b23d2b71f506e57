"""docs/formats.md says what is read; LORA_TRANSFER_WRITE_TABLES=1 writes its table anew."""

import os

from lora_transfer.nodes.host.adapter.spelling.prefixes import PREFIXES
from tests.host.families import FAMILIES
from tests.host.formats_table import (
    cells_of,
    prefixes_in_the_document,
    table,
    table_in_the_document,
    write_into_the_document,
)
from tests.host.test_spellings import DIFFUSERS, cached_base, expanded


def test_the_table_of_the_formats_is_what_the_reader_does() -> None:
    cells = {
        family: cells_of(
            cached_base(family),
            family,
            [name for name, _ in expanded(family)] if family in DIFFUSERS else list(cached_base(family).diffusers),
        )
        for family in FAMILIES
    }
    made = table(cells)
    if "LORA_TRANSFER_WRITE_TABLES" in os.environ:
        write_into_the_document(made)
    assert table_in_the_document() == made


def test_the_document_lists_the_prefixes_that_are_read() -> None:
    assert prefixes_in_the_document() == PREFIXES
