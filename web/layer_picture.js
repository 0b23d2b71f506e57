/* global LiteGraph */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { elementWidget } from "./element_widget.js";
import { keep } from "./kept_properties.js";
import { parseReport } from "./layer_picture/parse.js";
import { pack, unpack } from "./layer_picture/store.js";
import { LayerPicture } from "./layer_picture/view.js";

// Shows the interactive picture on the nodes whose output has a report. The report and what is open are kept in the
// node's properties, which are saved with the workflow and not sent in a prompt.

const NODES = ["LoraTransferSimilarity", "LoraTransferProject", "LoraTransferLoader"];
const OUTPUT = "lora_transfer"; // nodes/messages.py
const REPORT = "lora_transfer_report";
const VIEW = "lora_transfer_view";
const WIDGET = "lora_transfer_picture";
const WIDTH = 400; // a node with a picture is at least this wide, in pixels

const pictures = new WeakMap(); // node -> LayerPicture

app.registerExtension({
  name: "LoraTransfer.LayerPicture",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!NODES.includes(nodeData.name)) return;
    extend(nodeType.prototype, "onConfigure", function () {
      if (this.graph) restore(this);
      else delete this.properties[REPORT]; // a copy of a node, which has not run
    });
    extend(nodeType.prototype, "onRemoved", function () {
      pictures.get(this)?.destroy();
    });
  },

  setup() {
    api.addEventListener("executed", async ({ detail }) => {
      if (!detail.output?.[OUTPUT]) return;
      const { report } = detail.output[OUTPUT].at(-1) ?? {};
      const kept = { [REPORT]: report && (await pack(report)) };
      keep(detail, detail.display_node || detail.node, kept, (node) => (report ? show(node, report) : remove(node)));
    });
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

async function restore(node) {
  const text = node.properties[REPORT];
  const report = typeof text === "string" ? await unpack(text) : null;
  if (report) show(node, report);
}

function show(node, report) {
  const model = parseReport(report);
  if (!model) return;
  pictures.get(node)?.destroy();
  const container = pictureWidget(node).element;
  container.replaceChildren();
  const threshold = thresholdWidget(node);
  const picture = new LayerPicture(container, model, {
    threshold: threshold ? lineAt(threshold.value, model) : null,
    onThreshold: (value, isFinal) => setThreshold(node, value, isFinal),
    view: node.properties[VIEW],
    onView: (view) => {
      node.properties[VIEW] = view;
      noteChange();
    },
    onHeight: (height) => fit(node, container, height),
  });
  pictures.set(node, picture);
  if (threshold) follow(threshold, node);
}

/** Removes the picture of an earlier run: the last one had nothing to draw. */
function remove(node) {
  const widget = node.widgets?.find((candidate) => candidate.name === WIDGET);
  if (widget) node.removeWidget(widget);
  pictures.get(node)?.destroy();
  pictures.delete(node);
}

/** The widget that holds the picture, made when there is a picture for the first time. */
function pictureWidget(node) {
  const create = () => document.createElement("div");
  return elementWidget(node, WIDGET, create, () => pictures.get(node)?.height ?? 0);
}

/** Gives the node the height that its widgets need. It shrinks only by as much as the picture does. */
function fit(node, container, height) {
  const before = parseFloat(container.style.minHeight) || height;
  container.style.minHeight = `${height}px`; // Nodes 2.0 lays widgets out by their CSS
  requestAnimationFrame(() => {
    const [width, needed] = node.computeSize();
    const kept = node.size[1] + Math.min(0, height - before); // ComfyUI itself lets a node grow, and never shrink
    node.setSize([Math.max(node.size[0], width, WIDTH), LiteGraph.vueNodesMode ? kept : Math.max(kept, needed)]);
    node.setDirtyCanvas?.(true, true);
  });
}

/** Tells the page that the workflow has changed. By itself it looks on mouseup, which comes before a click. */
function noteChange() {
  app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
}

function thresholdWidget(node) {
  return node.widgets?.find((widget) => widget.name === "threshold");
}

/** Where the line stands: a negative threshold leaves the choice to the node, and the report says what it chose. */
function lineAt(threshold, model) {
  return threshold < 0 ? model.threshold : threshold;
}

/** Puts the value of the dragged line into the node's own widget. */
function setThreshold(node, value, isFinal) {
  const widget = thresholdWidget(node);
  if (!widget) return;
  widget.value = value;
  if (isFinal) widget.callback?.(value, app.canvas, node);
  node.setDirtyCanvas?.(true, true);
}

/** Lets the line follow the widget when the user types into it. */
function follow(widget, node) {
  if (widget.isFollowedByPicture) return;
  widget.isFollowedByPicture = true;
  const before = widget.callback;
  widget.callback = function (value, ...rest) {
    const picture = pictures.get(node);
    picture?.setThreshold(lineAt(value, picture.model));
    return before?.call(this, value, ...rest);
  };
}
