// Properties of nodes in the workflows that ComfyUI keeps in the page. Nothing here runs on import.

/**
 * Sets properties of a node in every state of a workflow that the page may load: when its tab is opened, and by undo
 * and redo. So a message is no step of its own in undo, and reaches a workflow whose tab is not open.
 * tracker: ComfyUI's change tracker of the workflow; node: the id of an execution, "12" or "12:5"; size: of the node,
 * which may have grown, or undefined.
 */
export function keepInStates(tracker, node, properties, size) {
  const states = [...(tracker.undoQueue ?? []), ...(tracker.redoQueue ?? []), tracker.activeState];
  for (const state of states) {
    const saved = findSavedNode(state, node);
    if (!saved) continue;
    saved.properties = { ...saved.properties, ...properties };
    if (size && state === tracker.activeState) saved.size = [size[0], size[1]];
  }
}

/** A node of a saved workflow: "12", or "12:5" for node 5 in the subgraph that node 12 stands for. */
function findSavedNode(workflow, executionId) {
  const ids = String(executionId).split(":");
  const subgraphs = workflow?.definitions?.subgraphs ?? [];
  let graph = workflow;
  let node;
  for (const id of ids) {
    node = graph?.nodes?.find((candidate) => String(candidate.id) === id);
    graph = subgraphs.find((subgraph) => subgraph.id === node?.type);
  }
  return node;
}
