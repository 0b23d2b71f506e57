// What a threshold does to the layers of a model.

// The states of a layer. below: left out by the threshold. unmatched: there is no layer in the target for it.
export const STATES = ["kept", "copied", "below", "unmatched"];

/** The state of a layer at a threshold; null is the threshold of the run. */
export function stateOf(layer, threshold, copiesBelow = false) {
  if (layer.decision === "skipped" && !layer.byThreshold) return "unmatched";
  if (!layer.byThreshold || threshold === null) return stateAtRun(layer);
  if (layer.score >= threshold) return layer.decision === "copied" && !copiesBelow ? "copied" : "kept";
  return copiesBelow ? "copied" : "below";
}

function stateAtRun({ decision }) {
  return { skipped: "below", copied: "copied" }[decision] ?? "kept";
}

/** The state of every layer, by the layer's index. */
export function statesOf(model, threshold) {
  return model.layers.map((layer) => stateOf(layer, threshold, model.copiesBelow));
}

/** How many layers are in each state, among those that pass a filter. */
export function countStates(model, states, isShown = () => true) {
  const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
  for (const layer of model.layers) if (isShown(layer)) counts[states[layer.index]] += 1;
  return counts;
}

/** The counts as a short sentence. */
export function describeCounts(counts, kind) {
  const verb = kind === "transfer" ? "transferred" : "compared";
  const parts = [
    [counts.kept, verb],
    [counts.copied, "copied unchanged"],
    [counts.below, "left out by the threshold"],
    [counts.unmatched, "without a partner"],
  ];
  const shown = parts.filter(([count]) => count > 0).map(([count, words]) => `${count} ${words}`);
  return shown.length ? shown.join(" · ") : "no layers";
}

/** The number of layers that the threshold applies to, in bins over [0, 1]. */
export function countScores(model, bins, isShown = () => true) {
  const counts = new Array(bins).fill(0);
  for (const layer of model.layers) {
    if (!layer.byThreshold || layer.score === null || !isShown(layer)) continue;
    counts[Math.min(bins - 1, Math.max(0, Math.floor(layer.score * bins)))] += 1;
  }
  return counts;
}

/** The mean similarity above chance of some layers, null if none has a figure. */
export function meanAboveChance(layers) {
  const figures = layers.map((layer) => layer.aboveChance).filter((figure) => figure !== null);
  return figures.length ? figures.reduce((sum, figure) => sum + figure, 0) / figures.length : null;
}
