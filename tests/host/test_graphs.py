"""Whole graphs in a real ComfyUI process."""

import io
import json
import shutil
from typing import Any

import numpy
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dev.small_models import kohya_modules, write_lora
from lora_transfer.core.methods import METHODS
from tests import oracle
from tests.host.conftest import Host
from tests.host.prompts import image_prompt, node, transfer_prompt

NODE_IDS = (
    "LoraTransferLoadSourceBase",
    "LoraTransferLoadTargetBase",
    "LoraTransferLoadLora",
    "LoraTransferSimilarity",
    "LoraTransferProject",
    "LoraTransferApply",
    "LoraTransferCheck",
    "LoraTransferPrompts",
    "LoraTransferRefine",
    "LoraTransferTrain",
    "LoraTransferSave",
    "LoraTransferFolder",
)


def test_the_pack_loads_without_a_warning(host: Host) -> None:
    start = host.log.read_text().split("To see the GUI go to")[0]
    lines = [line for line in start.splitlines() if "ComfyUI-LoRA-Transfer" in line]
    assert len(lines) == 1  # the line that says how long the import took
    assert "FAILED" not in lines[0]
    assert set(NODE_IDS) <= set(host.client.object_info())


def test_every_input_has_a_tooltip(host: Host) -> None:
    info = host.client.object_info()
    for node_id in NODE_IDS:
        inputs = info[node_id]["input"]
        for name, (_, options) in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
            assert options.get("tooltip"), f"{node_id}.{name}"


def test_a_seed_stays_as_it_is_from_run_to_run(host: Host) -> None:
    info = host.client.object_info()
    for node_id in ("LoraTransferCheck", "LoraTransferPrompts", "LoraTransferRefine", "LoraTransferTrain"):
        assert info[node_id]["input"]["optional"]["seed"][1]["control_after_generate"] == "fixed", node_id


def test_progress_has_one_step_for_every_layer(host: Host) -> None:
    rule = ("fraction", "fraction", 0.51)  # not cached by another test
    result = host.client.queue(transfer_prompt(method="lora_x", prefix="loras/progress", rank_rule=rule))
    layers = len(json.loads(result.outputs["report"]["text"][0])["layers"])
    assert result.progress["similarity"] == (layers, layers)
    assert result.progress["project"] == (layers, layers)


def test_a_run_is_cancelled_within_a_layer(host: Host) -> None:
    seen: list[int] = []

    def stop_at_once(kind: str, event: dict[str, Any]) -> None:
        if kind == "progress" and event["node"] == "similarity":
            seen.append(event["value"])
            host.client.interrupt()

    written = host.loras_written()
    rule = ("fraction", "fraction", 0.31)  # not cached by another test
    result = host.client.queue(transfer_prompt(prefix="loras/cancelled", rank_rule=rule), stop_at_once)
    assert result.status == "interrupted"
    assert max(seen) < 60
    assert host.loras_written() == written


def test_a_folder_is_transferred_cancelled_within_a_file_and_goes_on(host: Host) -> None:
    """The run is cancelled in the batch after the first results, while a layer is at work."""
    shelf, out = host.base / "models" / "loras" / "shelf", host.base / "output" / "loras" / "small_target"
    for folder in (shelf, out):
        shutil.rmtree(folder, ignore_errors=True)
    shelf.mkdir()
    source, names = host.base / "models" / "checkpoints" / "small_source.safetensors", set[str]()
    for index in range(40):  # three batches
        names.add(write_lora(shelf / f"{index:02}.safetensors", source, rank=1, seed=index).name)
    (shelf / "broken.safetensors").write_bytes(b"no tensors")
    base = {"source": ("Source", "small_source"), "target": ("Target", "small_target")}
    prompt = {
        name: node(f"LoraTransferLoad{kind}Base", base_name=f"checkpoints/{file}.safetensors")
        for name, (kind, file) in base.items()
    }
    inputs = {"source": ["source", 0], "target": ["target", 0], "folder": "shelf", "name_filter": "*"}
    prompt["folder"] = node("LoraTransferFolder", **inputs, subfolders=True, method="copy")
    prompt["report"] = node("PreviewAny", source=["folder", 0])
    steps: list[int] = []

    def stop_after_the_first_results(kind: str, event: dict[str, Any]) -> None:
        if kind == "progress" and event["node"] == "folder":
            steps.append(event["value"])
            if list(out.glob("*.safetensors")):
                host.client.interrupt()

    stopped = host.client.queue(prompt, stop_after_the_first_results)
    assert stopped.status == "interrupted", stopped.errors
    assert len(set(steps)) > 1
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert 0 < len(done) < 40
    assert (out / "summary.html").is_file()
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    assert {path.name for path in out.glob("*.safetensors")} == names
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done  # what was done is not done again
    report = result.outputs["report"]["text"][0].splitlines()
    assert len(report) == 41
    assert sum(line.startswith("transferred ") for line in report) == 40
    (said,) = result.outputs["folder"]["lora_transfer"]
    assert said["lines"][0]["text"].startswith("40 of 41 LoRAs are transferred")
    shutil.rmtree(shelf)


