"""Rows of a tensor: one meaning everywhere, from start to stop."""

import torch

from lora_transfer.core.layers import Rows, WeightRef


def test_rows_take_the_same_part_as_a_slice_from_start_to_stop() -> None:
    rows = Rows(2, 5)

    assert rows.length == 3
    assert torch.arange(9)[rows.as_slice].tolist() == [2, 3, 4]
    assert str(rows) == "[2:5]"


def test_rows_within_a_part_are_counted_in_the_whole_tensor() -> None:
    whole = torch.arange(20)
    part, rows = Rows(10, 18), Rows(2, 5)

    assert torch.equal(whole[part.as_slice][rows.as_slice], whole[rows.within(part).as_slice])
    assert rows.within(None) == rows


def test_rows_are_ordered_by_where_they_start() -> None:
    assert sorted([Rows(4, 8), Rows(0, 4), Rows(0, 8)]) == [Rows(0, 4), Rows(0, 8), Rows(4, 8)]


def test_slices_of_one_tensor_in_one_file_have_different_locations() -> None:
    slices = [WeightRef("qkv.weight", (4, 4), "F32", rows, "model 1") for rows in (None, Rows(0, 4), Rows(4, 8))]

    assert len({ref.location for ref in slices}) == 3
