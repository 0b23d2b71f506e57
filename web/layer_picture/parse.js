// Turns the JSON of a report (core/reports/picture.py) into the model that the picture draws.

import { fileTitle, groupOf, nameBlock } from "./names.js";

const SCHEMA = 1;
const MEASURES = { subspace: "similarity", weight_cosine: "weight cosine" };

/** The model of a report; null if the report is none that this version can draw. */
export function parseReport(report) {
  if (report?.schema !== SCHEMA || !Array.isArray(report.layers) || !Array.isArray(report.blocks)) return null;
  const text = (position) => (position === null ? null : (report.texts[position] ?? ""));
  const blocks = report.blocks.map((row, index) => parseBlock(row, index, text));
  const column = Object.fromEntries(report.columns.map((name, index) => [name, index]));
  const layers = report.layers.map((row, index) => parseLayer((name) => row[column[name]], index, text, blocks));
  for (const layer of layers) layer.block?.layers.push(layer);
  const { settings } = report;
  return {
    kind: report.kind,
    source: report.source.name,
    target: report.target.name,
    adapter: report.adapter?.name ?? null,
    verdict: report.verdict,
    measure: MEASURES[settings.measure] ?? settings.measure,
    threshold: settings.threshold ?? null,
    copiesBelow: settings.below_threshold === "copy",
    blocks,
    layers,
    cells: groupCells(blocks),
  };
}

function parseBlock([source, target, isTextEncoder, why], index, text) {
  const name = target ?? source;
  return {
    index, source, target, name, why: text(why), isTextEncoder: Boolean(isTextEncoder), layers: [],
    ...nameBlock(name, isTextEncoder),
  };
}

function parseLayer(value, index, text, blocks) {
  const block = blocks[value("block")] ?? null;
  const [role, shape] = [text(value("role")), text(value("shape"))];
  return {
    index, block, role, shape,
    group: groupOf(role, shape, block?.isTextEncoder),
    source: text(value("source")),
    target: text(value("target")),
    score: value("score"),
    chance: value("chance"),
    aboveChance: value("above_chance"),
    weightCosine: value("weight_cosine"),
    decision: value("decision"),
    byThreshold: Boolean(value("by_threshold")),
    reason: text(value("reason")),
  };
}

/** The cells of the strip: neighbouring blocks of one section and number, such as all ten transformer blocks of IN 7.
 * Blocks that the LoRA does not change belong to no cell, unless the target lacks them. */
function groupCells(blocks) {
  const cells = [];
  for (const block of blocks) {
    if (!block.layers.length && block.target !== null) continue;
    const last = cells.at(-1);
    if (last && last.section === block.section && last.number === block.number) last.blocks.push(block);
    else cells.push({ section: block.section, number: block.number, blocks: [block] });
  }
  return cells;
}

/** A title for the picture: the two bases by their files' names. */
export function titleOf(model) {
  return `${fileTitle(model.source)} → ${fileTitle(model.target)}`;
}
