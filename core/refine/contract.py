"""What the training loop needs: a student, and samples to learn from."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from .parameterisation import Trainable


class Student(Protocol):
    """The target with trainable deltas."""

    @property
    def trainable(self) -> Trainable: ...

    def predict(self, picks: Tensor) -> Tensor:
        """The denoised predictions for these rows of the teacher samples, with gradients if torch records them."""
        ...

    @property
    def rows_at_once(self) -> int:
        """How many rows fit into memory at the same time."""
        ...

    def use_less_memory(self, error: RuntimeError) -> bool:
        """Reduce memory after an error in a step or a score. Returns whether it is worth trying again."""
        ...


class Samples(Protocol):
    """What the student learns, by row. The last `held_out` rows are not trained on: they are for the score."""

    @property
    def held_out(self) -> int: ...

    @property
    def levels(self) -> Tensor:
        """The noise level sigma of each row (rows)."""
        ...

    @property
    def gap(self) -> float:
        """The squared error of the model without an adapter on the held-out rows, in the unit of the noise."""
        ...

    def aims(self, picks: Tensor) -> Tensor:
        """The denoised predictions (picks, ...) to learn in these rows, which have the same shape."""
        ...

    def split(self, picks: Tensor, rows: int) -> Sequence[Tensor]:
        """The picks in parts of at most so many rows of the same shape."""
        ...
