"""ComfyUI's page in a real browser, as a test uses it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Page

from dev.client import ComfyClient
from dev.paths import PACK_FOLDER, SCREENSHOTS

MODES = {"canvas": False, "nodes2": True}  # -> ComfyUI's setting Comfy.VueNodes.Enabled

_READY = "window.app?.graph && window.app?.canvas && Object.keys(LiteGraph.registered_node_types).length > 100"
_LIMIT = 120_000  # milliseconds; a limit on a busy machine, not a wait
_RUN_LIMIT = 300_000  # milliseconds, for a whole run

# Runs in the page: the sentences on a node as its box shows them, with their tones.
_MESSAGE = """id => {
  const widget = window.app.graph.getNodeById(id)?.widgets?.find(w => w.name === "lora_transfer_message");
  if (!widget?.element.isConnected) return null;
  return [...widget.element.querySelectorAll("p")].map(p => [p.dataset.tone, p.querySelector(".text").textContent]);
}"""

# Runs in the page: how many pictures ComfyUI shows on a node.
_PICTURES = """id => {
  const node = window.app.graph.getNodeById(id);
  if (!LiteGraph.vueNodesMode) return node.imgs?.filter(image => image.naturalWidth).length ?? 0;
  const shown = document.querySelector(`[data-node-id="${id}"]`)?.querySelectorAll("img") ?? [];
  return [...shown].filter(image => image.naturalWidth).length;
}"""

# Runs in the page: left, top, width and height of every node with its title, in the graph's units.
_BOXES = """() => {
  const { graph, canvas } = window.app;
  const [scale, offset] = [canvas.ds.scale, canvas.ds.offset];
  const boxOf = node => {
    const [left, top] = node.pos, [width, height] = node.size, title = LiteGraph.NODE_TITLE_HEIGHT;
    if (!LiteGraph.vueNodesMode) return [left, top - title, width, height + title];
    const shown = document.querySelector(`[data-node-id="${node.id}"]`);
    if (!shown) return null;
    const box = shown.getBoundingClientRect();
    return [box.left / scale - offset[0], box.top / scale - offset[1], box.width / scale, box.height / scale];
  };
  const boxes = graph.nodes.map(node => [`${node.type} ${node.id}`, boxOf(node)]);
  return boxes.every(([, box]) => box && box[2] > 50) ? Object.fromEntries(boxes) : null;
}"""


@dataclass(frozen=True)
class Served:
    """A running ComfyUI, the folder with its models and outputs, and the version of its page."""

    client: ComfyClient
    base: Path
    version: str


class ComfyPage:
    """One tab of the browser."""

    def __init__(self, context: BrowserContext, served: Served) -> None:
        self.served = served
        self.mode = "canvas"
        self.name = ""  # of the workflow that was loaded last
        self.page: Page = context.new_page()
        self.errors: list[str] = []
        self.page.set_default_timeout(_LIMIT)
        self.page.on("console", self._keep_error)
        self.page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack or ''}"))

    def open(self) -> None:
        self.page.goto(f"http://{self.served.client.address}/")
        self.page.wait_for_function(_READY)

    def reload(self) -> None:
        self.page.reload()
        self.page.wait_for_function(_READY)

    def switch_mode(self, mode: str) -> None:
        """Switches between the canvas and Nodes 2.0, as the settings page does."""
        self.mode = mode
        self.page.evaluate("on => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", MODES[mode])
        self.page.wait_for_function("on => Boolean(LiteGraph.vueNodesMode) === on", arg=MODES[mode])

    def load(self, workflow: dict[str, Any], name: str) -> None:
        """Opens a workflow in a tab of its own."""
        self.name = name
        workflow = {
            **workflow,
            "extra": {**workflow.get("extra", {}), "test": name},
        }  # what tells its draft from others
        self.page.evaluate("([graph, name]) => window.app.loadGraphData(graph, true, true, name)", [workflow, name])

    def switch_tab(self, name: str) -> None:
        """Opens the tab of a workflow that is open already."""
        self.page.locator(".workflow-tabs-container").get_by_text(name, exact=True).first.click()

    def run(self) -> None:
        """Presses Run, and waits until the run has ended and its events have been shown."""
        self.start()
        self.wait_for_end()

    def wait_for_end(self) -> None:
        self.page.wait_for_function("window.loraTransferEnd !== null", timeout=_RUN_LIMIT)

    def start(self) -> None:
        """Presses Run."""
        self.watch_end()
        self.page.evaluate("window.app.queuePrompt(0, 1)")

    def watch_end(self) -> None:
        """Makes `wait_for_end` wait for the end of the next run."""
        self.page.evaluate(
            """() => {
              window.loraTransferEnd = null;
              const end = event => { window.loraTransferEnd = event.type; };
              for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
                window.app.api.addEventListener(kind, end, { once: true });
            }"""
        )

    def ended(self) -> str:
        return self.page.evaluate("window.loraTransferEnd")

    def message(self, node: int) -> list[tuple[str, str]]:
        """(tone, text) of every sentence on a node, once it shows any."""
        self.page.wait_for_function(_MESSAGE, arg=node)
        return [(tone, text) for tone, text in self.page.evaluate(_MESSAGE, node)]

    def says_nothing(self, node: int) -> bool:
        return self.page.evaluate(_MESSAGE, node) is None

    def wait_for_pictures(self, node: int) -> None:
        self.look_at(node)  # the canvas loads the pictures of a node when it draws the node
        self.page.wait_for_function(_PICTURES, arg=node)

    def errors_of_pack(self) -> list[str]:
        return [error for error in self.errors if PACK_FOLDER in error or "lora_transfer" in error.lower()]

    def set_widget(self, node: int, name: str, value: Any) -> None:
        self.page.evaluate(
            """([id, name, value]) => {
              const node = window.app.graph.getNodeById(id);
              const widget = node.widgets.find(widget => widget.name === name);
              widget.value = value;
              widget.callback?.(value, window.app.canvas, node);
            }""",
            [node, name, value],
        )

    def replace_node(self, node: int, kind: str) -> int:
        """Puts a new node in the place of another: connects what the old one's first input and output were connected
        to, as a user does by hand. Returns the new node's id."""
        return self.page.evaluate(
            """([id, kind]) => {
              const { graph } = window.app;
              const old = graph.getNodeById(id);
              const added = LiteGraph.createNode(kind);
              added.pos = [...old.pos];
              graph.add(added);
              const input = graph.getLink(old.inputs[0].link);
              graph.getNodeById(input.origin_id).connect(input.origin_slot, added, 0);
              for (const link of old.outputs[0].links.map(link => graph.getLink(link)))
                added.connect(0, graph.getNodeById(link.target_id), link.target_slot);
              graph.remove(old);
              return Number(added.id);
            }""",
            [node, kind],
        )

    def look_at(self, *nodes: int) -> None:
        """Brings nodes into view."""
        self.page.evaluate(
            """ids => {
              const { canvas, graph } = window.app;
              const boxes = ids.map(id => graph.getNodeById(id)).map(({ pos, size }) =>
                [pos[0], pos[1] - 40, pos[0] + size[0], pos[1] + size[1]]);
              const [left, top] = [0, 1].map(side => Math.min(...boxes.map(box => box[side])) - 20);
              const [right, bottom] = [2, 3].map(side => Math.max(...boxes.map(box => box[side])) + 20);
              const { clientWidth, clientHeight } = canvas.canvas;
              const scale = Math.min(1, (clientWidth - 80) / (right - left), (clientHeight - 60) / (bottom - top));
              canvas.ds.scale = scale;
              canvas.ds.offset = [-left + 70 / scale, -top + 50 / scale];
              canvas.setDirty(true, true);
            }""",
            list(nodes),
        )

    def look_at_all(self) -> None:
        """Brings the whole workflow into view."""
        self.look_at(*self.page.evaluate("window.app.graph.nodes.map(node => Number(node.id))"))

    def boxes(self) -> dict[str, list[float]]:
        """left, top, width and height of every node on the screen, once the page has drawn all of them."""
        self.page.wait_for_function(_BOXES)
        return self.page.evaluate(_BOXES)

    def take_screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}, {self.mode}, {self.served.version}.png")

    def wait_for_draft(self, text: str) -> None:
        """Waits until the page has stored the workflow that was loaded last for a reload, with this text in it."""
        self.page.wait_for_function(
            """texts => [localStorage, sessionStorage].some(store =>
              Object.values(store).some(draft => texts.every(text => draft.includes(text))))""",
            arg=[self.name, text],
        )

    def _keep_error(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")
