"""Hands out files to workers that may die: the others go on, and a file that ends its workers is given up."""

import math
from collections import Counter, deque
from collections.abc import Sequence

from .schedule import MOST_IN_BATCH

# A worker can also die by chance: machines are taken away, and memory runs out because of a neighbour.
MOST_DEATHS = 3


class Attempts:
    """The files that are still to be done, by index.

    sizes: in bytes. The files of a worker that died are tried again one by one, behind all others, so that a file that
    ends workers costs no other file its result. After MOST_DEATHS workers that had it alone, it is given up.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._waiting = deque(range(len(sizes)))
        self._alone: set[int] = set()
        self._deaths: Counter[int] = Counter()

    def __len__(self) -> int:
        """How many files wait for a worker."""
        return len(self._waiting)

    def take(self, workers: int, limit: int) -> list[int]:
        """The next batch for one of several workers, of at most `limit` bytes, but at least one file. Empty if none
        waits. Batches are equal shares of what is left, so that all workers end at about the same time."""
        most = min(MOST_IN_BATCH, math.ceil(len(self._waiting) / max(1, workers)))
        batch: list[int] = []
        total = 0
        while self._waiting and len(batch) < most:
            index = self._waiting[0]
            total += self._sizes[index]
            if batch and (total > limit or index in self._alone):
                break
            batch.append(self._waiting.popleft())
            if index in self._alone:
                break
        return batch

    def put_back(self, batch: Sequence[int]) -> list[int]:
        """Take back the files of a worker that died. Returns those that are given up."""
        if len(batch) == 1:
            self._deaths.update(batch)
        lost = [index for index in batch if self._deaths[index] >= MOST_DEATHS]
        again = [index for index in batch if index not in lost]
        self._alone.update(again)
        self._waiting.extend(again)
        return lost
