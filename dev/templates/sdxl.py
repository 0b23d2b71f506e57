"""The templates, each named by what its user wants to do. Example names are those of real files."""

from collections.abc import Callable

from .graph import Graph, Node
from .names import FINE_TUNE, LORA, PICTURES, PROMPT, PRUNED, QUANTISED, SOURCE, TURBO
from .parts import (
    COLUMN,
    Sampling,
    Side,
    add_note,
    apply,
    below,
    compare_and_project,
    draw,
    stack,
    transfer_between_checkpoints,
    use_checkpoint,
)


def use_on_fine_tune(graph: Graph) -> None:
    note = """## Use an SDXL LoRA on a fine-tune

1. **Load Checkpoint**: the model that you want to use the LoRA on.
2. **Load LoRA from Another Base**: your LoRA.
3. Only if that node asks: **trained_on**, the base that the LoRA was trained on, such as *sd_xl_base_1.0*. That file
   must be on your disk.

Press **Run**. You get the picture without the LoRA and with it, and the node says how well the LoRA should
work. In Nodes 2.0 a slider compares the two.

In a workflow of your own, put this node in place of Load LoRA."""
    use_checkpoint(graph, note, FINE_TUNE, Sampling())


def use_on_pruned_model(graph: Graph) -> None:
    note = """## Use an SDXL LoRA on a pruned model

Load LoRA puts most of an SDXL LoRA on the wrong blocks of SSD-1B or Vega. This workflow finds the right ones.

1. **Load Checkpoint**: SSD-1B, Vega, or another model that was cut out of SDXL.
2. **Load LoRA from Another Base**: your LoRA.
3. Only if that node asks: **trained_on**, the base that the LoRA was trained on, such as *sd_xl_base_1.0*. That file
   must be on your disk.

Press **Run**. What lay on blocks that the model no longer has is lost; the node says how much that is."""
    use_checkpoint(graph, note, PRUNED, Sampling(cfg=7.0))


def use_on_quantised_model(graph: Graph) -> None:
    note = """## Use an SDXL LoRA on a quantised model

1. **Load Diffusion Model**: the model that you want to use the LoRA on. It is read as fp8 here; for a file that is
   quantised already, set **weight_dtype** to *default*.
2. **Load Checkpoint**: the base that the LoRA was trained on. Its text encoder and VAE are used too.
3. **Load LoRA from Another Base**: your LoRA.

Press **Run**. For a GGUF file, put your GGUF loader in place of Load Diffusion Model."""
    add_note(graph, note)
    unet = graph.add(
        "UNETLoader",
        (COLUMN, 0),
        "1. The quantised model",
        unet_name=QUANTISED,
        weight_dtype="fp8_e4m3fn",
    )
    base = graph.add(
        "CheckpointLoaderSimple", below("UNETLoader", (COLUMN, 0)), "2. The LoRA's own base", ckpt_name=SOURCE
    )
    loader = graph.add(
        "LoraTransferLoader",
        (2 * COLUMN, 0),
        "3. The LoRA",
        model=unet["model"],
        clip=base["clip"],
        source_model=base["model"],
        lora_name=LORA,
    )
    graph.group("Choose", unet, base, loader)
    before = Side(unet["model"], base["clip"], "Without the LoRA")
    after = Side(loader["model"], loader["clip"], "With the LoRA")
    draw(graph, 3 * COLUMN + 80, before, after, base["vae"], Sampling())


def check_a_transfer(graph: Graph) -> None:
    note = """## Check a transfer and find the best strength

1. **The source**: the checkpoint that the LoRA was trained on.
2. **The target**: the checkpoint that you want to use it on.
3. **The LoRA**.

Press **Run**. Compute Subspace Similarity says whether a transfer can work, Project LoRA transfers the LoRA, and Check
Transfer measures how close it comes to the source with its LoRA, at five strengths. Its output is scaled to the best
strength, so that 1 is right; the picture and the saved file use it.

Write a prompt that shows what the LoRA does, with its trigger words."""
    add_note(graph, note)
    source, target, transfer = transfer_between_checkpoints(graph, FINE_TUNE)
    graph.group("Choose", source, target, transfer.lora)
    left = 5 * COLUMN + 160
    prompt = graph.add("PrimitiveStringMultiline", (left, 0), "Prompt", value=PROMPT)
    encoded = stack(
        graph,
        below("PrimitiveStringMultiline", (left, 0)),
        ("CLIPTextEncode", "For the source", {"text": prompt["string"], "clip": source["clip"]}),
        ("CLIPTextEncode", "For the target", {"text": prompt["string"], "clip": target["clip"]}),
    )
    check = graph.add(
        "LoraTransferCheck",
        (left + COLUMN, 0),
        source_model=source["model"],
        target_model=target["model"],
        adapter=transfer.lora["adapter"],
        transferred=transfer.project["transferred"],
        conditioning=encoded[0]["conditioning"],
        target_conditioning=encoded[1]["conditioning"],
        search="strength",
    )
    save = graph.add(
        "LoraTransferSave", below("LoraTransferCheck", (left + COLUMN, 0)), transferred=check["transferred"]
    )
    graph.group("Check", prompt, *encoded, check, save)
    left += 2 * COLUMN + 80
    applied = apply(graph, (left, 0), "Apply at the best strength", target, check["transferred"])
    before = Side(target["model"], target["clip"], "Without the LoRA")
    after = Side(applied["model"], applied["clip"], "With the transferred LoRA")
    draw(graph, left, before, after, target["vae"], Sampling(), prompt["string"], (applied,))


