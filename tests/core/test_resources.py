import threading
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info

from lora_transfer.core.layers import Layer
from lora_transfer.core.resources import CPU, Resources
from lora_transfer.core.similarity import compare
from lora_transfer.core.subspace import RankRule
from tests.core.bases import MemoryBase
from tests.core.test_transfer import Job

# What the libraries beside torch's allocator say of a full card; a handle that cannot be made is the usual first sign.
FULL = [
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnXsyevd`",
    "cusolver error: CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolverDnCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
]


def run(using: Resources, tasks: list[int]) -> list[int]:
    return using.over_layers(tasks, lambda task: task * 10, lambda task: task, str)


def test_results_are_in_the_order_of_the_tasks_and_the_most_expensive_runs_first() -> None:
    steps: list[tuple[int, int, str]] = []
    using = Resources(progress=lambda *step: steps.append(step))
    assert run(using, [2, 3, 1]) == [20, 30, 10]
    assert steps == [(0, 3, ""), (1, 3, "3"), (2, 3, "2"), (3, 3, "1")]
    assert run(using, []) == []


def test_an_error_in_a_layer_ends_the_run_as_it_is() -> None:
    def fail(task: int) -> int:
        raise KeyError(task)

    with pytest.raises(KeyError):
        Resources(workers=3).over_layers([1, 2, 3], fail, lambda task: task, str)


def test_workers_compute_on_one_thread_each_and_leave_the_settings_as_they_were() -> None:
    before = torch.get_num_threads(), [one["num_threads"] for one in threadpool_info()]
    both = threading.Barrier(2, timeout=10)

    def look(_: int) -> tuple[int, int, bool]:
        both.wait()  # two workers are at work at once
        blas = max(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        return torch.get_num_threads(), blas, torch.is_grad_enabled()

    assert set(Resources(workers=2).over_layers([1, 2], look, lambda task: task, str)) == {(1, 1, False)}
    assert (torch.get_num_threads(), [one["num_threads"] for one in threadpool_info()]) == before


def test_figures_and_deltas_do_not_depend_on_the_number_of_workers() -> None:
    job = Job()
    results = [
        compare(job.source, job.target, job.matching, RankRule("fraction", 0.4), using=Resources(workers=workers))
        for workers in (1, 3)
    ]
    assert results[0].layers == results[1].layers
    one, three = (job.run(using=Resources(workers=workers), method="rotate") for workers in (1, 3))
    assert all(torch.equal(one.deltas[name].up, three.deltas[name].up) for name in one.deltas)


def test_a_layer_that_does_not_fit_on_the_card_runs_on_the_processor_with_one_note() -> None:
    card = torch.device("meta")  # stands for a card: what matters is where the work is sent
    using = Resources(device=card)

    errors = iter((torch.cuda.OutOfMemoryError("CUDA out of memory"), *map(RuntimeError, FULL)))

    def work(device: torch.device) -> str:
        if device == card:
            raise next(errors)
        return device.type

    assert [using.compute(work, f"{index}.q") for index in range(1 + len(FULL))] == ["cpu"] * (1 + len(FULL))
    assert list(using.notes.values()) == ["meta ran out of memory, first at 0.q; the processor computed such layers"]
    assert Resources().compute(lambda device: device, "a") == CPU

    def fail(_: torch.device) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        using.compute(fail, "c.q")


@pytest.mark.parametrize("method", ["restore_both", "prolora"])
def test_weights_are_read_before_the_card_is_locked(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turn, in_turn = threading.Lock(), list[bool]()

    def compute(self: Resources, work: Any, layer: str) -> Any:
        with turn:  # a card works for one layer at a time; here the processor does its work
            return work(CPU)

    def noted(base: MemoryBase) -> Any:
        read = base.read

        def look(layer: Layer) -> torch.Tensor:
            in_turn.append(turn.locked())
            return read(layer)

        return look

    monkeypatch.setattr(Resources, "compute", compute)
    job = Job()
    for base in (job.source, job.target):
        monkeypatch.setattr(base, "read", noted(base))
    job.run(Resources(device=torch.device("meta")), method=method)
    assert in_turn
    assert not any(in_turn)
