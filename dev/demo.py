"""The main job end to end: a style carried to other bases in a real ComfyUI, and refined; and where all of it lies."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from .client import ComfyClient, RunResult
from .contact_sheet import Row, contact_sheet
from .paths import DEMO, DEMO_WORKFLOW, HOST, REFINE_WORKFLOW
from .server import ComfyServer, add_demo
from .workflow import to_prompt

_CARRIED = """
  Source        draws yellow faces; its LoRA makes black-and-white line art of them.
  Target        was trained on with faces in other colours. The line art arrives either way: between the LoRA as it is
                and the carried one there is little to choose here.
  Pruned child  has lost three of the source's eight blocks. As it is, the LoRA falls on blocks that only share a
                name with theirs: the faces break and stay yellow. Carried, it goes where its blocks are: line art,
                rougher than the source's and with colour left at the edges.
A picture of what happens, not a measurement: prompts, guidance and the one seed were chosen by eye, for a style that is
easy to see. All prompts but "neutral face" were kept from the LoRA's training.
"""
_REFINED = """
  Pruned child  The carried LoRA, trained on for 80 steps with the source as the teacher: most of the colour is gone and
                outlines are mostly whole. Mouths are not always the source's, sunglasses and horns stay rough.
  Stranger      draws the same faces, trained from another seed. As it is, the LoRA does next to nothing there, and
                nothing can be carried. Refined from zeros it draws line art; where there was blue, colour is left.
The same prompts and seed as above; none of the eight is among the 24 that were taught.
"""
_SHEETS = {"comparison": (DEMO_WORKFLOW, _CARRIED), "refined": (REFINE_WORKFLOW, _REFINED)}
_PICTURES = {  # what a node shows, in its order
    "LoraTransferSimilarity": ("heatmap", "blocks", "depth"),
    "LoraTransferRefine": ("loss graph",),
}


def main() -> int:
    add_demo(HOST)
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir(parents=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # more gain nothing here, and spin on a busy machine
    print("starting ComfyUI ...", flush=True)
    with ComfyServer(Path(os.environ["LORA_TRANSFER_COMFYUI"]), HOST) as client:
        return next((1 for sheet in _SHEETS if not _shown(client, sheet)), 0)


def _shown(client: ComfyClient, sheet: str) -> bool:
    """Run a workflow and say where all that it made lies, its drawings on a sheet; False where it fails."""
    workflow, seen = _SHEETS[sheet]
    prompt = to_prompt(json.loads(workflow.read_text()), client.object_info())
    result = client.queue(prompt, _Narrator(prompt))
    if result.status != "success":
        print(f"{workflow.stem} ended with {result.status}: {result.errors}. Its log: {HOST}/comfyui.log")
        return False
    print()
    rows = _collect(client, prompt, result)
    place = DEMO / f"{sheet}.png"
    contact_sheet(rows, _columns(prompt)).save(place)
    print(f"\n{workflow.stem} took {result.seconds:.0f} s. Look at {place} first:\n{seen}", flush=True)
    return True


class _Narrator:
    """Prints a line for each node as ComfyUI reaches it."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self.titles = {node: str(content["_meta"]["title"]) for node, content in prompt.items()}

    def __call__(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "executing" and event.get("node") in self.titles:
            print(f"  {self.titles[event['node']]}", flush=True)


def _columns(prompt: dict[str, Any]) -> list[str]:
    """The prompts, one for each image of a batch."""
    (names,) = (content["inputs"]["names"] for content in prompt.values() if content["_meta"]["title"] == "Prompts")
    return names.splitlines()


def _collect(client: ComfyClient, prompt: dict[str, Any], result: RunResult) -> list[Row]:
    """Copy what the nodes show to DEMO and say where it is; the drawings become rows, named by their nodes' titles."""
    rows: list[Row] = []
    for node, shown in sorted(result.outputs.items(), key=lambda item: int(item[0])):
        title, kind = str(prompt[node]["_meta"]["title"]), prompt[node]["class_type"]
        pictures = [client.view(image) for image in shown.get("images", [])]
        if kind == "SaveImage":
            rows.append(Row(title, pictures))
        else:
            for name, picture in zip(_PICTURES.get(kind, ()), pictures, strict=False):
                print(f"{title}, {name}: {_kept(f'{title}, {name}', '.png', picture)}")
        for text in shown.get("text", []):
            if kind == "LoraTransferSave":
                print(f"{title}: {text}")
            elif kind == "PreviewAny":
                print(f"{title}: {_kept(title, '.json', text.encode())}\n{_summary(text)}")
    return rows


def _kept(title: str, ending: str, content: bytes) -> Path:
    path = DEMO / (title.lower().replace(",", "").replace(" ", "_") + ending)
    path.write_bytes(content)
    return path


def _summary(report: str) -> str:
    found = json.loads(report)
    if found.get("kind") == "refine":
        return f"  {found['sentence']}"
    counts, means = found["counts"], found["means"]
    return (
        f"  {found['verdict']['word']}: {'; '.join(found['verdict']['reasons'])}\n"
        f"  {counts['transferred']} layers transferred, {counts['copied']} copied, {counts['skipped']} skipped; "
        f"similarity {means['phi']:.2f}, above chance {means['phi_above_chance']:.2f}; "
        f"{counts['keys']} keys in the file: {counts['keys_transferred']} transferred, "
        f"{counts['keys_skipped']} skipped, {counts['keys_unread']} unread"
    )


if __name__ == "__main__":
    sys.exit(main())
