"""How much memory a transfer takes over what the process had before: run as a program of its own.

measure_memory.py SOURCE TARGET LORA prints the growth of the largest resident set in bytes (Linux).
"""

import sys
from pathlib import Path

from lora_transfer.core.plan import TransferSettings
from lora_transfer.core.resources import Resources
from lora_transfer.core.subspace import RankRule
from lora_transfer.nodes.host.adapter.adapter import adapter_from_file
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.compare import CompareSettings, compare_bases
from lora_transfer.nodes.host.project import project


def main(source_path: Path, target_path: Path, lora_path: Path) -> int:
    gauge = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _bytes(gauge, "VmRSS")
    source, target = base_from_file(source_path, "source"), base_from_file(target_path, "target")
    adapter, using = adapter_from_file(lora_path, "lora"), Resources()
    by_name = CompareSettings(RankRule("fraction", 0.5), match_by="names")
    compared = compare_bases(source, target, adapter, by_name, using, tell=print)
    project(compared.comparison, adapter, TransferSettings("rotate", threshold=0.0), using, force=True)
    return _bytes(gauge, "VmHWM") - before


def _bytes(gauge: Path, field: str) -> int:
    return int(gauge.read_text().split(f"{field}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    print(main(*map(Path, sys.argv[1:])))
