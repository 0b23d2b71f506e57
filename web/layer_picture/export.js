// The picture as files: the values of CSV and JSON, and a canvas for PNG. Saving them is the page's part (view.js).

import { DARK, similarityColour } from "./colours.js";
import { countStates, describeCounts, statesOf } from "./counts.js";
import { drawHeatmap, drawStrip, prepareCanvas } from "./draw.js";
import { layoutHeatmap, layoutStrip, STRIP_HEIGHT } from "./layout.js";
import { fileTitle, shorten } from "./names.js";

const COLUMNS = [
  "source", "target", "source_block", "target_block", "role", "group", "shape", "similarity", "chance", "above_chance",
  "weight_cosine", "state", "reason",
];
const [PNG_WIDTH, PNG_MARGIN, PNG_HEADER, PNG_FOOTER, PNG_SCALE] = [960, 28, 92, 44, 2];

/** A row for every layer, at the threshold that the picture shows. */
export function exportRows(model, threshold) {
  const states = statesOf(model, threshold);
  return model.layers.map((layer) => ({
    source: layer.source,
    target: layer.target,
    source_block: layer.block?.source ?? null,
    target_block: layer.block?.target ?? null,
    role: layer.role,
    group: layer.group,
    shape: layer.shape,
    similarity: layer.score,
    chance: layer.chance,
    above_chance: layer.aboveChance,
    weight_cosine: layer.weightCosine,
    state: states[layer.index],
    reason: layer.reason,
  }));
}

export function toJson(model, threshold) {
  const { source, target, adapter, verdict, measure } = model;
  const layers = exportRows(model, threshold);
  return JSON.stringify({ source, target, adapter, verdict, measure, threshold, layers }, null, 1);
}

export function toCsv(model, threshold) {
  const rows = exportRows(model, threshold).map((row) => COLUMNS.map((column) => writeCell(row[column])));
  return [COLUMNS, ...rows].map((cells) => `${cells.join(",")}\r\n`).join("");
}

/** A CSV cell. A spreadsheet runs a text that begins like a formula; an apostrophe makes it text again. */
function writeCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return `${value}`;
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Draw the whole picture, with titles and a legend, on a canvas of its own. */
export function drawPng(canvas, model, threshold, isShown = () => true) {
  const theme = DARK;
  const width = PNG_WIDTH - 2 * PNG_MARGIN;
  const [strip, heatmap, states] = [layoutStrip(model, width), layoutHeatmap(model, width, isShown), statesOf(model, threshold)];
  const height = PNG_HEADER + STRIP_HEIGHT + 16 + heatmap.height + PNG_FOOTER;
  const context = prepareCanvas(canvas, PNG_WIDTH, height, PNG_SCALE);
  context.fillStyle = theme.background;
  context.fillRect(0, 0, PNG_WIDTH, height);
  drawTitles(context, model, threshold, describeCounts(countStates(model, states, isShown), model.kind), theme);
  context.translate(PNG_MARGIN, PNG_HEADER);
  drawStrip(context, strip, states, theme, { isShown });
  context.translate(0, STRIP_HEIGHT + 16);
  drawHeatmap(context, heatmap, states, theme);
  context.translate(0, heatmap.height + 18);
  drawLegend(context, theme);
  return canvas;
}

function drawTitles(context, model, threshold, counts, theme) {
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  context.fillStyle = theme.text;
  context.font = "600 20px system-ui, sans-serif";
  context.fillText(`${shorten(fileTitle(model.source), 40)}  →  ${shorten(fileTitle(model.target), 40)}`, PNG_MARGIN, 38);
  context.fillStyle = theme.faint;
  context.font = "13px system-ui, sans-serif";
  const adapter = model.adapter === null ? [] : [shorten(fileTitle(model.adapter), 60)];
  const atThreshold = threshold === null ? [] : [`threshold ${threshold.toFixed(2)}`];
  context.fillText([...adapter, `colour: ${model.measure} above chance`].join("  ·  "), PNG_MARGIN, 60);
  context.fillText([counts, ...atThreshold].join("  ·  "), PNG_MARGIN, 78);
}

function drawLegend(context, theme) {
  const width = 220;
  for (let x = 0; x < width; x += 1) {
    context.fillStyle = similarityColour(x / (width - 1));
    context.fillRect(x, 0, 1, 8);
  }
  context.fillStyle = theme.faint;
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "left";
  const words = "0 chance to 1 equal    ·    lines: left out by the threshold    ·    lattice: no partner    ·    orange: copied unchanged";
  context.fillText(words, width + 12, 4);
}
