#!/usr/bin/env python3
"""LoRA Transfer's command line. It needs only Python: every command first sets up what it needs in .run/.

    python3 run.py demo             transfer a LoRA's style to other bases in a real ComfyUI, and refine it
    python3 run.py test [args]      run the checks and the tests; with arguments, only pytest with these
    python3 run.py serve            open the same ComfyUI with the demo's workflows and the examples
    python3 run.py bench NAME       run a benchmark of benchmarks/
    python3 run.py clean            remove .run/

Set COMFYUI_PATH to use your own ComfyUI instead of a fresh one.
"""

import argparse
import shutil
import sys

from dev import commands
from dev.paths import RUN


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = parser.add_subparsers(dest="command", required=True)
    choices.add_parser("demo", help="transfer and refine a LoRA in a real ComfyUI")
    choices.add_parser("test", help="run the tests; more arguments go to pytest")
    choices.add_parser("serve", help="start ComfyUI with the pack and its workflows")
    choices.add_parser("bench", help="run a benchmark").add_argument("name")
    choices.add_parser("clean", help="remove everything that run.py made")
    arguments, more = parser.parse_known_args()
    if more and arguments.command not in ("test", "bench"):
        parser.error(f"{arguments.command} takes no further arguments, found {' '.join(more)}")
    if arguments.command == "clean":
        shutil.rmtree(RUN, ignore_errors=True)
        print(f"Removed {RUN}.")
        return 0
    if arguments.command == "bench":
        return commands.bench(arguments.name, more)
    if arguments.command == "test":
        return commands.test(more)
    return commands.demo() if arguments.command == "demo" else commands.serve()


if __name__ == "__main__":
    sys.exit(main())
