"""Parts that several templates share: the note, the transfer, and the two pictures."""

from dataclasses import dataclass
from typing import Any

from .graph import GAP, NOTE, SIZES, TITLE_HEIGHT, Graph, Node, Output
from .names import LORA, NEGATIVE, PROMPT, SIZE, SOURCE

COLUMN = 480  # from one column to the next
_ROW = SIZES["KSampler"][1] + SIZES["VAEDecode"][1] + 2 * (TITLE_HEIGHT + GAP)  # from one picture's sampler to the next


@dataclass(frozen=True)
class Sampling:
    """KSampler's settings for a kind of target."""

    steps: int | Output = 25
    cfg: float = 6.0
    sampler: str = "euler"
    scheduler: str = "normal"


@dataclass(frozen=True)
class Side:
    """A picture: the model that draws it, its text encoder, and its title."""

    model: Output
    clip: Output
    title: str


@dataclass(frozen=True)
class Transfer:
    lora: Node
    project: Node


def use_checkpoint(graph: Graph, note: str, checkpoint: str, sampling: Sampling) -> None:
    """A checkpoint, a LoRA for it, and two pictures."""
    add_note(graph, note)
    base = graph.add("CheckpointLoaderSimple", (COLUMN, 0), "1. The model", ckpt_name=checkpoint)
    loader = graph.add(
        "LoraTransferLoader",
        (2 * COLUMN, 0),
        "2. The LoRA",
        model=base["model"],
        clip=base["clip"],
        lora_name=LORA,
    )
    graph.group("Choose", base, loader)
    before = Side(base["model"], base["clip"], "Without the LoRA")
    after = Side(loader["model"], loader["clip"], "With the LoRA")
    draw(graph, 3 * COLUMN + 80, before, after, base["vae"], sampling)


def transfer_between_checkpoints(graph: Graph, target_name: str) -> tuple[Node, Node, Transfer]:
    """Two loaded checkpoints, which are the bases too, and the transferred LoRA."""
    source, target, lora = stack(
        graph,
        (COLUMN, 0),
        ("CheckpointLoaderSimple", "1. The source", {"ckpt_name": SOURCE}),
        ("CheckpointLoaderSimple", "2. The target", {"ckpt_name": target_name}),
        ("LoraTransferLoadLora", "3. The LoRA", {"lora_name": LORA}),
    )
    left = 2 * COLUMN + 80
    bases = stack(
        graph,
        (left, 0),
        ("LoraTransferLoadSourceBase", "", {"model": source["model"], "clip": source["clip"]}),
        ("LoraTransferLoadTargetBase", "", {"model": target["model"], "clip": target["clip"]}),
    )
    similarity, project = compare_and_project(graph, left + COLUMN, bases[0], bases[1], lora)
    graph.group("Transfer", *bases, similarity, project)
    return source, target, Transfer(lora, project)


def compare_and_project(graph: Graph, left: int, source: Node, target: Node, lora: Node) -> tuple[Node, Node]:
    """Both nodes side by side: they grow when they show their results."""
    similarity = graph.add(
        "LoraTransferSimilarity", (left, 0), source=source["base"], target=target["base"], adapter=lora["adapter"]
    )
    project = graph.add(
        "LoraTransferProject", (left + COLUMN, 0), similarity=similarity["similarity"], adapter=lora["adapter"]
    )
    return similarity, project


def apply(graph: Graph, at: tuple[int, int], title: str, target: Node, adapter: Output) -> Node:
    inputs = {"model": target["model"], "clip": target["clip"], "adapter": adapter}
    return graph.add("LoraTransferApply", at, title, **inputs)


def draw(
    graph: Graph,
    left: int,
    before: Side,
    after: Side,
    vae: Output,
    sampling: Sampling,
    prompt: Output | None = None,
    around: tuple[Node, ...] = (),
) -> None:
    """Two pictures of the same prompt and seed, and a slider between them. around: nodes of the same group above."""
    top = max((_bottom(graph, node) for node in around), default=0)
    nodes = list(around)
    if prompt is None:
        text = graph.add("PrimitiveStringMultiline", (left, top), "Prompt", value=PROMPT)
        nodes.append(text)
        prompt, top = text["string"], _bottom(graph, text)
    texts = stack(
        graph,
        (left, top),
        ("CLIPTextEncode", before.title, {"text": prompt, "clip": before.clip}),
        ("CLIPTextEncode", after.title, {"text": prompt, "clip": after.clip}),
        ("CLIPTextEncode", "Negative prompt", {"text": NEGATIVE, "clip": before.clip}),
        ("EmptyLatentImage", "Size", {"width": SIZE, "height": SIZE}),
    )
    nodes += texts
    images: list[Output] = []
    for row, (side, positive) in enumerate(zip((before, after), texts[:2], strict=True)):
        at = (left + COLUMN, row * _ROW)
        sampler = graph.add(
            "KSampler",
            at,
            side.title,
            model=side.model,
            positive=positive["conditioning"],
            negative=texts[2]["conditioning"],
            latent_image=texts[3]["latent"],
            seed=7,
            steps=sampling.steps,
            cfg=sampling.cfg,
            sampler_name=sampling.sampler,
            scheduler=sampling.scheduler,
        )
        decoded = graph.add("VAEDecode", below("KSampler", at), samples=sampler["latent"], vae=vae)
        images.append(decoded["image"])
        nodes += [sampler, decoded]
    at = (left + 2 * COLUMN - 60, 0)
    bare = graph.add("PreviewImage", at, before.title, images=images[0])
    saved = graph.add(
        "SaveImage", below("PreviewImage", at), after.title, images=images[1], filename_prefix="lora_transfer"
    )
    compare = graph.add(  # the canvas shows no slider: hence the two pictures beside it
        "ImageCompare", (at[0] + COLUMN, 0), f"{before.title} | {after.title}", image_a=images[0], image_b=images[1]
    )
    graph.group("Draw", *nodes, bare, saved, compare)


def add_note(graph: Graph, text: str) -> None:
    graph.add(NOTE, (0, 0), "What to choose", text=text)


def stack(graph: Graph, at: tuple[int, int], *nodes: tuple[str, str, dict[str, Any]]) -> list[Node]:
    """Adds nodes below each other: (type, title, inputs)."""
    added: list[Node] = []
    for kind, title, inputs in nodes:
        added.append(graph.add(kind, at, title, **inputs))
        at = below(kind, at)
    return added


def below(kind: str, at: tuple[int, int]) -> tuple[int, int]:
    """The place below a node of this type."""
    return at[0], at[1] + SIZES[kind][1] + TITLE_HEIGHT + GAP


def _bottom(graph: Graph, node: Node) -> int:
    """The place below a node."""
    content = graph.nodes[node.number - 1]
    return content["pos"][1] + content["size"][1] + TITLE_HEIGHT + GAP
