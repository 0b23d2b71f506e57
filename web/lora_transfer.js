/* global LiteGraph */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { showPicture } from "./layer_picture.js";
import { pack } from "./layer_picture/store.js";
import { createMessageBox, drawLines, messageHeight, readLines } from "./node_message.js";
import { keepInStates, PROPERTY } from "./saved_messages.js";

// What a node of the pack says arrives as `lora_transfer` in its output, and is kept in the node's properties: they are
// saved with the workflow and not sent in a prompt. A widget's value would shift the values of saved workflows.

const PACK = "LoraTransfer"; // how the ids of the pack's nodes begin
const OUTPUT = "lora_transfer";
const WIDGET = "lora_transfer_message";
const ERROR_TIME = 15_000; // milliseconds: long enough to read two sentences; the node keeps them
const REDRAW_TIME = 500; // milliseconds; the canvas draws a node at its old size in the frame in which pictures arrive
const MARGIN = 4; // pixels around the box
const PROGRESS_TEXT = "$$node-text-preview"; // ComfyUI's widget for texts that a node shows while it runs

const workflowOfRun = new Map(); // id of a prompt -> the workflow that it was started from
let lastText = {}; // {node, text}: the last text of the run, which says where an interrupted run stopped

app.registerExtension({
  name: "LoraTransfer.Messages",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name?.startsWith(PACK)) return;
    const configure = nodeType.prototype.onConfigure;
    nodeType.prototype.onConfigure = function (saved) {
      configure?.apply(this, arguments);
      if (saved.id == null) delete this.properties[PROPERTY]; // a copy of a node, which has not run
      showMessage(this);
      showPicture(this, this.properties[PROPERTY]?.report);
    };
  },

  setup() {
    rememberWorkflows();
    api.addEventListener("executed", async ({ detail }) => {
      if (detail.output?.[OUTPUT]) keep(detail, detail.display_node || detail.node, await readOutput(detail.output));
    });
    api.addEventListener("execution_error", ({ detail }) => {
      if (!detail.node_type?.startsWith(PACK)) return;
      keep(detail, detail.node_id, say("bad", detail.exception_message));
      announce(detail);
    });
    api.addEventListener("progress_text", ({ detail }) => {
      lastText = { node: String(detail.nodeId), text: detail.text };
    });
    api.addEventListener("execution_interrupted", ({ detail }) => {
      const isOurs = detail.node_type?.startsWith(PACK) && lastText.node === String(detail.node_id);
      if (isOurs) keep(detail, detail.node_id, say("warn", lastText.text));
    });
  },

  afterConfigureGraph() {
    for (const node of app.graph.nodes ?? []) restorePictures(node);
  },
});

/** Remembers the workflow of every run, because its tab may no longer be open when a node has something to say. */
function rememberWorkflows() {
  const { queuePrompt } = api;
  api.queuePrompt = async function () {
    const workflow = openWorkflow();
    const answer = await queuePrompt.apply(this, arguments);
    if (answer?.prompt_id) workflowOfRun.set(answer.prompt_id, workflow);
    return answer;
  };
}

function openWorkflow() {
  return app.extensionManager?.workflow?.activeWorkflow;
}

/** Sentences and pictures of an output, and the report for the interactive picture. A node that ran on a list of inputs
 * has several messages. */
async function readOutput(output) {
  const { report } = output[OUTPUT].at(-1) ?? {};
  const message = { lines: output[OUTPUT].flatMap(readLines), images: output.images ?? [] };
  return report ? { ...message, report: await pack(report) } : message;
}

function say(tone, text) {
  return { lines: readLines({ lines: [{ tone, text }] }) };
}

/** Shows an error's sentence in the corner, where ComfyUI itself only says that a node failed. */
function announce(error) {
  const summary = findNode(error.node_id)?.title ?? error.node_type;
  const detail = error.exception_message?.trim();
  app.extensionManager?.toast?.add({ severity: "error", summary, detail, life: ERROR_TIME });
}

/** Shows a message on the node of an event and keeps it in the workflow that the run was started from. */
function keep(event, executionId, message) {
  const workflow = workflowOfRun.get(event.prompt_id) ?? openWorkflow();
  const isOpen = workflow?.path === openWorkflow()?.path;
  const node = isOpen ? findNode(executionId) : undefined;
  // After an error the picture of the last run stays: its line may show which threshold was too high.
  if (!message.images && node?.properties[PROPERTY]?.report) message.report = node.properties[PROPERTY].report;
  const changed = JSON.stringify(node?.properties[PROPERTY]) !== JSON.stringify(message);
  if (node) {
    node.properties[PROPERTY] = message;
    removeProgressText(node);
    showMessage(node);
    showPicture(node, message.report);
  }
  const tracker = workflow?.changeTracker;
  if (!tracker) return;
  keepInStates(tracker, executionId, message);
  // Writes the page's draft of the workflow, for a reload. It counts as a change, which can start the next run.
  const runsOnChange = app.extensionManager.queueSettings?.mode === "change";
  if (isOpen && changed && !runsOnChange) tracker.updateModified?.();
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
  const existing = node.widgets?.find((widget) => widget.name === WIDGET);
  if (existing) return existing;
  const height = () => messageHeight(readLines(node.properties[PROPERTY]), node.size[0]) + 2 * MARGIN;
  const widget = node.addDOMWidget(WIDGET, WIDGET, createMessageBox(), {
    serialize: false, // not sent in the prompt
    hideOnZoom: false,
    margin: MARGIN,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false; // not saved among the values of the node's widgets
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
