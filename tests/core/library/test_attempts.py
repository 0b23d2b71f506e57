"""Files that are handed out to workers that may die."""

from lora_transfer.core.library.attempts import MOST_DEATHS, Attempts


def test_batches_are_equal_shares_within_the_limits() -> None:
    attempts = Attempts([1] * 40)
    assert attempts.take(2, 100) == list(range(16))
    assert attempts.take(2, 100) == list(range(16, 28))
    assert attempts.take(2, 3) == [28, 29, 30]
    assert attempts.take(2, 0) == [31]
    assert len(attempts) == 8
    assert Attempts([]).take(2, 100) == []


def test_files_of_a_dead_worker_are_tried_alone_behind_the_others() -> None:
    attempts = Attempts([1] * 4)
    assert attempts.take(2, 100) == [0, 1]
    assert attempts.put_back([0, 1]) == []
    assert [attempts.take(1, 100) for _ in range(3)] == [[2, 3], [0], [1]]


def test_a_file_that_ends_its_workers_is_given_up_and_no_other() -> None:
    attempts, done, lost, workers = Attempts([1] * 20), set[int](), list[int](), 0
    while batch := attempts.take(2, 100):
        workers += 1
        if 7 in batch:
            lost += attempts.put_back(batch)
        else:
            done.update(batch)
    assert lost == [7]
    assert done == set(range(20)) - {7}
    assert workers < 20 + MOST_DEATHS
