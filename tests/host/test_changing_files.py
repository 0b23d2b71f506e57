"""Source, target and LoRA that are replaced, overwritten or cut short at any time of a transfer."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_transfer.core.cache import SubspaceCache
from lora_transfer.core.errors import ChangedFile
from lora_transfer.core.files import file_state
from lora_transfer.core.layers import WeightRef
from lora_transfer.core.matching import match_by_name
from lora_transfer.core.plan import TransferSettings, plan_transfer
from lora_transfer.core.resources import Resources
from lora_transfer.core.similarity import Comparison, compare
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.transfer import transfer
from lora_transfer.nodes.host.adapter.adapter import Adapter, adapter_from_file
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.base.from_model import HostBase
from tests.host.small_families import write_small
from tests.host.test_small_families import lora_for

FAMILY, LAYERS = "Wan 2.1 1.3B", 6
FILES = ("source", "target", "lora")
Deltas = dict[str, Tensor]


@pytest.fixture(autouse=True)
def always_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places in files that were written just now are kept in the cache's index too, as after two seconds."""
    monkeypatch.setattr(file_state, "_COARSEST", 0)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of every file, of equal size: source_0, source_1, target_0, ..."""
    folder = tmp_path_factory.mktemp("versions")
    for version in (0, 1):
        write_small(folder / f"source_{version}", FAMILY, 1 + version, torch.float16)
        write_small(folder / f"target_{version}", FAMILY, 3, torch.float16, drifted_from=1 + version)
    whole = load_file(lora_for(folder / "whole", folder / "source_0"))
    modules = sorted({key.rpartition(".lora_")[0] for key in whole if ".lora_" in key})[:LAYERS]
    for version in (0, 1):
        kept = {key: value for key, value in whole.items() if key.startswith(tuple(f"{one}." for one in modules))}
        save_file(
            {key: value.float() * (1 + version) + 0.01 * version for key, value in kept.items()},
            folder / f"lora_{version}",
        )
    return folder


@dataclass
class Files:
    """One version of each file, in a folder of its own."""

    versions: Path
    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def put(self, name: str, version: int) -> None:
        shutil.copyfile(self.versions / f"{name}_{version}", self.path(name))


def swapped(path: Path, other: Path) -> None:
    shutil.copyfile(other, path.with_name("new"))
    os.replace(path.with_name("new"), path)


def overwritten(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def overwritten_with_the_old_times(path: Path, other: Path) -> None:
    status = path.stat()
    with path.open("r+b") as stream:
        stream.write(other.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut_short(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def removed(path: Path, other: Path) -> None:
    path.unlink()


FAULTS = (swapped, overwritten, overwritten_with_the_old_times, cut_short, removed)


def run(files: Files, cache: SubspaceCache | None, event: Callable[[], None], method: str, measure: str) -> Deltas:
    """A transfer as the nodes do it. `event` is called whenever something of a file is about to be read."""
    using = Resources(cache=cache)
    comparison, adapter = compared_by(files, using, event, measure)
    event()
    return project(comparison, adapter, using, method)


def compared_by(
    files: Files, using: Resources, event: Callable[[], None], measure: str
) -> tuple[Comparison[HostBase], Adapter]:
    source, target = (watched(base_from_file(files.path(name), name), event) for name in FILES[:2])
    adapter = adapter_from_file(files.path("lora"), "lora")
    event()
    placed = read_adapter(adapter, source)
    matching = match_by_name(source.layers, target.layers, placed.layers())
    comparison: Comparison[HostBase] = compare(
        source,
        target,
        matching,
        RankRule("fixed", 16),
        measure=measure,  # pyright: ignore[reportArgumentType]
        deltas=placed.factored,
        adapter=adapter.fingerprint,
        using=using,
    )
    return comparison, adapter


def project(comparison: Comparison[HostBase], adapter: Adapter, using: Resources, method: str) -> Deltas:
    placed = read_adapter(adapter, comparison.source)
    plan = plan_transfer(comparison, placed.modules, TransferSettings(method, threshold=0.0), adapter.fingerprint)
    transferred = transfer(comparison, plan, placed.deltas, using)
    return {name: delta.dense() for name, delta in transferred.deltas.items()}


def watched(base: HostBase, event: Callable[[], None]) -> HostBase:
    def read(weight: WeightRef) -> Tensor:
        event()
        return base.reader(weight)

    return replace(base, reader=read)


def same(one: Deltas, other: Deltas) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def after(count: int, strike: Callable[[], None]) -> Callable[[], None]:
    """A function that does its harm at the call after the first `count`."""
    countdown = iter(range(count, -1, -1))

    def event() -> None:
        if next(countdown, None) == 0:
            strike()

    return event


def result_or_sentence(transfer: Callable[[], Deltas]) -> Deltas | str:
    try:
        return transfer()
    except ChangedFile as error:
        return str(error)


WAYS = (("prolora", "subspace"), ("restore_both", "weight_cosine"))


def test_a_hundred_faults_at_random_layers_leave_right_results_or_one_sentence(versions: Path, tmp_path: Path) -> None:
    chance = random.Random(5)  # noqa: S311 (no secret)
    files = Files(versions, tmp_path)
    cache = SubspaceCache(tmp_path / "cache")
    right: dict[tuple[object, ...], Deltas] = {}

    def result_of(*state: object) -> Deltas:
        """The result of a set of files without any cache and fault."""
        if state not in right:
            right[state] = run(files, None, lambda: None, *WAYS[state[-1]])  # pyright: ignore[reportArgumentType]
        return right[state]

    events = 4 * LAYERS
    refused = 0
    for _ in range(100):
        state = [chance.randrange(2) for _ in FILES]
        for name, version in zip(FILES, state, strict=True):
            files.put(name, version)
        way = chance.randrange(2)
        expected = result_of(*state, way)
        victim, fault = chance.randrange(3), chance.choice(FAULTS)
        other = versions / f"{FILES[victim]}_{1 - state[victim]}"
        strike = after(chance.randrange(events), partial(fault, files.path(FILES[victim]), other))
        found = result_or_sentence(lambda: run(files, cache, strike, *WAYS[way]))  # noqa: B023 (called at once)
        if isinstance(found, str):
            refused += 1
            assert files.path(FILES[victim]).name in found
        else:
            assert same(found, expected)
        if fault in (cut_short, removed):
            files.put(FILES[victim], state[victim])
        present = [_version_of(files, versions, name) for name in FILES]
        assert same(run(files, cache, lambda: None, *WAYS[way]), result_of(*present, way))
    assert 20 < refused < 100


def _version_of(files: Files, versions: Path, name: str) -> int:
    content = files.path(name).read_bytes()
    return next(version for version in (0, 1) if (versions / f"{name}_{version}").read_bytes() == content)


@pytest.fixture
def compared(versions: Path, tmp_path: Path) -> tuple[Files, Comparison[HostBase], Adapter]:
    files = Files(versions, tmp_path)
    for name in FILES:
        files.put(name, 0)
    return files, *compared_by(files, Resources(), lambda: None, "weight_cosine")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_lora_that_changed_since_it_was_compared_is_refused(
    compared: tuple[Files, Comparison[HostBase], Adapter], fault: Callable[[Path, Path], None]
) -> None:
    files, comparison, adapter = compared
    assert comparison.drifts
    fault(files.path("lora"), files.versions / "lora_1")
    with pytest.raises(ChangedFile, match=r"lora.safetensors: it was (changed|removed)"):
        project(comparison, adapter, Resources(), "restore_both")


def test_another_lora_gets_drifts_of_its_own(compared: tuple[Files, Comparison[HostBase], Adapter]) -> None:
    files, comparison, adapter = compared
    files.put("lora", 1)
    other = adapter_from_file(files.path("lora"), "lora")
    assert other.fingerprint != adapter.fingerprint
    found = project(comparison, other, Resources(), "restore_both")
    assert same(found, project(replace(comparison, drifts={}), other, Resources(), "restore_both"))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["source", "target"])
def test_a_base_that_changed_has_no_fingerprint(
    compared: tuple[Files, Comparison[HostBase], Adapter], name: str, fault: Callable[[Path, Path], None]
) -> None:
    files, comparison, _ = compared
    base = comparison.source if name == "source" else comparison.target
    fault(files.path(name), files.versions / f"{name}_1")
    with pytest.raises(ChangedFile, match=name):
        _ = base.fingerprint


def test_adapters_with_equal_bytes_of_other_shapes_or_kinds_have_other_fingerprints() -> None:
    from lora_transfer.nodes.host.adapter.adapter import fingerprint_of

    flat = torch.arange(12, dtype=torch.float16)
    tensors = [flat, flat.reshape(3, 4), flat.reshape(4, 3), flat.view(torch.bfloat16), flat.view(torch.int16)]
    assert len({fingerprint_of({"a": one}) for one in tensors}) == len(tensors)
