"""A library run with workers of a real Ray on this machine."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lora_transfer.core.errors import NoWorkers
from lora_transfer.core.library import attempts
from lora_transfer.core.library.schedule import LibraryFile
from lora_transfer.nodes.host.cluster import run
from lora_transfer.nodes.host.cluster.run import Cluster, transfer_on_cluster
from lora_transfer.nodes.host.cluster.worker import Ready
from lora_transfer.nodes.host.cluster.workforce import connect
from lora_transfer.nodes.host.library.run import open_library
from tests.host.small_library import bytes_in, lines_in, run_all, write_library, write_lora

COMFYUI = Path(os.environ["LORA_TRANSFER_COMFYUI"])


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_workers_that_die_cost_their_batch_only_and_a_file_that_ends_them_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker is killed with its batch, then every worker that has the deadly file alone. Everything else has
    the same bytes and lines as in a run in one process."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install ray); there are not wheels for every Python")
    for module in (attempts, run):
        monkeypatch.setattr(module, "MOST_DEATHS", 1)  # each worker takes seconds to start
    library = write_library(tmp_path, 8)
    write_lora(library.loras / "deadly.safetensors", library.source, 9)
    batch, alone, shared = library.batch(), tmp_path / "alone", tmp_path / "shared"
    run_all(library, alone, batch)
    batches: list[tuple[str, ...]] = []

    def kill(ready: Ready, files: Sequence[LibraryFile]) -> None:
        batches.append(tuple(file.name for file in files))
        if "deadly.safetensors" in batches[-1]:
            os.kill(ready.process, signal.SIGKILL)

    told: list[str] = []
    with open_library(shared) as opened:
        cluster = Cluster("local", COMFYUI, threads=2, cpu=True)
        remaining = opened.remaining(library.files(), batch.job)
        entries = list(transfer_on_cluster(opened, remaining, batch, cluster, told.append, kill))
    assert len(entries) == len(library.files())
    assert len(batches[0]) > 1
    assert batches.count(("deadly.safetensors",)) == 1
    assert len(told) == 2
    (failed,) = (line for line in lines_in(shared) if line["outcome"] == "failed")
    assert failed["lora"] == "deadly.safetensors"
    assert "workers ended" in failed["reason"]
    others = [line for line in lines_in(alone) if line["lora"] != "deadly.safetensors"]
    assert [line for line in lines_in(shared) if line["lora"] != "deadly.safetensors"] == others
    run_all(library, shared, batch)  # a run without Ray goes on
    assert bytes_in(shared) == bytes_in(alone)


def test_without_ray_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NoWorkers, match="pip install ray"), connect("local"):
        pass


def test_a_cluster_that_does_not_answer_is_said_at_once() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(NoWorkers, match=r"cannot be reached.*ray start"), connect("127.0.0.1:9"):
        pass