def test_saved_values_of_every_method_match_the_float64_oracle(host: Host) -> None:
    models = host.base / "models"
    source = load_file(models / "checkpoints" / "small_source.safetensors")
    target = load_file(models / "checkpoints" / "small_target.safetensors")
    lora = load_file(models / "loras" / "small_lora.safetensors")
    saved = {method.name: load_file(_saved(host, method=method.name)) for method in METHODS}
    errors: dict[str, list[float]] = {name: [] for name in saved}
    for module, key in kohya_modules(models / "checkpoints" / "small_source.safetensors").items():
        weights = source[key].flatten(1), target[key].flatten(1)
        projectors = oracle.Projectors.of(*weights, "fraction", 0.5)
        for name, tensors in saved.items():
            expected = oracle.transfer(name, _delta(lora, module), *weights, projectors)
            found = _delta(tensors, key.removeprefix("model.").removesuffix(".weight"))
            errors[name].append(float((found - expected).norm() / expected.norm()))
    for name, found in errors.items():
        worst, median = max(found), sorted(found)[len(found) // 2]
        print(f"{name}: {len(found)} layers, relative error worst {worst:.1e}, median {median:.1e}")
        assert 3 * len(found) == len(saved[name]) == len(lora)
        assert worst <= 1e-4, name
        assert median <= 1e-5, name


def test_between_equal_bases_a_saved_file_is_the_lora_again(host: Host) -> None:
    models, same = host.base / "models", "checkpoints/small_source.safetensors"
    lora = load_file(models / "loras" / "small_lora.safetensors")
    modules = kohya_modules(models / "checkpoints" / "small_source.safetensors")
    for method in ("prolora_full", "rotate", "restore"):
        saved = load_file(_saved(host, method=method, target=same, prefix="loras/same"))
        for module, key in modules.items():
            expected = _delta(lora, module)
            found = _delta(saved, key.removeprefix("model.").removesuffix(".weight"))
            assert float((found - expected).norm()) <= 1e-5 * float(expected.norm()), (method, module)


def test_what_comfyuis_own_loader_drops_is_applied(host: Host) -> None:
    module = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    generator = torch.Generator().manual_seed(4)
    up, down = (torch.randn(*shape, generator=generator) for shape in ((320, 4), (4, 768)))
    dropped = {f"{module}.lora.up.weight": up, f"{module}.lora.down.weight": down}
    save_file(dropped, host.base / "models" / "loras" / "todays_diffusers.safetensors")
    applied = {
        "lora": node("LoraTransferLoadLora", lora_name="todays_diffusers.safetensors"),
        "applied": node(
            "LoraTransferApply", model=["checkpoint", 0], adapter=["lora", 0], strength_model=1.0, strength_clip=1.0
        ),
    }
    prompt = image_prompt("without", ["checkpoint", 0], {}) | image_prompt("with", ["applied", 0], applied)
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    images = {name: host.client.view(result.outputs[name]["images"][0]) for name in ("without", "with")}
    assert not torch.equal(_pixels(images["without"]), _pixels(images["with"]))


def test_strength_0_is_no_lora_bit_by_bit_and_strength_1_is_not(host: Host) -> None:
    loaded = {"lora": node("LoraTransferLoadLora", lora_name="small_lora.safetensors")}
    prompt = image_prompt("plain", ["checkpoint", 0], {})
    for name, strength in (("off", 0.0), ("on", 1.0)):
        applied = node(
            "LoraTransferApply",
            model=["checkpoint", 0],
            clip=["checkpoint", 1],
            adapter=["lora", 0],
            strength_model=strength,
            strength_clip=strength,
        )
        prompt |= image_prompt(name, [f"{name}_applied", 0], {**loaded, f"{name}_applied": applied})
    result = host.client.queue(prompt)
    assert result.status == "success", result.errors
    plain, off, on = (_pixels(host.client.view(result.outputs[name]["images"][0])) for name in ("plain", "off", "on"))
    assert torch.equal(plain, off)
    assert not torch.equal(plain, on)


def test_the_saved_file_gives_in_the_core_loader_what_apply_gives_and_no_key_is_unmatched(host: Host) -> None:
    saved = _saved(host, prefix="loras/core")
    applied = node(
        "LoraTransferApply",
        model=["checkpoint", 0],
        adapter=["project", 0],
        strength_model=1.0,
        strength_clip=1.0,
    )
    loader = node(
        "LoraLoaderModelOnly",
        model=["checkpoint", 0],
        lora_name=saved.split("/loras/", 1)[1],
        strength_model=1.0,
    )
    before = len(host.log.read_text())
    prompt = image_prompt("ours", ["applied", 0], {**transfer_prompt(prefix="loras/core"), "applied": applied})
    result = host.client.queue(prompt | image_prompt("cores", ["loader", 0], {"loader": loader}))
    assert result.status == "success", result.errors
    said = host.log.read_text()[before:]
    assert "not loaded" not in said.lower()
    ours, cores = (_pixels(host.client.view(result.outputs[name]["images"][0])) for name in ("ours", "cores"))
    assert torch.equal(ours, cores)


def test_the_saved_file_keeps_its_metadata_and_says_where_it_came_from(host: Host) -> None:
    first, second = (_saved(host, prefix="loras/origin", threshold=threshold) for threshold in (0.0, 0.01))
    assert first != second
    with safe_open(first, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.trigger_phrase"] == "smallstyle"
    origin = json.loads(metadata["lora_transfer"])
    assert origin["source"]["name"] == "checkpoints/small_source.safetensors"
    assert origin["target"]["fingerprint"].startswith("blake3:")
    assert origin["settings"]["method"] == "restore_both"
    assert origin["means"]["phi"] > 0.8


def _saved(host: Host, **settings: Any) -> str:
    """The path of the file that a transfer writes."""
    result = host.client.queue(transfer_prompt(**settings))
    assert result.status == "success", result.errors
    return result.outputs["save"]["text"][0]


def _delta(tensors: dict[str, torch.Tensor], module: str) -> torch.Tensor:
    up, down = tensors[f"{module}.lora_up.weight"].double(), tensors[f"{module}.lora_down.weight"].double()
    return up.flatten(1) @ down.flatten(1) * (float(tensors[f"{module}.alpha"]) / down.shape[0])


def _pixels(png: bytes) -> torch.Tensor:
    return torch.from_numpy(numpy.array(Image.open(io.BytesIO(png))))
