"""ComfyUI's page in a real browser: the version that ComfyUI asks for and the newest.

What the page draws, lays out, drags or keeps is tested in both modes of both versions. What happens on the server, or
is read from the workflow, is the same in both modes: tests marked `one_mode` run in one mode of each version.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from dev.browser import MISSING, find_browser
from dev.client import ComfyClient
from dev.front_end import FOLDER, NEWEST
from dev.paths import RUN
from dev.server import ComfyServer, add_demo
from tests.web.comfy_page import MODES, ComfyPage, Served

_FRONT_ENDS: dict[str, Path | None] = {"1.47.12": None, NEWEST: FOLDER}
_ONE_MODE = {"1.47.12": "canvas", NEWEST: "nodes2"}  # each mode on one version
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the modes and versions that a test's marks exclude."""
    excluded = [item for item in items if _is_excluded(item)]
    config.hook.pytest_deselected(items=excluded)
    items[:] = [item for item in items if item not in set(excluded)]


def _is_excluded(item: pytest.Item) -> bool:
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    version = params.get("served", NEWEST)
    in_other_mode = "page" in params and params["page"] != _ONE_MODE[version]
    return bool(
        (item.get_closest_marker("one_mode") and in_other_mode)
        or (item.get_closest_marker("newest_page") and version != NEWEST)
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"There is {MISSING}.")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="session", params=_FRONT_ENDS)
def served(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Served]:
    """A ComfyUI that serves one of the front ends, with the demo's models."""
    version: str = request.param
    folder = _FRONT_ENDS[version]
    if folder is not None and not folder.is_dir():
        pytest.skip(f"The front end {version} is not in {folder}: `python3 run.py test` downloads it.")
    base = RUN / f"web_host_{version}{os.environ.get('PYTEST_XDIST_WORKER', '')}"  # each process has its own
    add_demo(base)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the server; why: one_thread in tests/conftest.py
    with ComfyServer(Path(os.environ["LORA_TRANSFER_COMFYUI"]), base, front_end=folder) as client:
        _set(client, "Comfy.Workflow.Persist", True)  # as a user has it: a reload brings back the open workflows
        yield Served(client, base, version)


@pytest.fixture(scope="session")
def tab(served: Served, browser: Browser) -> Iterator[ComfyPage]:
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page = ComfyPage(context, served)
    page.open()
    yield page
    context.close()


@pytest.fixture(params=MODES)
def page(request: pytest.FixtureRequest, tab: ComfyPage) -> Iterator[ComfyPage]:
    """The page in one of its modes. No test may leave an error of the pack in the browser's console."""
    tab.switch_mode(request.param)
    yield tab
    assert tab.errors_of_pack() == []


def _set(client: ComfyClient, setting: str, value: Any) -> None:
    client.post(f"/settings/{setting}", value)
