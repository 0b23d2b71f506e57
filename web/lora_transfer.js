/* global LiteGraph */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { elementWidget } from "./element_widget.js";
import { findNode, keep, rememberWorkflows } from "./kept_properties.js";
import { createMessageBox, drawLines, messageHeight, readLines } from "./node_message.js";

// Shows what a node of the pack said. It is `lora_transfer` in the node's output (nodes/messages.py).

const PACK = "LoraTransfer"; // how the ids of the pack's nodes begin
const OUTPUT = "lora_transfer";
const PROPERTY = "lora_transfer_message";
const WIDGET = "lora_transfer_message";
const PROGRESS_TEXT = "$$node-text-preview"; // ComfyUI's widget for texts that a node shows while it runs
const ERROR_TIME = 15_000; // milliseconds: long enough to read two sentences; the node keeps them
// Milliseconds; in the frame in which its pictures are loaded, the canvas draws a node at its old size.
const REDRAW_TIME = 500;

let lastText = {}; // {node, text}: the last text of the run, which says where an interrupted run stopped
let announced; // the error in the corner of the page

app.registerExtension({
  name: "LoraTransfer.Messages",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name?.startsWith(PACK)) return;
    const configure = nodeType.prototype.onConfigure;
    nodeType.prototype.onConfigure = function () {
      configure?.apply(this, arguments);
      if (!this.graph) delete this.properties[PROPERTY]; // a copy of a node, which has not run
      showMessage(this);
    };
  },

  setup() {
    rememberWorkflows();
    api.addEventListener("executed", ({ detail }) => {
      if (detail.output?.[OUTPUT]) keepMessage(detail, detail.display_node || detail.node, readOutput(detail.output));
    });
    api.addEventListener("execution_error", ({ detail }) => {
      if (!detail.node_type?.startsWith(PACK)) return;
      keepMessage(detail, detail.node_id, say("bad", detail.exception_message));
      announce(detail);
    });
    api.addEventListener("progress_text", ({ detail }) => {
      lastText = { node: String(detail.nodeId), text: detail.text };
    });
    api.addEventListener("execution_interrupted", ({ detail }) => {
      const isOurs = detail.node_type?.startsWith(PACK) && lastText.node === String(detail.node_id);
      if (isOurs) keepMessage(detail, detail.node_id, say("warn", lastText.text));
    });
  },

  afterConfigureGraph() {
    for (const node of app.graph.nodes ?? []) restorePictures(node);
  },
});

/** Sentences and pictures of an output. A node that ran on a list of inputs has several messages. */
function readOutput(output) {
  return { lines: output[OUTPUT].flatMap(readLines), images: output.images ?? [] };
}

function say(tone, text) {
  return { lines: readLines({ lines: [{ tone, text }] }) };
}

function keepMessage(event, executionId, message) {
  keep(event, executionId, { [PROPERTY]: message }, (node) => {
    removeProgressText(node);
    showMessage(node);
  });
}

/** Shows an error's sentence in the corner, where ComfyUI itself only says that a node failed. */
function announce(error) {
  const summary = findNode(error.node_id)?.title ?? error.node_type;
  const detail = error.exception_message?.trim();
  const toast = app.extensionManager?.toast;
  if (announced) toast?.remove?.(announced);
  announced = { severity: "error", summary, detail, life: ERROR_TIME };
  toast?.add(announced);
}

function showMessage(node) {
  const lines = readLines(node.properties[PROPERTY]);
  if (!lines.length) return;
  const { element } = messageWidget(node);
  drawLines(element, lines);
  element.style.minHeight = `${messageHeight(lines, node.size[0])}px`;
  if (!LiteGraph.vueNodesMode) makeRoom(node); // Nodes 2.0 makes room itself
}

function makeRoom(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  node.setDirtyCanvas?.(true, true);
}

/** The node's box, made when the node has something to say for the first time. */
function messageWidget(node) {
  const heightOf = () => messageHeight(readLines(node.properties[PROPERTY]), node.size[0]);
  return elementWidget(node, WIDGET, createBox, heightOf);
}

/** A box that scrolls if its text is long. Otherwise the wheel zooms, as it does beside the box. */
function createBox() {
  const box = createMessageBox();
  box.addEventListener("wheel", (event) => {
    if (box.scrollHeight > box.clientHeight) event.stopPropagation();
    else if (!LiteGraph.vueNodesMode) app.canvas.processMouseWheel(event);
  });
  return box;
}

function removeProgressText(node) {
  const widget = node.widgets?.find((candidate) => candidate.name === PROGRESS_TEXT);
  if (widget) node.removeWidget(widget);
}

/** Shows a node's pictures again after a reload, if the server still has them. ComfyUI keeps them only while the page
 * is open, and takes them from an event in both of its modes. */
async function restorePictures(node) {
  const images = node.properties?.[PROPERTY]?.images;
  if (!images?.length || app.nodeOutputs[node.id]) return;
  const answers = await Promise.all(images.map((image) => fetch(pictureAddress(image), { method: "HEAD" })));
  if (!answers.every((answer) => answer.ok) || app.nodeOutputs[node.id]) return;
  api.dispatchCustomEvent("executed", { node: String(node.id), output: { images, animated: [false] } });
  setTimeout(() => node.setDirtyCanvas?.(true, true), REDRAW_TIME);
}

function pictureAddress(image) {
  return api.apiURL(`/view?${new URLSearchParams(image)}`);
}
