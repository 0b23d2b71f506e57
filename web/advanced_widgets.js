// Hides the advanced widgets of the pack's nodes in the canvas too, until "Show Advanced" in a node's menu, or ComfyUI's
// setting for all nodes, shows them. Nodes 2.0 does this by itself; for the canvas a widget needs a flag that the page
// does not set from a node's schema. A widget that is connected stays visible in both.
import { app } from "../../scripts/app.js";

const ALWAYS = "Comfy.Node.AlwaysShowAdvancedWidgets";

/** A widget's companion, such as "control after generate" of a seed, is as advanced as the widget. */
function isAdvanced(node, widget) {
  const owner = node.widgets.find((other) => other.linkedWidgets?.includes(widget));
  return Boolean((owner ?? widget).options?.advanced);
}

function markAdvanced(node) {
  const showAll = app.ui.settings.getSettingValue(ALWAYS);
  for (const widget of node.widgets ?? []) {
    const isConnected = node.getSlotFromWidget(widget)?.link != null;
    widget.advanced = isAdvanced(node, widget) && !isConnected && !showAll;
  }
}

app.registerExtension({
  name: "LoraTransfer.AdvancedWidgets",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("LoraTransfer")) return;
    // The layout asks for its widgets each time, also after a choice made new ones. By itself it leaves room for hidden
    // widgets.
    const { getLayoutWidgets } = nodeType.prototype;
    nodeType.prototype.getLayoutWidgets = function () {
      markAdvanced(this);
      const widgets = getLayoutWidgets?.call(this) ?? this.widgets ?? [];
      return widgets.filter((widget) => this.showAdvanced || !widget.advanced);
    };
  },

  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("LoraTransfer")) return;
    markAdvanced(node);
    node.setSize(node.computeSize());
  },
});
