// The picture in the page: builds its elements, draws them, and answers the pointer and the keyboard.

import { themeOf } from "./colours.js";
import { countStates, describeCounts, statesOf } from "./counts.js";
import { describeCell, describeLayer } from "./describe.js";
import { drawHeatmap, drawStrip, prepareCanvas } from "./draw.js";
import { answerKey, element, group, legend, saveBlob } from "./elements.js";
import { drawPng, toCsv, toJson } from "./export.js";
import { cellAt, layoutHeatmap, layoutStrip, nextCell, STRIP_HEIGHT, stripCellAt } from "./layout.js";
import { fileTitle, GROUP_NAMES } from "./names.js";
import { ThresholdScale } from "./scale.js";
import { addStyle } from "./style.js";

const SHARPNESS = 2; // device pixels per CSS pixel at least: the page's canvas can be zoomed in
const ARROWS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
const LEAST_WIDTH = 160;
const [GAP, PADDING] = [8, 10]; // of the style
const NO_ANSWERS = { onThreshold: () => {}, onView: () => {}, onHeight: () => {} };

/** The picture of a model (parse.js) in a container.
 *
 * threshold: where the line stands; null if the node has none. onThreshold(value, isFinal): the user has dragged it.
 * view: {open, hidden}: whether all layers are shown, and the groups that are filtered out. onView(view): it changed.
 * onHeight(height): the picture needs another height, in CSS pixels.
 */
export class LayerPicture {
  constructor(container, model, { threshold = null, view = {}, ...answers } = {}) {
    const { onThreshold, onView, onHeight } = { ...NO_ANSWERS, ...answers };
    this.container = container;
    this.model = model;
    this.threshold = threshold;
    this.onView = onView;
    this.onHeight = onHeight;
    this.height = 0;
    this.isOpen = Boolean(view.open);
    this.hidden = new Set(view.hidden ?? []);
    this.chosenCell = null; // index of a cell of the strip
    this.chosenLayer = null;
    this.scale = new ThresholdScale((value, isFinal) => {
      this.threshold = value;
      onThreshold(value, isFinal);
      this.draw();
    });
    addStyle();
    this.build();
    this.listen();
    this.watch();
    this.draw();
  }

  destroy() {
    this.resized.disconnect();
    this.recoloured.disconnect();
    cancelAnimationFrame(this.frame);
    this.root.remove();
  }

  /** Set the line from outside, for instance when the user types a threshold into the node. */
  setThreshold(value) {
    if (this.scale.isDragged || value === this.threshold) return;
    this.threshold = value;
    this.draw();
  }

  build() {
    this.strip = element("canvas", {
      class: "lt-strip", tabindex: "0", role: "button",
      "aria-label": "Blocks of the models. Arrow keys choose a block, Enter opens all layers.",
    });
    this.heatmap = element("canvas", {
      class: "lt-heatmap", tabindex: "0", role: "application",
      "aria-label": "All layers. Arrow keys choose a layer.",
    });
    this.counts = element("span", { "aria-live": "polite" });
    this.opener = element("button", { class: "lt-open", type: "button" });
    this.detail = element("div", { class: "lt-detail", "aria-live": "polite" });
    this.legend = element("div", { class: "lt-legend" });
    this.filters = group("lt-row", { role: "group", "aria-label": "Filter by role" }, ...this.filterButtons());
    this.exports = group("lt-row", { role: "group", "aria-label": "Save" }, ...this.exportButtons());
    this.root = group(
      "lt-picture", { role: "group", "aria-label": "Layers of the two models" },
      this.title(), this.strip, group("lt-counts", {}, this.counts, this.opener), this.scale.canvas, this.filters,
      this.detail, this.heatmap, this.legend, this.exports,
    );
    this.container.append(this.root);
  }

  title() {
    const { source, target } = this.model;
    const names = [element("span", {}, fileTitle(source)), element("span", {}, fileTitle(target))];
    names.splice(1, 0, element("span", { class: "lt-arrow" }, "→"));
    return group("lt-title", { title: `${source}\n→ ${target}` }, ...names);
  }

