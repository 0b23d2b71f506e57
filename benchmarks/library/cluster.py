"""A run on a Ray cluster of two nodes on this machine: its speed-up, and what is left after kills."""

# The pack's own name exists only once bare.prepare() has given it, and Ray is optional.
# pyright: reportMissingImports=false

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from dev.paths import ROOT

_TIMES = ("seconds", "finished")


@contextmanager
def cluster_of(nodes: int) -> Iterator[Any]:
    """A Ray cluster of nodes with a processor each, on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=_NODE)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**_NODE)
        yield cluster
    finally:
        cluster.shutdown()


_NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}


def measure_ray(options: dict[str, Any]) -> dict[str, Any]:
    """Wall seconds from the moment when the first worker is at work to the last result, with `nodes` nodes."""
    handed: dict[int, float] = {}

    def watch(ready: Any, chosen: Sequence[Any]) -> None:
        handed.setdefault(ready.process, time.perf_counter())

    with cluster_of(options["nodes"]) as cluster:
        started = time.perf_counter()
        entries = _transfer(options, Path(options["out"]), cluster.address, watch)
        ended = time.perf_counter()
    return {
        "nodes": options["nodes"],
        "workers": len(handed),
        "start s": round(min(handed.values()) - started, 1),
        "work s": round(ended - min(handed.values()), 1),
        "transferred": sum(entry.outcome == "transferred" for entry in entries),
    }


def survive_deaths(options: dict[str, Any]) -> dict[str, Any]:
    """Kills (-9) workers and nodes, at random moments while they have files, in one run on two nodes. Compares files,
    bytes and manifest with a run in one process."""
    alone, shared = Path(options["out"]) / "alone", Path(options["out"]) / "shared"
    _transfer(options, alone, None, lambda ready, chosen: None)
    chance, killed, batches = random.Random(11), list[str](), [0, 3]  # noqa: S311
    with cluster_of(2) as cluster:

        def watch(ready: Any, chosen: Sequence[Any]) -> None:
            batches[0] += 1
            if batches[0] < batches[1] or len(killed) == options["kills"]:
                return
            batches[1] = batches[0] + chance.randrange(2, 6)
            what = chance.choice(("worker", "worker", "node"))
            killed.append(what)
            if what == "node":  # a node can only be started from the main thread
                _kill_node(cluster)
            else:
                threading.Timer(chance.uniform(0, 0.5), _kill_process, [ready.process]).start()

        _transfer(options, shared, cluster.address, watch)
    return {"kills": killed, "batches": batches[0], "equal": [_contents(shared) == _contents(alone)]}


def _kill_process(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _transfer(
    options: dict[str, Any], out: Path, address: str | None, watch: Callable[[Any, Sequence[Any]], None]
) -> list[Any]:
    """The entries of a run on a cluster, or in this process without an address."""
    from lora_transfer.core.plan import TransferSettings
    from lora_transfer.core.resources import Resources
    from lora_transfer.nodes.host.base.from_file import base_from_file
    from lora_transfer.nodes.host.cluster.run import Cluster, transfer_on_cluster
    from lora_transfer.nodes.host.library.files import find_files
    from lora_transfer.nodes.host.library.run import batch_of, open_library, transfer_library
    from lora_transfer.nodes.host.library.settings import LibrarySettings, compare_settings_for

    method = options["method"]
    shutil.rmtree(out, ignore_errors=True)
    pair = [base_from_file(Path(options["pair"]) / f"{name}.safetensors", name) for name in ("source", "target")]
    settings = LibrarySettings(compare_settings_for(method), TransferSettings(method, threshold=0.0))
    batch = batch_of(*pair, settings, Resources())
    files = find_files([options["loras"]])[: options["count"]]
    with open_library(out) as library:
        if address is None:
            return list(transfer_library(library, files, batch))
        where = Cluster(address, Path(os.environ["LORA_TRANSFER_COMFYUI"]), threads=1, cpu=True)
        return list(transfer_on_cluster(library, files, batch, where, _log, watch))


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def survive_kills(pair: Path, loras: Path, scratch: Path, kills: int) -> dict[str, Any]:
    """Kills (-9) the run, a worker, or a node at random moments, starts the run again until all is done, and compares
    files, bytes and manifests with a run in one process that nothing disturbed."""
    undisturbed = scratch / "undisturbed"
    shutil.rmtree(scratch, ignore_errors=True)
    _wait(_start(pair, loras, undisturbed, None))
    expected, chance = _contents(undisturbed), random.Random(7)  # noqa: S311
    with cluster_of(2) as cluster:
        first = scratch / "first"
        started = time.monotonic()
        _wait(_start(pair, loras, first, cluster.address))
        usual = time.monotonic() - started
        equal, killed, round_number = [_contents(first) == expected], [], 0
        while len(killed) < kills:
            round_number += 1
            out = scratch / f"killed {round_number}"
            while True:
                run = _start(pair, loras, out, cluster.address)
                killed += _kill_while_running(run, cluster, chance, usual, kills - len(killed))
                if _wait(run) in (0, 1):
                    break
            equal.append(_contents(out) == expected)
            print(f"after {len(killed)} kills ({', '.join(killed)}): equal {equal[-1]}", flush=True)
    return {"kills": killed, "runs": len(equal), "equal": equal, "a run's usual s": round(usual, 1)}


def _kill_while_running(run: Any, cluster: Any, chance: random.Random, usual: float, most: int) -> list[str]:
    killed: list[str] = []
    while len(killed) < most:
        stop = time.monotonic() + chance.uniform(0.3, 1.0) * usual
        while time.monotonic() < stop and run.poll() is None:
            time.sleep(0.02)
        if run.poll() is not None:
            break
        what = chance.choice(("run", "worker", "node"))
        if what == "run":
            run.kill()
        elif what == "worker":
            workers = [process for process in _descendants() if "LoraWorker" in process.name() + _title(process)]
            if not workers:
                continue
            chance.choice(workers).kill()
        else:
            _kill_node(cluster)
        killed.append(what)
        if what == "run":
            break
    return killed


def _kill_node(cluster: Any) -> None:
    """Kill all processes of the second node, and start another."""
    node = next(iter(cluster.worker_nodes))
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**_NODE)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _start(pair: Path, loras: Path, out: Path, address: str | None) -> Any:
    names = (pair / "source.safetensors", pair / "target.safetensors")
    ray = () if address is None else ("--ray", address)
    command = [sys.executable, ROOT / "cli.py", *names, loras, "--out", out, "--workers", "1", "--threshold", "0", *ray]
    environment = {**os.environ, "COMFYUI_PATH": os.environ["LORA_TRANSFER_COMFYUI"]}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def _wait(run: Any) -> int:
    """The exit code; a code that no kill explains ends the benchmark."""
    _, errors = run.communicate()
    if run.returncode not in (0, 1, -signal.SIGKILL):
        sys.exit(f"A run ended with {run.returncode}: {errors.decode(errors='replace')[-2000:]}")
    return run.returncode


def _contents(out: Path) -> tuple[dict[str, str], list[str]]:
    """The hash of every result, and the manifest's lines without times, in the order of the LoRAs."""
    hashes = {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*.safetensors")
    }
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    plain = [{name: value for name, value in line.items() if name not in _TIMES} for line in lines]
    return hashes, sorted(json.dumps(line, sort_keys=True) for line in plain)
