"""What the pack answers to hostile files, and what that costs: run as a program of its own.

answer_hostile.py FILE... prints one line of JSON for each: what was said, CPU seconds, growth of the largest resident
set in bytes, and how the process ended. Each file is read in a fork, which may take 4 GB and a minute (Linux).
"""

import json
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from lora_transfer.core.errors import LoraTransferError
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
from lora_transfer.nodes.host.adapter.metadata import method_of, refined_metadata, scaled_metadata
from lora_transfer.nodes.host.adapter.read import read_adapter
from lora_transfer.nodes.host.adapter.write import to_state_dict
from lora_transfer.nodes.host.base.from_file import base_from_header
from lora_transfer.nodes.host.base.from_model import HostBase
from lora_transfer.nodes.host.refine.prompt_list import choose_prompts
from tests.host.families import header_of

_MOST_BYTES, _MOST_SECONDS = 4 << 30, 60


def answer(path: Path, base: HostBase) -> tuple[str, int]:
    """What the pack says of a file after everything that a run does with it (prompts, metadata, deltas, the tensors
    that are written), and the length of the longest prompt."""
    longest = 0
    try:
        adapter = adapter_from_file(path, path.name)
        longest = max(len(prompt) for prompt in choose_prompts("", adapter.metadata, 16, 0).prompts)
        method_of(adapter.metadata)
        scaled_metadata(adapter.metadata, {}, 0.5)
        refined_metadata(adapter.metadata, {}, {"steps": 1}, base)
        placed = read_adapter(adapter, base)
        tensors = to_state_dict(placed.deltas, placed.scales, base, "comfy", placed.vectors, placed.widened())
    except LoraTransferError as error:
        return str(error), longest
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        return "values that are not finite", longest
    return f"placed {len(placed.modules)}", longest


def _in_fork(path: Path, base: HostBase) -> dict[str, object]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + _MOST_BYTES, held + _MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, started = _kilobytes("VmRSS"), time.process_time()
        try:
            said, longest = answer(path, base)
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is no sentence: the test tells)
            said, longest = f"{type(error).__name__}: {error}"[:500], 0
        told = {"said": said[:2000], "longest": longest, "cpu": time.process_time() - started}
        told["grown"] = (_kilobytes("VmHWM") - before) * 1024
        os.write(writing, json.dumps(told).encode())
        os._exit(0)
    os.close(writing)
    told = os.fdopen(reading, "rb").read()
    _, status = os.waitpid(child, 0)
    ended = {"said": f"the process ended with status {status}", "longest": 0, "cpu": float("inf"), "grown": 0}
    return {"name": path.name, **(json.loads(told) if told else ended)}


def _kilobytes(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = base_from_header(header_of("SD15"), "SD 1.5", "header")
    weights = replace(made, reader=lambda weight: torch.full(weight.shape, 0.01))
    for name in sys.argv[1:]:
        print(json.dumps(_in_fork(Path(name), weights)), flush=True)
