import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from lora_transfer.core import linalg, reader
from lora_transfer.core.cache import PRECISIONS, SubspaceCache, hash_weight
from lora_transfer.core.resources import Resources
from lora_transfer.core.similarity import Comparison, compare
from lora_transfer.core.subspace import Decomposition, RankRule, decompose, decompose_leading
from lora_transfer.core.transfer import Transferred
from tests.conftest import ROOT
from tests.core.bases import CountingBase
from tests.core.test_transfer import Job

HALF = RankRule("fraction", 0.5)


@pytest.fixture
def weight(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(30, 44, generator=generator)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def same(one: Decomposition, other: Decomposition | None) -> bool:
    return other is not None and all(
        torch.equal(getattr(one, part), getattr(other, part)) for part in ("left", "singular_values", "right")
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_hit_gives_the_bits_of_the_miss_that_wrote_it(tmp_path: Path, weight: torch.Tensor, precision: str) -> None:
    cache = SubspaceCache(tmp_path, precision)
    exact = decompose(weight, 12)
    kept = cache.store("ab12", exact)
    assert same(kept, cache.find("ab12", 12))
    assert same(kept, SubspaceCache(tmp_path, precision).find("ab12", 12))
    assert torch.allclose(kept.left, exact.left, atol=1e-6 if precision == "float32" else 3e-4)
    assert cache.find("ab12", 13) is None
    assert cache.find("cd34", 12) is None
    other = {"float32": "float16", "float16": "float32"}[precision]
    assert SubspaceCache(tmp_path, other).find("ab12", 12) is None


def test_an_entry_is_cut_at_every_smaller_rank_with_a_clear_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linalg, "FLOAT32_FROM", 40)
    left, _ = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(1)))
    values = torch.arange(40, 0, -1).float()
    values[4] = values[5]  # nothing tells the fifth direction from the sixth
    cache = SubspaceCache(tmp_path)
    cache.store("ab", decompose(left * values, 12))
    found = [cache.find("ab", rank) is not None for rank in range(1, 13)]
    assert found == [rank != 5 for rank in range(1, 13)]


def test_complete_bases_cannot_be_cut_to_a_smaller_rank(tmp_path: Path, weight: torch.Tensor) -> None:
    cache = SubspaceCache(tmp_path)
    cache.store("ab", decompose_leading(weight, 30))
    assert cache.find("ab", 12) is None
    found = cache.find("ab", 30)
    assert found is not None
    assert found.cut(30).energy == 1.0


def test_a_weight_with_fewer_directions_than_requested_is_not_decomposed_again(tmp_path: Path) -> None:
    thin = torch.randn(30, 4) @ torch.randn(4, 20)
    cache = SubspaceCache(tmp_path)
    cache.store("ab", decompose(thin, 10))
    found = cache.find("ab", 10)
    assert found is not None
    assert found.cut(10).rank == 4


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "zeros"])
def test_a_damaged_entry_is_removed_and_written_again(tmp_path: Path, weight: torch.Tensor, damage: str) -> None:
    cache = SubspaceCache(tmp_path)
    cache.store("ab", decompose(weight, 12))
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    middle = len(content) - 500
    content[middle] ^= 1
    damaged = {"flip": content, "cut": content[:-8], "empty": b"", "zeros": content[:middle] + bytes(500)}
    path.write_bytes(damaged[damage])
    assert cache.find("ab", 12) is None
    assert entries(tmp_path) == []


def test_a_damaged_index_is_replaced_and_no_entry_is_lost(tmp_path: Path, weight: torch.Tensor) -> None:
    cache = SubspaceCache(tmp_path)
    cache.store_digest("somewhere", "ab")
    cache.store("ab", decompose(weight, 12))
    (tmp_path / "index.sqlite").write_bytes(b"no database at all" * 300)
    again = SubspaceCache(tmp_path)
    assert again.digest_at("somewhere") is None
    assert again.find("ab", 12) is not None
    again.store_digest("somewhere", "ab")
    assert again.digest_at("somewhere") == "ab"


def test_the_least_recently_used_entries_are_removed_at_the_limit(tmp_path: Path, weight: torch.Tensor) -> None:
    size = SubspaceCache(tmp_path / "gauge")
    size.store("aa", decompose(weight, 12))
    one = entries(tmp_path / "gauge")[0].stat().st_size
    cache = SubspaceCache(tmp_path / "cache", limit=int(3.5 * one))
    for age, digest in enumerate(("aa", "bb", "cc")):
        cache.store(digest, decompose(weight, 12))
        os.utime(next((tmp_path / "cache" / digest).glob("*")), (1000 + age, 1000 + age))
    assert cache.find("aa", 12) is not None  # used just now
    cache.store("dd", decompose(weight, 12))
    assert [path.parent.name for path in entries(tmp_path / "cache")] == ["aa", "cc", "dd"]
    assert cache.sweep() <= 3.5 * one


