// What the picture says of a layer or a block, as lines of text: the first is the title.

import { meanAboveChance } from "./counts.js";

const STATE_WORDS = {
  kept: { transfer: "transferred", similarity: "compared" },
  copied: { transfer: "copied unchanged", similarity: "copied unchanged" },
  below: { transfer: "left out", similarity: "left out" },
  unmatched: { transfer: "left out", similarity: "no partner" },
};

/** Names, shape, figures, decision and reason of a layer. */
export function describeLayer(layer, state, model, isOfRun) {
  const names = layer.target && layer.target !== layer.source ? `${layer.source}  →  ${layer.target}` : layer.source;
  const figures = [
    layer.shape,
    figure(model.measure, layer.score),
    model.measure === "weight cosine" ? "" : figure("chance", layer.chance),
    model.measure === "weight cosine" ? "" : figure("above chance", layer.aboveChance),
    model.measure === "weight cosine" ? "" : figure("weight cosine", layer.weightCosine),
  ];
  const decision = STATE_WORDS[state][model.kind] ?? state;
  const reason = isOfRun || !layer.byThreshold ? layer.reason : "by the new threshold";
  return [names, figures.filter(Boolean).join("  ·  "), `${decision}: ${reason}`];
}

/** The blocks of a cell of the strip: how many layers, how similar, how many of them are left out. */
export function describeCell({ section, number, blocks }, states) {
  const layers = blocks.flatMap((block) => block.layers);
  const removed = blocks.filter((block) => block.target === null);
  const mean = meanAboveChance(layers);
  const out = layers.filter((layer) => ["below", "unmatched"].includes(states[layer.index])).length;
  const figures = [
    plural(blocks.length, "block"),
    plural(layers.length, "layer"),
    mean === null ? "" : `${mean.toFixed(2)} above chance on average`,
    out ? `${out} left out` : "",
  ];
  const reasons = [...new Set(removed.map((block) => block.why))].join("; ");
  const lost = removed.length ? `${plural(removed.length, "block")} of the source without a partner: ${reasons}` : "";
  const only = blocks.length === 1 ? blocks[0].name : "";
  return [`${section} ${number}`.trim(), figures.filter(Boolean).join("  ·  "), lost || only];
}

function figure(name, value) {
  return value === null ? "" : `${name} ${value.toFixed(3)}`;
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
