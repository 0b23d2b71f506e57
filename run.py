#!/usr/bin/env python3
"""LoRA Transfer's one command line. It needs nothing but Python: every command does its own set-up in .run/ first.

    python3 run.py demo             the main job in a real ComfyUI: a LoRA's style carried to other bases, and refined
    python3 run.py test [args]      the checks and the tests; with arguments, pytest alone with them
    python3 run.py serve            the same ComfyUI with the demo's workflows and the examples, for a person to look at
    python3 run.py bench NAME       a benchmark of benchmarks/
    python3 run.py clean            removes .run/

COMFYUI_PATH names a ComfyUI to use in place of a fresh one.
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
    choices.add_parser("demo", help="run the main job end to end")
    choices.add_parser("test", help="pass the tests; more arguments go to pytest")
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
