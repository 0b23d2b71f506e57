"""Starts ComfyUI with the pack, its models, and the demo's workflows. The templates are in ComfyUI's own browser."""

import os
import shutil
import signal
import threading
from pathlib import Path

from .paths import DEMO_WORKFLOW, HOST, REFINE_WORKFLOW, SMALL_MODELS
from .server import ComfyServer, add_demo, link_models, port_is_free
from .small_models import write_all

PORT = 8188  # ComfyUI's own
WORKFLOWS = (DEMO_WORKFLOW, REFINE_WORKFLOW)


def main() -> None:
    write_all(SMALL_MODELS)
    link_models(SMALL_MODELS, HOST)
    add_demo(HOST)
    workflows = HOST / "user" / "default" / "workflows"
    workflows.mkdir(parents=True, exist_ok=True)
    for workflow in WORKFLOWS:
        shutil.copy(workflow, workflows)
    print("starting ComfyUI ...", flush=True)
    port = PORT if port_is_free(PORT) else None
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ComfyServer(Path(os.environ["LORA_TRANSFER_COMFYUI"]), HOST, port) as client:
        names = ", ".join(workflow.stem for workflow in WORKFLOWS)
        print(f"Open http://{client.address} and choose under Workflows: {names}. Press Ctrl-C to stop.", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
