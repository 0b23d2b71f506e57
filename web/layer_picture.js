/* global LiteGraph */
import { app } from "../../scripts/app.js";
import { parseReport } from "./layer_picture/parse.js";
import { unpack } from "./layer_picture/store.js";
import { LayerPicture } from "./layer_picture/view.js";

// Puts the interactive picture on a node: in a widget of its own, with the line at the node's threshold. What is open
// and filtered is kept in the node's properties, which are saved with the workflow and not sent in a prompt.

const VIEW = "lora_transfer_view";
const WIDGET = "lora_transfer_picture";
const WIDTH = 400; // a node with a picture is at least this wide, in pixels
const MARGIN = 4; // pixels around the picture

const pictures = new WeakMap(); // node -> {picture, packed}

/** Shows the picture of a packed report (layer_picture/store.js) on a node, or removes it if there is none. */
export async function showPicture(node, packed) {
  if (typeof packed !== "string") return removePicture(node);
  if (pictures.get(node)?.packed === packed) return;
  const shown = { packed, picture: null };
  pictures.get(node)?.picture?.destroy();
  pictures.set(node, shown);
  const model = parseReport(await unpack(packed));
  if (model && pictures.get(node) === shown) shown.picture = createPicture(node, model);
}

function createPicture(node, model) {
  const container = pictureWidget(node).element;
  const threshold = thresholdWidget(node);
  if (threshold) follow(threshold, node);
  return new LayerPicture(container, model, {
    threshold: threshold?.value ?? null,
    onThreshold: (value, isFinal) => setThreshold(node, value, isFinal),
    view: node.properties[VIEW],
    onView: (view) => {
      node.properties[VIEW] = view;
      noteChange();
    },
    onHeight: (height) => makeRoom(node, container, height),
  });
}

function removePicture(node) {
  const widget = node.widgets?.find((candidate) => candidate.name === WIDGET);
  if (widget) node.removeWidget(widget);
  pictures.get(node)?.picture?.destroy();
  pictures.delete(node);
}

/** The widget that holds the picture, made when there is a picture for the first time. */
function pictureWidget(node) {
  const existing = node.widgets?.find((widget) => widget.name === WIDGET);
  if (existing) return existing;
  const container = document.createElement("div");
  const height = () => (parseFloat(container.style.minHeight) || 0) + 2 * MARGIN;
  const widget = node.addDOMWidget(WIDGET, WIDGET, container, {
    serialize: false, // not sent in the prompt
    hideOnZoom: false,
    margin: MARGIN,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false; // not saved among the values of the node's widgets
  const { onRemove } = widget;
  widget.onRemove = function () {
    pictures.get(node)?.picture?.destroy();
    return onRemove?.apply(this, arguments);
  };
  return widget;
}

/** Gives the node the height that its widgets need. It shrinks only by as much as the picture does. */
function makeRoom(node, container, height) {
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
    pictures.get(node)?.picture?.setThreshold(value);
    return before?.call(this, value, ...rest);
  };
}
