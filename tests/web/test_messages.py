"""What a node says stays on it: in both modes of the page, after a reload, in another tab, and after an undo."""

from itertools import count
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from dev.paths import DEMO_MODELS
from tests.web.comfy_page import MODES, ComfyPage
from tests.web.workflows import (
    LOAD_LORA,
    LORA,
    PROJECT,
    SAVE,
    SIMILARITY,
    SOURCE,
    demo,
    draw_with_load_lora,
    save_as_loaded,
    transfer,
)

_NUMBERS = count(1)


@pytest.mark.one_mode
def test_the_demo_runs_and_its_nodes_show_what_they_found(page: ComfyPage) -> None:
    page.load(demo(), _name())
    page.run()
    assert page.ended() == "execution_success"
    assert page.message(SIMILARITY)[0][0] == "good"
    assert "transferred" in " ".join(text for _, text in page.message(PROJECT))
    assert ".safetensors" in page.message(SAVE)[0][1]
    page.wait_for_pictures(SIMILARITY)
    page.look_at(SOURCE, LORA, SIMILARITY, PROJECT, SAVE)
    page.take_screenshot("demo")


def test_the_new_loader_takes_the_place_of_load_lora(page: ComfyPage) -> None:
    page.load(draw_with_load_lora("emoji_line_art.safetensors"), _name())
    loader = page.replace_node(LOAD_LORA, "LoraTransferLoader")
    page.set_widget(loader, "lora_name", "emoji_line_art.safetensors")
    page.set_widget(loader, "trained_on", "diffusion_models/emoji_source.safetensors")
    page.run()
    assert page.ended() == "execution_success"
    assert page.message(loader)[0][0] == "good"
    page.look_at(loader)
    page.take_screenshot("the loader")


def test_text_and_pictures_stay_in_the_other_mode(page: ComfyPage) -> None:
    said = _run_transfer(page)
    page.switch_mode(next(mode for mode in MODES if mode != page.mode))
    assert page.message(SIMILARITY) == said
    page.wait_for_pictures(SIMILARITY)


def test_text_and_pictures_stay_after_a_reload(page: ComfyPage) -> None:
    said = _run_transfer(page)
    page.wait_for_draft(said[0][1])
    page.reload()
    assert page.message(SIMILARITY) == said
    page.wait_for_pictures(SIMILARITY)
    page.look_at(SIMILARITY, PROJECT, SAVE)
    page.take_screenshot("after a reload")


def test_text_and_pictures_stay_after_a_look_into_another_tab(page: ComfyPage) -> None:
    name = _name()
    said = _run_transfer(page, name)
    page.load(transfer(), _name())
    assert page.says_nothing(SIMILARITY)
    page.switch_tab(name)
    assert page.message(SIMILARITY) == said
    page.wait_for_pictures(SIMILARITY)


@pytest.mark.one_mode
def test_a_run_that_ends_in_another_tab_speaks_in_its_own(page: ComfyPage) -> None:
    name = _name()
    page.load(transfer(threshold=0.5 + next(_NUMBERS) / 1000), name)
    page.start()
    page.load(transfer(), _name())
    page.wait_for_end()
    assert page.says_nothing(PROJECT)
    page.switch_tab(name)
    assert "transferred" in " ".join(text for _, text in page.message(PROJECT))


def test_an_error_stands_on_its_node_until_a_run_succeeds(page: ComfyPage) -> None:
    page.load(transfer(threshold=1.0), _name())
    page.run()
    [(tone, text)] = page.message(PROJECT)
    assert tone == "bad"
    assert "expected layers to transfer" in text
    page.page.get_by_text("expected layers to transfer").nth(1).wait_for()  # and in the corner of the page
    page.look_at(SIMILARITY, PROJECT, SAVE)
    page.take_screenshot("an error")
    page.set_widget(PROJECT, "threshold", 0.8)
    page.run()
    assert page.message(PROJECT)[0][0] == "good"


@pytest.mark.one_mode
def test_texts_of_a_file_are_shown_as_text(page: ComfyPage) -> None:
    hostile = '<img src=x onerror="window.injected = true"> **bold** <b>base</b>'
    _write_lora(page, "markup.safetensors", hostile)
    page.load(save_as_loaded("markup.safetensors"), _name())
    page.run()
    assert any(hostile in text for _, text in page.message(LORA))
    assert page.page.evaluate("window.injected") is None
    assert page.page.locator(".lora-transfer-message :is(img, b, strong)").count() == 0


@pytest.mark.one_mode
def test_a_message_is_no_part_of_the_prompt_or_of_the_saved_values(page: ComfyPage) -> None:
    page.load(transfer(), _name())
    before = _prompt_and_values(page)
    page.run()
    page.message(SAVE)
    assert _prompt_and_values(page) == before


@pytest.mark.one_mode
def test_a_copy_of_a_node_says_nothing(page: ComfyPage) -> None:
    _run_transfer(page)
    copied = page.page.evaluate(
        """id => {
          const { canvas, graph } = window.app;
          const before = new Set(graph.nodes);
          canvas.copyToClipboard([graph.getNodeById(id)]);
          canvas.pasteFromClipboard();
          return Number(graph.nodes.find(node => !before.has(node)).id);
        }""",
        SIMILARITY,
    )
    assert copied != SIMILARITY
    assert page.says_nothing(copied)


def test_an_undo_leaves_text_and_pictures(page: ComfyPage) -> None:
    page.load(transfer(), _name())
    page.page.evaluate(
        """id => {
          window.app.graph.getNodeById(id).title = "Renamed";
          window.app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
        }""",
        SAVE,
    )
    page.run()
    said = page.message(SIMILARITY)
    for _ in range(3):  # a node that grew for its widgets may be a step of its own
        page.page.evaluate("window.app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
        if page.page.evaluate("id => window.app.graph.getNodeById(id).title", SAVE) != "Renamed":
            break
    else:
        pytest.fail("undo does not take back the name")
    assert page.message(SIMILARITY) == said
    page.wait_for_pictures(SIMILARITY)


def _name() -> str:
    """A name for a workflow that no other tab has."""
    return f"workflow {next(_NUMBERS)}"


def _run_transfer(page: ComfyPage, name: str | None = None) -> list[tuple[str, str]]:
    """Runs the transfer, most of which ComfyUI has in its cache, and returns what Similarity says."""
    page.load(transfer(), name or _name())
    page.run()
    assert page.ended() == "execution_success"
    page.wait_for_pictures(SIMILARITY)
    return page.message(SIMILARITY)


def _write_lora(page: ComfyPage, name: str, trained_on: str) -> None:
    tensors = load_file(DEMO_MODELS / "loras" / "emoji_line_art.safetensors")
    save_file(tensors, page.served.base / "models" / "loras" / name, {"ss_sd_model_name": trained_on})


def _prompt_and_values(page: ComfyPage) -> Any:
    return page.page.evaluate(
        """async () => {
          const { output, workflow } = await window.app.graphToPrompt();
          return [output, workflow.nodes.map(node => node.widgets_values)];
        }"""
    )
