"""`python -m benchmarks.device pack DIR`; then, in DIR on a machine with a card, `python -m benchmarks.device run OUT`.

    pack DIR [--from-here]                       gather what a bare machine lacks (needs the environment of run.py)
    run OUT [--device cpu] [--tiny] [--minutes 8] measure everything; OUT/results.md is ready for RESULTS.md

--tiny takes toy sizes, to see that everything runs; --only NAME,NAME takes some parts.
"""

import argparse
import os
import sys
from pathlib import Path

from .bare import ROOT, is_packed, unpack


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = parser.add_subparsers(dest="command", required=True)
    packing = choices.add_parser("pack", help="gather a folder for a bare machine")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--from-here", action="store_true", help="take this environment's packages, for this Python")
    running = choices.add_parser("run", help="measure everything")
    running.add_argument("out", type=Path)
    running.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    running.add_argument("--tiny", action="store_true", help="toy sizes")
    running.add_argument("--minutes", type=float, default=8.0, help="for everything together (tiny: no limit)")
    running.add_argument("--only", default="", help="names of parts, with commas between them")
    words = parser.parse_args()
    if words.command == "pack":
        from .pack import pack

        os.environ.setdefault("LORA_TRANSFER_COMFYUI", str(ROOT / ".run" / "ComfyUI"))
        print(f"{words.folder}: {pack(words.folder, from_here=words.from_here):,} bytes", flush=True)
        return
    from .run import Wanted, run

    if is_packed():
        unpack()
    else:
        os.environ.setdefault("LORA_TRANSFER_COMFYUI", str(ROOT / ".run" / "ComfyUI"))
    only = tuple(filter(None, words.only.split(",")))
    sys.exit(run(words.out, Wanted(words.device, words.tiny), words.minutes * 60, only))


if __name__ == "__main__":
    main()
