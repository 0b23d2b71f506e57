"""Predictions of a loaded model without deltas, in as much memory as there is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from ....core.errors import NotEnoughMemory, NotMeasurable
from ..card import is_out_of_memory
from ..sampling.conditioning import Prompt
from .student import HostStudent, Inputs, run_in_host, run_with_room

Result = TypeVar("Result")


def predict_rows(
    model: Any,
    inputs: Inputs,
    prompts: Sequence[Prompt],
    rows_at_once: int,
    split: Callable[[int], Sequence[Tensor]],
    use: Callable[[Tensor, Tensor], Result],
) -> list[Result]:
    """Predict rows in parts. split: the parts, each of at most so many rows. use: what to make of a part's rows and
    of their denoised predictions, which are on the model's device."""
    results: list[Result] = []

    def attempt(offloading: bool) -> None:
        run_in_host(model, inputs, prompts, {}, rows_at_once, ask, offloading)

    def ask(student: HostStudent) -> None:
        while True:
            results.clear()
            try:
                with torch.no_grad():
                    results.extend(use(part, student.predict(part)) for part in split(student.rows_at_once))
            except RuntimeError as error:
                if not student.use_less_memory(error):
                    raise
            else:
                return

    run_with_room(attempt)
    return results


@contextmanager
def explain_failure(model: str, with_prompts: str, advice: str) -> Iterator[None]:
    """A context in which the errors of a model's predictions say what they were and what to do."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise NotEnoughMemory(
                f"{model}: expected memory for one latent at a time, found too little ({error}). Choose a smaller "
                "size, or a model in a smaller precision (fp8, GGUF)."
            ) from error
        raise NotMeasurable(f"{with_prompts}: expected an output, found an error ({error}). {advice}") from error