  filterButtons() {
    const groups = new Set(this.model.layers.map((layer) => layer.group));
    return GROUP_NAMES.filter((name) => groups.has(name)).map((name) => {
      const button = element("button", { type: "button", "aria-pressed": `${!this.hidden.has(name)}` }, name);
      button.addEventListener("click", () => {
        if (!this.hidden.delete(name)) this.hidden.add(name);
        button.setAttribute("aria-pressed", `${!this.hidden.has(name)}`);
        this.chosenLayer = null;
        this.tellView();
      });
      return button;
    });
  }

  exportButtons() {
    const draw = () => drawPng(document.createElement("canvas"), this.model, this.threshold, this.isShown);
    const kinds = {
      PNG: () => new Promise((resolve) => draw().toBlob(resolve, "image/png")),
      JSON: async () => new Blob([toJson(this.model, this.threshold)], { type: "application/json" }),
      CSV: async () => new Blob([toCsv(this.model, this.threshold)], { type: "text/csv" }),
    };
    const name = `${fileTitle(this.model.source)}_to_${fileTitle(this.model.target)}`.replace(/[^\w.-]+/g, "_");
    const buttons = Object.entries(kinds).map(([kind, make]) => {
      const button = element("button", { type: "button", title: `Save all layers as ${kind}` }, kind);
      button.addEventListener("click", async () => saveBlob(`${name}.${kind.toLowerCase()}`, await make()));
      return button;
    });
    return [element("span", { class: "lt-caption" }, "Save as"), ...buttons];
  }

  listen() {
    this.opener.addEventListener("click", () => this.toggle());
    this.strip.addEventListener("click", () => this.toggle());
    this.strip.addEventListener("pointermove", ({ offsetX }) => this.chooseCell(stripCellAt(this.stripLayout, offsetX)));
    this.strip.addEventListener("keydown", (event) => answerKey(event, () => this.useStripKey(event.key)));
    this.heatmap.addEventListener("pointermove", ({ offsetX, offsetY }) => {
      this.chooseLayer(cellAt(this.heatmapLayout, offsetX, offsetY)?.layer ?? null);
    });
    this.heatmap.addEventListener("keydown", (event) => answerKey(event, () => this.useHeatmapKey(event.key)));
    for (const type of ["pointerleave", "blur"]) {
      this.strip.addEventListener(type, () => this.chooseCell(null));
      this.heatmap.addEventListener(type, () => this.chooseLayer(null));
    }
  }

  /** Draw again when the node's size or the page's theme changes. */
  watch() {
    this.resized = new ResizeObserver(() => this.requestDraw());
    this.resized.observe(this.container);
    this.recoloured = new MutationObserver(() => this.requestDraw());
    for (const node of [document.documentElement, document.body]) {
      this.recoloured.observe(node, { attributes: true, attributeFilter: ["class", "style"] });
    }
  }

  isShown = (layer) => !this.hidden.has(layer.group);

