"""Runs one part in its own process: python -m benchmarks.device.child NAME SETTING FILE.

Each row is written to FILE as a line of JSON as soon as it is known, so that a crash or a hang costs no earlier row.
"""

import contextlib
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from .bare import import_comfy, prepare
from .parts import Setting, part_named


def main(name: str, words: str, file: Path) -> None:
    setting = Setting(**{**json.loads(words), "folder": Path(json.loads(words)["folder"])})
    prepare(setting.device)
    if name == "dynamic" and setting.device == "cuda":
        import comfy_aimdo.control

        comfy_aimdo.control.init()  # as ComfyUI's main.py: the modules that ComfyUI imports take its library once
    import torch
    from threadpoolctl import threadpool_limits

    if setting.tiny:  # on small matrices threads of a BLAS wait for each other by spinning
        torch.set_num_threads(1)
        threadpool_limits(1)
    logging.basicConfig(level=logging.WARNING)
    with file.open("a") as stream:

        def note(row: Any) -> None:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            print(f"  {json.dumps(row)}", flush=True)

        part = part_named(name)
        try:
            if part.comfy:
                import_comfy(setting.device, setting.folder)
            with torch.inference_mode() if part.comfy else contextlib.nullcontext():  # as nodes run
                for row in part.rows(setting):
                    note(row)
        except BaseException as error:  # noqa: BLE001  (a part ends with its reason in the table, whatever it is)
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            note({"what": "ended early", "error": f"{type(error).__name__}: {lines[0][:300]}"})
            sys.stdout.flush()
            os._exit(1)  # a broken card can make the interpreter's own end hang
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
