"""Which picture each row of a training shows, and how much noise it has."""

import pytest
import torch

from lora_transfer.core.refine.picture_samples import PictureSamples, plan_rows


@pytest.mark.parametrize(("pictures", "held_out"), [(1, 0), (15, 0), (16, 2), (24, 3), (1000, 32)])
def test_from_16_pictures_on_an_eighth_is_only_scored(pictures: int, held_out: int) -> None:
    rows = plan_rows(pictures, 3 * pictures, 0, has_empty_prompt=False)
    trained, scored = (set(part.tolist()) for part in rows.pictures.tensor_split([-rows.held_out]))
    assert rows.pictures_held_out == held_out
    if held_out:
        assert len(scored) == held_out
        assert not trained & scored
    assert trained | scored == set(range(pictures))


def test_every_picture_is_shown_before_any_is_shown_again_and_all_levels_of_noise_are_used() -> None:
    rows = plan_rows(10, 50, 1, has_empty_prompt=False)
    assert all(sorted(shown.tolist()) == list(range(10)) for shown in rows.pictures[:50].split(10))
    for shares in rows.shares.tensor_split([50]):
        assert 0 < float(shares.min()) < 0.05
        assert 0.95 < float(shares.max()) < 1
        assert float(shares.sort().values.diff().max()) < 0.05


def test_a_tenth_of_the_rows_has_no_caption_if_there_is_an_empty_prompt_but_none_that_is_scored() -> None:
    rows = plan_rows(20, 1000, 2, has_empty_prompt=True)
    assert 70 < int(rows.without_caption[:1000].sum()) < 130
    assert not bool(rows.without_caption[-rows.held_out :].any())
    assert not bool(plan_rows(20, 1000, 2, has_empty_prompt=False).without_caption.any())


def test_the_plan_depends_on_the_seed_alone() -> None:
    first, again, other = (plan_rows(20, 40, seed, has_empty_prompt=True) for seed in (3, 3, 4))
    assert torch.equal(first.pictures, again.pictures)
    assert torch.equal(first.without_caption, again.without_caption)
    assert not torch.equal(first.pictures, other.pictures)


def test_rows_of_different_sizes_are_split_so_that_each_part_has_one_shape() -> None:
    latents = [torch.zeros(2, 3, 5), torch.ones(2, 5, 3), torch.full((2, 3, 5), 2.0)]
    samples = PictureSamples(latents, torch.tensor([0, 1, 2, 0, 1]), torch.ones(5), 1, 1.0)
    parts = samples.split(torch.tensor([4, 3, 2, 1, 0]), 2)
    assert [part.tolist() for part in parts] == [[4, 1], [3, 2], [0]]
    assert [samples.aims(part).flatten(1)[:, 0].tolist() for part in parts] == [[1, 1], [0, 2], [0]]
