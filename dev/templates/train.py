"""The template that trains a LoRA-X and uses it on two relatives of its base."""

from .graph import Graph, Node
from .names import FINE_TUNE, PICTURES, PRUNED, SOURCE
from .parts import COLUMN, Sampling, Side, add_note, below, draw, stack

_APART = 1400  # pixels between two transfers, whose nodes grow when they show their results


def train_once(graph: Graph) -> None:
    note = """## Train a LoRA-X and use it on two relatives

1. **The source**: the checkpoint to train on. Choose the one that most of your models come from.
2. and 3. **Two relatives**: a fine-tune and a pruned model, for example.
4. **Your pictures**: a folder in ComfyUI's *input* folder, with a text file of the same name beside each picture, which
   holds its caption.

Press **Run**. Train LoRA-X trains a LoRA inside the main directions of the source's weights. It is then transferred to
both relatives without further training, saved for each, and drawn with.

Training needs as much memory as for any LoRA, and a few thousand steps for a real style."""
    add_note(graph, note)
    source, first, second, folder = stack(
        graph,
        (COLUMN, 0),
        ("CheckpointLoaderSimple", "1. The source", {"ckpt_name": SOURCE}),
        ("CheckpointLoaderSimple", "2. A relative", {"ckpt_name": FINE_TUNE}),
        ("CheckpointLoaderSimple", "3. Another relative", {"ckpt_name": PRUNED}),
        ("LoadImageTextDataSetFromFolder", "4. Your pictures", {"folder": PICTURES}),
    )
    graph.group("Choose", source, first, second, folder)
    left = 2 * COLUMN + 80
    dataset = graph.add(
        "MakeTrainingDataset",
        (left, 0),
        images=folder["images"],
        texts=folder["texts"],
        vae=source["vae"],
        clip=source["clip"],
    )
    at = below("MakeTrainingDataset", (left, 0))
    empty = graph.add("CLIPTextEncode", at, "The empty prompt", text="", clip=source["clip"])
    train = graph.add(
        "LoraTransferTrain",
        (left + COLUMN, 0),
        model=source["model"],
        latents=dataset["latents"],
        positive=dataset["conditioning"],
        empty_prompt=empty["conditioning"],
        vae=source["vae"],
    )
    graph.group("Train", dataset, empty, train)
    left += 2 * COLUMN + 80
    base = graph.add("LoraTransferLoadSourceBase", (left, 0), model=source["model"])
    applied = [_use(graph, (left, row), base, relative, train) for row, relative in ((0, first), (_APART, second))]
    left += 4 * COLUMN + 80
    before = Side(applied[0]["model"], first["clip"], "On a relative")
    after = Side(applied[1]["model"], second["clip"], "On another relative")
    draw(graph, left, before, after, source["vae"], Sampling())


def _use(graph: Graph, at: tuple[int, int], source: Node, relative: Node, train: Node) -> Node:
    """Transfers the trained LoRA to a relative, saves it and applies it."""
    left, top = at
    beside_source = below("LoraTransferLoadSourceBase", at) if top == 0 else at
    target = graph.add("LoraTransferLoadTargetBase", beside_source, model=relative["model"])
    similarity = graph.add(
        "LoraTransferSimilarity",
        (left + COLUMN, top),
        source=source["base"],
        target=target["base"],
        adapter=train["transferred"],
    )
    project = graph.add(
        "LoraTransferProject",
        (left + 2 * COLUMN, top),
        similarity=similarity["similarity"],
        adapter=train["transferred"],
    )
    applied = graph.add(
        "LoraTransferApply", (left + 3 * COLUMN, top), model=relative["model"], adapter=project["transferred"]
    )
    save = graph.add(
        "LoraTransferSave",
        below("LoraTransferApply", (left + 3 * COLUMN, top)),
        transferred=project["transferred"],
    )
    nodes = (source, target) if top == 0 else (target,)
    graph.group(f"Transfer to {'a' if top == 0 else 'another'} relative", *nodes, similarity, project, applied, save)
    return applied
