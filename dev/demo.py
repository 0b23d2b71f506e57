"""Runs the demo in a real ComfyUI: transfers a style to other bases, refines it, and prints where the results are."""

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

_TRANSFER_NOTES = """
  Source        draws yellow faces; its LoRA turns them into black-and-white line art.
  Target        was trained further on faces in other colours. The LoRA as it is and the transferred LoRA look much the
                same here: both draw line art.
  Pruned child  has lost three of the source's eight blocks. Loaded as it is, the LoRA lands on blocks that only share
                a name with its own: the faces break and stay yellow. The transferred LoRA lands on the right blocks
                and draws line art, rougher than the source's and with some colour at the edges.
The pictures are an illustration, not a measurement: prompts, guidance and the seed were chosen by eye, for a style that
is easy to see. The LoRA was not trained on any of the prompts, except "neutral face".
"""
_REFINE_NOTES = """
  Pruned child  The transferred LoRA after 80 more steps with the source as the teacher: most of the colour is gone and
                most outlines are whole. Some mouths differ from the source's, and sunglasses and horns stay rough.
  Stranger      was trained on the same faces from another seed. Loaded as it is, the LoRA does almost nothing there,
                and no layer can be transferred. Refined from zeros it draws line art; some blue parts keep colour.
The prompts and the seed are the same as above; none of the eight prompts is among the 24 of the teacher samples.
"""
_SHEETS = {"comparison": (DEMO_WORKFLOW, _TRANSFER_NOTES), "refined": (REFINE_WORKFLOW, _REFINE_NOTES)}
_PICTURES = {  # the pictures that a node shows, in order
    "LoraTransferSimilarity": ("heatmap", "blocks", "depth"),
    "LoraTransferRefine": ("loss graph",),
}


def main() -> int:
    add_demo(HOST)
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir(parents=True)
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # more threads gain nothing here, and block each other on a busy machine
    print("starting ComfyUI ...", flush=True)
    with ComfyServer(Path(os.environ["LORA_TRANSFER_COMFYUI"]), HOST) as client:
        return next((1 for sheet in _SHEETS if not _run_workflow(client, sheet)), 0)


def _run_workflow(client: ComfyClient, sheet: str) -> bool:
    """Runs a workflow, draws its images on a sheet and prints where all results are; False if the workflow fails."""
    workflow, notes = _SHEETS[sheet]
    prompt = to_prompt(json.loads(workflow.read_text()), client.object_info())
    result = client.queue(prompt, _TitlePrinter(prompt))
    if result.status != "success":
        print(f"{workflow.stem} ended with {result.status}: {result.errors}. Its log: {HOST}/comfyui.log")
        return False
    print()
    rows = _collect(client, prompt, result)
    path = DEMO / f"{sheet}.png"
    contact_sheet(rows, _columns(prompt)).save(path)
    print(f"\n{workflow.stem} took {result.seconds:.0f} s. Look at {path} first:\n{notes}", flush=True)
    return True


class _TitlePrinter:
    """Prints each node's title when ComfyUI starts it."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self.titles = {node: str(content["_meta"]["title"]) for node, content in prompt.items()}

    def __call__(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "executing" and event.get("node") in self.titles:
            print(f"  {self.titles[event['node']]}", flush=True)


def _columns(prompt: dict[str, Any]) -> list[str]:
    """The prompts, one for each image of the batch."""
    (names,) = (content["inputs"]["names"] for content in prompt.values() if content["_meta"]["title"] == "Prompts")
    return names.splitlines()


def _collect(client: ComfyClient, prompt: dict[str, Any], result: RunResult) -> list[Row]:
    """Copies the nodes' outputs to DEMO and prints their paths. Saved images become rows with their nodes' titles."""
    rows: list[Row] = []
    for node, shown in sorted(result.outputs.items(), key=lambda item: int(item[0])):
        title, kind = str(prompt[node]["_meta"]["title"]), prompt[node]["class_type"]
        pictures = [client.view(image) for image in shown.get("images", [])]
        if kind == "SaveImage":
            rows.append(Row(title, pictures))
        else:
            for name, picture in zip(_PICTURES.get(kind, ()), pictures, strict=False):
                print(f"{title}, {name}: {_write(f'{title}, {name}', '.png', picture)}")
        if kind == "LoraTransferLoader":
            print("\n  ".join([f"{title}:", *(line["text"] for line in shown["lora_transfer"][0]["lines"])]))
        for text in shown.get("text", []):
            if kind == "LoraTransferSave":
                print(f"{title}: {text}")
            elif kind == "PreviewAny":
                print(f"{title}: {_write(title, '.json', text.encode())}\n{summarise_report(text)}")
    return rows


def _write(title: str, ending: str, content: bytes) -> Path:
    path = DEMO / (title.lower().replace(",", "").replace(" ", "_") + ending)
    path.write_bytes(content)
    return path


def summarise_report(report: str) -> str:
    """The figures of a report that the demo prints."""
    content = json.loads(report)
    if content.get("kind") == "refine":
        return f"  {content['sentence']}"
    counts, means = content["counts"], content["means"]
    cosine = means.get("weight_cosine")
    similarity = "" if cosine is None else f" mean weight cosine {cosine:.3f};"
    return (
        f"  {content['verdict']['word']}: {'; '.join(content['verdict']['reasons'])}\n"
        f"  {counts['transferred']} layers transferred, {counts['copied']} copied, {counts['skipped']} skipped;"
        f"{similarity} {counts['keys']} keys in the file: {counts['keys_transferred']} transferred, "
        f"{counts['keys_skipped']} skipped, {counts['keys_unread']} unread"
    )


if __name__ == "__main__":
    sys.exit(main())
