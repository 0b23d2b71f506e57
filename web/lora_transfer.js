import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { createMessageBox, drawLines, messageHeight, readLines } from "./node_message.js";

// What a node of the pack says arrives as `lora_transfer` in its output, and is kept in the node's properties: they are
// saved with the workflow and not sent in a prompt. A widget's value would shift the values of saved workflows.

const PACK = "LoraTransfer";
const OUTPUT = "lora_transfer";
const PROPERTY = "lora_transfer_message";
const WIDGET = "lora_transfer_message";
const PROGRESS_TEXT = "$$node-text-preview"; // ComfyUI's widget for texts that a node shows while it runs

app.registerExtension({
  name: "LoraTransfer.Messages",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name?.startsWith(PACK)) return;
    extend(nodeType.prototype, "onExecuted", function (output) {
      if (output?.[OUTPUT]) keep(this, joined(output));
    });
    extend(nodeType.prototype, "onConfigure", function (saved) {
      if (saved.id == null) delete this.properties[PROPERTY]; // the node is a copy, which has not run
      show(this);
    });
  },

  setup() {
    api.addEventListener("execution_error", ({ detail }) => {
      const node = detail.node_type?.startsWith(PACK) ? findNode(detail.node_id) : undefined;
      if (node) keep(node, { lines: [{ tone: "bad", text: detail.exception_message ?? "" }] });
    });
  },

  afterConfigureGraph() {
    for (const node of app.graph.nodes ?? []) restorePictures(node);
  },
});

/** Runs `more` after the method, whoever defined it. */
function extend(prototype, method, more) {
  const before = prototype[method];
  prototype[method] = function (...values) {
    const result = before?.apply(this, values);
    more.apply(this, values);
    return result;
  };
}

/** The sentences and pictures of an output. A node that ran on a list of inputs has several messages. */
function joined(output) {
  return { lines: output[OUTPUT].flatMap(readLines), images: output.images ?? [] };
}

function keep(node, message) {
  node.properties[PROPERTY] = { ...node.properties[PROPERTY], ...message };
  removeProgressText(node);
  show(node);
}

function show(node) {
  const lines = readLines(node.properties[PROPERTY]);
  if (!lines.length) return;
  const widget = messageWidget(node);
  drawLines(widget.element, lines);
  const height = messageHeight(lines, node.size[0]);
  widget.element.style.minHeight = `${height}px`;
  const [width, needed] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], needed)]);
  node.setDirtyCanvas?.(true, true);
}

/** The node's box, made when the node has something to say for the first time. */
function messageWidget(node) {
  const existing = node.widgets?.find((widget) => widget.name === WIDGET);
  if (existing) return existing;
  const widget = node.addDOMWidget(WIDGET, "lora_transfer_message", createMessageBox(), {
    serialize: false, // not sent in the prompt
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: () => messageHeight(readLines(node.properties[PROPERTY]), node.size[0]) + 10,
    getMaxHeight: () => messageHeight(readLines(node.properties[PROPERTY]), node.size[0]) + 10,
  });
  widget.serialize = false; // not saved among the workflow's widget values
  return widget;
}

function removeProgressText(node) {
  const widget = node.widgets?.find((candidate) => candidate.name === PROGRESS_TEXT);
  if (widget) node.removeWidget(widget);
}

/** The node of an execution id: "12", or "12:5" for node 5 inside the subgraph of node 12. */
function findNode(executionId) {
  const ids = String(executionId).split(":");
  const last = ids.pop();
  const graph = ids.reduce((outer, id) => outer?.getNodeById(Number(id))?.subgraph, app.rootGraph ?? app.graph);
  return graph?.getNodeById(Number(last));
}

/** Shows a node's pictures again after a reload, if the server still has them. */
async function restorePictures(node) {
  const images = node.properties?.[PROPERTY]?.images;
  if (!images?.length || app.nodeOutputs[node.id]) return;
  const answers = await Promise.all(images.map((image) => fetch(address(image), { method: "HEAD" })));
  if (!answers.every((answer) => answer.ok) || app.nodeOutputs[node.id]) return;
  api.dispatchCustomEvent("executed", { node: String(node.id), output: { images, animated: [false] } });
}

function address(image) {
  return api.apiURL(`/view?${new URLSearchParams(image)}`);
}