def refine_on_turbo_model(graph: Graph) -> None:
    note = """## Refine a LoRA on a turbo model

1. **The source**: the checkpoint that the LoRA was trained on.
2. **The target**: the turbo or lightning checkpoint. Set **Steps** to the number of steps that you draw with.
3. **The LoRA**.

Press **Run**. Refine LoRA trains the transferred LoRA for a few dozen steps, without pictures of yours: the source with
its LoRA is the teacher. It needs as much memory as training a LoRA.

Look at the transferred LoRA first: it may be good enough. It is drawn beside the refined one."""
    add_note(graph, note)
    source, target, transfer = transfer_between_checkpoints(graph, TURBO)
    graph.group("Choose", source, target, transfer.lora)
    left = 5 * COLUMN + 160
    prompts = graph.add(
        "LoraTransferPrompts",
        (left, 0),
        adapter=transfer.lora["adapter"],
        clip=source["clip"],
        target_clip=target["clip"],
    )
    steps = graph.add("PrimitiveInt", below("LoraTransferPrompts", (left, 0)), "Steps of the turbo model", value=8)
    refine = graph.add(
        "LoraTransferRefine",
        (left + COLUMN, 0),
        source_model=source["model"],
        target_model=target["model"],
        adapter=transfer.lora["adapter"],
        transferred=transfer.project["transferred"],
        conditioning=prompts["conditioning"],
        target_conditioning=prompts["target_conditioning"],
        target_vae=target["vae"],
        target_steps=steps["int"],
    )
    at = below("PrimitiveInt", below("LoraTransferPrompts", (left, 0)))
    name = "loras/{lora}_refined_for_{target}"
    save = graph.add("LoraTransferSave", at, transferred=refine["transferred"], filename_prefix=name)
    graph.group("Refine", prompts, steps, refine, save)
    left += 2 * COLUMN + 80
    first = apply(graph, (left, 0), "Apply the transferred LoRA", target, transfer.project["transferred"])
    at = below("LoraTransferApply", (left, 0))
    second = apply(graph, at, "Apply the refined LoRA", target, refine["transferred"])
    before = Side(first["model"], first["clip"], "Transferred")
    after = Side(second["model"], second["clip"], "Refined")
    sampling = Sampling(steps["int"], 2.0, "dpmpp_sde", "karras")
    draw(graph, left, before, after, target["vae"], sampling, around=(first, second))


def save_for_other_programs(graph: Graph) -> None:
    note = """## Save for other programs

1. **Load Source Base**: the base that the LoRA was trained on.
2. **Load Target Base**: the base that you want to use it on.
3. **Load LoRA**: the LoRA.

Press **Run**. Save LoRA writes the transferred LoRA into *output/loras* and says where. **spelling** is how the layers
are named in the file: *kohya* for sd-scripts, Forge, A1111 and most programs, *diffusers* for the diffusers library,
*comfy* for ComfyUI. ComfyUI reads all three.

No model is loaded as a whole: this needs little memory and no graphics card."""
    add_note(graph, note)
    files = stack(
        graph,
        (COLUMN, 0),
        ("LoraTransferLoadSourceBase", "1. The source", {"base_name": f"checkpoints/{SOURCE}"}),
        ("LoraTransferLoadTargetBase", "2. The target", {"base_name": f"checkpoints/{FINE_TUNE}"}),
        ("LoraTransferLoadLora", "3. The LoRA", {"lora_name": LORA}),
    )
    source, target, lora = files
    similarity, project = compare_and_project(graph, 2 * COLUMN + 80, source, target, lora)
    save = graph.add("LoraTransferSave", (4 * COLUMN + 80, 0), transferred=project["transferred"], spelling="kohya")
    graph.group("Choose", *files)
    graph.group("Transfer and save", similarity, project, save)


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


_APART = 1400  # pixels between two transfers, whose nodes grow when they show their results

TEMPLATES: dict[str, Callable[[Graph], None]] = {
    "Use an SDXL LoRA on a fine-tune": use_on_fine_tune,
    "Use an SDXL LoRA on a pruned model (SSD-1B)": use_on_pruned_model,
    "Use an SDXL LoRA on a quantised model": use_on_quantised_model,
    "Check a transfer and find the best strength": check_a_transfer,
    "Refine a LoRA on a turbo model": refine_on_turbo_model,
    "Save for other programs": save_for_other_programs,
    "Train a LoRA-X and use it on two relatives": train_once,
}
