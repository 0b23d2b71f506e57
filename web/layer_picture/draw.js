// Draws the strip, the heatmap and the scale of the threshold on a canvas. It changes nothing but the canvas.

import { COPIED, similarityColour } from "./colours.js";
import { meanAboveChance } from "./counts.js";
import { shorten } from "./names.js";

const FONT = "system-ui, sans-serif";
const HATCH = 5; // CSS pixels between the lines of a hatching

/** Prepare a canvas of a size in CSS pixels, and return its context. scale: device pixels per CSS pixel. */
export function prepareCanvas(canvas, width, height, scale) {
  const [columns, rows] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  if (canvas.width !== columns) canvas.width = columns;
  if (canvas.height !== rows) canvas.height = rows;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Draw the strip. chosen: the cell under the pointer or the keyboard's focus. */
export function drawStrip(context, strip, states, theme, { chosen = null, isShown = () => true } = {}) {
  const hatches = makeHatches(context, theme);
  for (const placed of strip.cells) {
    for (const { block, y, height } of placed.bands) {
      const box = { x: placed.x, y, width: placed.width, height: height > 3 ? height - 1 : height };
      drawBand(context, box, block.layers.filter(isShown), block, states, theme, hatches);
    }
    if (placed === chosen) drawFocus(context, { ...placed, y: 0, height: strip.height }, theme);
  }
  drawStripLabels(context, strip, theme);
}

/** One block: its mean colour; from the right a hatched part for the layers that are left out. */
function drawBand(context, box, layers, block, states, theme, hatches) {
  fill(context, box, theme.empty);
  if (!layers.length) {
    if (block.target === null) fill(context, box, hatches.unmatched);
    return;
  }
  const matched = layers.filter((layer) => states[layer.index] !== "unmatched");
  const below = matched.filter((layer) => states[layer.index] === "below").length;
  const mean = meanAboveChance(matched);
  const matchedWidth = (box.width * matched.length) / layers.length;
  const keptWidth = (box.width * (matched.length - below)) / layers.length;
  if (mean !== null) {
    fill(context, { ...box, width: keptWidth }, similarityColour(mean));
    drawDimmed(context, { ...box, x: box.x + keptWidth, width: matchedWidth - keptWidth }, mean, hatches);
  }
  fill(context, { ...box, x: box.x + matchedWidth, width: box.width - matchedWidth }, hatches.unmatched);
}

function drawStripLabels(context, strip, theme) {
  context.textBaseline = "middle";
  context.textAlign = "center";
  const middle = strip.height + 11;
  for (const { x, width, label } of strip.sections) {
    context.fillStyle = theme.line;
    context.fillRect(x, strip.height + 2.5, width - 1, 1);
    context.font = `600 10px ${FONT}`;
    context.fillStyle = theme.faint;
    const text = label === "OTHER" ? "" : fitText(context, label, width + 10);
    if (text) context.fillText(text, x + width / 2, middle);
  }
}

/** Draw the heatmap. chosen: the cell under the pointer or the keyboard's focus. */
export function drawHeatmap(context, heatmap, states, theme, { chosen = null } = {}) {
  const hatches = makeHatches(context, theme);
  const marksCopies = areCopiesMarked(states);
  for (const panel of heatmap.panels) {
    drawPanelLabels(context, panel, theme);
    for (const cell of panel.cells) {
      const state = states[cell.layer.index];
      drawCell(context, cell, state, theme, hatches);
      if (state === "copied" && marksCopies) fill(context, { ...cell, y: cell.y + cell.height - 2, height: 2 }, COPIED);
    }
  }
  if (chosen) drawFocus(context, chosen, theme);
}

/** Whether copied layers are marked: only if others are transferred. A mark on every layer would show nothing. */
export function areCopiesMarked(states) {
  return states.includes("copied") && states.includes("kept");
}

function drawPanelLabels(context, panel, theme) {
  context.font = `11px ${FONT}`;
  context.fillStyle = theme.faint;
  context.textBaseline = "middle";
  context.textAlign = "left";
  for (const { role, y } of panel.rows) {
    context.fillText(shorten(role, 18), 0, y + panel.rowHeight / 2, 106);
  }
  context.font = `10px ${FONT}`;
  let free = 0; // labels that would overlap the one before are left out
  for (const { x, label, isSection } of panel.marks) {
    if (x < free && !isSection) continue;
    const room = x < free ? "" : label;
    context.fillStyle = theme.line;
    context.fillRect(x, panel.top + 2, 1, 12);
    context.fillStyle = theme.faint;
    context.fillText(room, x + 3, panel.top + 8);
    if (room) free = x + context.measureText(room).width + 6;
  }
}

function drawCell(context, cell, state, theme, hatches) {
  const { aboveChance } = cell.layer;
  const isColoured = aboveChance !== null && state !== "unmatched" && state !== "below";
  fill(context, cell, isColoured ? similarityColour(aboveChance) : theme.empty);
  if (state === "unmatched") fill(context, cell, hatches.unmatched);
  else if (aboveChance === null) fill(context, middleOf(cell), theme.faint);
  else if (state === "below") drawDimmed(context, cell, aboveChance, hatches);
}

function drawDimmed(context, box, aboveChance, hatches) {
  context.globalAlpha = 0.4;
  fill(context, box, similarityColour(aboveChance));
  context.globalAlpha = 1;
  fill(context, box, hatches.below);
}

function middleOf({ x, y, width, height }) {
  const side = Math.min(3, width);
  return { x: x + (width - side) / 2, y: y + (height - side) / 2, width: side, height: side };
}

function drawFocus(context, { x, y, width, height }, theme) {
  context.strokeStyle = theme.background;
  context.lineWidth = 4;
  context.strokeRect(x - 1, y - 1, width + 2, height + 2);
  context.strokeStyle = theme.text;
  context.lineWidth = 2;
  context.strokeRect(x - 1, y - 1, width + 2, height + 2);
}

/** Draw the scale: how many layers have which similarity, with a line at the threshold. */
export function drawScale(context, { width, height, counts, threshold, isDragged }, theme) {
  const [base, hatches] = [height - 14, makeHatches(context, theme)];
  const most = Math.max(1, ...counts);
  const step = width / counts.length;
  for (const [bin, count] of counts.entries()) {
    if (!count) continue;
    const tall = Math.max(2, (base - 8) * Math.sqrt(count / most));
    const box = { x: bin * step, y: base - tall, width: Math.max(1, step - 0.5), height: tall };
    const middle = (bin + 0.5) / counts.length;
    if (middle >= threshold) fill(context, box, similarityColour(middle));
    else drawDimmed(context, box, middle, hatches);
  }
  fill(context, { x: 0, y: base, width, height: 1 }, theme.line);
  drawScaleLabels(context, width, base, theme);
  drawThreshold(context, Math.min(width - 1, Math.max(1, threshold * width)), base, theme, isDragged);
}

function drawScaleLabels(context, width, base, theme) {
  context.font = `10px ${FONT}`;
  context.fillStyle = theme.faint;
  context.textBaseline = "middle";
  for (const [share, align] of [[0, "left"], [0.25, "center"], [0.5, "center"], [0.75, "center"], [1, "right"]]) {
    context.textAlign = align;
    context.fillText(`${share}`, share * width, base + 8);
  }
}

function drawThreshold(context, x, base, theme, isDragged) {
  fill(context, { x: x - 1, y: 0, width: 2, height: base + 1 }, theme.text);
  context.fillStyle = theme.text;
  context.beginPath();
  context.arc(x, 6, isDragged ? 6 : 5, 0, 2 * Math.PI);
  context.fill();
}

function fill(context, { x, y, width, height }, style) {
  if (width <= 0) return;
  context.fillStyle = style;
  context.fillRect(x, y, width, height);
}

function fits(context, text, width) {
  return context.measureText(text).width <= width;
}

function fitText(context, text, width) {
  return [text, text.slice(0, 3), text.slice(0, 1)].find((short) => fits(context, short, width)) ?? "";
}

/** The hatchings: lines for layers below the threshold, a lattice for layers without a partner. */
function makeHatches(context, theme) {
  return {
    below: hatchPattern(context, theme.text, false),
    unmatched: hatchPattern(context, theme.faint, true),
  };
}

function hatchPattern(context, colour, isLattice) {
  const tile = context.canvas.ownerDocument.createElement("canvas");
  tile.width = tile.height = 2 * HATCH;
  const pen = tile.getContext("2d");
  pen.scale(2, 2);
  pen.strokeStyle = colour;
  pen.globalAlpha = isLattice ? 0.45 : 0.75;
  pen.lineWidth = isLattice ? 0.6 : 0.9;
  pen.beginPath();
  for (const start of [-HATCH, 0, HATCH]) {
    pen.moveTo(start, HATCH);
    pen.lineTo(start + HATCH, 0);
    if (isLattice) {
      pen.moveTo(start, 0);
      pen.lineTo(start + HATCH, HATCH);
    }
  }
  pen.stroke();
  const pattern = context.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix([0.5, 0, 0, 0.5, 0, 0]));
  return pattern;
}