def test_files_that_a_worker_is_writing_stay_and_files_of_a_crash_are_removed(tmp_path: Path) -> None:
    cache = SubspaceCache(tmp_path, limit=0)
    being_written, left_behind = (tmp_path / "ab" / f".{name}.unfinished" for name in ("now", "then"))
    being_written.parent.mkdir()
    for path in (being_written, left_behind):
        path.write_bytes(b"half an entry")
    os.utime(left_behind, (1000, 1000))
    cache.sweep()
    assert list((tmp_path / "ab").iterdir()) == [being_written]


def test_equal_values_have_one_hash_whatever_they_are_stored_as(weight: torch.Tensor) -> None:
    rounded = weight.half()
    assert hash_weight(rounded.float()) == hash_weight(rounded)
    assert hash_weight(rounded) != hash_weight(weight)
    assert hash_weight(weight.reshape(44, 30)) != hash_weight(weight)
    assert hash_weight(weight.mT.contiguous().mT) == hash_weight(weight)


FILL = """
import sys
sys.path.insert(0, sys.argv[1])
import conftest, torch
from pathlib import Path
from lora_transfer.core.cache import SubspaceCache
from lora_transfer.core.subspace import decompose

torch.set_num_threads(1)
cache = SubspaceCache(Path(sys.argv[2]), limit=200_000)
weight = torch.randn(30, 44, generator=torch.Generator().manual_seed(0))
for number in range(200):
    digest = f"{number % 20:02d}aa"
    kept = cache.find(digest, 12) or cache.store(digest, decompose(weight, 12))
    cache.store_digest(f"{sys.argv[3]} {number}", digest)
    assert torch.equal(kept.left, decompose(weight, 12).left)
"""


def test_two_processes_use_it_at_once(tmp_path: Path) -> None:
    """Both write, read and remove the same entries: twenty of 4 kB, with a limit of about a dozen."""
    command = [sys.executable, "-c", FILL, str(ROOT / "tests"), str(tmp_path)]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert not list(tmp_path.glob("*/.*"))  # nothing half-written is left
    assert len({SubspaceCache(tmp_path).digest_at(f"{number} 7") for number in range(2)}) == 1


def run(
    cache: SubspaceCache | None, rule: RankRule = HALF, method: str = "prolora", job: Job | None = None
) -> tuple[Job, Comparison[CountingBase], Transferred]:
    job = job or Job(places=True)
    using = Resources(workers=2, cache=cache)
    job.comparison = compare(job.source, job.target, job.matching, rule, using=using)
    return job, job.comparison, job.run(method=method, using=using)


@pytest.mark.parametrize("rule", [HALF, RankRule("energy", 0.8), RankRule("fixed", 7), RankRule("fraction", 1.0)])
def test_results_with_and_without_the_cache_are_equal_and_the_second_run_reads_nothing(
    tmp_path: Path, rule: RankRule
) -> None:
    _, plain, without = run(None, rule)
    _, first, miss = run(SubspaceCache(tmp_path), rule)
    job, second, hit = run(SubspaceCache(tmp_path), rule)
    assert plain.layers == first.layers == second.layers
    for name, delta in without.deltas.items():
        assert torch.equal(delta.dense(), miss.deltas[name].dense())
        assert torch.equal(delta.dense(), hit.deltas[name].dense())
    assert job.source.reads.total() == job.target.reads.total() == 0


def test_nothing_is_decomposed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[int, ...]] = []
    lock = threading.Lock()

    def counting(weight: torch.Tensor, *rest: object) -> Decomposition:
        with lock:
            counted.append(tuple(weight.shape))
        return decompose_leading(weight, *rest)  # pyright: ignore[reportArgumentType]

    job = Job(places=True)
    monkeypatch.setattr(reader, "decompose_leading", counting)
    for method in ("prolora", "rotate"):
        run(SubspaceCache(tmp_path), method=method, job=job)
        assert len(counted) == 2 * len(job.comparison.layers)


def test_a_disk_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    _, comparison, transferred = run(SubspaceCache(tmp_path))
    assert len(transferred.deltas) == 3
    (note,) = comparison.notes
    assert "could not be stored" in note
    assert "No space left on device" in note
