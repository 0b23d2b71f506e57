"""How much memory a transfer takes over what the process had before: run as a program of its own.

measure_memory.py SOURCE TARGET LORA prints the growth of the largest resident set in bytes (Linux).
"""

import sys
from pathlib import Path

from lora_transfer.core.matching import match_by_name
from lora_transfer.core.plan import TransferSettings, plan_transfer
from lora_transfer.core.similarity import compare
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.transfer import transfer
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
from lora_transfer.nodes.host.adapter.place import place
from lora_transfer.nodes.host.base.from_file import base_from_file


def main(source_path: Path, target_path: Path, lora_path: Path) -> int:
    gauge = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _bytes(gauge, "VmRSS")
    source, target = base_from_file(source_path, "source"), base_from_file(target_path, "target")
    placed = place(adapter_from_file(lora_path, "lora"), source)
    matching = match_by_name(source.layers, target.layers, placed.layers())
    comparison = compare(source, target, matching, RankRule("fraction", 0.5))
    plan = plan_transfer(placed.modules, comparison, TransferSettings("rotate", threshold=0.0))
    transfer(plan, placed.deltas, source, target)
    return _bytes(gauge, "VmHWM") - before


def _bytes(gauge: Path, field: str) -> int:
    return int(gauge.read_text().split(f"{field}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    print(main(*map(Path, sys.argv[1:])))
