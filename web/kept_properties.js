import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { keepInStates } from "./saved_states.js";

// What a node has to show is kept in its properties: they are saved with the workflow and not sent in a prompt. A
// widget's value would shift the values of saved workflows. Nothing here runs on import.

const workflowOfRun = new Map(); // id of a prompt -> the workflow that it was started from
const MOST_RUNS = 100; // that are remembered
const LOADING_TIME = 100; // milliseconds between two looks whether a workflow is loaded

const elements = new Map(); // ids of graphs and node, and a name -> the element

/** Remembers the workflow of every run, because its tab may no longer be open when a node has something to show. */
export function rememberWorkflows() {
  const { queuePrompt } = api;
  api.queuePrompt = async function () {
    const workflow = openWorkflow();
    const answer = await queuePrompt.apply(this, arguments);
    if (answer?.prompt_id) workflowOfRun.set(answer.prompt_id, workflow);
    if (workflowOfRun.size > MOST_RUNS) workflowOfRun.delete(workflowOfRun.keys().next().value);
    return answer;
  };
}

/**
 * Keeps properties of the node of an event in the workflow that its run was started from. If that workflow is open, the
 * node shows them at once, by show(node).
 */
export function keep(event, executionId, properties, show) {
  const workflow = workflowOf(event);
  const tracker = workflow?.changeTracker;
  if (tracker?.constructor.isLoadingGraph) {
    // The canvas has the nodes of the next workflow already, but the page still calls the last one open.
    setTimeout(() => keep(event, executionId, properties, show), LOADING_TIME);
    return;
  }
  const isOpen = workflow?.path === openWorkflow()?.path;
  const node = isOpen ? findNode(executionId) : undefined;
  const isNew = Object.keys(properties).some((name) => !areEqual(node?.properties[name], properties[name]));
  if (node) {
    Object.assign(node.properties, properties);
    show(node);
  }
  if (!tracker) return;
  keepInStates(tracker, executionId, properties, node?.size);
  // Writes the page's draft of the workflow, for a reload. It counts as a change, which can start the next run.
  const runsOnChange = app.extensionManager.queueSettings?.mode === "change";
  if (isOpen && isNew && !runsOnChange) tracker.updateModified?.();
}

/** The node of an execution id: "12", or "12:5" for node 5 inside the subgraph of node 12. */
export function findNode(executionId) {
  const ids = String(executionId).split(":");
  const last = ids.pop();
  const graph = ids.reduce((outer, id) => outer?.getNodeById(Number(id))?.subgraph, app.rootGraph ?? app.graph);
  return graph?.getNodeById(Number(last));
}

/** An element of a node, the same after an undo: Nodes 2.0 goes on showing the element that a node of this id had. */
export function elementOf(node, name, create) {
  const key = [app.rootGraph?.id, node.graph?.id, node.id, name].join(" ");
  if (!elements.has(key)) elements.set(key, create());
  return elements.get(key);
}

/** The workflow of a run; the open one if it was closed, or saved under another name. */
function workflowOf(event) {
  const workflow = workflowOfRun.get(event.prompt_id);
  const isThere = app.extensionManager?.workflow?.openWorkflows?.some((open) => open.path === workflow?.path);
  return isThere ? workflow : openWorkflow();
}

function openWorkflow() {
  return app.extensionManager?.workflow?.activeWorkflow;
}

function areEqual(first, second) {
  return JSON.stringify(first) === JSON.stringify(second);
}