  /** Draw in the next frame: several changes at once need one drawing. */
  requestDraw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    const { model, threshold, isShown } = this;
    const style = getComputedStyle(this.root);
    const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
    this.width = Math.max(LEAST_WIDTH, this.root.clientWidth - padding);
    this.sharpness = Math.max(SHARPNESS, window.devicePixelRatio || 1);
    this.theme = themeOf(this.root);
    this.states = statesOf(model, threshold);
    this.counts.textContent = describeCounts(countStates(model, this.states, isShown), model.kind);
    this.opener.textContent = this.isOpen ? "▴ Close" : "▾ All layers";
    this.strip.setAttribute("aria-expanded", `${this.isOpen}`);
    for (const part of [this.filters, this.heatmap, this.legend, this.exports]) part.hidden = !this.isOpen;
    this.scale.canvas.hidden = threshold === null || !model.layers.some((layer) => layer.byThreshold);
    this.drawStrip();
    if (!this.scale.canvas.hidden) this.scale.draw({ ...this, isShown, words: this.counts.textContent });
    if (this.isOpen) this.drawHeatmap();
    this.showDetail();
    this.measure();
  }

  /** Tell the page if the picture's height has changed: texts break into more lines on a narrower node. */
  measure() {
    const parts = [...this.root.children].filter((part) => !part.hidden);
    const height = parts.reduce((sum, part) => sum + part.offsetHeight + GAP, 2 * PADDING - GAP);
    if (height === this.height || !this.root.isConnected) return;
    this.height = height;
    this.onHeight(height);
  }

  drawStrip() {
    this.stripLayout = layoutStrip(this.model, this.width);
    const context = prepareCanvas(this.strip, this.width, STRIP_HEIGHT, this.sharpness);
    const chosen = this.stripLayout.cells[this.chosenCell] ?? null;
    drawStrip(context, this.stripLayout, this.states, this.theme, { chosen, isShown: this.isShown });
  }

  drawHeatmap() {
    const laidOutFor = `${this.width} ${[...this.hidden]}`;
    if (laidOutFor !== this.laidOutFor) this.heatmapLayout = layoutHeatmap(this.model, this.width, this.isShown);
    this.laidOutFor = laidOutFor;
    const context = prepareCanvas(this.heatmap, this.width, this.heatmapLayout.height, this.sharpness);
    drawHeatmap(context, this.heatmapLayout, this.states, this.theme, { chosen: this.cellOf(this.chosenLayer) });
    this.legend.replaceChildren(...legend(this.states));
  }

  cellOf(layer) {
    if (layer === null) return null;
    return this.heatmapLayout.panels.flatMap(({ cells }) => cells).find((cell) => cell.layer === layer) ?? null;
  }

  showDetail() {
    const [title, ...lines] = this.detailLines();
    this.detail.replaceChildren(element("b", {}, title), lines.filter(Boolean).join("\n"));
    this.detail.title = [title, ...lines].join("\n");
  }

  detailLines() {
    const { chosenLayer, model, states, threshold } = this;
    const isOfRun = threshold === null || threshold === model.threshold;
    if (chosenLayer) return describeLayer(chosenLayer, states[chosenLayer.index], model, isOfRun);
    const placed = this.stripLayout.cells[this.chosenCell];
    if (placed) return describeCell(placed.cell, states);
    const hint = this.isOpen ? "Point at a layer to see its figures." : "Point at a block, or click to see all layers.";
    const run = isOfRun ? "" : `The last run used ${model.threshold.toFixed(2)}. Run again to use ${threshold.toFixed(2)}.`;
    return [`Colour: ${model.measure} above chance`, hint, run];
  }

  toggle() {
    this.isOpen = !this.isOpen;
    this.chosenLayer = null;
    this.tellView();
  }

  tellView() {
    this.draw();
    this.onView({ open: this.isOpen, hidden: [...this.hidden] });
  }

  chooseCell(placed) {
    const index = placed ? this.stripLayout.cells.indexOf(placed) : null;
    if (index === this.chosenCell) return;
    this.chosenCell = index;
    this.drawStrip();
    this.showDetail();
  }

  chooseLayer(layer) {
    if (layer === this.chosenLayer) return;
    this.chosenLayer = layer;
    if (this.isOpen) this.drawHeatmap();
    this.showDetail();
  }

  useStripKey(key) {
    const { cells } = this.stripLayout;
    if (key === "Enter" || key === " ") this.toggle();
    else if (key === "ArrowLeft") this.chooseCell(cells[Math.max(0, (this.chosenCell ?? 1) - 1)]);
    else if (key === "ArrowRight") this.chooseCell(cells[Math.min(cells.length - 1, (this.chosenCell ?? -1) + 1)]);
    else return false;
    return true;
  }

  useHeatmapKey(key) {
    const first = this.heatmapLayout.panels[0]?.cells[0];
    if (!ARROWS.includes(key) || !first) return false;
    const cell = this.cellOf(this.chosenLayer);
    this.chooseLayer((cell ? nextCell(this.heatmapLayout, cell, key) : first).layer);
    return true;
  }
}
